"""Figures of the convergence of exponents."""

# Matplotlib leaves keyword arguments untyped, so that its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from typing import TYPE_CHECKING

import torch

from flossing.analysis.convergence import Convergence
from flossing.plots.axes import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    axes_or_new,
    finite_or_nan,
)
from flossing.support.checks import require_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (
    (BLUE, "-"),
    (VERMILLION, "--"),
    (GREEN, "-."),
    (PURPLE, ":"),
    (ORANGE, (0, (6, 1, 1, 1))),
)
_DIGITS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def plot_convergence(
    result: Convergence, ax: "Axes | None" = None, *, trajectory: int = 0, exponents: int = 5
) -> "Axes":
    """Plot running exponents with their confidence bands against the counted steps, or their time.

    Points without an error bar and exponents of −∞ are not drawn.

    Args:
        result: A result of `flossing.convergence`.
        ax: Axes to draw on; `None` for a new figure.
        trajectory: Index of the trajectory in the batch.
        exponents: Largest number of exponents, from 1 to 5, evenly from the first to the last.

    Returns:
        The axes.

    Raises:
        InvalidOptionError: There is no such trajectory, or too many exponents.
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> spectrum = flossing.lyapunov_spectrum(torch.nn.GRU(1, 8), torch.randn(400, 1, 1))
        >>> ax = plot_convergence(flossing.convergence(spectrum))
        >>> ax.get_xlabel(), ax.get_xscale()
        ('counted steps', 'log')
    """
    _, batch, count = result.exponents.shape
    require_integer("trajectory", trajectory, at_least=0, at_most=batch - 1)
    require_integer("exponents", exponents, at_least=1, at_most=len(_STYLES))
    axes = axes_or_new(ax)
    steps = result.steps[:, trajectory].cpu().numpy() * result.dt
    known = result.standard_error[:, trajectory].isfinite()
    lower, middle, upper = (
        finite_or_nan(values[:, trajectory].where(known, torch.nan)).cpu().numpy()
        for values in (result.lower, result.exponents, result.upper)
    )
    drawn = min(exponents, count)
    for place, (color, linestyle) in enumerate(_STYLES[:drawn]):
        index = round(place * (count - 1) / max(1, drawn - 1))
        name = "λ" + str(index + 1).translate(_DIGITS)
        axes.plot(
            steps, middle[:, index], color=color, linestyle=linestyle, linewidth=1.4, label=name
        )
        axes.fill_between(
            steps, lower[:, index], upper[:, index], color=color, alpha=0.2, linewidth=0
        )
    axes.set_xscale("log")
    axes.set_xlabel("counted steps" if result.dt == 1.0 else "counted time (units of time)")
    unit = "step" if result.dt == 1.0 else "unit of time"
    axes.set_ylabel(f"Lyapunov exponent (nats per {unit})")
    # Above the axes, since close exponents leave no room within.
    axes.legend(
        title=f"with {100 * result.level:g} % confidence bands",
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=drawn,
        frameon=False,
        fontsize="small",
        title_fontsize="small",
    )
    return axes
