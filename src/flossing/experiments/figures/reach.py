"""How far each schedule carries: the table of tasks, and accuracy against the delay."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flossing.experiments.configuration import Configuration
from flossing.experiments.figures.drawing import (
    STYLES,
    draw_accuracy_by_delay,
    legend_above,
    title,
)
from flossing.experiments.figures.study import Results, Study
from flossing.experiments.horizon import ARMS, ROWS, SEEDS, Row
from flossing.experiments.outcomes import arms
from flossing.plots import new_figure
from flossing.report.horizon import horizon_table
from flossing.report.model import Table
from flossing.tasks import DelayedCopy, SpatialXor, TemporalXor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Accuracy after training against the delay, the largest lag: medians over networks, and a "
    "point for each. Networks grow with the delay, see the table; sequences have three delays."
)
PANELS = {"Temporal XOR": TemporalXor, "Delayed copy": DelayedCopy, "Spatial XOR": SpatialXor}
NAMES = {"without": "none", "published": "published", "default": "default"}
TITLES = {
    "without": "without flossing",
    "published": "published schedule",
    "default": "default schedule",
}
LARGEST_QUICK_SIZE = 128
LONGEST_QUICK_SEQUENCE = 300


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        rows: which tasks.
        seeds: how many networks of each.
    """

    rows: tuple[Row, ...] = ROWS
    seeds: int = SEEDS


QUICK = Size(
    rows=tuple(
        row
        for row in ROWS
        if row.task.steps <= LONGEST_QUICK_SEQUENCE and row.architecture.size <= LARGEST_QUICK_SIZE
    )
)
"""Those that take minutes rather than hours."""


def configurations(size: Size) -> list[Configuration]:
    """Return the runs: every task under every schedule.

    Example:
        >>> len(configurations(Size())) == 3 * 5 * 15
        True
    """
    return [
        each
        for row in size.rows
        for arm in row.configurations(seeds=size.seeds).values()
        for each in arm
    ]


def draw(results: Results) -> "Figure":
    """Draw a panel for each kind of delayed task that was run.

    Args:
        results: of any of the rows.
    """
    kinds = {
        name: kind
        for name, kind in PANELS.items()
        if any(isinstance(each.configuration.task, kind) for each in results.runs)
    }
    figure = new_figure(4.2 * len(kinds), 3.9)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    by_digest = {each.configuration.digest: each for each in results.runs}
    for axes, (name, kind) in zip(panels, kinds.items(), strict=True):
        for place, arm in enumerate(ARMS):
            own = [
                by_digest[each.digest]
                for row in ROWS
                if isinstance(row.task, kind)
                for each in row.configurations(seeds=SEEDS)[arm]
                if each.digest in by_digest
            ]
            if own:
                style = STYLES[NAMES[arm]]
                shift = place - 1.0
                draw_accuracy_by_delay(axes, arms(own), label=TITLES[arm], style=style, shift=shift)
        title(axes, name)
    legend_above(figure, panels[0])
    return figure


def tables(results: Results) -> tuple[Table, ...]:
    """Return the table of tasks and schedules.

    Args:
        results: of any of the rows.
    """
    runs = {each.configuration.digest: each for each in results.runs}
    rows = [
        row
        for row in ROWS
        if any(
            each.digest in runs for arm in row.configurations(seeds=SEEDS).values() for each in arm
        )
    ]
    return (horizon_table(rows, runs, seeds=SEEDS),)


STUDY = Study(
    name="horizon",
    title="How far each schedule carries",
    caption=CAPTION,
    sizes={"quick": QUICK, "full": Size()},
    configurations=configurations,
    draw=draw,
    tables=tables,
)
