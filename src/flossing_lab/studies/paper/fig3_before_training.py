"""Figure 3: flossing before training, on delayed copy and temporal XOR.

The quick size takes about 600 s on one core: for each network and delay 2000 epochs of 3, 3, 5 and
10 ms for T = 60, 60, 120 and 210, and for half of the networks 500 flossing steps of about 8 ms.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flossing.plots import new_figure
from flossing.tasks import DelayedCopy, TemporalXor
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm
from flossing_lab.studies.drawing import (
    draw_accuracy_by_delay,
    draw_learning_curves,
    legend_above,
    schedule_line,
    title,
)
from flossing_lab.studies.study import Finding, Results, Study
from flossing_lab.studies.training_runs import (
    FULL_DELAYS,
    SCHEDULE_TITLES,
    SCHEDULES,
    TrainingSize,
    by_schedule,
    by_task,
    delay_of,
    full_size,
    solved_count,
    solved_in_words,
    solved_more,
    training_configurations,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARMS = ("none", "before")
SHOWN_DELAY = 40


def configurations(size: TrainingSize) -> list[Configuration]:
    """Return the runs on both tasks, with flossing before training and without."""
    flossings = [SCHEDULES[name] for name in ARMS]
    return [
        each
        for kind in (DelayedCopy, TemporalXor)
        for each in training_configurations(kind, size, flossings)
    ]


def draw(results: Results) -> "Figure":
    """Draw accuracy against epochs and against the delay, a row for each task."""
    tasks = by_task(results.arms)
    figure = new_figure(9.5, 0.5 + 3.2 * len(tasks))
    rows = figure.subplots(len(tasks), 2, squeeze=False)
    for (task, found), (curves, delays) in zip(tasks.items(), rows, strict=True):
        shown = _shown_delay(found)
        for index, (name, own) in enumerate(by_schedule(found).items()):
            for arm in own:
                if delay_of(arm) == shown:
                    draw_learning_curves(curves, arm, name, chance=index == 0)
            draw_accuracy_by_delay(delays, own, shift=0.7 * index, **schedule_line(name))
        title(curves, f"{task}, d = {shown}")
        title(delays, f"{task}, after training")
    legend_above(figure, rows[0][1])
    return figure


def findings(results: Results) -> list[Finding]:
    """Compare networks flossed before training with networks that are not flossed."""
    return [
        finding
        for task, found in by_task(results.arms).items()
        if set(ARMS) <= by_schedule(found).keys()
        for finding in (_at_the_shown_delay(task, found), _over_delays(task, found))
    ]


def _shown_delay(found: Sequence[Arm]) -> int:
    return min(map(delay_of, found), key=lambda delay: abs(delay - SHOWN_DELAY))


def _at_the_shown_delay(task: str, found: Sequence[Arm]) -> Finding:
    shown = _shown_delay(found)
    schedules = by_schedule([arm for arm in found if delay_of(arm) == shown])
    counts = {name: solved_count(arm) for name, (arm,) in schedules.items()}
    words = [f"{SCHEDULE_TITLES[name]}, {count}" for name, count in counts.items()]
    test = solved_more(schedules.get("before", []), schedules.get("none", []))
    return Finding(
        claim=f"{task}, d = {shown}: networks flossed before training learn it, others do not.",
        found=f"Solved by, with 95 % intervals: {'; '.join(words)}. More when flossed: {test}.",
        agrees=test.agrees,
        source="recollection",
    )


def _over_delays(task: str, found: Sequence[Arm]) -> Finding:
    schedules = by_schedule(found)
    without, before = (schedules[name] for name in ARMS)
    test = solved_more(before, without)
    return Finding(
        claim=f"{task}: flossing before training makes longer delays solvable.",
        found=f"Networks that solved it: not flossed, {solved_in_words(without)}; flossed before "
        f"training, {solved_in_words(before)}. More when flossed: {test}.",
        agrees=test.agrees,
        source="abstract",
    )


STUDY = Study(
    name="fig3",
    title="Figure 3: flossing before training",
    statement="Networks flossed before training learn delayed copy and temporal XOR at a delay of "
    "40 steps, where networks that are not flossed stay at chance; they learn faster and solve "
    "longer delays (recollection; a higher success rate and faster convergence on tasks with long "
    "time horizons: abstract).",
    caption="Left: accuracy on held-out data against epochs, a line for each network. Right: "
    "accuracy after training against the delay; medians over networks, and a point for each.",
    configurations={
        "quick": configurations(TrainingSize(delays=(10, 20, 40, 70))),
        "full": configurations(full_size(*FULL_DELAYS)),
    },
    draw=draw,
    findings=findings,
    partial=True,
)
