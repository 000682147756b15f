"""The largest step size that learns, and the sensitivity to parameters, against the delay.

The full size trains 1540 networks in twenty measurements of about half a minute on one idle core.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flossing.report.model import Table
from flossing.tasks import DelayedCopy
from flossing_lab.runs.configuration import Architecture
from flossing_lab.studies.random_bits import floss_on_bits, fresh_network, generator, rounded
from flossing_lab.studies.step_size.drawing import NAMES, draw
from flossing_lab.studies.step_size.laws import (
    LEARNED,
    Arm,
    arm_of,
    geometric_mean,
    law,
    mostly,
    step_ratio,
)
from flossing_lab.studies.step_size.networks import accuracies, copies_of, sensitivities, train
from flossing_lab.studies.study import Finding, Results, SizeName, Study

SCORED = 20
"""Number of answers of each sequence, the same for all delays."""

SEEDS: Mapping[SizeName, int] = {"quick": 2, "full": 10}


@dataclass(frozen=True, kw_only=True)
class StepSizeSetting:
    """A network, flossed or not, of which a copy is trained for each delay and step size.

    Attributes:
        seed: random seed, of the network and of the data.
        flossed: whether all exponents are flossed before training, as published.
        delays: of delayed copy.
        step_sizes: of Adam.
        size: number N of units.
        flossing_steps: of gradient descent.
        steps: of training.
        sequences: number of sequences on which accuracy and sensitivity are measured.
    """

    seed: int
    flossed: bool
    delays: tuple[int, ...] = (2, 4, 8, 12, 16, 24, 32)
    step_sizes: tuple[float, ...] = tuple(2.0**power for power in range(-12, -1))
    size: int = 32
    flossing_steps: int = 500
    steps: int = 500
    sequences: int = 64


def settings(*, seeds: int, **options: Any) -> list[StepSizeSetting]:
    """Return what is measured; `options` are further fields."""
    return [
        StepSizeSetting(seed=seed, flossed=flossed, **options)
        for seed, flossed in itertools.product(range(seeds), (False, True))
    ]


def measure(setting: StepSizeSetting) -> dict[str, Any]:
    """Floss a network or not, train its copies, and measure them before and after."""
    architecture = Architecture(size=setting.size, form="rate")
    network = fresh_network(architecture, setting.seed)
    if setting.flossed:
        floss_on_bits(network, setting.seed, k=setting.size, steps=setting.flossing_steps)
    count, fresh = setting.sequences, generator(setting.seed, "evaluation")
    training = generator(setting.seed, "training")
    rows: dict[str, list[Any]] = {"sensitivity_before": [], "accuracy": [], "sensitivity": []}
    for delay in setting.delays:
        task = DelayedCopy(delay=delay, steps=delay + SCORED)
        copies = copies_of(network, len(setting.step_sizes))
        one = copies_of(network, 1)
        rows["sensitivity_before"] += rounded(
            sensitivities(one, task, sequences=count, generator=fresh)
        )
        train(copies, task, setting.step_sizes, steps=setting.steps, generator=training)
        rows["accuracy"].append(rounded(accuracies(copies, task, sequences=count, generator=fresh)))
        rows["sensitivity"].append(
            rounded(sensitivities(copies, task, sequences=count, generator=fresh))
        )
    return rows


def findings(results: Results) -> list[Finding]:
    """Compare flossed networks with the others, and step sizes with sensitivities."""
    plain, flossed = (arm_of(results, flossed=each) for each in NAMES)
    steps = {name: law(arm.delays, arm.largest_steps) for name, arm in _arms(results).items()}
    longest = [arm.delays[mostly(arm.largest_steps)].max() for arm in (plain, flossed)]
    ratio, (low, high) = step_ratio(plain, flossed)
    spacing = float(plain.step_sizes[1] / plain.step_sizes[0])
    laws = "; ".join(f"{name}: {each}" for name, each in steps.items())
    sensitivity = {
        name: law(arm.delays, arm.sensitivity_after) for name, arm in _arms(results).items()
    }
    return [
        Finding(
            "With the best step size, flossed networks learn longer delays.",
            f"The longest delay that at least half of the networks learn is {longest[1]:g} with "
            f"flossing and {longest[0]:g} without.",
            bool(longest[1] > longest[0]),
        ),
        Finding(
            "Where both learn, flossed networks can be trained with larger steps.",
            f"{ratio:.2f} times as large [{low:.2f}, {high:.2f}]; neighbouring step sizes of the "
            f"grid differ by a factor of {spacing:g}.",
            True if low > 1 else False if high < spacing**0.5 else None,
        ),
        Finding(
            "The largest step size falls in inverse proportion to the delay.",
            f"Exponents of the delay: {laws}.",
            all(each.interval[0] <= -1 <= each.interval[1] for each in steps.values()),
        ),
        Finding(
            "The largest step size is inversely proportional to the sensitivity of the trained "
            "network.",
            "Exponents of the sensitivity: "
            f"{'; '.join(f'{name}: {each}' for name, each in sensitivity.items())}. It would have "
            "to grow as fast as the step size falls.",
            all(
                each.interval[0] <= -steps[name].exponent <= each.interval[1]
                for name, each in sensitivity.items()
            ),
        ),
    ]


def _arms(results: Results) -> dict[str, Arm]:
    return {name: arm_of(results, flossed=flossed) for flossed, name in NAMES.items()}


def tables(results: Results) -> tuple[Table, ...]:
    """Return a table of the delays, and one of the fitted laws."""
    arms = _arms(results)
    first, *_ = arms.values()
    by_delay = tuple(
        (
            f"{delay:g}",
            *(_learned(arm, index) for arm in arms.values()),
            *(_power_of_two(geometric_mean(arm.largest_steps)[index]) for arm in arms.values()),
            *(_or_dash(geometric_mean(arm.sensitivity_after)[index]) for arm in arms.values()),
        )
        for index, delay in enumerate(first.delays)
    )
    fitted = [
        (f"{quantity}, {name}", law(arm.delays, values))
        for name, arm in arms.items()
        for quantity, values in (
            ("largest step size", arm.largest_steps),
            ("sensitivity after training", arm.sensitivity_after),
            ("sensitivity before training", arm.sensitivity_before),
        )
    ]
    return (
        Table(
            "Number of networks that learn with at least one of the step sizes; the largest step "
            "size that learns, and the sensitivity after training, geometric means over these "
            "networks.",
            (
                "delay",
                *(
                    f"{noun}, {name}"
                    for noun in ("learn", "step size", "sensitivity")
                    for name in arms
                ),
            ),
            by_delay,
        ),
        Table(
            "Power laws of the delay, fitted where at least half of the networks learn: exponent "
            "with its 95 % interval (bootstrap over seeds), and root mean square error of the "
            "natural logarithm, also of an exponential of the delay fitted instead.",
            ("quantity", "exponent", "error", "error of an exponential"),
            tuple(
                (name, str(each), f"{each.error:.2f}", f"{each.exponential_error:.2f}")
                for name, each in fitted
            ),
        ),
    )


def _learned(arm: Arm, index: int) -> str:
    return f"{np.isfinite(arm.largest_steps[:, index]).sum()} of {len(arm.accuracy)}"


def _or_dash(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0f}"


def _power_of_two(step_size: float) -> str:
    return "–" if np.isnan(step_size) else f"2^{np.log2(step_size):.1f}"


STUDY = Study(
    name="step-size",
    title="The largest step size that learns",
    caption="Delayed copy, networks of 32 units in the rate form with Gaussian weights of gain 1, "
    "500 steps of Adam at a constant step size on 16 sequences with 20 answers each, gradient norm "
    "clipped at 0.03; flossed: all exponents, 500 steps as published. A network has learned if its "
    f"accuracy on fresh data is at least {100 * LEARNED:g} %, halfway from guessing to perfect. "
    "Above: the share of the seeds that learn. Below left: the largest step size that learns, "
    "geometric mean where at least half of the seeds learn with any, and a point for each seed. "
    "Below right: the norm of the derivative of the last answer with respect to the recurrent "
    "weights, root mean square over sequences; after training, geometric mean over the step sizes "
    "that learned.",
    extents={name: f"{seeds} seeds, flossed and not" for name, seeds in SEEDS.items()},
    settings={name: settings(seeds=seeds) for name, seeds in SEEDS.items()},
    measure=measure,
    draw=draw,
    tables=tables,
    findings=findings,
)
