"""Variants of the default schedule and of the network that it is used with."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flossing.tasks import AddingProblem, CopyMemory, Digits
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing
from flossing_lab.runs.schedules import DEFAULT, default, published, scheduled
from flossing_lab.studies.baselines.arms import BENCHMARKS, FLOSSING
from flossing_lab.studies.horizon.tasks import ADDING, BIAS_SCALE, INTEGRATOR, ROWS, SMALL_INPUTS

Variants = dict[str, list[Configuration]]
"""Configurations that differ in the seed, by what the table calls them."""


@dataclass(frozen=True)
class Variant:
    """A change of the default schedule.

    Attributes:
        schedule: changed options of `flossing.Flosser`.
        share: share of the exponents that is flossed.
        settings: changed fields of `Flossing`.
    """

    schedule: Mapping[str, Any] = field(default_factory=dict[str, Any])
    share: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def flossing(self, size: int) -> Flossing:
        """Return the flossing of a network of `size` units."""
        flossing = default(size, k=max(1, round(self.share * size)))
        return replace(flossing, schedule={**DEFAULT, **self.schedule}, **self.settings)


ROW = next(row for row in ROWS if row.name == "temporal XOR d=70, N=80")
"""Difficult enough to tell schedules apart, and cheap enough for many runs."""

VARIANTS: Mapping[str, Variant] = {
    "default": Variant(),
    "without correction of drift": Variant({"drift": None}),
    "drift corrected earlier": Variant({"drift": 0.02}),
    "no limit of episodes": Variant({"times": None}),
    "before training only": Variant({"times": 0, "drift": None}),
    "during training only": Variant({"before": 0}),
    "small steps before training": Variant({"lr": 1e-3}),
    "every epoch": Variant({"every": 1, "times": 1200}),
    "every 10 epochs": Variant({"every": 10, "times": 120}),
    "20 steps every 60 epochs": Variant({"every": 60, "steps": 20, "times": 20}),
    "90 % of the exponents": Variant(share=0.9),
    "75 % of the exponents": Variant(share=0.75),
    "no gradient clipping": Variant({"max_gradient_norm": None}),
    "four sequences": Variant(settings={"sequences": 4}),
    "sequences of 100 steps": Variant(settings={"time_steps": 100}),
    "sequences of 36 steps": Variant(settings={"time_steps": 36}),
    "random windows of the task's sequences": Variant(settings={"anywhere": True}),
    "the task's sequences, whole": Variant(settings={"time_steps": ROW.task.steps}),
}


def ablation(*, seeds: int) -> Variants:
    """Return the runs of every variant and of the published schedule.

    Example:
        >>> [each.seed for each in ablation(seeds=3)["every epoch"]]
        [0, 1, 2]
    """
    size = ROW.architecture.size
    flossings = {name: variant.flossing(size) for name, variant in VARIANTS.items()}
    flossings["published"] = published(size)
    (plain,) = ROW.configurations(seeds=1)["without"]
    return _seeded(
        {name: replace(plain, flossing=flossing) for name, flossing in flossings.items()}, seeds
    )


NETWORKS: Mapping[str, Mapping[str, float]] = {
    "as published": {},
    f"input weights × {SMALL_INPUTS:g}": {"input_gain": SMALL_INPUTS},
    f"biases of {BIAS_SCALE:g}": {"bias_scale": BIAS_SCALE},
    f"input weights × {SMALL_INPUTS:g}, biases of {BIAS_SCALE:g}": {
        "input_gain": SMALL_INPUTS,
        "bias_scale": BIAS_SCALE,
    },
}
"""Scales of input weights and biases before training."""


def networks(*, seeds: int) -> Variants:
    """Return the runs of networks with other input weights and biases, under the default schedule.

    Small input weights are run without flossing too.
    """
    copying = next(each for each in BENCHMARKS if isinstance(each.task, CopyMemory))
    flossed = {
        ROW.name: ROW.configurations(seeds=1)["default"],
        copying.name: copying.configurations(seeds=1)[FLOSSING],
    }
    found = {
        f"{task}, {name}": replace(each, architecture=replace(each.architecture, **options))
        for task, (each,) in flossed.items()
        for name, options in NETWORKS.items()
    }
    small = f"input weights × {SMALL_INPUTS:g}"
    without = {
        f"{task}, {small}, without flossing": replace(found[f"{task}, {small}"], flossing=None)
        for task in flossed
    }
    return _seeded(found | without, seeds)


PLACES = {"on random windows of the sequences": True, "on the start of the sequences": False}
"""Where to floss sequences whose inputs change their statistics; see `Flossing.anywhere`."""


def places(*, seeds: int) -> Variants:
    """Return the runs of digits with a long hold, flossed on random windows or on the start."""
    held = [row for row in ROWS if isinstance(row.task, Digits) and row.task.hold == 200]
    found: dict[str, Configuration] = {}
    for row, gain, (name, anywhere) in itertools.product(held, (1.0, SMALL_INPUTS), PLACES.items()):
        (each,) = row.configurations(seeds=1)["default"]
        assert each.flossing is not None
        found[f"{row.name}: input weights × {gain:g}, flossed {name}"] = replace(
            each,
            architecture=replace(each.architecture, input_gain=gain),
            flossing=replace(each.flossing, anywhere=anywhere),
        )
    return _seeded(found, seeds)


FEW = 16
"""Number of flossed exponents that leaves most units free to contract and shut inputs out."""

ADDERS: Mapping[str, tuple[Mapping[str, Any], int | None]] = {
    "standard normal input weights": ({}, None),
    "small input weights": ({"input_gain": SMALL_INPUTS}, None),
    "small input weights, biases": (
        {"input_gain": SMALL_INPUTS, "bias_scale": BIAS_SCALE},
        None,
    ),
    f"{FEW} exponents": ({}, FEW),
    "from the identity": (
        {"initialisation": "identity", "input_gain": INTEGRATOR.input_gain},
        None,
    ),
}
"""Variants tried on the adding problem: fields of `Architecture`, and the number of exponents."""


def adders(*, seeds: int) -> Variants:
    """Return the runs of what was tried on the adding problem over 100 steps."""
    plain = Configuration(
        task=AddingProblem(steps=100), architecture=Architecture(size=128), training=ADDING
    )
    flossing = scheduled("default", plain)
    found = {"tanh, without flossing": plain} | {
        f"tanh, default, {name}": replace(
            plain,
            architecture=replace(plain.architecture, **options),
            flossing=replace(flossing, k=k or flossing.k),
        )
        for name, (options, k) in ADDERS.items()
    }
    return _seeded(found, seeds)


def _seeded(configurations: Mapping[str, Configuration], seeds: int) -> Variants:
    return {
        name: [replace(each, seed=seed) for seed in range(seeds)]
        for name, each in configurations.items()
    }
