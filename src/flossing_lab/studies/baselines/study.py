"""Comparison with baselines: what each method reaches at equal wall-clock time and in the end."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from flossing.plots import GREY, new_figure
from flossing.report.model import Table
from flossing.support.formatting import format_number
from flossing.tasks import constant_loss
from flossing_lab.runs.comparison import NEVER, or_never
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, last_within, seconds_of, solved
from flossing_lab.runs.records import AnyRun, condensed
from flossing_lab.studies.baselines.arms import BENCHMARKS, FLOSSED, FLOSSING, SEEDS, Benchmark
from flossing_lab.studies.drawing import STYLES, legend_above, title
from flossing_lab.studies.horizon.tasks import SMALL_INPUTS
from flossing_lab.studies.study import Finding, Results, Study
from flossing_lab.training.member import LEARNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
EQUAL_ACCURACIES = 0.01
"""Accuracies that differ by no more than this are considered equal."""

EQUAL_ERRORS = 1.1
"""Errors whose ratio is no more than this are considered equal."""

CONSTANT_ANSWER_SEQUENCES = 256
"""Number of sequences on which the error of a constant answer is measured."""


def configurations(benchmarks: Sequence[Benchmark]) -> list[Configuration]:
    """Return the runs of all methods on the benchmarks."""
    return [
        each
        for benchmark in benchmarks
        for arm in benchmark.configurations().values()
        for each in arm
    ]


def draw(results: Results) -> "Figure":
    """Draw a panel for each benchmark, with a line for each method."""
    recorded = _recorded(results)
    columns = min(COLUMNS, len(recorded))
    lines = math.ceil(len(recorded) / columns)
    figure = new_figure(0.9 + 3.7 * columns, 0.4 + 3.1 * lines)
    for place, (benchmark, found) in enumerate(recorded):
        axes = figure.add_subplot(lines, columns, place + 1)
        _draw_benchmark(axes, benchmark, found)
        if place % columns:
            axes.set_yticklabels([])
        title(axes, benchmark.name)
    legend_above(figure, figure.axes[0])
    return figure


def _recorded(results: Results) -> list[tuple[Benchmark, dict[str, Arm]]]:
    """Return the benchmarks on which flossing was run, each with all methods that were."""
    found = [(each, results.named_arms(each.configurations())) for each in BENCHMARKS]
    return [(benchmark, arms) for benchmark, arms in found if FLOSSING in arms]


def _draw_benchmark(axes: "Axes", benchmark: Benchmark, found: Mapping[str, Arm]) -> None:
    names = list(reversed(benchmark.methods()))
    allowed = found[FLOSSING].seconds
    axes.axvline(_reached(found[FLOSSING], allowed), color=GREY, linewidth=0.8, zorder=0)
    for place, name in enumerate(names):
        if name in found:
            _draw_method(axes, place, found[name], allowed, name)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", linewidth=0.3)
    if found[FLOSSING].regression:
        axes.set_xscale("log")
        axes.set_xlabel("mean squared error (less is better)")
    else:
        axes.set_xlabel("accuracy")


def _draw_method(axes: "Axes", place: int, arm: Arm, allowed: float, name: str) -> None:
    color = STYLES["default" if name in FLOSSED else "none"]["color"]
    shown: dict[str, Any] = {"color": color, "linestyle": "none"}
    points = [_value(run, allowed) for run in arm.runs]
    axes.plot(points, [place] * len(points), marker=".", alpha=0.5, markeredgewidth=0, **shown)
    for value, label, marker in (
        (_in_the_end(arm), "after all epochs", {"fillstyle": "none", "markersize": 9}),
        (_reached(arm, allowed), "at equal wall-clock time", {"markersize": 5}),
    ):
        named = label if name == FLOSSING else None
        axes.plot(value, place, marker="o", label=named, **marker, **shown)


def findings(results: Results) -> list[Finding]:
    """Compare flossing on each benchmark with the best baseline at equal wall-clock time.

    Undecided if runs are missing, or if no network has learned anything within that time.
    """
    return [
        _finding(benchmark, found, name)
        for benchmark, found in _recorded(results)
        for name in FLOSSED
        if name in found
    ]


def _finding(benchmark: Benchmark, found: Mapping[str, Arm], name: str) -> Finding:
    flossed, seconds = found[name], found[FLOSSING].seconds
    baselines = {other: arm for other, arm in found.items() if other not in FLOSSED}
    claim = (
        f"{benchmark.name}: at equal wall-clock time {name} does at least as well as every "
        "baseline."
    )
    whole = len(found) == len(benchmark.methods())
    if not whole or any(len(arm.runs) < SEEDS for arm in found.values()):
        return Finding(claim, "Some of the runs that decide it are missing.", None)

    def words(value: float) -> str:
        return format_number(value, 2) if flossed.regression else f"{100 * value:.1f} %"

    own = _reached(flossed, seconds)
    reached = {other: _reached(arm, seconds) for other, arm in baselines.items()}
    ends = {other: _in_the_end(arm) for other, arm in baselines.items()}
    better = min if flossed.regression else max
    best, best_end = (better(values, key=lambda each: values[each]) for values in (reached, ends))
    return Finding(
        claim,
        f"After {seconds:.0f} s {name} has {words(own)} and the best baseline, {best}, "
        f"{words(reached[best])}; after all epochs {name} has {words(_in_the_end(flossed))} and "
        f"the best baseline, {best_end}, {words(ends[best_end])}.",
        _holds(benchmark, own, reached[best]),
    )


def _holds(benchmark: Benchmark, own: float, best: float) -> bool | None:
    """Return whether flossing does as well as the best; `None` if neither beats a constant."""
    if benchmark.task.kind != "regression":
        return own >= best - EQUAL_ACCURACIES
    generator = torch.Generator().manual_seed(0)
    batch = benchmark.task.sample(CONSTANT_ANSWER_SEQUENCES, generator=generator)
    if min(own, best) > LEARNED * constant_loss(benchmark.task, batch):
        return None
    return own <= EQUAL_ERRORS * best


def _reached(arm: Arm, seconds: float) -> float:
    """Return the median accuracy, or error, after `seconds` of flossing and training."""
    return median(_value(run, seconds) for run in arm.runs)


def _value(run: AnyRun, seconds: float) -> float:
    reached = last_within(run, seconds)
    return reached.loss if reached.accuracy is None else reached.accuracy


def _in_the_end(arm: Arm) -> float:
    return arm.median_loss if arm.regression else arm.median_accuracy


def tables(results: Results) -> tuple[Table, ...]:
    """Return a table with a row for every method on every benchmark that was run."""
    rows: list[tuple[str, ...]] = []
    for benchmark in BENCHMARKS:
        found = results.named_arms(benchmark.configurations())
        allowed = found[FLOSSING].seconds if FLOSSING in found else None
        rows += [(benchmark.name, name, *_row(arm, allowed)) for name, arm in found.items()]
    caption = (
        "Solved: number of seeds with an accuracy of at least 95 %. Epochs, seconds and accuracy "
        "(adding: mean squared error): medians over seeds, where a run that does not reach 95 % "
        f"counts as infinite ({NEVER}). At equal wall-clock time: after the total time of the "
        "flossed networks. Seconds are those of flossing and training, without evaluations, per "
        "network of those trained together."
    )
    columns = (
        "task",
        "network",
        "solved",
        "epochs to 95 %",
        "seconds to 95 %",
        "after all epochs",
        "at equal wall-clock time",
        "seconds per epoch",
    )
    return (Table(caption, columns, tuple(rows)),)


def _row(arm: Arm, allowed: float | None) -> tuple[str, ...]:
    def words(value: float) -> str:
        return format_number(value) if arm.regression else f"{100 * value:.1f} %"

    return (
        NEVER if arm.regression else solved(arm),
        or_never(arm.median_epochs, "{:.0f}"),
        or_never(arm.median_seconds, "{:.0f}"),
        words(_in_the_end(arm)),
        NEVER if allowed is None else words(_reached(arm, allowed)),
        f"{median(seconds_of(run) / max(1, condensed(run).epochs) for run in arm.runs):.3f}",
    )


STUDY = Study(
    name="baselines",
    title="Comparison with baselines",
    caption="Filled: performance after the total time that the flossed networks took, the median "
    "over networks and a point for each. Hollow: the median after all epochs. Vertical line: "
    "flossing. Gradients are clipped for all methods. Input weights of flossing, clipping alone, "
    "orthogonal networks and the penalty are standard normal, small inputs "
    f"{SMALL_INPUTS:g} times that. The default schedule of flossing was chosen on temporal XOR "
    "over 70 steps, and small inputs on held digits and temporal XOR over 200 steps; the baselines "
    "were not tuned.",
    extents={"quick": "temporal XOR and delayed copy", "full": "all tasks"},
    configurations={
        "quick": configurations(BENCHMARKS[:2]),
        "full": configurations(BENCHMARKS),
    },
    draw=draw,
    tables=tables,
    findings=findings,
    partial=True,
)
