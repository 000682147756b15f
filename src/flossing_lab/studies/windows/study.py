"""The condition number over a long horizon, by the length of the windows that are flossed.

The quick size takes about twenty minutes on one busy core: 90 networks are flossed for 92 to 1000
steps, and 99 analysed.
"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch

from flossing.analysis.long_term_jacobian import long_term_jacobian
from flossing.flosser import Flosser
from flossing.plots import BLUE, GREEN, PURPLE, new_figure
from flossing.report.model import Table
from flossing.tasks import DelayedCopy
from flossing_lab.networks.networks import SequenceNetwork
from flossing_lab.runs.configuration import Architecture
from flossing_lab.runs.schedules import DEFAULT, PUBLISHED, TIME_STEPS
from flossing_lab.studies.drawing import legend_above, title
from flossing_lab.studies.random_bits import (
    FRAME_TRANSIENT,
    STATE_TRANSIENT,
    fresh_network,
    generator,
    random_bits,
    rounded,
)
from flossing_lab.studies.study import Finding, Measurement, Results, Study, group_by
from flossing_lab.training.member import stream_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

StepSize: TypeAlias = Literal["published", "small", "default"]

HORIZON = 300
"""Length of the sequences, and the number of steps over which the Jacobian is taken."""

STEPS = 500
"""Flossing steps, as published."""

LARGEST = 5.0
"""Logarithm to base 10 of the largest condition number that counts as controlled."""

SIGNIFICANT = 0.05

SCHEDULES: Mapping[StepSize, Mapping[str, Any]] = {
    "published": PUBLISHED,
    "small": DEFAULT | {"lr": 3e-3},
    "default": DEFAULT,
}
STEP_SIZES: Mapping[StepSize, str] = {
    "published": "0.001",
    "small": "0.003 to 0.001",
    "default": "0.01 to 0.001",
}
"""In the tables; all but the published one come with clipped gradients."""

STYLES: Mapping[StepSize, Mapping[str, Any]] = {
    "published": {"color": BLUE, "marker": "s", "linestyle": "-"},
    "small": {"color": GREEN, "marker": "^", "linestyle": "-."},
    "default": {"color": PURPLE, "marker": "D", "linestyle": ":"},
}


class Way(NamedTuple):
    """A way of flossing.

    Attributes:
        step_size: the schedule whose step sizes and clipping are used.
        window: length of the windows.
        length: length of the sequences in which they lie at random places.
        steps: number of flossing steps; 0 for none.
    """

    step_size: StepSize
    window: int
    length: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class WindowSetting:
    """A network that is flossed in one way and analysed; for its first fields see `Way`.

    Attributes:
        seed: random seed.
        k: number of flossed exponents; the Jacobian is restricted to their subspace.
        network_size: number N of units.
        horizons: numbers of steps of the Jacobian.
        origins: number of long-term Jacobians.
        analysed: length of the analysed sequence.
        transient: first steps of it that advance only the state, and further steps that align
            the frame.
    """

    step_size: StepSize
    window: int
    length: int
    steps: int
    seed: int
    k: int
    network_size: int = 80
    horizons: tuple[int, ...] = (100, HORIZON)
    origins: int = 10
    analysed: int = 600
    transient: int = 100


def ways(
    short: int = TIME_STEPS, middle: Sequence[int] = (100, 200), long: int = HORIZON
) -> list[Way]:
    """Return what is compared: none, short and long windows, and those between them."""
    as_many_time_steps = round(STEPS * short / long)
    found = [Way("published", long, long, 0), Way("published", short, short, STEPS)]
    found += [Way("published", window, long, STEPS) for window in (short, *middle, long)]
    found += [Way("published", long, long, as_many_time_steps)]
    found += [Way("small", window, long, STEPS) for window in (short, long)]
    found += [Way("default", long, long, STEPS), Way("small", long, long, 2 * STEPS)]
    return found


def settings(
    compared: Iterable[Way] = tuple(ways()),
    *,
    seeds: int = 3,
    k: Sequence[int] = (16, 48, 75),
    **options: Any,
) -> list[WindowSetting]:
    """Return what is measured, one seed after the other; `options` are further fields."""
    return [
        WindowSetting(**way._asdict(), seed=seed, k=each, **options)
        for seed, way, each in itertools.product(range(seeds), compared, k)
    ]


def measure(setting: WindowSetting) -> dict[str, Any]:
    """Floss a network on random bits, and analyse it."""
    network = fresh_network(Architecture(size=setting.network_size, form="rate"), setting.seed)

    def state(inputs: torch.Tensor) -> object:
        with torch.no_grad():
            return network.initial_state(inputs.shape[1])

    schedule: dict[str, Any] = {
        **SCHEDULES[setting.step_size],
        "before": setting.steps,
        "tolerance": None,
    }
    flosser = Flosser(
        network.system,
        k=setting.k,
        state=state,
        piece=setting.window,
        state_transient=STATE_TRANSIENT,
        frame_transient=FRAME_TRANSIENT,
        generator=generator(setting.seed, "flossing frames"),
        **schedule,
    )
    task = DelayedCopy(delay=1, steps=setting.length)
    flosser.before_training(task.batches(1, seed=stream_seed(setting.seed, "flossing inputs")))
    return _analysed(network, setting)


def _analysed(network: SequenceNetwork, setting: WindowSetting) -> dict[str, Any]:
    source = generator(setting.seed, "spectrum")
    result = long_term_jacobian(
        network.system,
        random_bits(setting.analysed, source),
        network.initial_state(1),
        horizons=setting.horizons,
        k=setting.k,
        origins=setting.origins,
        state_transient=setting.transient,
        frame_transient=setting.transient,
        dtype=torch.float64,
        generator=source,
    )
    return {
        "log10_condition": rounded(result.log10_condition_quartiles[1]),
        "exponents": rounded(result.exponents.mean(dim=0)),
    }


def draw(results: Results) -> "Figure":
    """Draw the condition number over the longest horizon against the length of the windows."""
    groups = group_by(results.measurements, _k)
    figure = new_figure(10.0, 4.2)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (k, group) in zip(panels, groups.items(), strict=True):
        _draw_condition(axes, group_by(group, _way))
        axes.set_xlabel("length of the windows (steps)")
        title(axes, f"k = {k}")
    panels[0].set_ylabel(rf"$\log_{{10}}\,\kappa$ over {_horizon(results)} steps")
    legend_above(figure, panels[0])
    return figure


def _draw_condition(axes: "Axes", by_way: Mapping[Way, Sequence[Measurement]]) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.axhline(LARGEST, color="black", linestyle=":", linewidth=0.9, label=f"κ = 10^{LARGEST:g}")
    for way, group in by_way.items():
        if not way.steps:
            before = median(map(_condition, group))
            axes.axhline(before, color="black", linewidth=0.9, label="not flossed")
    longest, usual = _longest(by_way), _usual_steps(by_way)
    for step_size, style in STYLES.items():
        curve = [w for w in by_way if w == Way(step_size, w.window, longest, usual)]
        if curve:
            heights = [median(map(_condition, by_way[way])) for way in curve]
            label = f"{usual} × {STEP_SIZES[step_size]}"
            axes.plot([way.window for way in curve], heights, **style, markersize=5, label=label)
    for way, group in by_way.items():
        words = f"{way.steps} × {STEP_SIZES[way.step_size]}"
        if way.length < longest:
            _draw_points(axes, way, group, marker="x", label=f"{words}, first time steps")
        elif way.steps not in (0, usual):
            marker = "o" if way.steps < usual else "*"
            _draw_points(axes, way, group, marker=marker, label=words)


def _draw_points(
    axes: "Axes", way: Way, group: Sequence[Measurement], *, marker: str, label: str
) -> None:
    color = STYLES[way.step_size]["color"]
    heights = [median(map(_condition, group))]
    axes.plot([way.window], heights, marker, color=color, fillstyle="none", label=label)


def tables(results: Results) -> tuple[Table, ...]:
    """Return a table of condition numbers with a row for every way of flossing."""
    numbers = sorted({_k(each) for each in results.measurements})
    by_way = group_by(results.measurements, _way)
    return (
        Table(
            "Logarithm to base 10 of the condition number over "
            f"{_horizon(results)} steps, within the subspace of the k exponents that are flossed: "
            "median over networks (smallest to largest). Time: flossing and analysis of one "
            "network, with the largest k, median.",
            ("windows", "step size", "steps", *(f"k = {k}" for k in numbers), "time (s)"),
            tuple(
                _row(way, group_by(group, _k), numbers, _longest(by_way))
                for way, group in by_way.items()
            ),
        ),
    )


def _row(
    way: Way, by_k: Mapping[int, Sequence[Measurement]], numbers: Sequence[int], longest: int
) -> tuple[str, ...]:
    if not way.steps:
        words = ("not flossed", "–", "0")
    else:
        place = "random" if way.window < way.length else "first"
        windows = "whole sequences" if way.window == longest else f"{place} {way.window} steps"
        words = (windows, STEP_SIZES[way.step_size], str(way.steps))
    seconds = [each.seconds for each in by_k.get(numbers[-1], ())]
    return (
        *words,
        *(_range(by_k[k]) if k in by_k else "–" for k in numbers),
        f"{median(seconds):.0f}" if seconds else "–",
    )


def findings(results: Results) -> list[Finding]:
    """Judge windows as long as the horizon against the limit, and against other windows."""
    by_way = group_by(results.measurements, _way)
    longest, usual = _longest(by_way), _usual_steps(by_way)
    whole = [way for way in by_way if way.window == longest and way.steps >= usual]
    short = [way for way in by_way if way.window < longest and way.steps == usual]
    shortest = min(way.window for way in short)
    compared = [
        (Way(way.step_size, longest, longest, usual), way)
        for way in short
        if way.window == shortest
    ]
    return [
        *(_reaches(way, by_way[way]) for way in whole),
        *(_leaves_less(better, other, by_way) for better, other in compared),
    ]


def _reaches(way: Way, group: Sequence[Measurement]) -> Finding:
    by_k = {k: _range(own) for k, own in sorted(group_by(group, _k).items())}
    return Finding(
        claim=f"Windows as long as the horizon, {way.steps} steps of size "
        f"{STEP_SIZES[way.step_size]}, bring the condition number over it to at most "
        f"10^{LARGEST:g} in every network, for every k (our claim, not the paper's).",
        found="Logarithms, median (smallest to largest): "
        + "; ".join(f"k = {k}: {words}" for k, words in by_k.items())
        + ".",
        agrees=all(_condition(each) <= LARGEST for each in group),
    )


def _leaves_less(better: Way, other: Way, by_way: Mapping[Way, Sequence[Measurement]]) -> Finding:
    """Judge whether one way leaves a smaller condition number than another, by a sign test."""
    first, second = (
        {(_k(each), each.setting["seed"]): _condition(each) for each in by_way[way]}
        for way in (better, other)
    )
    pairs = [(first[key], second[key]) for key in first.keys() & second.keys()]
    smaller, count = sum(a < b for a, b in pairs), len(pairs)
    chances = [_tail(smaller, count), _tail(count - smaller, count)]
    place = "random places of the sequences" if other.window < other.length else "their beginning"
    return Finding(
        claim=f"Windows as long as the sequences leave a smaller condition number than windows of "
        f"{other.window} steps at {place}, after as many flossing steps of size "
        f"{STEP_SIZES[better.step_size]} (our claim, not the paper's).",
        found=f"So it is in {smaller} of {count} pairs of networks; a fair coin would show as "
        f"many, or more, with a probability of {chances[0]:.2g}.",
        agrees=None if min(chances) >= SIGNIFICANT else chances[0] < SIGNIFICANT,
    )


def _tail(least: int, count: int) -> float:
    """Return the probability that a fair coin shows heads at least so often."""
    return sum(math.comb(count, n) for n in range(least, count + 1)) / 2**count


def _longest(ways: Iterable[Way]) -> int:
    return max(way.length for way in ways)


def _usual_steps(ways: Iterable[Way]) -> int:
    """Return the number of flossing steps in the shortest windows."""
    return min((way for way in ways if way.steps), key=lambda way: way.window).steps


def _way(measurement: Measurement) -> Way:
    return Way(*(measurement.setting[name] for name in Way._fields))


def _k(measurement: Measurement) -> int:
    return int(measurement.setting["k"])


def _horizon(results: Results) -> int:
    return int(results.measurements[0].setting["horizons"][-1])


def _condition(measurement: Measurement) -> float:
    """Return log10 of the condition number over the longest horizon."""
    return float(measurement.numbers["log10_condition"][-1])


def _range(group: Sequence[Measurement]) -> str:
    values = sorted(map(_condition, group))
    return f"{median(values):.3g} ({values[0]:.3g} to {values[-1]:.3g})"


STUDY = Study(
    name="windows",
    title="The length of the windows that are flossed",
    caption="Condition number κ = σ₁/σₖ of the long-term Jacobian, restricted to the subspace of "
    f"the first k exponents, over {HORIZON} steps (logarithmic scale of its logarithm), against "
    "the length of the windows in which these exponents were flossed. The windows are at random "
    f"places of sequences of {HORIZON} steps, each from the state that the network has there, "
    "unless the legend says otherwise; it has number and size of the flossing steps. "
    "Rate networks of 80 units, g = 1, driven by random bits; "
    "medians over networks. The first 16 steps of each window are not counted.",
    extents={"quick": "3 networks for each way of flossing", "full": "10 networks for each"},
    settings={"quick": settings(), "full": settings(seeds=10)},
    measure=measure,
    draw=draw,
    tables=tables,
    findings=findings,
)
