"""Figure 1: exponents are driven to where they are wanted.

The quick size takes about three minutes of one core: 30 networks of N=32 with one exponent, 1000
steps of about 4 ms each, and 6 with 16 and 32 exponents, of 8 ms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any

import torch

from flossing.spectrum import lyapunov_spectrum
from flossing.support.formatting import number_in_words
from flossing_lab.runs.configuration import Architecture
from flossing_lab.studies.paper.fig1_drawing import by_k, by_target, draw, signed
from flossing_lab.studies.random_bits import (
    floss_on_bits,
    fresh_network,
    generator,
    numbers,
    random_bits,
    rounded,
)
from flossing_lab.studies.study import Finding, Results, Study

STATEMENT = (
    "Gradient descent on the squared exponents drives the largest exponent of networks with "
    "random gains to whatever target is set, −1, −0.5 or 0 (recalled); after flossing the first k, "
    "the spectrum is flat near the target up to the k-th exponent and falls off behind it "
    "(recalled)."
)
CAPTION = (
    "Left: the largest exponent of each network, on the sequence of each step, for three targets "
    "(dashed). Middle: the loss, (λ₁ − target)², a median over the networks. Right: "
    "spectra over a long sequence before flossing and after flossing k exponents to zero, a line "
    "for each network; k is marked."
)

TARGETS = (-1.0, -0.5, 0.0)
LATE = 0.1
"""The share of the steps, from the end, that count as late."""

POINTS = 100
"""Of the steps about so many are kept, evenly spaced."""

NEAR = 0.05
"""So many nats per step from the target count as there."""

ORDERS = 100
"""A factor of this size is one of orders of magnitude."""

FLAT = 0.1
"""Exponents within this share of their mean distance from zero before flossing are near zero."""

CLIFF = 3
"""A fall of so many times the usual one is a cliff."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network that is flossed.

    Attributes:
        seed: what all randomness follows from, the gain included.
        k: how many exponents are flossed.
        target: where to.
        steps: of flossing.
        network_size: number N of units.
        spectrum_steps: length of the sequence over which spectra are measured.
    """

    seed: int
    k: int
    target: float
    steps: int
    network_size: int
    spectrum_steps: int = 1000


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        networks: with one exponent flossed to each target.
        spectra: how many of them are flossed with each other k too, to zero.
        k: how many exponents.
        steps: of flossing.
        network_size: number N of units.
        spectrum_steps: length of the sequence over which spectra are measured.
    """

    networks: int = 10
    spectra: int = 3
    k: tuple[int, ...] = (1, 16, 32)
    steps: int = 1000
    network_size: int = 32
    spectrum_steps: int = 1000


QUICK = Size()
FULL = Size(spectra=10, steps=2000)


def settings(size: Size) -> list[Setting]:
    """Return what is measured.

    Example:
        >>> len(settings(QUICK))
        36
    """

    def setting(seed: int, k: int, target: float) -> Setting:
        return Setting(
            seed=seed,
            k=k,
            target=target,
            steps=size.steps,
            network_size=size.network_size,
            spectrum_steps=size.spectrum_steps,
        )

    first, *others = size.k
    return [
        *(setting(seed, first, target) for target in TARGETS for seed in range(size.networks)),
        *(setting(seed, k, 0.0) for k in others for seed in range(size.spectra)),
    ]


