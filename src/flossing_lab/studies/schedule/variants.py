"""What each part of the default schedule is good for: with one changed, or another network."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flossing.tasks import AddingProblem, CopyMemory, Digits
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing
from flossing_lab.runs.schedules import DEFAULT, default, published, scheduled
from flossing_lab.studies.baselines.arms import CONTESTS, FLOSSING
from flossing_lab.studies.horizon.tasks import ADDING, BENT, INTEGRATOR, QUIET, ROWS, Row


@dataclass(frozen=True)
class Variant:
    """The default schedule with some of it changed.

    Attributes:
        schedule: options of `flossing.Flosser` that are other than by default.
        share: which part of the exponents is flossed.
        settings: fields of `Flossing` that are other than by default.
    """

    schedule: Mapping[str, Any]
    share: float = 1.0
    settings: Mapping[str, Any] | None = None

    def flossing(self, size: int) -> Flossing:
        """Return how a network of that size is flossed.

        Args:
            size: number N of hidden units.
        """
        changed = replace(
            default(size, k=max(1, round(self.share * size))), schedule={**DEFAULT, **self.schedule}
        )
        return replace(changed, **(self.settings or {}))


VARIANTS: Mapping[str, Variant] = {
    "default": Variant({}),
    "without drift": Variant({"drift": None}),
    "drift mended sooner": Variant({"drift": 0.02}),
    "never ends": Variant({"times": None}),
    "before training only": Variant({"times": 0, "drift": None}),
    "during training only": Variant({"before": 0}),
    "before training, small steps": Variant({"lr": 1e-3}),
    "every epoch": Variant({"every": 1, "times": 1200}),
    "every 10 epochs": Variant({"every": 10, "times": 120}),
    "20 steps every 60 epochs": Variant({"every": 60, "steps": 20, "times": 20}),
    "nine tenths of the exponents": Variant({}, share=0.9),
    "three quarters of the exponents": Variant({}, share=0.75),
    "gradients not clipped": Variant({"max_gradient_norm": None}),
    "four sequences": Variant({}, settings={"sequences": 4}),
    "sequences of 100 steps": Variant({}, settings={"time_steps": 100}),
    "sequences of 36 steps": Variant({}, settings={"time_steps": 36}),
}

ROW: Row = next(row for row in ROWS if row.name == "temporal XOR d=70, N=80")
"""Hard enough to tell schedules apart, and small enough to run many."""


def ablation(*, seeds: int) -> dict[str, list[Configuration]]:
    """Return the runs of every variant, and of the published schedule, one a seed.

    Args:
        seeds: how many.

    Example:
        >>> [each.seed for each in ablation(seeds=3)["never ends"]]
        [0, 1, 2]
    """
    size = ROW.architecture.size
    flossings = {name: variant.flossing(size) for name, variant in VARIANTS.items()}
    flossings["published"] = published(size)
    (plain, *_) = ROW.configurations(seeds=1)["without"]
    return {
        name: [replace(plain, flossing=flossing, seed=seed) for seed in range(seeds)]
        for name, flossing in flossings.items()
    }


NETWORKS: Mapping[str, Mapping[str, float]] = {
    "as published": {},
    f"input weights {QUIET:g} of that": {"input_gain": QUIET},
    f"biases of {BENT:g}": {"bias_scale": BENT},
    f"input weights {QUIET:g} of that, biases of {BENT:g}": {
        "input_gain": QUIET,
        "bias_scale": BENT,
    },
}
"""What the units of a network are driven with, before training."""

COPIED = next(contest for contest in CONTESTS if isinstance(contest.task, CopyMemory))


def networks(*, seeds: int) -> dict[str, list[Configuration]]:
    """Return the runs of networks that differ in what drives their units, by the default schedule.

    Args:
        seeds: how many.

    Example:
        >>> len(networks(seeds=3))
        10
    """
    flossed = {
        ROW.name: ablation(seeds=seeds)["default"],
        COPIED.name: COPIED.configurations(seeds=seeds)[FLOSSING],
    }
    found = {
        f"{task}, {name}": [
            replace(each, architecture=replace(each.architecture, **options)) for each in arm
        ]
        for task, arm in flossed.items()
        for name, options in NETWORKS.items()
    }
    quiet = f"input weights {QUIET:g} of that"
    return found | {
        f"{task}, {quiet}, without flossing": [
            replace(each, flossing=None) for each in found[f"{task}, {quiet}"]
        ]
        for task in flossed
    }


PLACES = {"anywhere in the sequences": True, "at their beginning": False}
"""Where sequences are flossed whose inputs change their statistics."""

HELD_ROWS = tuple(row for row in ROWS if isinstance(row.task, Digits) and row.task.hold == 200)


def places(*, seeds: int) -> dict[str, list[Configuration]]:
    """Return the runs of digits held for long, flossed anywhere in the sequences and before a hold.

    Args:
        seeds: how many.

    Example:
        >>> len(places(seeds=3))
        8
    """
    found: dict[str, list[Configuration]] = {}
    for row, gain, (name, anywhere) in itertools.product(HELD_ROWS, (1.0, QUIET), PLACES.items()):
        found[f"{row.name}: input weights times {gain:g}, flossed {name}"] = [
            replace(
                each,
                architecture=replace(each.architecture, input_gain=gain),
                flossing=replace(each.flossing, anywhere=anywhere),
            )
            for each in row.configurations(seeds=seeds)["default"]
            if each.flossing is not None
        ]
    return found


FEW = 16
"""Exponents: units whose own are not flossed can shut inputs out."""

ADDERS: Mapping[str, tuple[Mapping[str, Any], int | None]] = {
    "standard normal input weights": ({}, None),
    "small input weights": ({"input_gain": QUIET}, None),
    "small input weights, biases": ({"input_gain": QUIET, "bias_scale": BENT}, None),
    f"{FEW} exponents": ({}, FEW),
    "from the identity": (
        {"initialisation": "identity", "input_gain": INTEGRATOR.input_gain},
        None,
    ),
}
"""What was tried on the adding problem: of the network, and how many exponents are flossed."""


def adders(*, seeds: int) -> dict[str, list[Configuration]]:
    """Return the runs of what was tried on the adding problem, over 100 steps.

    Args:
        seeds: how many.

    Example:
        >>> len(adders(seeds=3))
        6
    """
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
    return {
        name: [replace(each, seed=seed) for seed in range(seeds)] for name, each in found.items()
    }
