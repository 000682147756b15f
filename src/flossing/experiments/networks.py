"""The networks that the experiments train: a stock `nn.RNN`, its initial state and a readout.

Only the `nn.RNN` inside is flossed, so `flossing.floss(network.rnn, ...)` needs no wrapper.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

RELAXATION_STEPS = 100
LARGEST_BIAS = 0.1


class SequenceNetwork(nn.Module, ABC):
    """A vanilla recurrent network that answers at every step, time first.

    The recurrent weights are Gaussian of variance gain²/N, the input weights standard normal.

    Args:
        input_size: Number D of input channels.
        size: Number N of hidden units.
        output_size: Number C of outputs.
        gain: Scale of the recurrent weights, relative to the edge of chaos without input.
        generator: Source of all weights; the global random state is neither read nor changed.

    Attributes:
        rnn: The recurrent part.
        readout: The linear readout.
    """

    rnn: nn.RNN
    readout: nn.Linear

    def __init__(
        self,
        input_size: int,
        size: int,
        output_size: int,
        *,
        gain: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        # On the meta device, for the modules' own initialisation draws from the global random
        # state and would be overwritten anyway.
        self.rnn = nn.RNN(input_size, size, device="meta").to_empty(device="cpu")
        self.readout = nn.Linear(size, output_size, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.recurrent_weights.normal_(0, gain / math.sqrt(size), generator=generator)
            self.input_weights.normal_(generator=generator)
            self.bias.zero_()
            self.readout.bias.zero_()
            # `nn.RNN` adds two biases; one of them says all there is to say.
            self.rnn.get_parameter("bias_hh_l0").zero_().requires_grad_(False)
            self._initialise(generator)

    @abstractmethod
    def _initialise(self, generator: torch.Generator) -> None:
        """Draw what the kinds of network differ in; called without gradients."""

    @property
    def recurrent_weights(self) -> Float[Tensor, "N N"]:
        """The matrix W, or J."""
        return self.rnn.get_parameter("weight_hh_l0")

    @property
    def input_weights(self) -> Float[Tensor, "N D"]:
        """The matrix W_in, or w_s."""
        return self.rnn.get_parameter("weight_ih_l0")

    @property
    def bias(self) -> Float[Tensor, " N"]:
        """The bias b."""
        return self.rnn.get_parameter("bias_ih_l0")

    @abstractmethod
    def initial_state(self, batch_size: int) -> Float[Tensor, "1 B N"]:
        """The state before the first step, in the convention of `nn.RNN`."""

    @abstractmethod
    def forward(
        self, inputs: Float[Tensor, "T B D"], state: Float[Tensor, "1 B N"] | None = None
    ) -> Float[Tensor, "T B C"]:
        """Answer at every step.

        Args:
            inputs: What the network is driven with.
            state: The state before the first step; `None` for `initial_state`.
        """


class RateNetwork(SequenceNetwork):
    """x_t = J tanh(x_{t−1}) + b + w_s s_t, read out linearly from x_t; the initial x is trained.

    Its trajectory h = tanh(x) is that of an `nn.RNN`. Readout weights are standard normal, biases
    uniform on [0, 0.1), and the initial x has relaxed for 100 steps without input.

    Source: Engelken, "Gradient Flossing", NeurIPS 2023, arXiv 2312.17306, and its released code.

    Attributes:
        initial_potential: x_0, (N,).

    Example:
        >>> network = RateNetwork(1, 80, 1, generator=torch.Generator())
        >>> network(torch.zeros(20, 16, 1)).shape
        torch.Size([20, 16, 1])
    """

    def _initialise(self, generator: torch.Generator) -> None:
        self.bias.uniform_(0, LARGEST_BIAS, generator=generator)
        self.readout.weight.normal_(generator=generator)
        self.initial_potential = nn.Parameter(self._relaxed(generator))

    def initial_state(self, batch_size: int) -> Float[Tensor, "1 B N"]:
        """tanh(x_0), the same for every sequence."""
        return self.initial_potential.tanh().repeat(1, batch_size, 1)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: Float[Tensor, "1 B N"] | None = None
    ) -> Float[Tensor, "T B C"]:
        """Answer at every step, from x rather than from h = tanh(x)."""
        first = self.initial_state(inputs.shape[1]) if state is None else state
        states, _ = self.rnn(inputs, first)
        previous = torch.cat([first, states[:-1]])
        potentials = linear(previous, self.recurrent_weights) + linear(
            inputs, self.input_weights, self.bias
        )
        return self.readout(potentials)

    def _relaxed(self, generator: torch.Generator) -> Float[Tensor, " N"]:
        potential = torch.randn(self.rnn.hidden_size, generator=generator)
        for _ in range(RELAXATION_STEPS):
            potential = linear(potential.tanh(), self.recurrent_weights, self.bias)
        return potential


class SequenceClassifier(SequenceNetwork):
    """h_t = tanh(W h_{t−1} + W_in x_t + b) from h_0 = 0, read out linearly from h_t.

    Biases start at zero; readout weights are uniform within ±1/√N, as in `nn.Linear`.

    Example:
        >>> network = SequenceClassifier(1, 128, 10, generator=torch.Generator())
        >>> network(torch.zeros(20, 64, 1)).shape
        torch.Size([20, 64, 10])
    """

    def _initialise(self, generator: torch.Generator) -> None:
        bound = 1 / math.sqrt(self.rnn.hidden_size)
        self.readout.weight.uniform_(-bound, bound, generator=generator)

    def initial_state(self, batch_size: int) -> Float[Tensor, "1 B N"]:
        """Zero."""
        return torch.zeros(1, batch_size, self.rnn.hidden_size).to(self.recurrent_weights)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: Float[Tensor, "1 B N"] | None = None
    ) -> Float[Tensor, "T B C"]:
        """Answer at every step."""
        first = self.initial_state(inputs.shape[1]) if state is None else state
        states, _ = self.rnn(inputs, first)
        return self.readout(states)
