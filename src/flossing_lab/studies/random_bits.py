"""Networks that are flossed and measured but not trained, as the released code has them."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.floss import FlossHistory, floss
from flossing.measurement.backends import compile_ahead
from flossing.tasks import DelayedCopy
from flossing_lab.networks.networks import SequenceNetwork, make_network
from flossing_lab.runs.configuration import Architecture
from flossing_lab.runs.schedules import PUBLISHED, TIME_STEPS
from flossing_lab.training.member import stream_seed

STATE_TRANSIENT, FRAME_TRANSIENT = 10, 6
"""Of every sequence of flossing: steps that move the state only, and that align the frame."""

DIGITS = 6
"""Significant ones of the numbers that are kept."""


def fresh_network(architecture: Architecture, seed: int) -> SequenceNetwork:
    """Return a network of one input channel, with the weights that a run of this seed starts from.

    Args:
        architecture: what network.
        seed: what all randomness follows from; at least 0.
    """
    network = make_network(
        architecture, input_size=1, output_size=1, generator=generator(seed, "weights")
    )
    # That no result depends on when this is done in the background.
    compile_ahead(network.system)
    return network


def floss_on_bits(
    network: SequenceNetwork, seed: int, *, k: int, steps: int, target: float = 0.0
) -> FlossHistory:
    """Floss as before the published training: Adam, one fresh sequence of random bits a step.

    Args:
        network: what is flossed.
        seed: what all randomness follows from.
        k: how many exponents, from the largest.
        steps: of gradient descent.
        target: where the exponents should be.
    """
    task = DelayedCopy(delay=1, steps=TIME_STEPS)
    return floss(
        network.system,
        task.batches(1, seed=stream_seed(seed, "flossing inputs")),
        k=k,
        steps=steps,
        target=target,
        lr=float(PUBLISHED["lr"] or 0),
        state=_first_state(network),
        state_transient=STATE_TRANSIENT,
        frame_transient=FRAME_TRANSIENT,
        generator=generator(seed, "flossing frames"),
    )


def random_bits(steps: int, source: torch.Generator) -> Float[Tensor, "T 1 1"]:
    """Return one sequence of random bits.

    Args:
        steps: its length T.
        source: of the randomness.
    """
    return DelayedCopy(delay=1, steps=steps).sample(1, generator=source).inputs


def generator(seed: int, stream: str) -> torch.Generator:
    """Return the source of randomness of one purpose.

    Args:
        seed: what all randomness follows from.
        stream: the purpose; see `stream_seed`.
    """
    return torch.Generator().manual_seed(stream_seed(seed, stream))


def rounded(values: Float[Tensor, "*shape"]) -> list[float]:
    """Return the numbers of a vector to six digits.

    Args:
        values: in any precision.

    Example:
        >>> rounded(torch.tensor([1 / 3]))
        [0.333333]
    """
    return [float(f"{float(value):.{DIGITS}g}") for value in values.detach().double()]


def _first_state(network: SequenceNetwork) -> Callable[[Tensor], object]:
    def state(inputs: Tensor) -> object:
        with torch.no_grad():
            return network.initial_state(inputs.shape[1])

    return state


def numbers(value: object) -> Iterator[float]:
    """Yield numbers that JSON may hold as text where they are not finite.

    Args:
        value: a list of a measurement.

    Example:
        >>> list(numbers([0.5, "-inf"]))
        [0.5, -inf]
    """
    assert isinstance(value, list | tuple)
    yield from map(float, value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
