"""The panels of figure 1: exponents, losses and spectra."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from flossing.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, new_figure
from flossing_lab.studies.drawing import index_axis, title
from flossing_lab.studies.study import Measurement, Results, group_by

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TARGET_COLORS = {-1.0: PURPLE, -0.5: ORANGE, 0.0: BLUE}
K_STYLES: tuple[dict[str, Any], ...] = (
    {"color": VERMILLION, "linestyle": "-."},
    {"color": BLUE, "linestyle": "-"},
    {"color": GREEN, "linestyle": "--"},
)


def draw(results: Results) -> "Figure":
    """Draw exponents and losses during flossing, and spectra before and after."""
    figure = new_figure(12.5, 3.9)
    exponents, losses, spectra = figure.subplots(1, 3)
    _draw_exponents(exponents, results)
    _draw_losses(losses, results)
    _draw_spectra(spectra, results)
    return figure


def by_target(results: Results) -> dict[float, list[Measurement]]:
    """Group the networks of random gain, whose largest exponent is flossed, by their target."""
    own = [each for each in results.measurements if each.setting["gain"] is None]
    return group_by(own, lambda each: float(each.setting["target"]))


def by_k(results: Results) -> dict[int, list[Measurement]]:
    """Group the networks of given gain, whose first k exponents are flossed to zero, by k."""
    own = [each for each in results.measurements if each.setting["gain"] is not None]
    return group_by(own, lambda each: int(each.setting["k"]))


def signed(target: float) -> str:
    """Format a number with a minus sign rather than a hyphen.

    Example:
        >>> signed(-0.5)
        '−0.5'
    """
    return f"{target:g}".replace("-", "−")


def _draw_exponents(axes: "Axes", results: Results) -> None:
    for target, group in by_target(results).items():
        for index, each in enumerate(group):
            axes.plot(
                each.numbers["steps"],
                each.numbers["largest"],
                color=TARGET_COLORS[target],
                linewidth=0.7,
                alpha=0.7,
                label=f"target {signed(target)}" if index == 0 else None,
            )
        axes.axhline(target, color="black", linestyle="--", linewidth=0.8)
    axes.set_xlabel("flossing step")
    axes.set_ylabel(r"largest exponent $\lambda_1$ (nats per step)")
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    title(axes, "Largest exponent of each network")


def _draw_losses(axes: "Axes", results: Results) -> None:
    for target, group in by_target(results).items():
        axes.plot(
            group[0].numbers["steps"],
            list(map(median, zip(*(each.numbers["loss"] for each in group), strict=True))),
            color=TARGET_COLORS[target],
            label=f"target {signed(target)}",
        )
    axes.set_yscale("log")
    axes.set_xlabel("flossing step")
    axes.set_ylabel(r"loss $(\lambda_1 - \mathrm{target})^2$")
    axes.legend(frameon=False, fontsize="small")
    title(axes, "Loss, median over networks")


def _draw_spectra(axes: "Axes", results: Results) -> None:
    groups = by_k(results)
    shared = min(map(len, groups.values()))

    def draw_group(group: Sequence[Measurement], name: str, label: str, **style: Any) -> None:
        for index, each in enumerate(group[:shared]):
            values = [value if math.isfinite(value) else math.nan for value in each.numbers[name]]
            shown = label if index == 0 else None
            axes.plot(range(1, len(values) + 1), values, linewidth=1.2, label=shown, **style)

    first = next(iter(groups.values()))
    draw_group(first, "spectrum_before", "before flossing", color=GREY, linestyle=":")
    for (k, group), style in zip(groups.items(), K_STYLES, strict=False):
        draw_group(group, "spectrum_after", f"after, k = {k}", **style)
        axes.axvline(k, color=style["color"], linewidth=0.8, alpha=0.5, zorder=0)
    axes.axhline(0, color="black", linestyle="--", linewidth=0.8, zorder=0)
    index_axis(axes, "exponent")
    axes.set_ylabel("Lyapunov exponent (nats per step)")
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    title(axes, "Spectra before and after flossing to zero")
