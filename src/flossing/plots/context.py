"""The eigenvalues of recurrent weights beside the growth of tangent vectors."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from typing import TYPE_CHECKING

import torch

from flossing.analysis.context import DynamicalContext
from flossing.plots.axes import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, axes_or_new
from flossing.support.torch_typed import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (
    (BLUE, "o"),
    (ORANGE, "s"),
    (GREEN, "^"),
    (PURPLE, "D"),
    (SKY, "v"),
    (GREY, "P"),
)


def plot_weight_spectrum(context: DynamicalContext, ax: "Axes | None" = None) -> "Axes":
    """Plot the eigenvalues of the recurrent weights in the complex plane, gate by gate.

    With the unit circle and that of radius exp(λ₁), the mean growth of a tangent vector per step:
    λ₁ averaged over trajectories. Where it lies beside the cloud is what saturation, gating and
    changing Jacobians make of W; see `flossing.DynamicalContext`.

    Args:
        context: What `flossing.dynamical_context` returned for a stock module; other systems
            have no weights to draw, only the circles.
        ax: Where to draw; `None` for a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is missing.

    Example:
        >>> import torch, flossing
        >>> context = flossing.dynamical_context(torch.nn.GRU(1, 8), torch.randn(50, 1, 1))
        >>> ax = plot_weight_spectrum(context)
        >>> len(ax.collections), len(ax.lines)
        (3, 2)
    """
    axes = axes_or_new(ax)
    layers = {layer for layer, _ in context.weights}
    for index, ((layer, gate), weights) in enumerate(context.weights.items()):
        color, marker = _STYLES[index % len(_STYLES)]
        axes.scatter(
            numbers(weights.eigenvalues.real),
            numbers(weights.eigenvalues.imag),
            s=14,
            facecolors="none",
            edgecolors=color,
            marker=marker,
            linewidths=0.9,
            label=f"layer {layer}, {gate}" if len(layers) > 1 else gate,
        )
    _circle(axes, 1.0, GREY, "--", "unit circle")
    largest = float(context.spectrum.exponents[:, 0].mean())
    growth = math.exp(largest)
    _circle(axes, growth, VERMILLION, "-", f"exp(λ₁) = {growth:.3g}")
    # A box that shrinks to its data would leave the layout without room for labels and legend.
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("real part")
    axes.set_ylabel("imaginary part")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return axes


def _circle(axes: "Axes", radius: float, color: str, linestyle: str, label: str) -> None:
    angle = torch.linspace(0.0, 2.0 * math.pi, 361)
    axes.plot(
        numbers(radius * angle.cos()),
        numbers(radius * angle.sin()),
        color=color,
        linestyle=linestyle,
        linewidth=1.4,
        label=label,
    )
