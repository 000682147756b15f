"""Figure 4: flossing before and during training, on temporal and spatial XOR.

The quick size takes about 1200 s on one core, or 900 s after figure 3, with which it shares runs.
Each network is flossed for 500 steps before training, for 1000 more in the published schedule, and
for up to 800 in our default.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from flossing.plots import new_figure
from flossing.support.formatting import format_number
from flossing.tasks import SpatialXor, TemporalXor
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm
from flossing_lab.studies.drawing import (
    draw_accuracy_by_delay,
    draw_gradient_by_delay,
    draw_gradient_norms,
    draw_success_by_delay,
    gradients_in_training,
    legend_above,
    schedule_line,
    title,
)
from flossing_lab.studies.judging import Count, larger
from flossing_lab.studies.study import Finding, Results, Source, Study
from flossing_lab.studies.training_runs import (
    DECIDING_SEEDS,
    FULL_DELAYS,
    SCHEDULE_TITLES,
    SCHEDULES,
    TASK_TITLES,
    TrainingSize,
    by_schedule,
    by_task,
    delay_of,
    each_once,
    full_size,
    solved_count,
    solved_in_words,
    solved_more,
    training_configurations,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECIDING_DELAYS = {TASK_TITLES[TemporalXor]: 70, TASK_TITLES[SpatialXor]: 40}
"""Delays that the paper's schedule is said to carry over, by the title of the task."""

DECIDING_ARMS = ("published", "before")

COMPARISONS: Sequence[tuple[str, str, str, Source]] = (
    ("before", "none", "flossing before training reaches longer delays than none", "abstract"),
    (
        "published",
        "before",
        "flossing during training too, as published, reaches longer delays still",
        "abstract",
    ),
    (
        "default",
        "published",
        "our default reaches further than the published schedule",
        "this project",
    ),
)
"""Schedules of which the first is said to reach further than the second, and by whom."""


def configurations(temporal: TrainingSize, spatial: TrainingSize) -> list[Configuration]:
    """Return the runs on both tasks, with every schedule and without flossing."""
    flossings = list(SCHEDULES.values())
    return [
        *training_configurations(TemporalXor, temporal, flossings),
        *training_configurations(SpatialXor, spatial, flossings),
    ]


def full_configurations() -> list[Configuration]:
    """Return the runs of the full size, those first on which a statement hangs."""
    deciding = [SCHEDULES[name] for name in DECIDING_ARMS]
    tasks = (TemporalXor, SpatialXor)
    decide = [
        each
        for kind in tasks
        for each in training_configurations(
            kind, full_size(DECIDING_DELAYS[TASK_TITLES[kind]], seeds=DECIDING_SEEDS), deciding
        )
    ]
    sizes = [full_size(delay) for delay in FULL_DELAYS]
    others = [each for size in sizes for each in configurations(temporal=size, spatial=size)]
    return each_once([*decide, *others])


def draw(results: Results) -> "Figure":
    """Draw accuracy and success by delay, gradients by epoch and by delay, a row for each task."""
    tasks = by_task(results.arms)
    figure = new_figure(16.0, 0.5 + 3.3 * len(tasks))
    rows = figure.subplots(len(tasks), 4, squeeze=False)
    for (task, found), (accuracies, successes, epochs, delays) in zip(
        tasks.items(), rows, strict=True
    ):
        shown = _shown_delay(by_schedule(found))
        for index, (name, own) in enumerate(by_schedule(found).items()):
            line = schedule_line(name)
            draw_accuracy_by_delay(accuracies, own, shift=0.7 * index, **line)
            draw_success_by_delay(successes, own, shift=0.7 * index, **line)
            for arm in own:
                if delay_of(arm) == shown:
                    draw_gradient_norms(epochs, arm, name)
            draw_gradient_by_delay(delays, own, **line)
        title(accuracies, f"{task}, after training")
        title(successes, f"{task}, success rate")
        title(epochs, task if shown is None else f"{task}, d = {shown}")
        title(delays, f"{task}, mean over training")
    legend_above(figure, rows[0][0])
    return figure