def measure(setting: Setting) -> dict[str, Any]:
    """Floss a network, and measure its spectrum before and after.

    Args:
        setting: what network, and where to.
    """
    # The gain is uniform on (0, 1), and never 0.
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
    kept = slice(None, None, max(1, setting.steps // POINTS))
    return {
        "gain": gain,
        "steps": list(range(setting.steps))[kept],
        "loss": rounded(history.loss[kept]),
        "largest": rounded(history.exponents[kept, 0, 0]),
        "spectrum_before": before,
        "spectrum_after": spectrum(),
    }


def findings(results: Results) -> list[Finding]:
    """Return what is claimed of the exponents, beside what was found."""
    return [_reached(results), _loss_falls(results), *_flat_spectra(results)]


def _late(values: Sequence[float]) -> Sequence[float]:
    return values[-max(1, round(LATE * len(values))) :]


def _reached(results: Results) -> Finding:
    # A mean over late steps: one sequence of 39 counted steps tells an exponent only roughly.
    misses = {
        target: [
            abs(mean(_late(list(numbers(each.numbers["largest"])))) - target) for each in group
        ]
        for target, group in by_target(results)
    }
    words = "; ".join(
        f"target {signed(target)}: {max(each):.2g} at most, over {len(each)} networks"
        for target, each in misses.items()
    )
    gains = [float(each.numbers["gain"]) for each in results.measurements]
    return Finding(
        claim="The largest exponent reaches each of the targets −1, −0.5 and 0, whatever the gain.",
        found="Distance from the target over the last tenth of the steps, in nats per step: "
        f"{words} (gains from {min(gains):.2f} to {max(gains):.2f}). Less than {NEAR} counts as "
        "reached.",
        agrees=max(miss for each in misses.values() for miss in each) < NEAR,
    )


def _loss_falls(results: Results) -> Finding:
    ratios: dict[float, float] = {}
    for target, group in by_target(results):
        losses = [list(numbers(each.numbers["loss"])) for each in group]
        last = median(value for each in losses for value in _late(each))
        ratios[target] = median(each[0] for each in losses) / last
    words = ", ".join(
        f"{number_in_words(ratio, 2)} for {signed(target)}" for target, ratio in ratios.items()
    )
    return Finding(
        claim="The loss falls by orders of magnitude.",
        found=f"The median loss falls by a factor of {words}; {ORDERS} counts as orders of "
        "magnitude.",
        agrees=min(ratios.values()) >= ORDERS,
    )


def _flat_spectra(results: Results) -> Iterator[Finding]:
    for k, group in by_k(results):
        spectra = [list(numbers(each.numbers["spectrum_after"])) for each in group]
        before = [list(numbers(each.numbers["spectrum_before"])) for each in group]
        inside = mean(abs(value) for each in spectra for value in each[:k])
        initially = mean(abs(value) for each in before for value in each[:k])
        words = (
            f"Over {len(group)} networks the mean distance of the flossed exponents from zero is "
            f"{inside:.2g} nats per step after flossing and {initially:.2g} before"
        )
        if k == len(spectra[0]):
            yield Finding(
                claim=f"With all exponents flossed (k = {k}) the whole spectrum is near zero.",
                found=f"{words}; a tenth counts as near.",
                agrees=inside < FLAT * initially,
            )
            continue
        cliff = median(each[k - 1] - each[k] for each in spectra)
        steps = [a - b for each in spectra for a, b in pairwise(each[k:])]
        usual = median(steps)
        looked_at = k + k // 2 + 2
        behind = ", ".join(str(_steepest(each[:looked_at])) for each in spectra)
        yield Finding(
            claim=f"After flossing k = {k} the spectrum is flat near zero up to there, and then "
            "falls off.",
            found=f"{words}; from the exponent {k} to the next the spectrum falls by {cliff:.2g}, "
            f"where between those behind it falls by {usual:.2g} a step. Of their first "
            f"{looked_at} exponents the spectra fall most behind number {behind}. A tenth of the "
            f"distance before counts as near, {CLIFF} usual falls as a cliff.",
            agrees=inside < FLAT * initially and cliff > CLIFF * usual,
        )


def _steepest(spectrum: Sequence[float]) -> int:
    """The number, from 1, of the exponent behind which a spectrum falls most."""
    falls = [a - b for a, b in pairwise(spectrum)]
    return 1 + falls.index(max(falls))


STUDY = Study(
    name="fig1",
    title="Figure 1: exponents under control",
    statement=STATEMENT,
    caption=CAPTION,
    sizes={"quick": QUICK, "full": FULL},
    settings=settings,
    measure=measure,
    draw=draw,
    findings=findings,
)
