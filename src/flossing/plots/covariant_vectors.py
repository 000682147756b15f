"""Figures of covariant Lyapunov vectors."""

# Matplotlib leaves keyword arguments untyped, so that its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from typing import TYPE_CHECKING, Any

import torch

from flossing.analysis.covariant_vectors import CovariantVectors
from flossing.plots.axes import GREY, axes_or_new, with_defaults

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 45


def plot_covariant_angles(
    result: CovariantVectors, ax: "Axes | None" = None, *, label: str | None = None, **style: Any
) -> "Axes":
    """Plot the distribution of the smallest angle between covariant vectors.

    The histogram is over all points and trajectories. A density that reaches down to zero
    indicates tangencies, so that the dynamics are not hyperbolic; one that is bounded away from
    zero is consistent with hyperbolic dynamics.

    Args:
        result: A result of `flossing.covariant_vectors`, of at least two vectors.
        ax: Axes to draw on; `None` for a new figure.
        label: Name in the legend.
        **style: Passed on to `Axes.stairs`, e.g. `color`, `linestyle`, `fill`.

    Returns:
        The axes.

    Raises:
        InvalidOptionError: There is only one vector.
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> found = flossing.covariant_vectors(torch.nn.RNN(1, 8), torch.randn(60, 1, 1), k=3)
        >>> ax = plot_covariant_angles(found)
        >>> ax.get_xlabel()
        'smallest angle between covariant vectors (rad)'
    """
    axes = axes_or_new(ax)
    angles = result.smallest_angle.flatten().double().cpu()
    edges = torch.linspace(0.0, math.pi / 2, _BINS + 1, dtype=torch.float64)
    counts = torch.bincount(
        (angles / (math.pi / 2) * _BINS).long().clamp(max=_BINS - 1), minlength=_BINS
    )
    density = counts / (len(angles) * (edges[1] - edges[0]))
    axes.stairs(density.numpy(), edges.numpy(), label=label, **with_defaults(style))
    axes.set_xlim(0.0, math.pi / 2)
    axes.set_xticks([0, math.pi / 8, math.pi / 4, 3 * math.pi / 8, math.pi / 2])
    axes.set_xticklabels(["0", "π/8", "π/4", "3π/8", "π/2"])
    axes.set_xlabel("smallest angle between covariant vectors (rad)")
    axes.set_ylabel("probability density")
    return axes


def plot_localisation(
    result: CovariantVectors, ax: "Axes | None" = None, *, label: str | None = None, **style: Any
) -> "Axes":
    """Plot the inverse participation ratio of each covariant vector against its index.

    The line is the mean over points and trajectories, the band the range from the 10th to the
    90th percentile. Dotted lines mark vectors on a single unit (1) and vectors spread evenly over
    all units (1/n).

    Args:
        result: A result of `flossing.covariant_vectors`.
        ax: Axes to draw on; `None` for a new figure.
        label: Name in the legend.
        **style: Passed on to `Axes.plot`, e.g. `color`, `linestyle`, `marker`.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> found = flossing.covariant_vectors(torch.nn.RNN(1, 8), torch.randn(60, 1, 1), k=3)
        >>> ax = plot_localisation(found)
        >>> ax.get_ylabel(), ax.get_yscale()
        ('inverse participation ratio', 'log')
    """
    axes = axes_or_new(ax)
    from matplotlib.ticker import MaxNLocator

    ratios = result.inverse_participation_ratio.flatten(0, 1).double().cpu()
    index = list(range(1, ratios.shape[1] + 1))
    (line,) = axes.plot(
        index,
        ratios.mean(dim=0).numpy(),
        label=label,
        **with_defaults(style, marker="o", markersize=3, linewidth=1.2),
    )
    low, high = (ratios.quantile(share, dim=0).numpy() for share in (0.1, 0.9))
    axes.fill_between(index, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    size = result.vectors.shape[-2]
    for ratio, name in ((1.0, "one unit"), (1 / size, "all units")):
        axes.axhline(ratio, color=GREY, linestyle=":", linewidth=1.0, zorder=1)
        axes.annotate(
            name,
            (1.0, ratio),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 2),
            textcoords="offset points",
            horizontalalignment="right",
            color=GREY,
            fontsize="small",
        )
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("index of the covariant vector")
    axes.set_ylabel("inverse participation ratio")
    return axes
