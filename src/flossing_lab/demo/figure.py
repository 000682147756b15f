"""The figure of the demo: for each task, spectra, gradients and learning curves."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from itertools import groupby
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from flossing.plots import (
    BLUE,
    GREY,
    VERMILLION,
    new_figure,
    plot_gradient_norm,
    plot_learning_curve,
)
from flossing.tasks import Digits, Task, TemporalXor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
from dataclasses import dataclass

from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.records import Run

WIDTH, ROW_HEIGHT, LEGEND_HEIGHT = 12.5, 3.7, 0.4
LAGS_SHOWN_PER_NEEDED = 1.5
# Lines and markers differ too, for print in grey.
STYLES: dict[str, dict[str, Any]] = {
    "without flossing": {"color": VERMILLION, "linestyle": "--", "marker": "o"},
    "flossed before training": {"color": BLUE, "linestyle": "-", "marker": "s"},
}


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """A run with the exponent that is reported beside the largest.

    Attributes:
        run: with all exponents and gradients measured.
        k: how many exponents are flossed in the arm that is flossed.
    """

    run: Run
    k: int

    @property
    def name(self) -> str:
        """What the table and the figure call its task."""
        return short_name(self.run.configuration)

    @property
    def flossed(self) -> bool:
        """Whether it is flossed before training."""
        return self.run.configuration.flossing is not None

    @property
    def arm(self) -> str:
        """Which of the two runs that are compared this is."""
        return arm(self.run.configuration)

    @property
    def exponents(self) -> tuple[float, ...]:
        """All Lyapunov exponents right before training."""
        return self.run.evaluations[0].exponents

    @property
    def gradient_norm(self) -> float:
        """‖∂L/∂h_0‖ right before training; NaN where it was not measured."""
        norm = self.run.evaluations[0].gradient_norm
        return float("nan") if norm is None else norm

    @property
    def accuracy(self) -> float:
        """After training, from 0 to 1; NaN for a regression."""
        accuracy = self.run.final.accuracy
        return float("nan") if accuracy is None else accuracy


def short_name(configuration: Configuration) -> str:
    """Return a task's name that fits a table.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture
        >>> short_name(Configuration(task=TemporalXor(), architecture=Architecture()))
        'XOR, d=40'
    """
    task = configuration.task
    if isinstance(task, Digits):
        return f"digits, s={task.hold}"
    if isinstance(task, TemporalXor):
        return f"XOR, d={task.delay}"
    return type(task).__name__


def arm(configuration: Configuration) -> str:
    """Return which of the two runs that are compared a configuration is."""
    return "without flossing" if configuration.flossing is None else "flossed before training"


def label(configuration: Configuration) -> str:
    """Return what progress bars call a run."""
    return f"{short_name(configuration)}, {arm(configuration)}"


def demo_figure(records: Sequence[DemoRun]) -> "Figure":
    """Draw one row of panels for each task.

    Args:
        records: The arms of a task after one another.
    """
    rows = [list(arms) for _, arms in groupby(records, key=lambda each: each.name)]
    figure = new_figure(WIDTH, ROW_HEIGHT * len(rows) + LEGEND_HEIGHT)
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, arms in zip(parts, rows, strict=True):
        _draw_row(part, arms)
    handles, labels = parts[0].axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _draw_row(part: "SubFigure", arms: Sequence[DemoRun]) -> None:
    task = arms[0].run.configuration.task
    part.suptitle(_title(task), fontweight="bold")
    spectra, gradients, curves = part.subplots(1, 3)
    for record in arms:
        style = STYLES[record.arm]
        label = record.arm
        _plot_exponents(spectra, record.exponents, label=label, **style, markevery=0.08)
        norms = record.run.gradient_norm_by_lag[: _longest_lag_shown(task)]
        plot_gradient_norm(
            range(1, 1 + len(norms)),
            norms,
            gradients,
            label=label,
            **style,
            markevery=0.1,
            markersize=4,
        )
        points = record.run.evaluations
        plot_learning_curve(
            [point.epoch for point in points],
            [nan if point.accuracy is None else point.accuracy for point in points],
            curves,
            chance=_chance(task) if record is arms[0] else None,
            label=label,
            **style,
            markevery=0.1,
            markersize=4,
        )
    _finish_spectra(spectra, arms[-1])
    _finish_gradients(gradients, task)
    curves.set_title("Learning")


def _plot_exponents(axes: "Axes", exponents: Sequence[float], **style: Any) -> None:
    drawn = [each if isfinite(each) else nan for each in exponents]
    axes.plot(range(1, len(drawn) + 1), drawn, **style, markersize=3, linewidth=1.2)
    axes.set_xlabel("index of the exponent")
    axes.set_ylabel("Lyapunov exponent (nats per step)")


def _finish_spectra(axes: "Axes", record: DemoRun) -> None:
    axes.set_title("Exponents before training")
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    k = record.k
    axes.axvline(k + 0.5, color=GREY, linestyle=":", linewidth=1.0, zorder=0)
    axes.annotate(
        f"k = {k}",
        (k + 0.5, 0.04),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 0),
        textcoords="offset points",
        horizontalalignment="right",
        color=GREY,
        fontsize="small",
    )


def _finish_gradients(axes: "Axes", task: Task) -> None:
    axes.set_title("Gradient before training")
    axes.set_ylabel(r"$\Vert\partial L_T\,/\,\partial h_{T-\mathrm{lag}}\Vert$")
    needed = _needed_lags(task)
    if needed is None:
        return
    first, last = needed
    axes.axvspan(first, last, color=GREY, alpha=0.12, linewidth=0, zorder=0)
    axes.set_xlim(left=0)
    axes.annotate(
        "needed for\nthe answer",
        (first, 0.04),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        color=GREY,
        fontsize="small",
    )


def _needed_lags(task: Task) -> tuple[int, int] | None:
    """The shortest and the longest lag at which the answer lies."""
    if isinstance(task, Digits):
        return task.hold, task.steps - 1
    if isinstance(task, TemporalXor):
        return task.lags[0], task.lags[-1]
    return None


def _longest_lag_shown(task: Task) -> int:
    needed = _needed_lags(task)
    return task.steps if needed is None else round(LAGS_SHOWN_PER_NEEDED * needed[1])


def _title(task: Task) -> str:
    if isinstance(task, Digits):
        return f"Handwritten digits, answer after {task.hold} blank steps"
    if isinstance(task, TemporalXor):
        return f"Temporal XOR of the bits {' and '.join(map(str, task.lags))} steps back"
    return type(task).__name__


def _chance(task: Task) -> float:
    return 1 / task.output_size if task.kind == "categorical" else 0.5
