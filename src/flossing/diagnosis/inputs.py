"""The inputs that drive the network, from the options of the command line."""

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
ASSUMED_AXES = (
    "The axes were read as (steps, sequences, features); pass --layout batch-first if sequences "
    "come first."
)


class Driving(NamedTuple):
    """Inputs of a network.

    Attributes:
        inputs: (T, B, D), in the precision of the network.
        source: Where they come from, as text for the report.
        delay: Number of steps over which their task requires memory; `None` if unknown.
        assumption: A sentence about how they were read, if that is in doubt.
    """

    inputs: Float[Tensor, "T B D"]
    source: str
    delay: int | None = None
    assumption: str = ""


def driving_inputs(network: Network, options: argparse.Namespace) -> Driving:
    """Return the inputs that the options select: a file, a task, or else noise.

    Raises:
        FlossingError: They cannot be read or made, or do not fit the network.
    """
    if options.inputs is None and (options.array or options.sequence_column):
        raise InvalidOptionError(
            "--array and --sequence-column select data within a file: name the file with --inputs"
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
        layout=options.layout or "time-first",
    )
    inputs = shortened(sequences, steps=options.steps, trajectories=options.trajectories)
    name = options.inputs.name + (f", array {options.array}" if options.array else "")
    # Of a single sequence and of a table, the order of axes is not in doubt.
    doubt = options.layout is None and options.sequence_column is None and inputs.shape[1] > 1
    return Driving(inputs, name, assumption=ASSUMED_AXES if doubt else "")


def _from_task(options: argparse.Namespace) -> Driving:
    task = task_named(options.task)
    batch = next(task.batches(options.trajectories or TRAJECTORIES, seed=options.seed))
    return Driving(
        shortened(batch.inputs, steps=options.steps),
        f"task {task!r}, seed {options.seed}",
        getattr(task, "delay", None),
    )


def _noise(network: Network, options: argparse.Namespace) -> Driving:
    if network.input_size is None:
        raise InvalidInputError(
            f"{type(network.module).__name__} has no attribute input_size, from which the number "
            "of input features would follow: add it, or name a file with --inputs"
        )
    inputs = normal_noise(
        options.steps or NOISE_STEPS,
        options.trajectories or TRAJECTORIES,
        network.input_size,
        seed=options.seed,
    )
    return Driving(inputs, f"standard normal noise, seed {options.seed} (no inputs were given)")
