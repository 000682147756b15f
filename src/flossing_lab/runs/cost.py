"""What runs would cost, for refusing those that no machine can do before anything is made."""

from collections.abc import Iterable

from flossing.errors import InvalidOptionError
from flossing.support.formatting import format_number
from flossing_lab.runs.configuration import Configuration

MOST_RUNS = 100_000
MOST_BYTES = 2**38
"""A quarter of a tebibyte of memory for one run."""

_GATES = {"lstm": 4, "gru": 3, "lem": 4}
_FLOAT = 4
# A weight, its gradient, and the two moments of Adam.
_COPIES = 4
# What the record of an epoch takes.
_EPOCH = 200


def require_few(runs: int) -> None:
    """Require a number of runs that can be listed.

    Raises:
        InvalidOptionError: there are more than `MOST_RUNS`.
    """
    if runs > MOST_RUNS:
        raise InvalidOptionError(
            f"these are {runs} runs, and one sweep may have at most {MOST_RUNS}: give fewer seeds "
            "or shorter lists"
        )


def require_affordable(configurations: Iterable[Configuration]) -> None:
    """Require that each run fits into the memory of a large machine, by a rough estimate.

    Raises:
        InvalidOptionError: one takes more than `MOST_BYTES`.
    """
    for each in configurations:
        needed = memory(each)
        if needed > MOST_BYTES:
            raise InvalidOptionError(
                f"a run with size {each.architecture.size}, {each.task.steps} steps, batches of "
                f"{each.training.batch_size} and {each.training.epochs} epochs would take about "
                f"{format_number(needed / 2**30, 2)} GiB of memory, and at most "
                f"{MOST_BYTES // 2**30} GiB are allowed: choose a smaller one of these"
            )


def memory(configuration: Configuration) -> int:
    """Return the bytes that a run takes: weights, states along the sequences, frames, records.

    Example:
        >>> from flossing.tasks import DelayedCopy
        >>> from flossing_lab.runs.configuration import Architecture
        >>> small = Configuration(task=DelayedCopy(delay=40), architecture=Architecture(size=80))
        >>> memory(small) < 100e6
        True
    """
    task, flossing = configuration.task, configuration.flossing
    size = configuration.architecture.size
    gates = _GATES.get(configuration.architecture.cell, 1)
    weights = size * (gates * (size + task.input_size) + task.output_size)
    sequences = max(
        gates * configuration.training.batch_size,
        configuration.evaluation_batch_size,
        configuration.final_batch_size,
    )
    states = task.steps * sequences * (size + task.input_size + task.output_size)
    frames = 0
    if flossing is not None:
        frames = flossing.time_steps * flossing.sequences * size * (flossing.k or size)
    return _FLOAT * (_COPIES * weights + states + frames) + _EPOCH * configuration.training.epochs
