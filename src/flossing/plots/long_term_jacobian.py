"""Figures of the long-term Jacobian: its condition number and singular values by horizon."""

# Matplotlib leaves keyword arguments untyped, so that its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from typing import TYPE_CHECKING, Any

from flossing.analysis.long_term_jacobian import LongTermJacobian
from flossing.plots.axes import add_note, axes_or_new, finite_or_nan, time_label, with_defaults

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The darker part of the colour map, visible on white.
_DARK_PART = 0.85


def plot_condition_number(
    result: LongTermJacobian,
    ax: "Axes | None" = None,
    *,
    label: str | None = None,
    prediction: bool = True,
    **style: Any,
) -> "Axes":
    """Plot the condition number of the long-term Jacobian against the horizon.

    The line is the median over origins and trajectories, the band the range between the quartiles.
    The dashed black line is the prediction of the exponents, (λ_1 − λ_k) s, averaged over
    trajectories. The axis is linear in the logarithm, since condition numbers may overflow.
    Infinite ones cannot be drawn; a note counts the horizons at which they occur.

    Args:
        result: A result of `flossing.long_term_jacobian`.
        ax: Axes to draw on; `None` for a new figure.
        label: Name in the legend.
        prediction: Whether to draw the prediction of the exponents.
        **style: Passed on to `Axes.plot` for the median, e.g. `color`, `marker`.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> result = flossing.long_term_jacobian(torch.nn.RNN(1, 8), torch.randn(60, 1), k=4)
        >>> ax = plot_condition_number(result, label="untrained")
        >>> ax.get_xlabel()
        'horizon s (steps)'
    """
    axes = axes_or_new(ax)
    horizons = result.horizons.numpy() * result.dt
    lower, median, upper = finite_or_nan(result.log10_condition_quartiles).numpy()
    (line,) = axes.plot(
        horizons, median, label=label, **with_defaults(style, marker="o", markersize=3)
    )
    color = line.get_color()
    axes.fill_between(horizons, lower, upper, color=color, alpha=0.2, linewidth=0, zorder=1)
    if prediction:
        predicted = finite_or_nan(result.predicted_log10_condition.mean(dim=1))
        # Black and on top: the prediction often covers the median.
        axes.plot(
            horizons,
            predicted.numpy(),
            color="black",
            linestyle="--",
            linewidth=1.0,
            zorder=3,
            label=None if label is None else f"{label}: " + r"$(\lambda_1 - \lambda_k)\,s$",
        )
    singular = int(result.log10_condition.isinf().any(dim=(1, 2)).sum())
    if singular:
        whose = f"{label}: " if label else ""
        add_note(axes, f"{whose}infinite at {singular} of {len(horizons)} horizons")
    axes.set_xlabel(time_label("horizon s", result.dt))
    axes.set_ylabel(r"$\log_{10}$ of the condition number $\sigma_1/\sigma_k$")
    return axes


def plot_singular_values(
    result: LongTermJacobian, ax: "Axes | None" = None, **style: Any
) -> "Axes":
    """Plot the singular values of the long-term Jacobian against the horizon.

    Each line is the median of one singular value over origins and trajectories, darkest for the
    largest; the legend names the first, the middle and the last. Singular values of zero cannot
    be drawn; a note counts them.

    Args:
        result: A result of `flossing.long_term_jacobian`.
        ax: Axes to draw on; `None` for a new figure.
        **style: Passed on to `Axes.plot`, e.g. `linewidth`; a `color` applies to all lines.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> result = flossing.long_term_jacobian(torch.nn.RNN(1, 8), torch.randn(60, 1))
        >>> len(plot_singular_values(result).lines)
        8
    """
    axes = axes_or_new(ax)
    from matplotlib import colormaps

    horizons = result.horizons.numpy() * result.dt
    values = result.log_singular_values / math.log(10)
    medians = finite_or_nan(values.flatten(1, 2).median(dim=1).values)
    count = medians.shape[1]
    shades = colormaps["viridis"]
    for index in range(count):
        color = shades(_DARK_PART * index / max(1, count - 1))
        label = f"$i = {index + 1}$" if index in (0, count // 2, count - 1) else None
        drawn: dict[str, Any] = {"color": color, "linewidth": 0.9, "label": label, **style}
        axes.plot(horizons, medians[:, index].numpy(), **drawn)
    lost = int(values.isneginf().any(dim=0).flatten(0, 1).any(dim=0).sum())
    if lost:
        add_note(axes, f"{lost} of {count} singular values are zero at some origin")
    axes.legend(frameon=False, fontsize="small")
    axes.set_xlabel(time_label("horizon s", result.dt))
    axes.set_ylabel(r"$\log_{10}$ of the singular values $\sigma_i$")
    return axes
