"""Panels shared by the figures of training runs: accuracy, error and gradients."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from flossing.plots import BLUE, GREEN, PURPLE, VERMILLION, plot_learning_curve
from flossing.plots.axes import with_defaults
from flossing_lab.runs.outcomes import Arm
from flossing_lab.runs.records import AnyRun
from flossing_lab.studies.training_runs import SCHEDULE_TITLES, delay_of, solved_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DELAY_LABEL = "delay d (steps)"
GRADIENT_LABEL = r"$\Vert\partial L\,/\,\partial h_0\Vert$"
LARGEST_ERROR = 1.0
"""Larger errors, which networks that diverge have, are drawn here."""

# Line styles and markers differ too, so that curves can be told apart in greyscale.
STYLES: Mapping[str, Mapping[str, Any]] = {
    "none": {"color": VERMILLION, "linestyle": "--", "marker": "o"},
    "before": {"color": BLUE, "linestyle": "-", "marker": "s"},
    "published": {"color": GREEN, "linestyle": "-.", "marker": "^"},
    "default": {"color": PURPLE, "linestyle": ":", "marker": "D"},
}


def schedule_line(schedule: str) -> dict[str, Any]:
    """Return the label and the style of the curve of a schedule."""
    return {"label": SCHEDULE_TITLES[schedule], **STYLES[schedule]}


def draw_accuracy_by_delay(
    axes: "Axes", found: Sequence[Arm], *, shift: float = 0.0, chance: float = 0.5, **style: Any
) -> None:
    """Draw the median accuracy after training against the delay, and a point for each network.

    Arms that differ only in the delay make one curve. `shift` moves it to the right, in steps, so
    that the points of several curves can be told apart.
    """
    delays = [delay_of(arm) + shift for arm in found]
    accuracies = [
        [math.nan if run.final.accuracy is None else run.final.accuracy for run in arm.runs]
        for arm in found
    ]
    medians = [arm.median_accuracy for arm in found]
    _draw_medians_and_points(axes, delays, medians, accuracies, **style)
    finish_accuracy(axes, chance)
    axes.set_xlabel(DELAY_LABEL)


def draw_success_by_delay(
    axes: "Axes", found: Sequence[Arm], *, shift: float = 0.0, **style: Any
) -> None:
    """Draw the share of networks that solve the task, with its 95 % confidence interval."""
    from matplotlib.ticker import PercentFormatter

    counts = list(map(solved_count, found))
    shares = [each.successes / each.total for each in counts]
    bars = [
        [share - each.interval[0] for share, each in zip(shares, counts, strict=True)],
        [each.interval[1] - share for share, each in zip(shares, counts, strict=True)],
    ]
    delays = [delay_of(arm) + shift for arm in found]
    axes.errorbar(
        delays, shares, bars, **with_defaults(style, markersize=5, capsize=2, elinewidth=0.8)
    )
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("networks that solve the task")
    axes.set_xlabel(DELAY_LABEL)


def draw_error_by_length(
    axes: "Axes", found: Sequence[Arm], *, stretch: float = 1.0, **style: Any
) -> None:
    """Draw the median squared error after training against the length, a point for each network.

    `stretch` multiplies the lengths, so that the points of several curves can be told apart.
    """
    lengths = [stretch * delay_of(arm) for arm in found]
    errors = [[min(LARGEST_ERROR, loss) for loss in arm.losses] for arm in found]
    medians = [min(LARGEST_ERROR, arm.median_loss) for arm in found]
    _draw_medians_and_points(axes, lengths, medians, errors, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel("mean squared error")


def _draw_medians_and_points(
    axes: "Axes",
    places: Sequence[float],
    medians: Sequence[float],
    values: Sequence[Sequence[float]],
    **style: Any,
) -> None:
    axes.plot(places, medians, **with_defaults(style, markersize=5))
    points = [(place, each) for place, own in zip(places, values, strict=True) for each in own]
    shown: dict[str, Any] = {"color": style["color"], "alpha": 0.5, "markeredgewidth": 0}
    axes.plot(*zip(*points, strict=True), ".", markersize=5, **shown)


def finish_accuracy(axes: "Axes", chance: float = 0.5) -> None:
    """Format the axis of accuracies, which starts just below the accuracy of guessing."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(chance - 0.06, 1.02)
    axes.set_yticks([tick / 10 for tick in range(11) if tick / 10 >= chance])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("accuracy")


def draw_learning_curves(axes: "Axes", arm: Arm, schedule: str, *, chance: bool) -> None:
    """Draw accuracy against epochs, a line for each network; with `chance`, mark 50 %."""
    for index, run in enumerate(arm.runs):
        plot_learning_curve(
            [point.epoch for point in run.evaluations],
            [math.nan if point.accuracy is None else point.accuracy for point in run.evaluations],
            axes,
            chance=0.5 if chance and index == 0 else None,
            **_thin_line(schedule, index),
        )
    finish_accuracy(axes)
    axes.set_xlabel("epoch")


def draw_gradient_norms(axes: "Axes", arm: Arm, schedule: str) -> None:
    """Draw ‖∂L/∂h_0‖ against epochs, a line for each network; zeros are left out."""
    for index, run in enumerate(arm.runs):
        norms = [point.gradient_norm or math.nan for point in run.evaluations]
        epochs = [point.epoch for point in run.evaluations]
        axes.plot(epochs, norms, **_thin_line(schedule, index))
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(GRADIENT_LABEL)


def _thin_line(schedule: str, index: int) -> dict[str, Any]:
    """Return the style of one network's line; only the first appears in the legend."""
    shown = schedule_line(schedule) if index == 0 else STYLES[schedule]
    return {**shown, "marker": None, "linewidth": 1.2, "alpha": 0.8}


def draw_gradient_by_delay(axes: "Axes", found: Sequence[Arm], **style: Any) -> None:
    """Draw ‖∂L/∂h_0‖ against the delay: see `gradients_in_training`; the median over networks."""
    heights = [median(gradients_in_training(arm)) or math.nan for arm in found]
    axes.plot(list(map(delay_of, found)), heights, **with_defaults(style, markersize=5))
    axes.set_yscale("log")
    axes.set_xlabel(DELAY_LABEL)
    axes.set_ylabel(GRADIENT_LABEL)


def gradients_in_training(arm: Arm) -> list[float]:
    """Return ‖∂L/∂h_0‖ of each network: the geometric mean over the evaluations."""

    def geometric_mean(run: AnyRun) -> float:
        norms = [point.gradient_norm or 0.0 for point in run.evaluations]
        return math.exp(mean(map(math.log, norms))) if all(norms) else 0.0

    return list(map(geometric_mean, arm.runs))


def index_axis(axes: "Axes", noun: str) -> None:
    """Format the horizontal axis for indices of exponents or singular values."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"index of the {noun}")


def title(axes: "Axes", text: str) -> None:
    """Set the title of a panel."""
    axes.set_title(text, fontsize="medium")


def legend_above(figure: "Figure", axes: "Axes") -> None:
    """Draw one legend for all panels above them, of the lines in `axes`."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False
    )
