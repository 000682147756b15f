"""What the figures of training runs share: accuracy and gradients, by epoch and by delay."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from flossing.plots import BLUE, GREEN, PURPLE, VERMILLION, plot_learning_curve
from flossing.plots.axes import with_defaults
from flossing_lab.runs.outcomes import Arm
from flossing_lab.runs.records import AnyRun
from flossing_lab.studies.training_size import delay_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DELAY = "delay d (steps)"
CEILING = 1.0
"""The largest error that is drawn; networks that diverge have no bound."""

# Lines and markers differ too, for print in grey.
STYLES: Mapping[str, dict[str, Any]] = {
    "none": {"color": VERMILLION, "linestyle": "--", "marker": "o"},
    "before": {"color": BLUE, "linestyle": "-", "marker": "s"},
    "published": {"color": GREEN, "linestyle": "-.", "marker": "^"},
    "default": {"color": PURPLE, "linestyle": ":", "marker": "D"},
}


def draw_accuracy_by_delay(
    axes: "Axes",
    found: Sequence[Arm],
    *,
    label: str,
    style: Mapping[str, Any],
    shift: float = 0.0,
    chance: float = 0.5,
) -> None:
    """Draw the median accuracy after training against the delay, and a point for each network.

    Args:
        axes: where.
        found: arms that differ in the delay.
        label: for the legend.
        style: of the line.
        shift: so many steps to the right, that points of several arms can be told apart.
        chance: the accuracy of guessing.
    """
    delays = [delay_of(arm) + shift for arm in found]
    medians = [arm.median_accuracy for arm in found]
    _draw_by_delay(axes, found, delays, medians, _accuracy, label=label, style=style)
    finish_accuracy(axes, chance)
    axes.set_xlabel(DELAY)


def draw_error_by_length(
    axes: "Axes",
    found: Sequence[Arm],
    *,
    label: str,
    style: Mapping[str, Any],
    stretch: float = 1.0,
) -> None:
    """Draw the median squared error after training against the steps, a point for each network.

    Errors above `CEILING`, or that are not numbers, are drawn there.

    Args:
        axes: where.
        found: arms of regressions that differ in the steps.
        label: for the legend.
        style: of the line.
        stretch: factor of the steps, that points of several arms can be told apart.
    """
    lengths = [stretch * delay_of(arm) for arm in found]
    medians = [min(CEILING, arm.median_loss) for arm in found]
    _draw_by_delay(axes, found, lengths, medians, _loss, label=label, style=style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel("mean squared error")


def _draw_by_delay(
    axes: "Axes",
    found: Sequence[Arm],
    places: Sequence[float],
    medians: Sequence[float],
    value: Callable[[AnyRun], float],
    *,
    label: str,
    style: Mapping[str, Any],
) -> None:
    axes.plot(places, medians, label=label, **with_defaults(dict(style), markersize=5))
    points = [
        (place, value(each)) for place, arm in zip(places, found, strict=True) for each in arm.runs
    ]
    shown: dict[str, Any] = {"color": style["color"], "alpha": 0.5, "markeredgewidth": 0}
    axes.plot(*zip(*points, strict=True), ".", markersize=5, **shown)


def _accuracy(run: AnyRun) -> float:
    accuracy = run.final.accuracy
    return math.nan if accuracy is None else accuracy


def _loss(run: AnyRun) -> float:
    loss = run.final.loss
    return CEILING if math.isnan(loss) else min(CEILING, loss)


def finish_accuracy(axes: "Axes", chance: float = 0.5) -> None:
    """Set the axis of accuracies.

    Args:
        axes: where.
        chance: the accuracy of guessing, from which on it is drawn.
    """
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(chance - 0.06, 1.02)
    axes.set_yticks([tick / 10 for tick in range(11) if tick / 10 >= chance])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("accuracy")


def draw_learning_curves(
    axes: "Axes", arm: Arm, *, label: str, style: Mapping[str, Any], chance: bool
) -> None:
    """Draw accuracy over epochs, a line for each network.

    Args:
        axes: where.
        arm: what is drawn.
        label: for the legend.
        style: of the lines; the marker is left out.
        chance: whether to mark the accuracy of guessing.
    """
    for index, each in enumerate(arm.runs):
        plot_learning_curve(
            [point.epoch for point in each.evaluations],
            [math.nan if point.accuracy is None else point.accuracy for point in each.evaluations],
            axes,
            label=label if index == 0 else None,
            chance=0.5 if chance and index == 0 else None,
            **_thin(style),
        )
    finish_accuracy(axes)
    axes.set_xlabel("epoch")


def draw_gradient_norms(axes: "Axes", arm: Arm, *, label: str, style: Mapping[str, Any]) -> None:
    """Draw ‖∂L/∂h_0‖ over epochs, a line for each network; zeros are left out.

    Args:
        axes: where.
        arm: what is drawn.
        label: for the legend.
        style: of the lines; the marker is left out.
    """
    for index, each in enumerate(arm.runs):
        norms = [point.gradient_norm or math.nan for point in each.evaluations]
        axes.plot(
            [point.epoch for point in each.evaluations],
            norms,
            label=label if index == 0 else None,
            **_thin(style),
        )
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(GRADIENT)


GRADIENT = r"$\Vert\partial L\,/\,\partial h_0\Vert$"


def draw_gradient_by_delay(
    axes: "Axes", found: Sequence[Arm], *, label: str, style: Mapping[str, Any]
) -> None:
    """Draw ‖∂L/∂h_0‖ against the delay: see `gradient_in_training`.

    Args:
        axes: where.
        found: arms that differ in the delay.
        label: for the legend.
        style: of the line.
    """
    heights = [gradient_in_training(arm) or math.nan for arm in found]
    axes.plot(
        list(map(delay_of, found)),
        heights,
        label=label,
        **with_defaults(dict(style), markersize=5),
    )
    axes.set_yscale("log")
    axes.set_xlabel(DELAY)
    axes.set_ylabel(GRADIENT)


def gradient_in_training(arm: Arm) -> float:
    """Return ‖∂L/∂h_0‖, a geometric mean over the evaluations of a run, median over networks."""
    return median(map(_geometric_mean, arm.runs))


def _geometric_mean(run: AnyRun) -> float:
    norms = [point.gradient_norm or 0.0 for point in run.evaluations]
    return math.exp(mean(map(math.log, norms))) if all(norms) else 0.0


def _thin(style: Mapping[str, Any]) -> dict[str, Any]:
    """The style of one network's line among several."""
    return {**style, "marker": None, "linewidth": 1.2, "alpha": 0.8}


def index_axis(axes: "Axes", what: str) -> None:
    """Set the horizontal axis to whole numbers.

    Args:
        axes: where.
        what: what is counted.
    """
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"index of the {what}")


def title(axes: "Axes", text: str) -> None:
    """Set a panel's title.

    Args:
        axes: where.
        text: what it says.
    """
    axes.set_title(text, fontsize="medium")


def legend_above(figure: "Figure", axes: "Axes") -> None:
    """Draw one legend for all panels, above them.

    Args:
        figure: that of the panels.
        axes: the panel whose lines it names.
    """
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False
    )
