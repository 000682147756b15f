"""Figure 1: flossing drives exponents to a target.

The quick size takes about four minutes on one core: 30 networks of 32 units with one flossed
exponent, 1000 steps of about 4 ms each, and 9 networks of 80 units, 4 to 8 ms a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any

import torch

from flossing.spectrum import lyapunov_spectrum
from flossing.support.formatting import format_number
from flossing_lab.runs.configuration import Architecture
from flossing_lab.studies.judging import Count
from flossing_lab.studies.paper.fig1_drawing import by_k, by_target, draw, signed
from flossing_lab.studies.random_bits import (
    floss_on_bits,
    fresh_network,
    generator,
    random_bits,
    rounded,
)
from flossing_lab.studies.study import Finding, Measurement, Results, Study

TARGETS = (-1.0, -0.5, 0.0)
LATE_SHARE = 0.1
"""Share of the flossing steps, at the end, over which results are averaged."""

RECORDED_POINTS = 100
"""Approximate number of flossing steps that are recorded, evenly spaced."""

NEAR = 0.05
"""Largest distance from a target, in nats per step, that counts as reached."""

NEAR_IN_WORDS = (
    f"{NEAR} nats per step count as near: vectors change by less than a factor of e in 20 steps."
)

HUNDREDFOLD = 100


@dataclass(frozen=True, kw_only=True)
class ExponentSetting:
    """A network whose first `k` exponents are flossed to `target`.

    Attributes:
        seed: random seed, also of a random gain.
        k: number of flossed exponents.
        target: in nats per step.
        gain: of the recurrent weights; `None` for a random one, uniform on (0, 1].
        steps: of flossing.
        network_size: number N of units.
        spectrum_steps: length of the sequence on which spectra are measured.
    """

    seed: int
    k: int
    target: float
    gain: float | None
    network_size: int
    steps: int = 1000
    spectrum_steps: int = 1000


def settings(
    *,
    networks: int = 10,
    network_size: int = 32,
    spectra: int = 3,
    spectrum_size: int = 80,
    k: Sequence[int] = (1, 16, 32),
    **options: Any,
) -> list[ExponentSetting]:
    """Return what is measured, by default in the quick size.

    Args:
        networks: number of networks of random gain for each target of the largest exponent.
        network_size: their number N of units.
        spectra: number of networks of gain 1 for each `k`, flossed to zero.
        spectrum_size: their number N of units.
        k: numbers of flossed exponents.
        **options: other fields of `ExponentSetting`.
    """
    driven = [
        ExponentSetting(
            seed=seed, k=1, target=target, gain=None, network_size=network_size, **options
        )
        for target in TARGETS
        for seed in range(networks)
    ]
    flat = [
        ExponentSetting(
            seed=seed, k=each, target=0.0, gain=1.0, network_size=spectrum_size, **options
        )
        for each in k
        for seed in range(spectra)
    ]
    return driven + flat


def measure(setting: ExponentSetting) -> dict[str, Any]:
    """Floss a network, and measure its spectrum before and after."""
    gain = setting.gain
    if gain is None:
        # `rand` is uniform on [0, 1): the gain is never 0.
        gain = 1.0 - float(torch.rand((), generator=generator(setting.seed, "evaluation")))
    architecture = Architecture(size=setting.network_size, gain=gain, form="rate")
    network = fresh_network(architecture, setting.seed)

    def spectrum() -> list[float]:
        source = generator(setting.seed, "spectrum")
        with torch.no_grad():
            result = lyapunov_spectrum(
                network.system,
                random_bits(setting.spectrum_steps, source),
                network.initial_state(1),
                state_transient=setting.spectrum_steps // 10,
                dtype=torch.float64,
                generator=source,
            )
        return rounded(result.exponents[0])

    before = spectrum()
    history = floss_on_bits(
        network, setting.seed, k=setting.k, steps=setting.steps, target=setting.target
    )
    kept = slice(None, None, max(1, setting.steps // RECORDED_POINTS))
    return {
        "gain": gain,
        "steps": list(range(setting.steps))[kept],
        "loss": rounded(history.loss[kept]),
        "largest": rounded(history.exponents[kept, 0, 0]),
        "spectrum_before": before,
        "spectrum_after": spectrum(),
    }


def findings(results: Results) -> list[Finding]:
    """Compare targets, losses and spectra with the paper's claims."""
    return [_targets(results), _losses(results), *_spectra(results)]


def _late(values: Sequence[float]) -> Sequence[float]:
    return values[-max(1, round(LATE_SHARE * len(values))) :]


