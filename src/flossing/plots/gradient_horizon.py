"""Figures of how far back gradients reach."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from flossing.analysis.gradient_horizon import GradientHorizon, GradientReach
from flossing.plots.axes import (
    BLUE,
    GREEN,
    GREY,
    VERMILLION,
    axes_or_new,
    finite_or_nan,
    with_defaults,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In units of powers of ten, for norms like e^-2000 are no floating point numbers.
_DECADE = math.log(10)
_VANISHED = "flossing: gradients of zero"


def plot_gradient_horizon(
    result: GradientHorizon, ax: "Axes | None" = None, *, label: str | None = None, **style: Any
) -> "Axes":
    """Plot norms of long-term gradients against the lag, relative to lag 0, in powers of ten.

    Of several trajectories the geometric mean is drawn. The shaded band reaches from the lower to
    the upper quartile of the random directions, and dotted lines mark the threshold below which a
    gradient counts as vanished and, where a curve comes that far, its inverse. The thin grey line
    falls as the largest Lyapunov exponent says. Norms of zero cannot be drawn; a note says where
    they begin.

    Args:
        result: What `flossing.gradient_horizon` returned.
        ax: Where to draw; `None` for a new figure.
        label: For the legend, before the name of each curve.
        **style: Passed on to `Axes.plot` for each curve, e.g. `color`, `linewidth`.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> horizon = flossing.gradient_horizon(torch.nn.GRU(1, 8), torch.randn(30, 3, 1))
        >>> ax = plot_gradient_horizon(horizon)
        >>> ax.get_xlabel(), ax.get_legend_handles_labels()[1]
        ('lag (steps)', ['largest exponent', 'worst case', 'random directions'])
    """
    axes = axes_or_new(ax)
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    prefix = f"{label}: " if label else ""
    lags = result.lags.cpu().numpy()
    exponent = finite_or_nan(result.exponent.cpu()).mean().item()
    axes.plot(
        lags,
        lags * (exponent / _DECADE),
        color=GREY,
        linewidth=0.9,
        zorder=1,
        label=f"{prefix}largest exponent",
    )
    curves: list[tuple[str, GradientReach | None, str, str]] = [
        ("worst case", result.worst, VERMILLION, "--"),
        ("random directions", result.random, BLUE, "-"),
        ("error of the loss", result.error, GREEN, "-."),
    ]
    colors: dict[str, Any] = {}
    for name, reach, color, linestyle in curves:
        if reach is not None:
            own = with_defaults({"color": color, "linestyle": linestyle, **style})
            (line,) = axes.plot(lags, _decades(reach.log_norm).numpy(), label=prefix + name, **own)
            colors[name] = line.get_color()
    if result.random_quartiles is not None:
        lower, upper = (_decades(each).numpy() for each in result.random_quartiles)
        axes.fill_between(
            lags, lower, upper, color=colors["random directions"], alpha=0.2, linewidth=0, zorder=1
        )
    _mark_thresholds(axes, result)
    _note_vanished(axes, result, prefix)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
    axes.set_xlabel("lag (steps)")
    axes.set_ylabel("norm of the gradient, relative")
    return axes


def _decades(log_norm: Float[Tensor, "S B"]) -> Float[Tensor, "S"]:
    """Return the geometric mean over trajectories as a power of ten."""
    return finite_or_nan(log_norm.mean(dim=-1).cpu() / _DECADE)


def _power_of_ten(value: float, _position: int | None) -> str:
    return f"$10^{{{value:.0f}}}$"


def _reaches(result: GradientHorizon) -> list[GradientReach]:
    return [reach for reach in (result.worst, result.random, result.error) if reach is not None]


def _mark_thresholds(axes: "Axes", result: GradientHorizon) -> None:
    bound = math.log10(result.threshold)
    exploded = any(bool(reach.exploding_lag.isfinite().any()) for reach in _reaches(result))
    for height in (bound, -bound) if exploded else (bound,):
        axes.axhline(height, color=GREY, linestyle=":", linewidth=1.0, zorder=1)


def _note_vanished(axes: "Axes", result: GradientHorizon, prefix: str) -> None:
    vanished = [reach.log_norm.isneginf().any(dim=-1) for reach in _reaches(result)]
    lags = [int(result.lags[where][0]) for where in vanished if bool(where.any())]
    if not lags:
        return
    # Results drawn on the same axes note this one above the other.
    earlier = sum(text.get_gid() == _VANISHED for text in axes.texts)
    axes.annotate(
        f"{prefix}zero from lag {min(lags)} on",
        (0.03, 0.03 + 0.08 * earlier),
        xycoords="axes fraction",
        fontsize="small",
        gid=_VANISHED,
    )
