"""Figure 2: the condition number of the long-term Jacobian, before and after flossing.

The quick size takes about three minutes of one core: 9 networks, each flossed 500 steps and
analysed twice, over 20 origins and 300 steps, 20 s for k = 75.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    numbers,
    random_bits,
    rounded,
)
from flossing_lab.studies.study import Finding, Measurement, Results, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATEMENT = (
    "Flossing controls the condition number of the long-term Jacobian (confirmed: the abstract), "
    "which grows exponentially with the horizon, and much more slowly after flossing (recalled). "
    "Within the flossed subspace it follows the prediction from the exponents, "
    "exp((λ₁ − λₖ)(t − τ)) (recalled)."
)
CAPTION = (
    "Above: the condition number σ₁/σₖ of the long-term Jacobian over s steps, within the subspace "
    "of the first k exponents, before and after flossing these k, on different scales; medians "
    "over networks. Dashed: what the exponents predict. Below: all singular values of that "
    "subspace for the largest k of the first network, darkest for the largest, on one scale; "
    "medians over origins."
)

ARMS = ("before", "after")
STYLES: tuple[dict[str, Any], ...] = (
    {"color": VERMILLION, "marker": "o"},
    {"color": GREEN, "marker": "^"},
    {"color": BLUE, "marker": "s"},
    {"color": PURPLE, "marker": "D"},
)
CLOSE = 0.2
"""A prediction that is off by a smaller share of the logarithm is close."""

# Of Matplotlib's colour map the darker part, to be seen on white.
_DARK_PART = 0.85


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is flossed and analysed: by default as published.

    Attributes:
        seed: what all randomness follows from.
        k: how many exponents are flossed; the Jacobian is restricted to their subspace.
        network_size: number N of units.
        flossing_steps: of gradient descent.
        horizons: numbers of steps s.
        origins: how many long-term Jacobians are taken.
        steps: length of the sequence that is analysed, of random bits.
        transient: so many of its steps move the state only, and so many further align the frame.
    """

    seed: int
    k: int
    network_size: int = 80
    flossing_steps: int = 500
    horizons: tuple[int, ...] = (1, 2, 5, 10, *range(20, 301, 20))
    origins: int = 20
    steps: int = 1000
    transient: int = 100


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        seeds: how many networks.
        k: how many exponents.
        setting: all else.
    """

    seeds: int = 3
    k: tuple[int, ...] = (16, 48, 75)
    setting: Setting = Setting(seed=0, k=1)


QUICK = Size()
FULL = Size(seeds=10, k=(16, 32, 48, 64, 75))


def settings(size: Size) -> list[Setting]:
    """Return what is measured.

    Example:
        >>> len(settings(QUICK))
        9
    """
    return [replace(size.setting, seed=seed, k=k) for k in size.k for seed in range(size.seeds)]


def measure(setting: Setting) -> dict[str, Any]:
    """Floss a network on random bits, and analyse it before and after.

    Args:
        setting: what is flossed and analysed.
    """
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
    """Draw condition numbers above and singular values below, before and after flossing.

    Args:
        results: of `measure`.
    """
    figure = new_figure(10.0, 7.4)
    above, below = figure.subplots(2, len(ARMS))
    groups = _by_k(results)
    most, networks = groups[-1]
    for arm, condition, singular in zip(ARMS, above, below, strict=True):
        for (k, group), style in zip(groups, _styles(len(groups)), strict=True):
            _draw_condition(condition, f"k = {k}", group, arm, style)
        _finish_condition(condition)
        title(condition, f"Condition number {arm} flossing k exponents")
        _draw_singular_values(singular, networks[0], arm)
        title(singular, f"Singular values {arm} flossing k = {most}")
    lowest = min(axes.get_ylim()[0] for axes in below)
    highest = max(axes.get_ylim()[1] for axes in below)
    for axes in below:
        axes.set_ylim(lowest, highest)
    return figure


def findings(results: Results) -> list[Finding]:
    """Return what is claimed of the condition number, beside what was found."""
    groups = _by_k(results)
    horizon = groups[0][1][0].setting["horizons"][-1]
    ends = {
        k: {arm: (_median(group, arm)[-1], _median_predicted(group, arm)[-1]) for arm in ARMS}
        for k, group in groups
    }
    slower = "; ".join(
        f"k = {k}: 10^{each['before'][0]:.3g} before, 10^{each['after'][0]:.3g} after"
        for k, each in ends.items()
    )
    errors = [
        _relative_error(predicted, found)
        for each in ends.values()
        for found, predicted in each.values()
    ]
    slopes = [
        _relative_error(
            _late_slope(_median_predicted(group, arm)), _late_slope(_median(group, arm))
        )
        for _, group in groups
        for arm in ARMS
    ]
    predicted = "; ".join(
        f"k = {k}: 10^{each['before'][1]:.3g} before, 10^{each['after'][1]:.3g} after"
        for k, each in ends.items()
    )
    return [
        Finding(
            claim="Flossing makes the condition number grow much more slowly with the horizon.",
            found=f"Over {horizon} steps, medians over networks and origins: {slower}. At most "
            "half the exponent of ten counts as much more slowly.",
            agrees=all(each["after"][0] < 0.5 * each["before"][0] for each in ends.values()),
        ),
        Finding(
            claim="Within the flossed subspace it follows exp((λ₁ − λₖ)(t − τ)).",
            found=f"Over {horizon} steps the exponents predict {predicted}; the logarithm is off "
            f"by {100 * max(errors):.0f} % at most, and {100 * CLOSE:.0f} % counts as following. "
            f"Over the second half of the horizons its slope is off by {100 * max(slopes):.0f} % "
            "at most.",
            agrees=max(errors) < CLOSE,
        ),
    ]


def _by_k(results: Results) -> list[tuple[int, list[Measurement]]]:
    sizes = sorted({int(each.setting["k"]) for each in results.measurements})
    return [(k, [e for e in results.measurements if e.setting["k"] == k]) for k in sizes]


def _styles(count: int) -> list[dict[str, Any]]:
    return [STYLES[index % len(STYLES)] for index in range(count)]


def _median(group: Sequence[Measurement], arm: str) -> list[float]:
    """The median over networks of the medians over origins, by horizon."""
    return _across([list(numbers(e.numbers[arm]["log10_condition_quartiles"][1])) for e in group])


def _median_predicted(group: Sequence[Measurement], arm: str) -> list[float]:
    return _across([list(numbers(e.numbers[arm]["predicted_log10_condition"])) for e in group])


def _relative_error(predicted: float, found: float) -> float:
    return abs(predicted - found) / abs(found) if found else math.inf


def _late_slope(values: Sequence[float]) -> float:
    """The rise over the second half of the horizons."""
    return values[-1] - values[len(values) // 2]


def _across(rows: Sequence[Sequence[float]]) -> list[float]:
    return [median(column) for column in zip(*rows, strict=True)]


def _draw_condition(
    axes: "Axes", label: str, group: Sequence[Measurement], arm: str, style: dict[str, Any]
) -> None:
    horizons = group[0].setting["horizons"]
    axes.plot(
        horizons, _finite(_median(group, arm)), **style, markersize=4, linewidth=1.2, label=label
    )
    # Black and on top: the prediction often covers the median.
    predicted = _finite(_median_predicted(group, arm))
    axes.plot(horizons, predicted, color="black", linestyle="--", linewidth=0.9, zorder=3)


def _finish_condition(axes: "Axes") -> None:
    axes.plot([], [], "--", color="black", linewidth=0.9, label=r"$(\lambda_1 - \lambda_k)\,s$")
    axes.set_xlabel("horizon s (steps)")
    axes.set_ylabel(r"$\log_{10}$ of the condition number $\sigma_1/\sigma_k$")
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _draw_singular_values(axes: "Axes", measurement: Measurement, arm: str) -> None:
    from matplotlib import colormaps

    horizons = measurement.setting["horizons"]
    rows = [list(numbers(row)) for row in measurement.numbers[arm]["log10_singular_values"]]
    columns = list(zip(*rows, strict=True))
    for index, column in enumerate(columns):
        axes.plot(
            horizons,
            _finite(column),
            color=colormaps["viridis"](_DARK_PART * index / max(1, len(columns) - 1)),
            linewidth=0.9,
            label=f"$i = {index + 1}$" if index in _named(len(columns)) else None,
        )
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    axes.set_xlabel("horizon s (steps)")
    axes.set_ylabel(r"$\log_{10}$ of the singular values $\sigma_i$")


def _named(count: int) -> tuple[int, int, int]:
    return (0, count // 2, count - 1)


def _finite(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]


STUDY = Study(
    name="fig2",
    title="Figure 2: the condition number of the long-term Jacobian",
    statement=STATEMENT,
    caption=CAPTION,
    sizes={"quick": QUICK, "full": FULL},
    settings=settings,
    measure=measure,
    draw=draw,
    findings=findings,
)
