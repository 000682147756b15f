"""The drawing of figure 1: exponents, losses and spectra."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from statistics import median
from typing import TYPE_CHECKING, Any

from flossing.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, new_figure
from flossing_lab.studies.drawing import index_axis, title
from flossing_lab.studies.random_bits import numbers
from flossing_lab.studies.study import Measurement, Results

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
    """Draw the exponents and the loss over the steps, and the spectra.

    Args:
        results: of `measure`.
    """
    figure = new_figure(12.5, 3.9)
    exponents, losses, spectra = figure.subplots(1, 3)
    _draw_exponents(exponents, results)
    _draw_losses(losses, results)
    _draw_spectra(spectra, results)
    return figure


def by_target(results: Results) -> list[tuple[float, list[Measurement]]]:
    """Return the measurements with the least k by their target.

    Args:
        results: of figure 1.
    """
    least = min(each.setting["k"] for each in results.measurements)
    one = [each for each in results.measurements if each.setting["k"] == least]
    return [
        (target, [each for each in one if each.setting["target"] == target])
        for target in sorted({float(each.setting["target"]) for each in one})
    ]


def by_k(results: Results) -> list[tuple[int, list[Measurement]]]:
    """Return the measurements with the target zero by their k.

    Args:
        results: of figure 1.
    """
    zero = [each for each in results.measurements if each.setting["target"] == 0]
    sizes = sorted({int(each.setting["k"]) for each in zero})
    return [(k, [each for each in zero if each.setting["k"] == k]) for k in sizes]


def signed(target: float) -> str:
    """Return a target with a proper minus sign.

    Example:
        >>> signed(-0.5)
        '−0.5'
    """
    return f"{target:g}".replace("-", "−")


def _draw_exponents(axes: "Axes", results: Results) -> None:
    for target, group in by_target(results):
        for index, each in enumerate(group):
            axes.plot(
                each.numbers["steps"],
                list(numbers(each.numbers["largest"])),
                color=TARGET_COLORS[target],
                linewidth=0.7,
                alpha=0.7,
                label=f"target {signed(target)}" if index == 0 else None,
            )
        axes.axhline(target, color="black", linestyle="--", linewidth=0.8)
    axes.set_xlabel("step of flossing")
    axes.set_ylabel(r"largest exponent $\lambda_1$ (nats per step)")
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    title(axes, "The largest exponent of each network")


def _draw_losses(axes: "Axes", results: Results) -> None:
    for target, group in by_target(results):
        losses = [list(numbers(each.numbers["loss"])) for each in group]
        axes.plot(
            group[0].numbers["steps"],
            [median(column) for column in zip(*losses, strict=True)],
            color=TARGET_COLORS[target],
            label=f"target {signed(target)}",
        )
    axes.set_yscale("log")
    axes.set_xlabel("step of flossing")
    axes.set_ylabel(r"loss $(\lambda_1 - \mathrm{target})^2$")
    axes.legend(frameon=False, fontsize="small")
    title(axes, "The loss, median over the networks")


def _draw_spectra(axes: "Axes", results: Results) -> None:
    groups = by_k(results)
    shared = min(len(group) for _, group in groups)
    for index, each in enumerate(groups[0][1][:shared]):
        _draw_spectrum(
            axes,
            each.numbers["spectrum_before"],
            "before flossing" if index == 0 else None,
            {"color": GREY, "linestyle": ":"},
        )
    for (k, group), style in zip(groups, K_STYLES, strict=False):
        for index, each in enumerate(group[:shared]):
            label = f"after, k = {k}" if index == 0 else None
            _draw_spectrum(axes, each.numbers["spectrum_after"], label, style)
        axes.axvline(k, color=style["color"], linewidth=0.8, alpha=0.5, zorder=0)
    axes.axhline(0, color="black", linestyle="--", linewidth=0.8, zorder=0)
    index_axis(axes, "exponent")
    axes.set_ylabel("Lyapunov exponent (nats per step)")
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    title(axes, "Spectra before and after flossing to zero")


def _draw_spectrum(axes: "Axes", values: Any, label: str | None, style: dict[str, Any]) -> None:
    drawn = [each if math.isfinite(each) else math.nan for each in numbers(values)]
    axes.plot(range(1, len(drawn) + 1), drawn, label=label, linewidth=1.2, **style)
