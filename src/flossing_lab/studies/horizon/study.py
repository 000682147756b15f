"""How far each schedule carries: the table of tasks, and accuracy against the delay."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flossing.plots import new_figure
from flossing.report.model import Table
from flossing.tasks import AddingProblem, DelayedCopy, Digits, SpatialXor, Task, TemporalXor
from flossing_lab.runs.comparison import NEVER
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import SUCCESS, Arm, arm_of, cost, outcome
from flossing_lab.runs.records import AnyRun, CondensedRun
from flossing_lab.studies.drawing import (
    CEILING,
    DELAY,
    STYLES,
    draw_accuracy_by_delay,
    draw_error_by_length,
    legend_above,
    title,
)
from flossing_lab.studies.horizon.tasks import ARMS, AT_ONCE, BENT, QUIET, ROWS, SEEDS, Row
from flossing_lab.studies.study import Finding, Results, Study
from flossing_lab.studies.training_size import delay_of, delay_of_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Accuracy after training against the delay, the largest lag, or against the steps for which a "
    "digit is held; mean squared error against the length of what is added. Medians over networks, "
    "and a point for each. Networks grow with the delay, see the table; sequences have three "
    "delays. Every arm of a task has the same training: at most 3000 steps of Adam (digits 1200, "
    "2400 after 200 steps, 3000 after 500), whose step size, 1e-3, is smaller where holds are long "
    "(digits: 3e-4 after 60 steps of noise, 2e-4 after 200 and 500; delays of 200: 3e-4; adding "
    "over 1000: 1e-4; ReLU networks 3e-4 over 200 and 400), and falls to zero over the last three "
    f"tenths. Input weights are standard normal; digits and XOR over 200 steps: {QUIET:g} times "
    f"that; for this XOR biases have a standard deviation of {BENT:g}. ReLU networks start from "
    "the identity with input weights of 0.1, and only their largest exponent is flossed. Errors "
    f"above {CEILING:g}, infinite ones among them, are drawn there."
)
DIGITS = "Digits"
PANELS: Mapping[str, Callable[[Row], bool]] = {
    "Temporal XOR": lambda row: isinstance(row.task, TemporalXor),
    "Delayed copy": lambda row: isinstance(row.task, DelayedCopy),
    "Spatial XOR": lambda row: isinstance(row.task, SpatialXor),
    "Adding problem, tanh": lambda row: _adds(row, "tanh"),
    f"{DIGITS}, blank hold": lambda row: _held(row.task, "blank"),
    f"{DIGITS}, held through noise": lambda row: _held(row.task, "noise"),
    "Adding problem, ReLU, 1 exponent": lambda row: _adds(row, "relu"),
}
COLUMNS = 4
NAMES = {"without": "none", "published": "published", "default": "default"}
TITLES = {
    "without": "without flossing",
    "published": "published schedule",
    "default": "default schedule",
}
STRETCH = 1.06
"""Ratio of the lengths at which two schedules are drawn, that one does not hide the other."""

MARGIN = 8
"""Steps of delay left free on both sides."""

LARGEST_COST = 1.5
"""Of flossing and training, over training alone."""

LARGEST_QUICK = 3000 * 16 * 300
"""Steps of all sequences that a run is trained on, of the quick size."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        rows: which tasks.
        seeds: how many networks of each.
    """

    rows: tuple[Row, ...] = ROWS
    seeds: int = SEEDS


def _trained_on(row: Row) -> int:
    return row.training.epochs * row.training.batch_size * row.task.steps


QUICK = Size(rows=tuple(row for row in ROWS if _trained_on(row) <= LARGEST_QUICK))
"""Those that take minutes rather than hours."""


def configurations(size: Size) -> list[Configuration]:
    """Return the runs: every task under every schedule.

    Example:
        >>> len(configurations(Size())) == 3 * 5 * 21
        True
    """
    return [
        each
        for row in size.rows
        for arm in row.configurations(seeds=size.seeds).values()
        for each in arm
    ]


def draw(results: Results) -> "Figure":
    """Draw a panel for each kind of task with a delay that was run.

    Args:
        results: of any of the rows.
    """
    by_digest = {each.configuration.digest: each for each in results.runs}
    panels = {
        name: rows
        for name, belongs in PANELS.items()
        if (rows := [row for row in _rows_run(by_digest) if belongs(row)])
    }
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(4.2 * columns, 0.3 + 3.6 * lines)
    for place, (name, rows) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        arms = {arm: _arms_of(rows, arm, by_digest) for arm in ARMS}
        if rows[0].task.kind == "regression":
            _draw_errors(axes, arms)
        else:
            _draw_accuracies(axes, arms, chance=0.1 if name.startswith(DIGITS) else 0.5)
            _mark_delays(axes, rows)
        title(axes, name)
    legend_above(figure, figure.axes[0])
    return figure


def _arms_of(rows: Sequence[Row], arm: str, runs: Mapping[str, CondensedRun]) -> list[Arm]:
    """Those of the rows that were run under one schedule."""
    found = (arm_of(row.configurations(seeds=SEEDS)[arm], runs) for row in rows)
    return [each for each in found if each is not None]


def _draw_accuracies(axes: "Axes", arms: Mapping[str, Sequence[Arm]], *, chance: float) -> None:
    for place, (arm, found) in enumerate(arms.items()):
        if found:
            style, shift = STYLES[NAMES[arm]], place - 1.0
            draw_accuracy_by_delay(
                axes, found, label=TITLES[arm], style=style, shift=shift, chance=chance
            )


def _draw_errors(axes: "Axes", arms: Mapping[str, Sequence[Arm]]) -> None:
    for place, (arm, found) in enumerate(arms.items()):
        if found:
            style, stretch = STYLES[NAMES[arm]], STRETCH ** (place - 1)
            draw_error_by_length(axes, found, label=TITLES[arm], style=style, stretch=stretch)
    lengths = {delay_of(arm) for found in arms.values() for arm in found}
    axes.set_xticks(sorted(lengths), list(map(str, sorted(lengths))))
    axes.set_xticks([], minor=True)
    (size,) = {arm.configuration.architecture.size for found in arms.values() for arm in found}
    axes.set_xlabel(f"length (steps), N={size}")


def _mark_delays(axes: "Axes", rows: Sequence[Row]) -> None:
    """Name each delay with the size of the network that is to span it, or one size for all."""
    sizes = {delay_of_task(row.task): row.architecture.size for row in rows}
    what = "hold (steps)" if any(isinstance(row.task, Digits) for row in rows) else DELAY
    if len(set(sizes.values())) == 1:
        axes.set_xticks(list(sizes))
        axes.set_xlabel(f"{what}, N={rows[0].architecture.size}")
    else:
        axes.set_xticks(list(sizes), [f"{delay}\nN={size}" for delay, size in sizes.items()])
        axes.set_xlabel(what)
    axes.set_xlim(min(sizes) - MARGIN, max(sizes) + MARGIN)


def _held(task: Task, filler: str) -> bool:
    return isinstance(task, Digits) and (task.filler == filler or not task.hold)


def _adds(row: Row, cell: str) -> bool:
    return isinstance(row.task, AddingProblem) and row.architecture.cell == cell


def _rows_run(runs: Mapping[str, CondensedRun]) -> list[Row]:
    return [
        row
        for row in ROWS
        if any(
            each.digest in runs for arm in row.configurations(seeds=SEEDS).values() for each in arm
        )
    ]


def findings(results: Results) -> list[Finding]:
    """Judge what the default schedule reaches by what it is to reach.

    Args:
        results: of any of the rows.
    """
    runs = {each.configuration.digest: each for each in results.runs}

    def arm(row: Row, name: str) -> Arm | None:
        return arm_of(row.configurations(seeds=SEEDS)[name], runs)

    judged = [(row, arm(row, "default"), arm(row, "without")) for row in ROWS]
    return [
        _finding(row, flossed, without, arm(AT_ONCE, "default"))
        for row, flossed, without in judged
        if row.goal is not None and flossed is not None
    ]


def _finding(row: Row, flossed: Arm, without: Arm | None, at_once: Arm | None) -> Finding:
    claim = (
        f"{row.name}: the default schedule reaches {_goal_in_words(row)}, at no more than "
        f"{LARGEST_COST:g} times the wall-clock of training without flossing."
    )
    found = outcome(flossed)
    # Of those without flossing only the number of steps counts.
    needed = (flossed, at_once) if isinstance(row.task, Digits) else (flossed,)
    whole = all(arm is not None and len(arm.runs) == SEEDS for arm in needed)
    if without is None or not whole:
        return Finding(claim, f"{found}; not all of what decides it was run.", None)
    against = f", where digits asked at once have {outcome(at_once)}"
    times = cost(flossed, without)
    return Finding(
        claim,
        f"{found}{against if isinstance(row.task, Digits) else ''}; {times:.2f} times.",
        _reaches(row, flossed, at_once) and times <= LARGEST_COST,
    )


def _goal_in_words(row: Row) -> str:
    if isinstance(row.task, Digits):
        return f"within {row.goal:g} points of digits asked at once"
    if row.task.kind == "regression":
        return f"a mean squared error of {row.goal:g}"
    return f"{100 * SUCCESS:g} % with {row.goal:g} of {SEEDS} seeds"


def _reaches(row: Row, flossed: Arm, at_once: Arm | None) -> bool:
    goal = row.goal or 0.0
    if isinstance(row.task, Digits):
        best = at_once.median_accuracy if at_once else 1.0
        return 100 * (best - flossed.median_accuracy) <= goal
    if row.task.kind == "regression":
        return flossed.median_loss <= goal
    return flossed.successes >= goal


def tables(results: Results) -> tuple[Table, ...]:
    """Return the table of tasks and schedules.

    Args:
        results: of any of the rows.
    """
    runs = {each.configuration.digest: each for each in results.runs}
    return (horizon_table(_rows_run(runs), runs, seeds=SEEDS),)


STUDY = Study(
    name="horizon",
    title="How far each schedule carries",
    caption=CAPTION,
    sizes={"quick": QUICK, "full": Size()},
    extents={"quick": "tasks that take minutes rather than hours", "full": "all tasks"},
    configurations=configurations,
    draw=draw,
    tables=tables,
    findings=findings,
    in_parts=True,
)


def horizon_table(rows: Sequence[Row], runs: Mapping[str, AnyRun], *, seeds: int) -> Table:
    """Return a line a task: what came of each schedule, and what it cost.

    Args:
        rows: the tasks.
        runs: what was run, by the digest of its configuration; others are left out.
        seeds: how many of each.
    """
    lines: list[tuple[str, ...]] = []
    for row in rows:
        arms = {
            name: arm_of(configurations, runs)
            for name, configurations in row.configurations(seeds=seeds).items()
        }
        outcomes = [outcome(arms[name]) for name in ARMS]
        costs = [_cost(arms[name], arms["without"]) for name in ARMS if name != "without"]
        lines.append((row.name, *outcomes, *costs))
    return Table(
        "Solved: at least 95 % on fresh data after training, of so many seeds; in brackets the "
        "median of the accuracies. Digits: median accuracy on the test part. Adding: median of "
        "the mean squared errors. Cost: seconds of flossing and training over those of as many "
        "steps of training as there are without flossing, timed in the same run; median.",
        ("task", *ARMS, *(f"cost, {name}" for name in ARMS if name != "without")),
        tuple(lines),
    )


def _cost(arm: Arm | None, without: Arm | None) -> str:
    return NEVER if arm is None or without is None else f"{cost(arm, without):.2f}"
