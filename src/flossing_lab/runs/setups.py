"""Set-ups by name: values of a configuration that make up one published way of doing it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flossing.tasks.base import DelayedParity
from flossing_lab.runs.configuration import Configuration

BATCH_SIZE = 16

RELEASED: Mapping[str, Any] = {
    "architecture": {
        "size": 80,
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
    "flossing": {
        "time_steps": 55,
        "sequences": 1,
        # The frame moves from the first step on; growth counts behind the 10 + 6 first ones.
        "state_transient": 0,
        "frame_transient": 16,
        "start": "trained",
        "same_frame": True,
        "before_epoch": True,
        "despite_learning": True,
    },
    "divide_inputs": True,
    "unseen_input": True,
}
"""The set-up of the released code of Engelken (NeurIPS 2023), but for its schedule, which is
`published`, the length of its sequences, `STEPS`, and its number of epochs, 3001.

Source: github.com/RainerEngelken/GradientFlossing.
"""

STEPS = 300
"""Length T of the sequences of the released code, whatever the delay; the default of tasks."""

SETUPS: Mapping[str, Mapping[str, Any]] = {"default": {}, "released": RELEASED}
"""Values of set-ups, as the document of a sweep has them; see `flossing_lab.runs.grid`."""


def as_released(configuration: Configuration) -> Configuration:
    """Return a configuration of the same size in the set-up of the released code.

    The number of units, of epochs and of flossed exponents, the schedule and the seed remain. A
    network that is not in the rate form has no trained initial state and starts from zero.

    Example:
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import DelayedCopy
        >>> short = Configuration(
        ...     task=DelayedCopy(delay=5, steps=30), architecture=Architecture(form="rate", size=8)
        ... )
        >>> as_released(short).task.steps, as_released(short).architecture.size
        (300, 8)
    """
    task, architecture = configuration.task, configuration.architecture
    flossing = dict(RELEASED["flossing"])
    on_bits = isinstance(task, DelayedParity)
    task = replace(task, steps=STEPS) if on_bits else task
    flossing["time_steps"] = min(flossing["time_steps"], task.steps)
    if architecture.form == "rate":
        own = {**RELEASED["architecture"], "size": architecture.size}
        architecture = replace(architecture, **own)
    else:
        flossing["start"] = "zero"
    return replace(
        configuration,
        task=task,
        architecture=architecture,
        training=replace(configuration.training, **RELEASED["training"]),
        flossing=configuration.flossing and replace(configuration.flossing, **flossing),
        divide_inputs=on_bits,
        unseen_input=on_bits,
    )
