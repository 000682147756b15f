"""Figures of Lyapunov spectra."""

# Matplotlib leaves keyword arguments untyped, so that its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from flossing.measurement.result import LyapunovSpectrum
from flossing.plots.axes import add_note, axes_or_new, finite_or_nan, with_defaults

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_spectrum(
    result: LyapunovSpectrum, ax: "Axes | None" = None, *, label: str | None = None, **style: Any
) -> "Axes":
    """Plot exponents against their index, with error bars of one standard error.

    For several trajectories the mean is drawn with the error bars of the mean, and each trajectory
    as a faint line. Those that diverged are left out; exponents of −∞ cannot be drawn. Notes count
    them.

    Args:
        result: A result of `flossing.lyapunov_spectrum`.
        ax: Axes to draw on; `None` for a new figure.
        label: Name in the legend.
        **style: Passed on to `Axes.errorbar`, e.g. `color`, `linestyle`, `marker`.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> spectrum = flossing.lyapunov_spectrum(torch.nn.RNN(1, 8), torch.randn(50, 3, 1))
        >>> ax = plot_spectrum(spectrum)
        >>> ax.get_ylabel()
        'Lyapunov exponent (nats per step)'
    """
    axes = axes_or_new(ax)
    from matplotlib.ticker import MaxNLocator

    kept = ~result.diverged
    exponents = result.exponents.detach()[kept].double().cpu()
    errors = result.standard_error.detach()[kept].double().cpu()
    index = list(range(1, exponents.shape[1] + 1))
    drawn = finite_or_nan(exponents.mean(dim=0))
    error = finite_or_nan(errors.square().sum(dim=0).sqrt() / len(errors)).nan_to_num(0.0)
    container = axes.errorbar(
        index,
        drawn.numpy(),
        yerr=error.numpy(),
        label=label,
        **with_defaults(style, marker="o", markersize=3, linewidth=1.2),
    )
    if len(exponents) > 1:
        color = container.lines[0].get_color()
        for trajectory in finite_or_nan(exponents):
            axes.plot(index, trajectory.numpy(), color=color, alpha=0.25, linewidth=0.7, zorder=1)
    _note_lost_rank(axes, exponents, label)
    if not bool(kept.all()):
        add_note(axes, f"{int((~kept).sum())} of {len(kept)} trajectories diverged")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("index of the exponent")
    unit = "step" if result.dt == 1.0 else "unit of time"
    axes.set_ylabel(f"Lyapunov exponent (nats per {unit})")
    return axes


def _note_lost_rank(axes: "Axes", exponents: Float[Tensor, "B k"], label: str | None) -> None:
    lost = int(exponents.isneginf().any(dim=0).sum())
    if not lost:
        return
    whose = f"{label}: " if label else ""
    add_note(axes, f"{whose}{lost} of {exponents.shape[1]} exponents are −∞")
