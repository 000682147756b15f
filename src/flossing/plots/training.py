"""Figures of gradient norms and learning curves."""

# Matplotlib leaves keyword arguments untyped, so that its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flossing.plots.axes import GREY, axes_or_new, with_defaults

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_gradient_norm(
    lags: Sequence[int],
    norms: Sequence[float],
    ax: "Axes | None" = None,
    *,
    label: str | None = None,
    **style: Any,
) -> "Axes":
    """Plot the norm of the gradient of a loss with respect to earlier states against the lag.

    Args:
        lags: Numbers of steps between the state and the loss.
        norms: Norms of the gradient with respect to these states. Zeros are not drawn.
        ax: Axes to draw on; `None` for a new figure.
        label: Name in the legend.
        **style: Passed on to `Axes.plot`, e.g. `color`, `linestyle`, `marker`.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> ax = plot_gradient_norm([1, 2, 3], [1.0, 0.1, 0.01])
        >>> ax.get_xlabel(), ax.get_yscale()
        ('lag (steps)', 'log')
    """
    axes = axes_or_new(ax)
    heights = [norm if norm > 0 else float("nan") for norm in norms]
    axes.plot(list(lags), heights, label=label, **with_defaults(style))
    axes.set_yscale("log")
    axes.set_xlabel("lag (steps)")
    axes.set_ylabel("norm of the gradient")
    return axes


def plot_learning_curve(
    steps: Sequence[int],
    accuracy: Sequence[float],
    ax: "Axes | None" = None,
    *,
    chance: float | None = None,
    label: str | None = None,
    **style: Any,
) -> "Axes":
    """Plot accuracy against training steps.

    Args:
        steps: Numbers of training steps.
        accuracy: Accuracies after these steps, from 0 to 1.
        ax: Axes to draw on; `None` for a new figure.
        chance: Accuracy of guessing, drawn as a dashed line; `None` for no line.
        label: Name in the legend.
        **style: Passed on to `Axes.plot`, e.g. `color`, `linestyle`, `marker`.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> ax = plot_learning_curve([0, 100, 200], [0.5, 0.8, 0.9], chance=0.5)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('training step', 'accuracy')
    """
    axes = axes_or_new(ax)
    from matplotlib.ticker import PercentFormatter

    axes.plot(list(steps), list(accuracy), label=label, **with_defaults(style))
    if chance is not None:
        axes.axhline(chance, color=GREY, linestyle="--", linewidth=1.0, zorder=1)
        axes.annotate(
            "chance",
            (1.0, chance),
            xycoords=("axes fraction", "data"),
            xytext=(-3, -3),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment="top",
            color=GREY,
            fontsize="small",
        )
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("training step")
    axes.set_ylabel("accuracy")
    return axes
