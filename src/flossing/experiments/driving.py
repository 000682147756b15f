"""What a network is driven with while it is flossed, and the state that it starts from."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.experiments.cells import State
from flossing.experiments.configuration import Flossing
from flossing.experiments.networks import SequenceNetwork
from flossing.pieces import draw_piece


class Drive:
    """Pieces of a task's sequences, at their beginning or anywhere in them.

    At the beginning the network starts from rest, a state of zero: from the trained initial state
    of a rate network flossing gets less far. Elsewhere it starts from the state that it has there,
    after the sequence up to then.

    Args:
        network: what is flossed.
        flossing: how.
        sample: draws so many whole sequences.
        generator: of the places.

    Example:
        >>> from flossing.experiments.configuration import Architecture
        >>> from flossing.experiments.networks import make_network
        >>> network = make_network(
        ...     Architecture(size=8), input_size=1, output_size=1, generator=torch.Generator()
        ... )
        >>> flossing = Flossing(k=2, time_steps=20, anywhere=True, schedule={})
        >>> drive = Drive(network, flossing, lambda n: torch.ones(100, n, 1), torch.Generator())
        >>> inputs = drive.batch()
        >>> inputs.shape, drive.state(inputs).shape
        (torch.Size([20, 1, 1]), torch.Size([1, 1, 8]))
    """

    def __init__(
        self,
        network: SequenceNetwork,
        flossing: Flossing,
        sample: Callable[[int], Float[Tensor, "T B D"]],
        generator: torch.Generator,
    ) -> None:
        self._network = network
        self._flossing = flossing
        self._sample = sample
        self._generator = generator
        self._state: State = SequenceNetwork.initial_state(network, flossing.sequences)

    def batch(self) -> Float[Tensor, "t B D"]:
        """Fresh inputs of so many steps as the flossing takes."""
        inputs = self._sample(self._flossing.sequences)
        self._state = SequenceNetwork.initial_state(self._network, self._flossing.sequences)
        if not self._flossing.anywhere:
            return inputs[: self._flossing.time_steps]
        piece, self._state = draw_piece(
            self._network.system,
            inputs,
            self._state,
            steps=self._flossing.time_steps,
            generator=self._generator,
        )
        return piece

    def state(self, inputs: Float[Tensor, "t B D"]) -> State:
        """The state before the first step of the last batch.

        Args:
            inputs: that batch.
        """
        del inputs
        return self._state
