"""Performance against the delay, for each schedule: accuracy, error and cost."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from flossing.plots import new_figure
from flossing.report.model import Table
from flossing.tasks import AddingProblem, DelayedCopy, Digits, SpatialXor, TemporalXor
from flossing_lab.runs.comparison import NEVER
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import SUCCESS, Arm, cost, outcome
from flossing_lab.studies.drawing import (
    DELAY_LABEL,
    LARGEST_ERROR,
    draw_accuracy_by_delay,
    draw_error_by_length,
    legend_above,
    schedule_line,
    title,
)
from flossing_lab.studies.horizon.tasks import (
    ARMS,
    AT_ONCE,
    BIAS_SCALE,
    ROWS,
    SEEDS,
    SMALL_INPUTS,
    Row,
)
from flossing_lab.studies.study import Finding, Results, Study
from flossing_lab.studies.training_runs import delay_of_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIGITS = "Digits"
PANELS: Mapping[str, Callable[[Row], bool]] = {
    "Temporal XOR": lambda row: isinstance(row.task, TemporalXor),
    "Delayed copy": lambda row: isinstance(row.task, DelayedCopy),
    "Spatial XOR": lambda row: isinstance(row.task, SpatialXor),
    "Adding problem, tanh": lambda row: _is_adding(row, "tanh"),
    f"{DIGITS}, blank hold": lambda row: _is_held(row, "blank"),
    f"{DIGITS}, held through noise": lambda row: _is_held(row, "noise"),
    "Adding problem, ReLU, 1 exponent": lambda row: _is_adding(row, "relu"),
}
COLUMNS = 4
STRETCH = 1.06
"""Ratio of the lengths at which neighbouring schedules are drawn, so that points do not overlap."""

MARGIN = 8
"""Delay, in steps, left free on both sides of a panel."""

LARGEST_COST = 1.5
"""Largest accepted ratio of flossing and training time to training time alone."""

LARGEST_QUICK = 3000 * 16 * 300
"""Largest number of sequence steps in the training of a row of the quick size."""


def configurations(rows: Sequence[Row]) -> list[Configuration]:
    """Return the runs of all rows and schedules."""
    return [each for row in rows for arm in row.configurations().values() for each in arm]


def draw(results: Results) -> "Figure":
    """Draw a panel for each kind of task that was run."""
    recorded = _recorded(results)
    panels = {
        name: own
        for name, belongs in PANELS.items()
        if (own := [(row, arms) for row, arms in recorded if belongs(row)])
    }
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(4.2 * columns, 0.3 + 3.6 * lines)
    for place, (name, own) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        rows = [row for row, _ in own]
        regression = rows[0].task.kind == "regression"
        for index, (arm, schedule) in enumerate(ARMS.items()):
            found = [arms[arm] for _, arms in own if arm in arms]
            line = schedule_line(schedule)
            if found and regression:
                draw_error_by_length(axes, found, stretch=STRETCH ** (index - 1), **line)
            elif found:
                chance = 0.1 if name.startswith(DIGITS) else 0.5
                draw_accuracy_by_delay(axes, found, shift=index - 1.0, chance=chance, **line)
        if regression:
            _mark_lengths(axes, rows)
        else:
            _mark_delays(axes, rows)
        title(axes, name)
    legend_above(figure, figure.axes[0])
    return figure


def _recorded(results: Results) -> list[tuple[Row, dict[str, Arm]]]:
    """Return the rows that were run, each with the arms that were."""
    rows = [(row, results.named_arms(row.configurations())) for row in ROWS]
    return [(row, arms) for row, arms in rows if arms]


def _mark_lengths(axes: "Axes", rows: Sequence[Row]) -> None:
    lengths = sorted(delay_of_task(row.task) for row in rows)
    axes.set_xticks(lengths, list(map(str, lengths)))
    axes.set_xticks([], minor=True)
    (size,) = {row.architecture.size for row in rows}
    axes.set_xlabel(f"length (steps), N={size}")


def _mark_delays(axes: "Axes", rows: Sequence[Row]) -> None:
    """Label each delay with the size of its network, or the axis with the size common to all."""
    sizes = {delay_of_task(row.task): row.architecture.size for row in rows}
    noun = "hold (steps)" if isinstance(rows[0].task, Digits) else DELAY_LABEL
    if len(set(sizes.values())) == 1:
        axes.set_xticks(list(sizes))
        axes.set_xlabel(f"{noun}, N={rows[0].architecture.size}")
    else:
        axes.set_xticks(list(sizes), [f"{delay}\nN={size}" for delay, size in sizes.items()])
        axes.set_xlabel(noun)
    axes.set_xlim(min(sizes) - MARGIN, max(sizes) + MARGIN)


def _is_held(row: Row, filler: str) -> bool:
    return isinstance(row.task, Digits) and (row.task.filler == filler or not row.task.hold)


def _is_adding(row: Row, cell: str) -> bool:
    return isinstance(row.task, AddingProblem) and row.architecture.cell == cell


def findings(results: Results) -> list[Finding]:
    """Compare the default schedule with the goal of each row."""
    at_once = results.named_arms(AT_ONCE.configurations()).get("default")
    return [
        _finding(row, arms["default"], arms.get("without"), at_once)
        for row, arms in _recorded(results)
        if row.goal is not None and "default" in arms
    ]


def _finding(row: Row, flossed: Arm, without: Arm | None, at_once: Arm | None) -> Finding:
    goal, digits = row.goal or 0.0, isinstance(row.task, Digits)
    regression = row.task.kind == "regression"
    if digits:
        goal_in_words = f"is within {goal:g} percentage points of digits without a hold"
    elif regression:
        goal_in_words = f"reaches a mean squared error of {goal:g}"
    else:
        goal_in_words = f"reaches {100 * SUCCESS:g} % with {goal:g} of {SEEDS} seeds"
    claim = (
        f"{row.name}: the default schedule {goal_in_words}, at no more than "
        f"{LARGEST_COST:g} times the cost of training without flossing."
    )
    found = outcome(flossed)
    # Of the runs without flossing only the number of steps counts, so one suffices.
    needed = (flossed, at_once) if digits else (flossed,)
    whole = all(arm is not None and len(arm.runs) == SEEDS for arm in needed)
    if without is None or not whole:
        return Finding(claim, f"{found}; some of the runs that decide it are missing.", None)
    times = cost(flossed, without)
    if digits and at_once:
        reached = 100 * (at_once.median_accuracy - flossed.median_accuracy) <= goal
        found += f" and {outcome(at_once)} without a hold"
    elif regression:
        reached = flossed.median_loss <= goal
    else:
        reached = flossed.successes >= goal
    return Finding(
        claim, f"{found}; {times:.2f} times the cost.", reached and times <= LARGEST_COST
    )


def tables(results: Results) -> tuple[Table, ...]:
    """Return a table with a row for each task: outcome and cost of each schedule."""

    def cost_in_words(arm: Arm | None, without: Arm | None) -> str:
        return NEVER if arm is None or without is None else f"{cost(arm, without):.2f}"

    flossed = [arm for arm in ARMS if arm != "without"]
    rows = tuple(
        (
            row.name,
            *(outcome(arms.get(arm)) for arm in ARMS),
            *(cost_in_words(arms.get(arm), arms.get("without")) for arm in flossed),
        )
        for row, arms in _recorded(results)
    )
    caption = (
        "Number of seeds that solved the task, with an accuracy of at least 95 % on fresh data "
        "after training; in brackets the median accuracy. Digits: median accuracy on the test set. "
        "Adding problem: median of the mean squared errors. Cost: time of flossing and training "
        "over the time of as many training steps as without flossing, timed in the same run; "
        "median."
    )
    return (Table(caption, ("task", *ARMS, *(f"cost, {arm}" for arm in flossed)), rows),)


def _sequence_steps(row: Row) -> int:
    return row.training.epochs * row.training.batch_size * row.task.steps


STUDY = Study(
    name="horizon",
    title="Performance against the delay, by schedule",
    caption="Accuracy after training against the delay, or against the hold of a digit; mean "
    "squared error against the length of the adding problem. Medians over networks, and a point "
    "for each. The size of the network grows with the delay (see the table); sequences are three "
    "delays long. Training is the same for all schedules of a task: at most 3000 steps of Adam "
    "(digits: 1200, 2400 for a hold of 200 steps, 3000 for 500). The step size is 1e-3, or less "
    "for long holds (digits: 3e-4 for 60 steps of noise, 2e-4 for holds of 200 and 500; delays of "
    "200: 3e-4; adding over 1000 steps: 1e-4; ReLU networks over 200 and 400 steps: 3e-4); it "
    "falls to zero over the last three tenths. Input weights are standard normal, and for digits "
    f"and XOR over 200 steps {SMALL_INPUTS:g} times that; for this XOR biases have a standard "
    f"deviation of {BIAS_SCALE:g}. ReLU networks start from the identity with input weights of "
    "0.1, and only their largest exponent is flossed. Errors above "
    f"{LARGEST_ERROR:g} are drawn there.",
    extents={"quick": "tasks that take minutes rather than hours", "full": "all tasks"},
    configurations={
        "quick": configurations([row for row in ROWS if _sequence_steps(row) <= LARGEST_QUICK]),
        "full": configurations(ROWS),
    },
    draw=draw,
    tables=tables,
    findings=findings,
    partial=True,
)
