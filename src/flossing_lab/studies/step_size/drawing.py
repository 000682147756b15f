"""Four panels: what learns, the largest step size, and the sensitivity, against the delay."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

from typing import TYPE_CHECKING, Any

import numpy as np

from flossing.plots import BLUE, VERMILLION, new_figure
from flossing_lab.studies.drawing import DELAY_LABEL, title
from flossing_lab.studies.step_size.laws import Array, arm_of, geometric_mean, law, mostly
from flossing_lab.studies.study import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {False: "not flossed", True: "flossed before"}
STYLES: dict[bool, dict[str, Any]] = {
    False: {"color": VERMILLION, "marker": "o"},
    True: {"color": BLUE, "marker": "s"},
}
STRETCH = 1.03
"""Ratio of the delays at which the arms are drawn, so that points can be told apart."""


def draw(results: Results) -> "Figure":
    """Draw the shares that learned above, largest steps and sensitivities below."""
    figure = new_figure(10.0, 7.4)
    above, (steps, sensitivities) = figure.subplots(2, 2)
    for axes, (flossed, name) in zip(above, NAMES.items(), strict=True):
        arm = arm_of(results, flossed=flossed)
        _draw_shares(axes, arm.learned.mean(axis=0), arm.delays, arm.step_sizes)
        title(axes, f"Share of networks that learn, {name}")
        places = arm.delays * STRETCH ** (1 if flossed else -1)
        largest = arm.largest_steps
        label = f"{name}, {_power(law(arm.delays, largest).exponent)}"
        _draw_values(steps, places, largest, label, **STYLES[flossed])
        after = arm.sensitivity_after
        label = f"{name}, after training, {_power(law(arm.delays, after).exponent)}"
        _draw_values(sensitivities, places, after, label, **STYLES[flossed])
        before = STYLES[flossed] | {"linestyle": ":", "markerfacecolor": "none"}
        _draw_values(
            sensitivities, places, arm.sensitivity_before, f"{name}, before training", **before
        )
        for panel in (steps, sensitivities):
            _finish_delays(panel, arm.delays)
    figure.colorbar(above[-1].images[0], ax=above[-1], label="share of seeds")
    title(steps, "Largest step size that learns")
    steps.set_ylabel("step size of Adam")
    title(sensitivities, "Sensitivity to the recurrent weights")
    sensitivities.set_ylabel(r"$\Vert\partial y_T\,/\,\partial W\Vert$")
    for panel in (steps, sensitivities):
        panel.legend(frameon=False, fontsize="small")
    return figure


def _draw_shares(axes: "Axes", shares: Array, delays: Array, step_sizes: Array) -> None:
    axes.imshow(shares.T, origin="lower", aspect="auto", cmap="cividis", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(delays)), [f"{each:g}" for each in delays])
    powers = [f"$2^{{{round(np.log2(each))}}}$" for each in step_sizes]
    axes.set_yticks(range(len(step_sizes)), powers)
    axes.set_xlabel(DELAY_LABEL)
    axes.set_ylabel("step size of Adam")


def _draw_values(axes: "Axes", places: Array, values: Array, label: str, **style: Any) -> None:
    """Draw geometric means where at least half of the seeds have a value, and all as points."""
    means = np.where(mostly(values), geometric_mean(values), np.nan)
    axes.plot(places, means, label=label, markersize=5, **style)
    faint: dict[str, Any] = {"color": style["color"], "alpha": 0.35, "markeredgewidth": 0}
    axes.plot(np.tile(places, len(values)), values.ravel(), ".", markersize=5, **faint)


def _finish_delays(axes: "Axes", delays: Array) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(delays, [f"{each:g}" for each in delays])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(DELAY_LABEL)


def _power(exponent: float) -> str:
    return f"$d^{{\\,{exponent:.2f}}}$"
