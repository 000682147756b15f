"""The inputs that a network is driven by, as the command line names them."""

import argparse
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from flossing.diagnosis.checkpoints import Network
from flossing.diagnosis.sequences import fit_to, normal_noise, read_sequences, shortened
from flossing.errors import InvalidInputError, InvalidOptionError
from flossing.tasks import task_named

NOISE_STEPS = 1000
TRAJECTORIES = 4


class Driving(NamedTuple):
    """What drives a network.

    Attributes:
        inputs: The sequences, in the network's precision.
        source: Where they come from, in words.
        delay: Over how many steps the task asks for memory; `None` if that is unknown.
    """

    inputs: Float[Tensor, "T B D"]
    source: str
    delay: int | None = None


def driving_inputs(network: Network, options: argparse.Namespace) -> Driving:
    """Read, draw or make up the inputs that the options name.

    Args:
        network: What they should fit.
        options: Of the command `analyze`.

    Raises:
        FlossingError: they cannot be had, or do not fit.
    """
    if options.inputs is None and (options.array or options.sequence_column):
        raise InvalidOptionError(
            "--array and --sequence-column choose within a file: name it with --inputs"
        )
    if options.inputs is not None:
        driving = _from_file(options)
    elif options.task is not None:
        driving = _from_task(options)
    else:
        driving = _noise(network, options)
    fitted = fit_to(driving.inputs, features=network.input_size, dtype=network.dtype)
    return driving._replace(inputs=fitted)


def _from_file(options: argparse.Namespace) -> Driving:
    sequences = read_sequences(
        options.inputs,
        array=options.array,
        sequence_column=options.sequence_column,
        layout=options.layout,
    )
    inputs = shortened(sequences, steps=options.steps, trajectories=options.trajectories)
    name = options.inputs.name + (f", array {options.array}" if options.array else "")
    return Driving(inputs, name)


def _from_task(options: argparse.Namespace) -> Driving:
    task = task_named(options.task)
    batch = next(task.batches(options.trajectories or TRAJECTORIES, seed=options.seed))
    delay = getattr(task, "delay", None)
    return Driving(
        shortened(batch.inputs, steps=options.steps),
        f"the task {task!r}, seed {options.seed}",
        delay,
    )


def _noise(network: Network, options: argparse.Namespace) -> Driving:
    if network.input_size is None:
        raise InvalidInputError(
            f"{type(network.module).__name__} does not say how many features its inputs have: give "
            "it an attribute input_size, or name a file with --inputs"
        )
    inputs = normal_noise(
        options.steps or NOISE_STEPS,
        options.trajectories or TRAJECTORIES,
        network.input_size,
        seed=options.seed,
    )
    return Driving(inputs, f"standard normal noise, seed {options.seed}, for want of real inputs")
