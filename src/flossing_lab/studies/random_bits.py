"""Untrained networks driven and flossed with random bits, in the set-up of the released code."""

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
"""Steps of each flossing sequence that advance only the state, and that also align the frame."""

SIGNIFICANT_DIGITS = 6
"""Digits of the recorded numbers."""


def fresh_network(architecture: Architecture, seed: int) -> SequenceNetwork:
    """Return a network of one input channel with the initial weights of a run of this seed."""
    network = make_network(
        architecture, input_size=1, output_size=1, generator=generator(seed, "weights")
    )
    # Compiled now rather than in the background: otherwise the backend, and with it the rounding,
    # would depend on when compilation ends.
    compile_ahead(network.system)
    return network


def floss_on_bits(
    network: SequenceNetwork,
    seed: int,
    *,
    k: int,
    steps: int,
    target: float = 0.0,
    time_steps: int = TIME_STEPS,
    episode: int = 0,
) -> FlossHistory:
    """Floss `steps` steps of Adam, each on a fresh sequence of random bits, as published.

    Args:
        network: changed in place.
        seed: random seed.
        k: number of flossed exponents.
        steps: of gradient descent.
        target: of the exponents.
        time_steps: length of the sequences.
        episode: number of earlier calls on the same network, whose sequences must differ.
    """
    task = DelayedCopy(delay=1, steps=time_steps)

    def state(inputs: Tensor) -> object:
        with torch.no_grad():
            return network.initial_state(inputs.shape[1])

    return floss(
        network.system,
        task.batches(1, seed=stream_seed(seed, "flossing inputs") + episode),
        k=k,
        steps=steps,
        target=target,
        lr=float(PUBLISHED["lr"] or 0),
        state=state,
        state_transient=STATE_TRANSIENT,
        frame_transient=FRAME_TRANSIENT,
        generator=generator(seed, "flossing frames"),
    )


def random_bits(steps: int, source: torch.Generator) -> Float[Tensor, "T 1 1"]:
    """Return one sequence of random bits."""
    return DelayedCopy(delay=1, steps=steps).sample(1, generator=source).inputs


def generator(seed: int, stream: str) -> torch.Generator:
    """Return the random generator of one purpose; see `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, stream))


def rounded(values: Float[Tensor, "*shape"]) -> list[float]:
    """Return a vector rounded to `SIGNIFICANT_DIGITS`.

    Example:
        >>> rounded(torch.tensor([1 / 3]))
        [0.333333]
    """
    return [float(f"{float(value):.{SIGNIFICANT_DIGITS}g}") for value in values.detach().double()]