def findings(results: Results) -> list[Finding]:
    """Compare the schedules on each task, as far as they were run."""
    return [
        finding
        for task, found in by_task(results.arms).items()
        for finding in _findings(task, by_schedule(found))
    ]


def _shown_delay(schedules: Mapping[str, Sequence[Arm]]) -> int | None:
    """Return the longest delay that was run both as published and without flossing, if any."""
    published, none = (
        set(map(delay_of, schedules.get(name, ()))) for name in ("published", "none")
    )
    return max(published & none, default=None)


def _findings(task: str, schedules: Mapping[str, list[Arm]]) -> Iterator[Finding]:
    if "published" in schedules:
        yield from _at_the_deciding_delay(task, schedules)
    for name, other, claim, source in COMPARISONS:
        if name in schedules and other in schedules:
            test = solved_more(schedules[name], schedules[other])
            yield Finding(
                claim=f"{task}: {claim}.",
                found="Networks that solved it: "
                f"{SCHEDULE_TITLES[other]}, {solved_in_words(schedules[other])}; "
                f"{SCHEDULE_TITLES[name]}, {solved_in_words(schedules[name])}. More: {test}.",
                agrees=test.agrees,
                source=source,
            )
    if (shown := _shown_delay(schedules)) is not None:
        yield _gradients(task, schedules, shown)


def _at_the_deciding_delay(task: str, schedules: Mapping[str, list[Arm]]) -> Iterator[Finding]:
    delay = DECIDING_DELAYS[task]
    counts = {
        name: solved_count(arm)
        for name in DECIDING_ARMS
        for arm in schedules.get(name, [])
        if delay_of(arm) == delay
    }
    words = "; ".join(f"{SCHEDULE_TITLES[name]}, {count}" for name, count in counts.items())
    found = f"Solved by, with 95 % intervals: {words}."
    if "published" in counts:
        yield Finding(
            claim=f"{task}, d = {delay}: most networks learn it when flossed before and during "
            "training.",
            found=found,
            agrees=counts["published"].most.agrees,
            source="recollection",
        )
    if "before" in counts and task == TASK_TITLES[TemporalXor]:
        failures = Count(
            counts["before"].total - counts["before"].successes, counts["before"].total
        )
        yield Finding(
            claim=f"{task}, d = {delay}: most networks do not learn it when flossed before "
            "training only.",
            found=found,
            agrees=failures.most.agrees,
            source="recollection",
        )


def _gradients(task: str, schedules: Mapping[str, list[Arm]], shown: int) -> Finding:
    norms = {
        name: gradients_in_training(arm)
        for name, arms in schedules.items()
        for arm in arms
        if delay_of(arm) == shown
    }
    words = ", ".join(
        f"{format_number(median(each), 2)} {SCHEDULE_TITLES[name]}" for name, each in norms.items()
    )
    test = larger(norms["published"], norms["none"])
    return Finding(
        claim=f"{task}: flossing before and during training keeps ‖∂L/∂h₀‖ larger than no "
        "flossing.",
        found=f"At d = {shown}, mean over training, median over networks: {words}. Larger when "
        f"flossed as published: {test}.",
        agrees=test.agrees,
        source="abstract",
    )


STUDY = Study(
    name="fig4",
    title="Figure 4: flossing during training",
    statement="Flossing before and during training makes longer delays trainable than flossing "
    "before training alone (abstract), which makes longer ones trainable than no flossing, on "
    "temporal XOR up to d = 70 and on spatial XOR (recollection); it keeps the gradient of the "
    "loss with respect to the first state from vanishing (abstract: flossing controls the norm of "
    "gradients).",
    caption="From left: accuracy after training against the delay, medians over networks and a "
    "point for each; share of networks that solve the task, with 95 % confidence intervals; norm "
    "of the gradient with respect to the first state against epochs, at the longest delay that was "
    "run as published and without flossing, a line for each network; the same against the delay, "
    "geometric mean over epochs and median over networks. In the quick size T grows with the "
    "delay.",
    configurations={
        "quick": configurations(
            temporal=TrainingSize(delays=(10, 20, 40, 70)),
            spatial=TrainingSize(delays=(10, 20, 40)),
        ),
        "full": full_configurations(),
    },
    draw=draw,
    findings=findings,
    partial=True,
)
