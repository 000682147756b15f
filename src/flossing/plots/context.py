"""Figures of the eigenvalues of recurrent weights."""

# Matplotlib leaves keyword arguments untyped, so that its methods are partially unknown.
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

    The unit circle is drawn too, and a circle of radius exp(λ₁), the mean growth of a tangent
    vector per step, with λ₁ averaged over trajectories. It need not enclose the eigenvalues, since
    units saturate and Jacobians change from step to step; see `flossing.DynamicalContext`.

    Args:
        context: A result of `flossing.dynamical_context`. Systems other than stock modules have
            no weights to draw, only the circles.
        ax: Axes to draw on; `None` for a new figure.

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
    growth = math.exp(largest * context.spectrum.dt)
    _circle(axes, growth, VERMILLION, "-", f"exp(λ₁) = {growth:.3g}")
    # With adjustable="box" the layout would have no room for labels and legend.
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
