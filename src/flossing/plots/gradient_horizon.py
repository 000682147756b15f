"""Figures of gradient norms by lag."""

# Matplotlib leaves keyword arguments untyped, so that its methods are partially unknown.
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
    add_note,
    axes_or_new,
    finite_or_nan,
    time_label,
    with_defaults,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The axis is linear in the power of ten, since norms like e^-2000 underflow.
_DECADE = math.log(10)


def plot_gradient_horizon(
    result: GradientHorizon, ax: "Axes | None" = None, *, label: str | None = None, **style: Any
) -> "Axes":
    """Plot norms of long-term gradients, relative to lag 0, against the lag.

    Curves are geometric means over trajectories, as far back as all of them reach. The band lies
    between the lower and the upper quartile of the random directions. Dotted lines mark the
    threshold below which a gradient counts as vanished and, if a curve exceeds it, its inverse.
    The slope of the thin grey line is the largest Lyapunov exponent. Norms of zero cannot be
    drawn; a note gives the lag at which they begin.

    Args:
        result: A result of `flossing.gradient_horizon`.
        ax: Axes to draw on; `None` for a new figure.
        label: Prefix of the names of the curves in the legend.
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
    lags = result.lags.cpu().numpy() * result.dt
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=result.dt == 1.0))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
    axes.set_xlabel(time_label("lag", result.dt))
    axes.set_ylabel("relative norm of the gradient")
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
    if lags:
        add_note(axes, f"{prefix}zero from lag {min(lags) * result.dt:g} on")
