"""Figure 4: flossing before and during training, on temporal and spatial XOR.

The quick size takes about 1200 s of one core alone, 900 after figure 3, with which it shares runs:
per network and delay as there, with 500 steps of flossing before training, 1000 more in the
published schedule, and up to 800 in our default.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flossing.plots import new_figure
from flossing.report.model import Table
from flossing.support.formatting import number_in_words
from flossing.tasks import SpatialXor, TemporalXor
from flossing_lab.runs.comparison import tables
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, arms
from flossing_lab.studies.drawing import (
    STYLES,
    draw_accuracy_by_delay,
    draw_gradient_by_delay,
    draw_gradient_norms,
    gradient_in_training,
    legend_above,
    title,
)
from flossing_lab.studies.study import Finding, Results, Study
from flossing_lab.studies.training_size import (
    SCHEDULE_TITLES,
    SCHEDULES,
    TITLES,
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
    "Flossing during training as well as before it makes longer delays trainable than flossing "
    "before training alone, and this more than no flossing, on temporal XOR up to d = 70 and on "
    "spatial XOR; it keeps the gradient of the loss with respect to the first state from vanishing "
    "(recalled; the abstract confirms that flossing during training bridges longer "
    "horizons still, and that flossing controls the norm of gradients)."
)
CAPTION = (
    "Left: accuracy after training against the delay; medians over networks, and a point for "
    "each. Middle: the norm of the gradient with respect to the first state over the epochs, at "
    "the longest delay, a line for each network. Right: the same against the delay, a geometric "
    "mean over the epochs, the median over networks; T grows with the delay in the quick size."
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run of each task.

    Attributes:
        temporal: of temporal XOR.
        spatial: of spatial XOR.
    """

    temporal: TrainingSize
    spatial: TrainingSize


QUICK = Size(
    temporal=TrainingSize(delays=(10, 20, 40, 70)), spatial=TrainingSize(delays=(10, 20, 40))
)
FULL = Size(
    temporal=full_size(10, 20, 30, 40, 50, 60, 70), spatial=full_size(10, 20, 30, 40, 50, 60, 70)
)


def configurations(size: Size) -> list[Configuration]:
    """Return the runs: both tasks, by every schedule and without flossing.

    Example:
        >>> len(configurations(QUICK))
        84
    """
    flossings = list(SCHEDULES.values())
    return [
        *training_configurations(TemporalXor, size.temporal, flossings),
        *training_configurations(SpatialXor, size.spatial, flossings),
    ]


def draw(results: Results) -> "Figure":
    """Draw for each task accuracy against the delay, and gradients by epoch and by delay.

    Args:
        results: the runs.
    """
    tasks = by_task(arms(results.runs))
    figure = new_figure(12.5, 0.5 + 3.3 * len(tasks))
    rows = figure.subplots(len(tasks), 3, squeeze=False)
    for (kind, found), (accuracies, epochs, delays) in zip(tasks.items(), rows, strict=True):
        longest = max(map(delay_of, found))
        for index, (name, own) in enumerate(by_schedule(found).items()):
            label, style = SCHEDULE_TITLES[name], STYLES[name]
            draw_accuracy_by_delay(accuracies, own, label=label, style=style, shift=0.7 * index)
            draw_gradient_norms(epochs, own[-1], label=label, style=style)
            draw_gradient_by_delay(delays, own, label=label, style=style)
        title(accuracies, f"{TITLES[kind]}, after training")
        title(epochs, f"{TITLES[kind]}, d = {longest}")
        title(delays, f"{TITLES[kind]}, mean over training")
    legend_above(figure, rows[0][0])
    return figure


def findings(results: Results) -> list[Finding]:
    """Return what is claimed of flossing during training, beside what was found."""
    return [
        finding
        for kind, found in by_task(arms(results.runs)).items()
        for finding in _findings(TITLES[kind], by_schedule(found))
    ]


def result_tables(results: Results) -> tuple[Table, ...]:
    """Return a row for every task, delay and schedule."""
    return tables(results.runs)


def _findings(task: str, schedules: dict[str, list[Arm]]) -> list[Finding]:
    solved = {name: solved_in_words(found) for name, found in schedules.items()}
    return [
        Finding(
            claim=f"{task}: flossing before training reaches longer delays than none.",
            found=f"Networks that solved it. Not flossed, {solved['none']}. Before, "
            f"{solved['before']}.",
            agrees=reaches_further(schedules["before"], schedules["none"]),
        ),
        Finding(
            claim=f"{task}: flossing during training as published reaches longer delays still.",
            found=f"Before and during, {solved['published']}.",
            agrees=reaches_further(schedules["published"], schedules["before"]),
        ),
        _gradients(task, schedules),
        Finding(
            claim=f"{task}: our default reaches further than the published schedule (our own "
            "claim, not the paper's).",
            found=f"Our default, {solved['default']}.",
            agrees=reaches_further(schedules["default"], schedules["published"]),
        ),
    ]


def _gradients(task: str, schedules: dict[str, list[Arm]]) -> Finding:
    norms = {name: gradient_in_training(found[-1]) for name, found in schedules.items()}
    words = ", ".join(
        f"{number_in_words(norm, 2)} {SCHEDULE_TITLES[name]}" for name, norm in norms.items()
    )
    return Finding(
        claim=f"{task}: flossing before and during training keeps ‖∂L/∂h₀‖ larger than no flossing "
        "does.",
        found=f"At d = {delay_of(schedules['none'][-1])}, over the training: {words}.",
        agrees=norms["published"] > norms["none"],
    )


STUDY = Study(
    name="fig4",
    title="Figure 4: flossing during training",
    statement=STATEMENT,
    caption=CAPTION,
    sizes={"quick": QUICK, "full": FULL},
    configurations=configurations,
    draw=draw,
    tables=result_tables,
    findings=findings,
)
