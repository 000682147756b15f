"""Figures of spectra, gradients and learning curves, on Matplotlib axes.

Every function draws on the axes given, or on those of a new `matplotlib.figure.Figure`, and
returns them; `axes.figure.savefig("name.png")` saves it. Neither pyplot nor the global style is
touched.
"""

from flossing.plots.axes import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, new_figure
from flossing.plots.context import plot_weight_spectrum
from flossing.plots.spectrum import plot_spectrum
from flossing.plots.training import plot_gradient_norm, plot_learning_curve

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "VERMILLION",
    "new_figure",
    "plot_gradient_norm",
    "plot_learning_curve",
    "plot_spectrum",
    "plot_weight_spectrum",
]
