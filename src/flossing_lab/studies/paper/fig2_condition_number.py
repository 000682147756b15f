"""Figure 2: the condition number of the long-term Jacobian, before and after flossing.

The quick size takes about three minutes on one core: 9 networks are flossed for 500 steps each and
analysed twice, over 20 origins and 300 steps; with k = 75 this takes 20 s.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from flossing.analysis.long_term_jacobian import long_term_jacobian
from flossing.plots import BLUE, GREEN, PURPLE, VERMILLION, new_figure
from flossing_lab.runs.configuration import Architecture
from flossing_lab.studies.drawing import title
from flossing_lab.studies.random_bits import (
    floss_on_bits,
    fresh_network,
    generator,
    random_bits,
    rounded,
)
from flossing_lab.studies.study import Finding, Measurement, Results, Study, group_by

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = ("before", "after")
STYLES: tuple[dict[str, Any], ...] = (
    {"color": VERMILLION, "marker": "o"},
    {"color": GREEN, "marker": "^"},
    {"color": BLUE, "marker": "s"},
    {"color": PURPLE, "marker": "D"},
)
CLOSE = 0.2
"""Largest relative error of a predicted log condition number that counts as a match."""

COLOR_RANGE = 0.85
"""Part of the colour map that is used; its end is too light on white."""


@dataclass(frozen=True, kw_only=True)
class ConditionSetting:
    """A network that is flossed and analysed; the defaults are the published parameters.

    Attributes:
        seed: random seed.
        k: number of flossed exponents; the Jacobian is restricted to their subspace.
        network_size: number N of units.
        flossing_steps: of gradient descent.
        horizons: numbers of steps s.
        origins: number of long-term Jacobians.
        steps: length of the analysed sequence of random bits.
        transient: first steps of it that advance only the state, and further steps that align
            the frame.
    """

    seed: int
    k: int
    network_size: int = 80
    flossing_steps: int = 500
    horizons: tuple[int, ...] = (1, 2, 5, 10, *range(20, 301, 20))
    origins: int = 20
    steps: int = 1000
    transient: int = 100


def settings(
    *, seeds: int = 3, k: Sequence[int] = (16, 48, 75), **options: Any
) -> list[ConditionSetting]:
    """Return what is measured, by default in the quick size; `options` are further fields."""
    return [ConditionSetting(seed=seed, k=each, **options) for each in k for seed in range(seeds)]


def measure(setting: ConditionSetting) -> dict[str, Any]:
    """Floss a network on random bits, and analyse it before and after."""
    network = fresh_network(Architecture(size=setting.network_size, form="rate"), setting.seed)

    def analysed() -> dict[str, Any]:
        source = generator(setting.seed, "spectrum")
        result = long_term_jacobian(
            network.system,
            random_bits(setting.steps, source),
            network.initial_state(1),
            horizons=setting.horizons,
            k=setting.k,
            origins=setting.origins,
            state_transient=setting.transient,
            frame_transient=setting.transient,
            dtype=torch.float64,
            generator=source,
        )
        values = result.log_singular_values.flatten(1, 2).median(dim=1).values / math.log(10)
        return {
            "log10_condition_quartiles": [rounded(r) for r in result.log10_condition_quartiles],
            "predicted_log10_condition": rounded(result.predicted_log10_condition.mean(dim=1)),
            "log10_singular_values": [rounded(row) for row in values],
            "exponents": rounded(result.exponents.mean(dim=0)),
        }

    before = analysed()
    floss_on_bits(network, setting.seed, k=setting.k, steps=setting.flossing_steps)
    return dict(zip(ARMS, (before, analysed()), strict=True))


def draw(results: Results) -> "Figure":
    """Draw condition numbers above and singular values below, before and after flossing."""
    figure = new_figure(10.0, 7.4)
    above, below = figure.subplots(2, len(ARMS))
    groups = _by_k(results)
    largest = max(groups)
    for arm, condition, singular in zip(ARMS, above, below, strict=True):
        for (k, group), style in zip(groups.items(), cycle(STYLES), strict=False):
            _draw_condition(condition, f"k = {k}", group, arm, style)
        _finish_condition(condition)
        title(condition, f"Condition number {arm} flossing k exponents")
        _draw_singular_values(singular, groups[largest][0], arm)
        title(singular, f"Singular values {arm} flossing k = {largest}")
    limits = [limit for axes in below for limit in axes.get_ylim()]
    for axes in below:
        axes.set_ylim(min(limits), max(limits))
    return figure


def findings(results: Results) -> list[Finding]:
    """Compare measured condition numbers before and after flossing, and with the prediction."""
    groups = _by_k(results)
    horizon = results.measurements[0].setting["horizons"][-1]
    measured = {k: {arm: _median(group, arm) for arm in ARMS} for k, group in groups.items()}
    predicted = {k: {arm: _predicted(group, arm) for arm in ARMS} for k, group in groups.items()}

    def words(curves: dict[int, dict[str, list[float]]]) -> str:
        return "; ".join(
            f"k = {k}: 10^{arms['before'][-1]:.3g} before, 10^{arms['after'][-1]:.3g} after"
            for k, arms in curves.items()
        )

    pairs = [(predicted[k][arm], measured[k][arm]) for k in groups for arm in ARMS]
    error = max(_relative_error(expected[-1], found[-1]) for expected, found in pairs)
    slope_error = max(
        _relative_error(_late_slope(expected), _late_slope(found)) for expected, found in pairs
    )
    return [
        Finding(
            claim="Flossing makes the condition number grow much more slowly with the horizon.",
            found=f"Over {horizon} steps, medians over networks and origins: {words(measured)}. At "
            "most half the exponent of ten counts as much more slowly.",
            agrees=all(each["after"][-1] < 0.5 * each["before"][-1] for each in measured.values()),
        ),
        Finding(
            claim="Within the flossed subspace it follows exp((λ₁ − λₖ)(t − τ)).",
            found=f"Over {horizon} steps the exponents predict {words(predicted)}. The logarithm "
            f"is off by at most {100 * error:.0f} %, where {100 * CLOSE:.0f} % counts as a match; "
            "its slope over the second half of the horizons is off by at most "
            f"{100 * slope_error:.0f} %.",
            agrees=error < CLOSE,
        ),
    ]


def _by_k(results: Results) -> dict[int, list[Measurement]]:
    return group_by(results.measurements, lambda each: int(each.setting["k"]))


def _median(group: Sequence[Measurement], arm: str) -> list[float]:
    """Return the median over networks of the medians over origins, by horizon."""
    rows = [each.numbers[arm]["log10_condition_quartiles"][1] for each in group]
    return list(map(median, zip(*rows, strict=True)))


def _predicted(group: Sequence[Measurement], arm: str) -> list[float]:
    rows = [each.numbers[arm]["predicted_log10_condition"] for each in group]
    return list(map(median, zip(*rows, strict=True)))


def _relative_error(predicted: float, found: float) -> float:
    return abs(predicted - found) / abs(found) if found else math.inf


def _late_slope(values: Sequence[float]) -> float:
    return values[-1] - values[len(values) // 2]


def _draw_condition(
    axes: "Axes", label: str, group: Sequence[Measurement], arm: str, style: dict[str, Any]
) -> None:
    horizons = group[0].setting["horizons"]
    measured, predicted = _finite(_median(group, arm)), _finite(_predicted(group, arm))
    axes.plot(horizons, measured, **style, markersize=4, linewidth=1.2, label=label)
    # Black and on top, because the prediction often coincides with the median.
    axes.plot(horizons, predicted, color="black", linestyle="--", linewidth=0.9, zorder=3)


def _finish_condition(axes: "Axes") -> None:
    axes.plot([], [], "--", color="black", linewidth=0.9, label=r"$(\lambda_1 - \lambda_k)\,s$")
    axes.set_xlabel("horizon s (steps)")
    axes.set_ylabel(r"$\log_{10}$ of the condition number $\sigma_1/\sigma_k$")
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _draw_singular_values(axes: "Axes", measurement: Measurement, arm: str) -> None:
    from matplotlib import colormaps

    columns = list(zip(*measurement.numbers[arm]["log10_singular_values"], strict=True))
    labelled = (0, len(columns) // 2, len(columns) - 1)
    for index, column in enumerate(columns):
        axes.plot(
            measurement.setting["horizons"],
            _finite(column),
            color=colormaps["viridis"](COLOR_RANGE * index / max(1, len(columns) - 1)),
            linewidth=0.9,
            label=f"$i = {index + 1}$" if index in labelled else None,
        )
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    axes.set_xlabel("horizon s (steps)")
    axes.set_ylabel(r"$\log_{10}$ of the singular values $\sigma_i$")


def _finite(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]


STUDY = Study(
    name="fig2",
    title="Figure 2: the condition number of the long-term Jacobian",
    statement="Flossing controls the condition number of the long-term Jacobian (confirmed: the "
    "abstract), which grows exponentially with the horizon, and much more slowly after flossing "
    "(recalled). Within the flossed subspace it follows the prediction from the exponents, "
    "exp((λ₁ − λₖ)(t − τ)) (recalled).",
    caption="Above: the condition number σ₁/σₖ of the long-term Jacobian over s steps, restricted "
    "to the subspace of the first k exponents, before and after flossing them (different scales); "
    "medians over networks. Dashed: the prediction from the exponents. Below: all singular values "
    "in that subspace for the largest k and the first network, from dark (largest) to light, on "
    "the same scale; medians over origins.",
    settings={"quick": settings(), "full": settings(seeds=10, k=(16, 32, 48, 64, 75))},
    measure=measure,
    draw=draw,
    findings=findings,
)
