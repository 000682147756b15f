"""Set-ups by name: values of a configuration that together are one way of training."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from flossing.tasks.base import DelayedParity
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing
from flossing_lab.runs.schedules import PUBLISHED

SetupName: TypeAlias = Literal["default", "released"]

BATCH_SIZE = 16

RELEASED: Mapping[str, Any] = {
    "architecture": {
        "form": "rate",
        "initial_states": BATCH_SIZE,
        "readout_bias": 0.001,
    },
    "training": {
        "batch_size": BATCH_SIZE,
        "learning_rate": 1e-3,
        "max_gradient_norm": 0.03,
        "clipping": "array",
    },
    "divide_inputs": True,
    "unseen_input": True,
}
"""The set-up of the released code of Engelken (NeurIPS 2023), as in the document of a sweep.

Its 80 units and its sequences of 300 steps, whatever the delay, are the defaults; it trains for
3001 epochs. Its schedule of flossing is `published`, with `RELEASED_FLOSSING`.

Source: github.com/RainerEngelken/GradientFlossing.
"""

RELEASED_FLOSSING: Mapping[str, Any] = {
    # The frame moves along from the first step; growth counts behind the first 10 + 6.
    "state_transient": 0,
    "frame_transient": 16,
    "same_frame": True,
    "before_epoch": True,
    "despite_learning": True,
}
"""How the released code flosses, besides its schedule and the state from which it starts."""

RELEASED_STEPS = 300

SETUPS: Mapping[SetupName, Mapping[str, Any]] = {"default": {}, "released": RELEASED}


def released_flossing(flossing: Flossing, architecture: Architecture) -> Flossing:
    """Return the published schedule, or its part before training, with all that goes with it.

    Other schedules are not in the released code and remain as they are. A network without trained
    initial states is flossed from zero.
    """
    if {**flossing.schedule, "times": None} != {**PUBLISHED, "times": None}:
        return flossing
    start = "trained" if architecture.form == "rate" else "zero"
    return replace(flossing, start=start, **RELEASED_FLOSSING)


def as_released(configuration: Configuration) -> Configuration:
    """Return a configuration in the set-up of the released code.

    The task and its delay, the number of units, of epochs and of flossed exponents, the schedule,
    the seed and all that is measured remain; so does a network that is not in the rate form.

    Example:
        >>> from flossing.tasks import DelayedCopy
        >>> short = Configuration(
        ...     task=DelayedCopy(delay=5, steps=30), architecture=Architecture(form="rate", size=8)
        ... )
        >>> as_released(short).task.steps, as_released(short).architecture.size
        (300, 8)
    """
    task, architecture, flossing = (
        configuration.task,
        configuration.architecture,
        configuration.flossing,
    )
    on_bits = isinstance(task, DelayedParity)
    if architecture.form == "rate":
        architecture = replace(architecture, **RELEASED["architecture"])
    return replace(
        configuration,
        task=replace(task, steps=RELEASED_STEPS) if on_bits else task,
        architecture=architecture,
        training=replace(configuration.training, **RELEASED["training"]),
        flossing=flossing and released_flossing(flossing, architecture),
        divide_inputs=on_bits,
        unseen_input=on_bits,
    )
