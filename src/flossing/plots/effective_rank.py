"""Figures of the effective rank of gradients."""

# Matplotlib leaves keyword arguments untyped, so that its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from typing import TYPE_CHECKING, Any

import torch

from flossing.analysis.effective_rank import EffectiveRank
from flossing.plots.axes import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    axes_or_new,
    with_defaults,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = "os^Dvx"


def plot_effective_rank(
    result: EffectiveRank, ax: "Axes | None" = None, *, label: str | None = None, **style: Any
) -> "Axes":
    """Plot the singular values of the gradients of weights, relative to the largest.

    Each matrix has a curve, with its participation ratio, a number of directions, in the legend.
    Singular values of zero are not drawn.

    Args:
        result: A result of `flossing.effective_rank`.
        ax: Axes to draw on; `None` for a new figure.
        label: Prefix of the names of the matrices in the legend.
        **style: Passed on to `Axes.plot` for each curve, e.g. `color`, `linestyle`, `marker`.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> rank = flossing.effective_rank(
        ...     torch.nn.RNN(1, 8), torch.randn(30, 3, 1), loss=lambda y: y[-1].square().sum()
        ... )
        >>> ax = plot_effective_rank(rank)
        >>> ax.get_xlabel(), ax.get_yscale()
        ('index of the singular value', 'log')
    """
    axes = axes_or_new(ax)
    from matplotlib.ticker import MaxNLocator

    prefix = f"{label}: " if label else ""
    for index, (name, rank) in enumerate(result.matrices.items()):
        values = (rank.singular_values / rank.singular_values[0]).double().cpu()
        own = {
            "color": _COLORS[index % len(_COLORS)],
            "marker": _MARKERS[index % len(_MARKERS)],
            **style,
        }
        axes.plot(
            list(range(1, len(values) + 1)),
            torch.where(values > 0, values, torch.nan).numpy(),
            label=f"{prefix}{name} ({rank.participation_ratio:.1f} directions)",
            **with_defaults(own, markersize=3, linewidth=1.2),
        )
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("index of the singular value")
    axes.set_ylabel("relative singular value of the gradient")
    return axes
