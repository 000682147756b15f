"""Figure 3: flossing before training, on delayed copy and temporal XOR.

The quick size takes about 600 s of one core: per network and delay 2000 epochs of 3, 3, 5 and 10
ms for T = 60, 60, 120 and 210, and half of the networks 500 steps of flossing of about 8 ms.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flossing.plots import new_figure
from flossing.report.model import Table
from flossing.tasks import DelayedCopy, TemporalXor
from flossing_lab.runs.comparison import tables
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, arms
from flossing_lab.studies.drawing import (
    STYLES,
    draw_accuracy_by_delay,
    draw_learning_curves,
    legend_above,
    title,
)
from flossing_lab.studies.study import Finding, Results, Study
from flossing_lab.studies.training_size import (
    SCHEDULE_TITLES,
    SCHEDULES,
    TITLES,
    TaskKind,
    TrainingSize,
    by_schedule,
    by_task,
    delay_of,
    full_size,
    reaches_further,
    solved_in_words,
    training_configurations,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATEMENT = (
    "Networks that are flossed before training learn delayed copy and temporal XOR at a delay of "
    "40 steps, where networks that are not flossed stay at chance; they learn faster, and solve "
    "longer delays (recalled; the abstract confirms that success rate and speed of convergence "
    "rise for tasks with long time horizons)."
)
CAPTION = (
    "Left: accuracy on data that is not trained on over the epochs, a line for each network. "
    "Right: accuracy after training against the delay, the largest lag; medians over networks, "
    "and a point for each."
)
SHOWN_DELAY = 40

TASKS: tuple[TaskKind, ...] = (DelayedCopy, TemporalXor)
ARMS = ("none", "before")

QUICK = TrainingSize(delays=(10, 20, 40, 70))
FULL = full_size(10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def configurations(size: TrainingSize) -> list[Configuration]:
    """Return the runs: both tasks, flossed before training and not.

    Example:
        >>> len(configurations(QUICK))
        48
    """
    return [
        each
        for kind in TASKS
        for each in training_configurations(kind, size, [SCHEDULES[name] for name in ARMS])
    ]


def draw(results: Results) -> "Figure":
    """Draw for each task accuracy over epochs and against the delay.

    Args:
        results: the runs.
    """
    tasks = by_task(arms(results.runs))
    figure = new_figure(9.5, 0.5 + 3.2 * len(tasks))
    rows = figure.subplots(len(tasks), 2, squeeze=False)
    for (kind, found), (curves, delays) in zip(tasks.items(), rows, strict=True):
        shown = _shown_delay(found)
        for index, (name, own) in enumerate(by_schedule(found).items()):
            label, style = SCHEDULE_TITLES[name], STYLES[name]
            (arm,) = (each for each in own if delay_of(each) == shown)
            draw_learning_curves(curves, arm, label=label, style=style, chance=index == 0)
            draw_accuracy_by_delay(delays, own, label=label, style=style, shift=0.7 * index)
        title(curves, f"{TITLES[kind]}, d = {shown}")
        title(delays, f"{TITLES[kind]}, after training")
    legend_above(figure, rows[0][1])
    return figure


def findings(results: Results) -> list[Finding]:
    """Return what is claimed of flossing before training, beside what was found."""
    return [
        finding
        for kind, found in by_task(arms(results.runs)).items()
        for finding in (_at_the_delay(TITLES[kind], found), _range(TITLES[kind], found))
    ]


def _shown_delay(found: Sequence[Arm]) -> int:
    return min(map(delay_of, found), key=lambda delay: abs(delay - SHOWN_DELAY))


def _at_the_delay(task: str, found: Sequence[Arm]) -> Finding:
    shown = _shown_delay(found)
    schedules = by_schedule(found)
    without, before = (
        next(arm for arm in schedules[name] if delay_of(arm) == shown) for name in ARMS
    )
    words = [
        f"{SCHEDULE_TITLES[name]}: {round(arm.success_rate * len(arm.runs))} of {len(arm.runs)} "
        f"networks, median accuracy {100 * arm.median_accuracy:.1f} %"
        for name, arm in zip(ARMS, (without, before), strict=True)
    ]
    return Finding(
        claim=f"{task} at d = {shown} is learned by networks flossed before training, and not by "
        "others.",
        found="; ".join(words).capitalize() + ".",
        agrees=before.success_rate >= 0.5 > without.success_rate,
    )


def _range(task: str, found: Sequence[Arm]) -> Finding:
    schedules = by_schedule(found)
    without, before = (schedules[name] for name in ARMS)
    return Finding(
        claim=f"{task} is solved over longer delays with flossing before training than without.",
        found=f"Networks that solved it. Not flossed, {solved_in_words(without)}. Flossed before "
        f"training, {solved_in_words(before)}.",
        agrees=reaches_further(before, without),
    )


def result_tables(results: Results) -> tuple[Table, ...]:
    """Return a row for every task and schedule."""
    return tables(results.runs)


STUDY = Study(
    name="fig3",
    title="Figure 3: flossing before training",
    statement=STATEMENT,
    caption=CAPTION,
    sizes={"quick": QUICK, "full": FULL},
    configurations=configurations,
    draw=draw,
    tables=result_tables,
    findings=findings,
)
