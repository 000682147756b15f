"""Figure 2: the condition number of the long-term Jacobian, before and after flossing.

The quick size takes about three minutes on one core, most of it for flossing in windows of 300
steps: a network is flossed three times for 500 steps and analysed four times, over 20 origins and
300 steps.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from flossing.analysis.long_term_jacobian import long_term_jacobian
from flossing.plots import BLUE, GREEN, PURPLE, VERMILLION, new_figure
from flossing_lab.networks.networks import SequenceNetwork
from flossing_lab.runs.configuration import Architecture
from flossing_lab.runs.schedules import TIME_STEPS
from flossing_lab.studies.drawing import title
from flossing_lab.studies.judging import Count
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

ARMS = {
    "before": "before",
    "after": "after windows of 55 steps",
    "again": "after twice as many",
    "long": "after windows of {window} steps too",
}
"""What is analysed, in words."""

DRAWN = {
    "before": "not flossed",
    "after": f"windows of {TIME_STEPS} steps",
    "long": "long windows too",
}
"""What is drawn, in words."""

RESOLVED = 7
"""Largest logarithm of a condition number that single precision resolves: 2⁻²⁴ is about 10⁻⁷."""

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
        flossing_steps: of gradient descent, in each episode.
        long_window: length of the sequences in the episode of long windows.
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
    long_window: int = 300
    horizons: tuple[int, ...] = (1, 2, 5, 10, *range(20, 301, 20))
    origins: int = 20
    steps: int = 1000
    transient: int = 100


def settings(
    *, seeds: int = 1, k: Sequence[int] = (16, 48, 75), **options: Any
) -> list[ConditionSetting]:
    """Return `seeds` networks for each `k`, all different; `options` are further fields."""
    return [
        ConditionSetting(seed=place * seeds + each, k=k_of_these, **options)
        for place, k_of_these in enumerate(k)
        for each in range(seeds)
    ]


def measure(setting: ConditionSetting) -> dict[str, Any]:
    """Floss a network on random bits, and analyse it before and after each episode."""
    network = fresh_network(Architecture(size=setting.network_size, form="rate"), setting.seed)

    def analysed(each: SequenceNetwork) -> dict[str, Any]:
        source = generator(setting.seed, "spectrum")
        result = long_term_jacobian(
            each.system,
            random_bits(setting.steps, source),
            each.initial_state(1),
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

    def flossed(each: SequenceNetwork, **options: int) -> dict[str, Any]:
        floss_on_bits(each, setting.seed, k=setting.k, steps=setting.flossing_steps, **options)
        return analysed(each)

    before, after = analysed(network), flossed(network)
    copied = copy.deepcopy(network)
    return {
        "before": before,
        "after": after,
        "again": flossed(network, episode=1),
        "long": flossed(copied, episode=1, time_steps=setting.long_window),
    }


def draw(results: Results) -> "Figure":
    """Draw condition numbers above and singular values below, before and after flossing."""
    figure = new_figure(13.5, 7.4)
    above, below = figure.subplots(2, len(DRAWN))
    groups = _by_k(results)
    largest = max(groups)
    for (arm, words), condition, singular in zip(DRAWN.items(), above, below, strict=True):
        for (k, group), style in zip(groups.items(), cycle(STYLES), strict=False):
            _draw_condition(condition, f"k = {k}", group, arm, style)
        _finish_condition(condition)
        title(condition, f"Condition number, {words}")
        _draw_singular_values(singular, groups[largest][0], arm)
        title(singular, f"Singular values, k = {largest}, {words}")
    limits = [limit for axes in below for limit in axes.get_ylim()]
    for axes in below:
        axes.set_ylim(min(limits), max(limits))
    return figure


def findings(results: Results) -> list[Finding]:
    """Compare measured condition numbers before and after flossing, and with the prediction."""
    setting = results.measurements[0].setting
    horizon, steps, window = (
        setting["horizons"][-1],
        setting["flossing_steps"],
        setting["long_window"],
    )
    last = {arm: [_medians(each, arm)[-1] for each in results.measurements] for arm in ARMS}
    pairs = zip(last["before"], last["after"], strict=True)
    lower = _count(after < before for before, after in pairs)
    words = "; ".join(f"k = {k}: {_last_in_words(group)}" for k, group in _by_k(results).items())
    controlled = {arm: _count(each <= RESOLVED for each in own) for arm, own in last.items()}
    errors = [
        _relative_error(_predicted(each, arm)[-1], _medians(each, arm)[-1])
        for each in results.measurements
        for arm in ARMS
    ]
    close = _count(error < CLOSE for error in errors)
    limit = (
        f"10^{RESOLVED:g} counts as controlled: in single precision, which has seven digits, what "
        "is weaker is lost."
    )
    return [
        Finding(
            claim="The condition number grows exponentially with the horizon, and more slowly "
            "after flossing.",
            found=f"Over {horizon} steps it is lower after {steps} published steps in {lower} "
            f"networks. Medians over networks and origins: {words}.",
            agrees=lower.most.agrees,
            source="recollection",
        ),
        Finding(
            claim=f"Flossing controls the condition number over {horizon} steps, in the published "
            f"windows of {TIME_STEPS} steps.",
            found=f"It is at most 10^{RESOLVED:g} in {controlled['after']} networks after {steps} "
            f"steps and in {controlled['again']} after twice as many. {limit}",
            agrees=controlled["again"].most.agrees,
            source="abstract",
        ),
        Finding(
            claim=f"Flossing controls it in windows of {window} steps, as long as the horizon.",
            found=f"It is at most 10^{RESOLVED:g} in {controlled['long']} networks after {steps} "
            f"published steps and {steps} in such windows. {limit}",
            agrees=controlled["long"].most.agrees,
            source="this project",
        ),
        Finding(
            claim="Within the flossed subspace it follows exp((λ₁ − λₖ)(t − τ)).",
            found=f"Over {horizon} steps the exponents predict its logarithm to within "
            f"{100 * CLOSE:.0f} % in {close} cases, networks before and after each episode; the "
            f"largest error is {100 * max(errors):.0f} %.",
            agrees=close.most.agrees,
            source="recollection",
        ),
    ]


def _count(found: Iterable[bool]) -> Count:
    each = list(found)
    return Count(sum(each), len(each))


def _by_k(results: Results) -> dict[int, list[Measurement]]:
    return group_by(results.measurements, lambda each: int(each.setting["k"]))


def _medians(measurement: Measurement, arm: str) -> list[float]:
    """Return the medians over origins, by horizon."""
    return measurement.numbers[arm]["log10_condition_quartiles"][1]


def _predicted(measurement: Measurement, arm: str) -> list[float]:
    return measurement.numbers[arm]["predicted_log10_condition"]


def _last_in_words(group: Sequence[Measurement]) -> str:
    window = group[0].setting["long_window"]
    return ", ".join(
        f"10^{_over_networks(_medians(each, arm) for each in group)[-1]:.3g} "
        + words.format(window=window)
        for arm, words in ARMS.items()
    )


def _over_networks(rows: Iterable[Sequence[float]]) -> list[float]:
    return list(map(median, zip(*rows, strict=True)))


def _relative_error(predicted: float, found: float) -> float:
    return abs(predicted - found) / abs(found) if found else math.inf


def _draw_condition(
    axes: "Axes", label: str, group: Sequence[Measurement], arm: str, style: dict[str, Any]
) -> None:
    horizons = group[0].setting["horizons"]
    measured = _finite(_over_networks(_medians(each, arm) for each in group))
    predicted = _finite(_over_networks(_predicted(each, arm) for each in group))
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
    statement="Flossing controls the condition number of the long-term Jacobian (abstract), which "
    "grows exponentially with the horizon, and much more slowly after flossing (recollection). "
    "Within the flossed subspace it follows the prediction from the exponents, "
    "exp((λ₁ − λₖ)(t − τ)) (recollection).",
    caption="Above: the condition number σ₁/σₖ of the long-term Jacobian over s steps, restricted "
    "to the subspace of the first k exponents, before flossing, after flossing them in windows of "
    "55 steps as published, and after a second episode in windows as long as the longest horizon "
    "(different scales); medians over networks. Dashed: the prediction from the exponents. Below: "
    "all singular values in that subspace for the largest k and the first network, from dark "
    "(largest) to light, on the same scale; medians over origins.",
    extents={"quick": "1 network for each k", "full": "3 networks for each k"},
    settings={"quick": settings(), "full": settings(seeds=3)},
    measure=measure,
    draw=draw,
    findings=findings,
)