def _targets(results: Results) -> Finding:
    # Averaged over late steps: the estimate from one sequence of 39 counted steps is noisy.
    errors = {
        target: [abs(mean(_late(each.numbers["largest"])) - target) for each in group]
        for target, group in by_target(results).items()
    }
    words = "; ".join(
        f"{signed(target)}: {_count_within(own, NEAR)}, at most {max(own):.2g} away"
        for target, own in errors.items()
    )
    gains = [each.numbers["gain"] for group in by_target(results).values() for each in group]
    return Finding(
        claim="The largest exponent reaches each of the targets −1, −0.5 and 0, whatever the gain.",
        found=f"Networks that reach each target, with 95 % intervals: {words}. Gains from "
        f"{min(gains):.2f} to {max(gains):.2f}; averages over the last tenth of the steps, in nats "
        f"per step. {NEAR_IN_WORDS}",
        agrees=_all_of_them([_count_within(own, NEAR).most.agrees for own in errors.values()]),
        source="recollection",
    )


def _losses(results: Results) -> Finding:
    ratios = {
        target: [each.numbers["loss"][0] / median(_late(each.numbers["loss"])) for each in group]
        for target, group in by_target(results).items()
    }
    # The networks of a seed start from the same weights, whatever the target.
    networks = list(map(median, zip(*ratios.values(), strict=True)))
    count = Count(sum(each >= HUNDREDFOLD for each in networks), len(networks))
    words = ", ".join(
        f"{format_number(median(own), 2)} for {signed(target)}" for target, own in ratios.items()
    )
    return Finding(
        claim="The loss falls by orders of magnitude.",
        found=f"By two orders of magnitude or more, in the median over the targets, in {count} "
        f"networks. Median factors: {words}.",
        agrees=count.most.agrees,
        source="recollection",
    )


def _spectra(results: Results) -> Iterator[Finding]:
    groups = by_k(results)
    for k, group in groups.items():
        spectra: list[list[float]] = [each.numbers["spectrum_after"] for each in group]
        considered = k + len(spectra[0]) // 4
        steepest = [_steepest(each[: considered + 1]) for each in spectra]
        cliff = Count(sum(abs(each - k) <= 1 for each in steepest), len(group))
        yield Finding(
            claim=f"With k = {k} of {len(spectra[0])} exponents flossed the spectrum is flat up to "
            "the k-th exponent and drops behind it.",
            found=f"Among the first {considered} exponents the largest drop is behind exponent k, "
            f"or one beside it, in {cliff} networks: behind {', '.join(map(str, steepest))}.",
            agrees=cliff.most.agrees,
            source="secondary source",
        )
    before, after = (
        {k: [_distance(each, name) for each in group] for k, group in groups.items()}
        for name in ("spectrum_before", "spectrum_after")
    )
    # The networks of a seed start from the same weights, whatever k.
    near = _count_within(list(map(median, zip(*after.values(), strict=True))), NEAR)
    words = "; ".join(
        f"k = {k}: {median(after[k]):.2g} rather than {median(before[k]):.2g}" for k in groups
    )
    yield Finding(
        claim="The flossed exponents are near zero.",
        found=f"Mean distance from zero in nats per step over a long sequence, median over "
        f"networks: {words} before flossing. Near, in the median over k, in {near} networks. "
        f"{NEAR_IN_WORDS}",
        agrees=near.most.agrees,
        source="secondary source",
    )


def _distance(measurement: Measurement, name: str) -> float:
    """Return the mean distance of the flossed exponents from zero."""
    return mean(map(abs, measurement.numbers[name][: measurement.setting["k"]]))


def _count_within(values: Sequence[float], most: float) -> Count:
    return Count(sum(each <= most for each in values), len(values))


def _all_of_them(verdicts: Sequence[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _steepest(spectrum: Sequence[float]) -> int:
    """Return the number, counted from 1, of the exponent behind which a spectrum drops most."""
    drops = [a - b for a, b in pairwise(spectrum)]
    return 1 + drops.index(max(drops))


STUDY = Study(
    name="fig1",
    title="Figure 1: control of Lyapunov exponents",
    statement="Gradient descent on the squared exponents drives the largest exponent of networks "
    "with random gains to any target, −1, −0.5 or 0 (recollection). After the first k exponents "
    "are flossed, the spectrum is flat near the target up to the k-th and drops behind it "
    "(secondary source, which has N = 80, gain 1 and k = 1, 16 and 32).",
    caption="Left: the largest exponent of each network of 32 units and random gain, on the "
    "sequence of each step, for three targets (dashed). Middle: the loss, (λ₁ − target)², median "
    "over networks. Right: spectra of networks of 80 units and gain 1 on a long sequence before "
    "flossing and after flossing k exponents to zero, a line for each network; vertical lines "
    "mark k.",
    extents={
        "quick": "3 networks for each spectrum",
        "full": "9 networks of 80 units for each spectrum, as in the secondary source",
    },
    settings={"quick": settings(), "full": settings(spectra=9)},
    measure=measure,
    draw=draw,
    findings=findings,
)
