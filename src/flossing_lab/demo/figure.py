"""The runs of the demo and their figure: spectra, gradients and learning curves of each task."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from dataclasses import dataclass
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
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDTH, ROW_HEIGHT, LEGEND_HEIGHT = 12.5, 3.7, 0.4
LAGS_SHOWN_PER_NEEDED = 1.5
# Line styles and markers differ too, so that curves can be told apart in greyscale.
STYLES: dict[str, dict[str, Any]] = {
    "without flossing": {"color": VERMILLION, "linestyle": "--", "marker": "o"},
    "flossed before training": {"color": BLUE, "linestyle": "-", "marker": "s"},
}


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """A run with all exponents and gradients measured.

    Attributes:
        run: the run.
        k: number of exponents that are flossed in the flossed arm.
    """

    run: Run
    k: int

    @property
    def name(self) -> str:
        """The short name of its task."""
        return short_name(self.run.configuration)

    @property
    def flossed(self) -> bool:
        """Whether it is flossed before training."""
        return self.run.configuration.flossing is not None

    @property
    def arm(self) -> str:
        """The arm that it belongs to, a key of `STYLES`."""
        return arm(self.run.configuration)

    @property
    def exponents(self) -> tuple[float, ...]:
        """All Lyapunov exponents right before training."""
        return self.run.evaluations[0].exponents

    @property
    def gradient_norm(self) -> float:
        """‖∂L/∂h_0‖ right before training; NaN if it was not measured."""
        norm = self.run.evaluations[0].gradient_norm
        return nan if norm is None else norm

    @property
    def accuracy(self) -> float:
        """Accuracy after training, from 0 to 1; NaN for a regression."""
        accuracy = self.run.final.accuracy
        return nan if accuracy is None else accuracy


def short_name(configuration: Configuration) -> str:
    """Return a name of the task that fits into a table.

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
    """Return the arm that a configuration belongs to, a key of `STYLES`."""
    return "without flossing" if configuration.flossing is None else "flossed before training"


def demo_figure(runs: Sequence[DemoRun]) -> "Figure":
    """Draw a row of panels for each task; the two arms of a task must be neighbours."""
    rows = [list(arms) for _, arms in groupby(runs, key=lambda each: each.name)]
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
    needed = _needed_lags(task)
    lags = task.steps if needed is None else round(LAGS_SHOWN_PER_NEEDED * needed[1])
    chance = 1 / task.output_size if task.kind == "categorical" else 0.5
    for each in arms:
        line: dict[str, Any] = {"label": each.arm, **STYLES[each.arm]}
        exponents = [value if isfinite(value) else nan for value in each.exponents]
        indices = range(1, len(exponents) + 1)
        spectra.plot(indices, exponents, **line, markevery=0.08, markersize=3, linewidth=1.2)
        marked: dict[str, Any] = {**line, "markevery": 0.1, "markersize": 4}
        norms = each.run.gradient_norm_by_lag[:lags]
        plot_gradient_norm(range(1, 1 + len(norms)), norms, gradients, **marked)
        points = each.run.evaluations
        plot_learning_curve(
            [point.epoch for point in points],
            [nan if point.accuracy is None else point.accuracy for point in points],
            curves,
            chance=chance if each is arms[0] else None,
            **marked,
        )
    _finish_spectra(spectra, arms[-1].k)
    _finish_gradients(gradients, needed)
    curves.set_title("Learning")


def _finish_spectra(axes: "Axes", k: int) -> None:
    axes.set_title("Exponents before training")
    axes.set_xlabel("index of the exponent")
    axes.set_ylabel("Lyapunov exponent (nats per step)")
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.axvline(k + 0.5, color=GREY, linestyle=":", linewidth=1.0, zorder=0)
    _note(axes, f"k = {k}", k + 0.5, offset=-3.0, horizontalalignment="right")


def _finish_gradients(axes: "Axes", needed: tuple[int, int] | None) -> None:
    axes.set_title("Gradient before training")
    axes.set_ylabel(r"$\Vert\partial L_T\,/\,\partial h_{T-\mathrm{lag}}\Vert$")
    if needed is not None:
        axes.axvspan(*needed, color=GREY, alpha=0.12, linewidth=0, zorder=0)
        axes.set_xlim(left=0)
        _note(axes, "needed for\nthe answer", float(needed[0]), offset=4.0)


def _note(axes: "Axes", text: str, place: float, *, offset: float, **options: Any) -> None:
    """Write at the bottom of a panel, `offset` points to the right of an abscissa."""
    axes.annotate(
        text,
        (place, 0.04),
        xycoords=("data", "axes fraction"),
        xytext=(offset, 0),
        textcoords="offset points",
        color=GREY,
        fontsize="small",
        **options,
    )


def _needed_lags(task: Task) -> tuple[int, int] | None:
    """Return the shortest and the longest lag of the inputs that determine the answer."""
    if isinstance(task, Digits):
        return task.hold, task.steps - 1
    if isinstance(task, TemporalXor):
        return task.lags[0], task.lags[-1]
    return None


def _title(task: Task) -> str:
    if isinstance(task, Digits):
        return f"Handwritten digits, answer after {task.hold} blank steps"
    if isinstance(task, TemporalXor):
        return f"Temporal XOR of the bits {' and '.join(map(str, task.lags))} steps back"
    return type(task).__name__
