"""Figures of spectra, Jacobians, gradients and learning curves, on Matplotlib axes.

Every function draws on the given axes, or on those of a new `matplotlib.figure.Figure`, and
returns them; `axes.figure.savefig("name.png")` saves the figure. Neither pyplot nor the global
style is used or changed.
"""

from flossing.plots.axes import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, new_figure
from flossing.plots.context import plot_weight_spectrum
from flossing.plots.convergence import plot_convergence
from flossing.plots.covariant_vectors import plot_covariant_angles, plot_localisation
from flossing.plots.effective_rank import plot_effective_rank
from flossing.plots.gradient_horizon import plot_gradient_horizon
from flossing.plots.long_term_jacobian import plot_condition_number, plot_singular_values
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
    "plot_condition_number",
    "plot_convergence",
    "plot_covariant_angles",
    "plot_effective_rank",
    "plot_gradient_horizon",
    "plot_gradient_norm",
    "plot_learning_curve",
    "plot_localisation",
    "plot_singular_values",
    "plot_spectrum",
    "plot_weight_spectrum",
]
