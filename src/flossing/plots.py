"""Figures of spectra, gradients and learning curves, on Matplotlib axes.

Every function draws on the axes given, or on those of a new `matplotlib.figure.Figure`, and
returns them; `axes.figure.savefig("name.png")` saves it. Neither pyplot nor the global style is
touched.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.result import LyapunovSpectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart with every kind of colour vision.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREY = "#666666"

_LOST_RANK = "flossing: exponents of -inf"


def new_figure(width: float = 5.0, height: float = 3.6) -> "Figure":
    """An empty figure whose panels do not overlap.

    Args:
        width: In inches.
        height: In inches.

    Raises:
        ImportError: Matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need Matplotlib, which could not be imported; "
            'install it with: pip install "flossing[plot]"'
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def plot_spectrum(
    result: LyapunovSpectrum, ax: "Axes | None" = None, *, label: str | None = None, **style: Any
) -> "Axes":
    """Plot exponents against their index, with error bars of one standard error.

    Of several trajectories the mean is drawn, with its own error bars, and each one lightly.
    Exponents of −∞ cannot be drawn; a note says where they are.

    Args:
        result: What `flossing.lyapunov_spectrum` returned.
        ax: Where to draw; `None` for a new figure.
        label: For the legend.
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
    axes = _axes_or_new(ax)
    from matplotlib.ticker import MaxNLocator

    exponents = result.exponents.detach().double().cpu()
    errors = result.standard_error.detach().double().cpu()
    index = list(range(1, exponents.shape[1] + 1))
    drawn = _finite_or_nan(exponents.mean(dim=0))
    error = _finite_or_nan(errors.square().sum(dim=0).sqrt() / len(errors)).nan_to_num(0.0)
    container = axes.errorbar(
        index,
        drawn.numpy(),
        yerr=error.numpy(),
        label=label,
        **_with_defaults(style, marker="o", markersize=3, linewidth=1.2),
    )
    if len(exponents) > 1:
        color = container.lines[0].get_color()
        for trajectory in _finite_or_nan(exponents):
            axes.plot(index, trajectory.numpy(), color=color, alpha=0.25, linewidth=0.7, zorder=1)
    _note_lost_rank(axes, exponents, label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("index of the exponent")
    unit = "step" if result.dt == 1.0 else "unit of time"
    axes.set_ylabel(f"Lyapunov exponent (nats per {unit})")
    return axes


def plot_gradient_norm(
    lags: Sequence[int],
    norms: Sequence[float],
    ax: "Axes | None" = None,
    *,
    label: str | None = None,
    **style: Any,
) -> "Axes":
    """Plot the norm of the loss's gradient against how far back the state lies, on a log scale.

    Args:
        lags: Steps between the loss and the state.
        norms: Norms of the gradient with respect to that state. Zeros are not drawn.
        ax: Where to draw; `None` for a new figure.
        label: For the legend.
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
    axes = _axes_or_new(ax)
    heights = [norm if norm > 0 else float("nan") for norm in norms]
    axes.plot(list(lags), heights, label=label, **_with_defaults(style))
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
        steps: Training steps done at each point.
        accuracy: From 0 to 1.
        ax: Where to draw; `None` for a new figure.
        chance: Accuracy of guessing, marked by a dashed line; `None` for no line.
        label: For the legend.
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
    axes = _axes_or_new(ax)
    from matplotlib.ticker import PercentFormatter

    axes.plot(list(steps), list(accuracy), label=label, **_with_defaults(style))
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


def _with_defaults(style: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    return {"color": BLUE, "linewidth": 1.6, **defaults, **style}


def _axes_or_new(ax: "Axes | None") -> "Axes":
    return new_figure().add_subplot() if ax is None else ax


def _finite_or_nan(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values, with NaN, which Matplotlib leaves out, where they are not finite."""
    return torch.where(values.isfinite(), values, torch.nan)


def _note_lost_rank(axes: "Axes", exponents: Float[Tensor, "B k"], label: str | None) -> None:
    lost = int(exponents.isneginf().any(dim=0).sum())
    if not lost:
        return
    # Spectra drawn on the same axes note this one above the other.
    earlier = sum(text.get_gid() == _LOST_RANK for text in axes.texts)
    whose = f"{label}: " if label else ""
    axes.annotate(
        f"{whose}{lost} of {exponents.shape[1]} exponents are −∞",
        (0.03, 0.03 + 0.08 * earlier),
        xycoords="axes fraction",
        fontsize="small",
        gid=_LOST_RANK,
    )
