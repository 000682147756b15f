"""Figure 1: flossing drives exponents to a target.

The quick size takes about three minutes on one core: 30 networks of 32 units with one flossed
exponent, 1000 steps of about 4 ms each, and 6 networks with 16 or 32 exponents, 8 ms a step.
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
from flossing_lab.studies.paper.fig1_drawing import by_k, by_target, draw, signed
from flossing_lab.studies.random_bits import (
    floss_on_bits,
    fresh_network,
    generator,
    random_bits,
    rounded,
)
from flossing_lab.studies.study import Finding, Results, Study

TARGETS = (-1.0, -0.5, 0.0)
LATE_SHARE = 0.1
"""Share of the flossing steps, at the end, over which results are averaged."""

RECORDED_POINTS = 100
"""Approximate number of flossing steps that are recorded, evenly spaced."""

REACHED = 0.05
"""Largest distance from the target, in nats per step, that counts as reached."""

ORDERS_OF_MAGNITUDE = 100
"""Smallest factor that counts as orders of magnitude."""

FLAT = 0.1
"""Largest ratio of mean distances from zero, after to before flossing, that counts as flat."""

CLIFF = 3
"""Smallest ratio of a drop to the median drop behind it that counts as a cliff."""


@dataclass(frozen=True, kw_only=True)
class ExponentSetting:
    """A network whose first `k` exponents are flossed to `target`.

    Attributes:
        seed: random seed, also of the gain.
        k: number of flossed exponents.
        target: in nats per step.
        steps: of flossing.
        network_size: number N of units.
        spectrum_steps: length of the sequence on which spectra are measured.
    """

    seed: int
    k: int
    target: float
    steps: int = 1000
    network_size: int = 32
    spectrum_steps: int = 1000


def settings(
    *, networks: int = 10, spectra: int = 3, k: Sequence[int] = (1, 16, 32), **options: Any
) -> list[ExponentSetting]:
    """Return what is measured, by default in the quick size.

    Args:
        networks: number of networks for each target, with the first `k`.
        spectra: number of networks for each other `k`, flossed to zero.
        k: numbers of flossed exponents.
        **options: other fields of `ExponentSetting`.
    """
    first, *others = k
    arms = [(target, first, networks) for target in TARGETS]
    arms += [(0.0, each, spectra) for each in others]
    return [
        ExponentSetting(seed=seed, k=each, target=target, **options)
        for target, each, count in arms
        for seed in range(count)
    ]


def measure(setting: ExponentSetting) -> dict[str, Any]:
    """Floss a network, and measure its spectrum before and after."""
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
        target: max(abs(mean(_late(each.numbers["largest"])) - target) for each in group)
        for target, group in by_target(results).items()
    }
    words = "; ".join(f"{signed(target)}: {error:.2g}" for target, error in errors.items())
    counts = {len(group) for group in by_target(results).values()}
    gains = [each.numbers["gain"] for each in results.measurements]
    return Finding(
        claim="The largest exponent reaches each of the targets −1, −0.5 and 0, whatever the gain.",
        found="Largest distance from each target, averaged over the last tenth of the steps, in "
        f"nats per step: {words} ({' or '.join(map(str, counts))} networks each, gains from "
        f"{min(gains):.2f} to {max(gains):.2f}). Less than {REACHED} counts as reached.",
        agrees=max(errors.values()) < REACHED,
    )


def _losses(results: Results) -> Finding:
    ratios: dict[float, float] = {}
    for target, group in by_target(results).items():
        losses = [each.numbers["loss"] for each in group]
        last = median(value for each in losses for value in _late(each))
        ratios[target] = median(each[0] for each in losses) / last
    words = ", ".join(
        f"{format_number(ratio, 2)} for {signed(target)}" for target, ratio in ratios.items()
    )
    return Finding(
        claim="The loss falls by orders of magnitude.",
        found=f"The median loss falls by a factor of {words}; {ORDERS_OF_MAGNITUDE} counts as "
        "orders of magnitude.",
        agrees=min(ratios.values()) >= ORDERS_OF_MAGNITUDE,
    )


def _spectra(results: Results) -> Iterator[Finding]:
    for k, group in by_k(results).items():
        spectra: list[list[float]] = [each.numbers["spectrum_after"] for each in group]
        before: list[list[float]] = [each.numbers["spectrum_before"] for each in group]
        after, initially = (
            mean(abs(value) for each in rows for value in each[:k]) for rows in (spectra, before)
        )
        words = (
            f"Over {len(group)} networks the mean distance of the flossed exponents from zero is "
            f"{after:.2g} nats per step after flossing and {initially:.2g} before"
        )
        if k == len(spectra[0]):
            yield Finding(
                claim=f"With all exponents flossed (k = {k}) the whole spectrum is near zero.",
                found=f"{words}; a tenth of the distance before counts as near.",
                agrees=after < FLAT * initially,
            )
            continue
        cliff = median(each[k - 1] - each[k] for each in spectra)
        usual = median(a - b for each in spectra for a, b in pairwise(each[k:]))
        considered = k + k // 2 + 2
        steepest = ", ".join(str(_steepest(each[:considered])) for each in spectra)
        yield Finding(
            claim=f"With k = {k} exponents flossed the spectrum is flat near zero up to the k-th "
            "exponent and drops behind it.",
            found=f"{words}. The median drop is {cliff:.2g} from exponent {k} to {k + 1} and "
            f"{usual:.2g} between neighbours behind it. Among the first {considered} exponents the "
            f"largest drop of each network is behind exponent {steepest}. A tenth of the distance "
            f"before counts as near, {CLIFF} median drops as a cliff.",
            agrees=after < FLAT * initially and cliff > CLIFF * usual,
        )


def _steepest(spectrum: Sequence[float]) -> int:
    """Return the number, counted from 1, of the exponent behind which a spectrum drops most."""
    drops = [a - b for a, b in pairwise(spectrum)]
    return 1 + drops.index(max(drops))


STUDY = Study(
    name="fig1",
    title="Figure 1: control of Lyapunov exponents",
    statement="Gradient descent on the squared exponents drives the largest exponent of networks "
    "with random gains to any target, −1, −0.5 or 0 (recalled). After the first k exponents are "
    "flossed, the spectrum is flat near the target up to the k-th and drops behind it (recalled).",
    caption="Left: the largest exponent of each network, on the sequence of each step, for three "
    "targets (dashed). Middle: the loss, (λ₁ − target)², median over networks. Right: spectra on a "
    "long sequence before flossing and after flossing k exponents to zero, a line for each "
    "network; vertical lines mark k.",
    settings={"quick": settings(), "full": settings(spectra=10, steps=2000)},
    measure=measure,
    draw=draw,
    findings=findings,
)
