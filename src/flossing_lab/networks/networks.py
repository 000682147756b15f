"""Networks of the experiments: a recurrent part, its initial state and a linear readout."""

import math
from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrizations

from flossing.errors import UnsupportedSystemError
from flossing.support.checks import require_integer
from flossing.systems.stock import StockLayer, StockRecurrence, stock_recurrence
from flossing_lab.networks.cells import (
    Cell,
    ElmanCell,
    LeakyCell,
    LongExpressiveMemoryCell,
    ModReluCell,
    State,
)
from flossing_lab.networks.initialisation import initialise
from flossing_lab.runs.configuration import Architecture

RELAXATION_STEPS = 100
LARGEST_BIAS = 0.1

FASTER_COMPILED = (nn.RNN, nn.GRU)
"""Layers that train faster through compiled loops; PyTorch fuses the LSTM itself on the CPU."""

Recurrence: TypeAlias = StockLayer | ElmanCell | Cell


class SequenceNetwork(nn.Module):
    """A recurrent network with an answer at every step, linear in h_t; it starts from h_0 = 0.

    Args:
        recurrence: the recurrent part.
        readout: the linear readout.
    """

    def __init__(self, recurrence: Recurrence, readout: nn.Linear) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.readout = readout

    @property
    def system(self) -> Recurrence:
        """What `flossing.lyapunov_spectrum` and `flossing.floss` take."""
        return self.recurrence

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first step, zero, in the convention of `system`."""
        size = self.recurrence.hidden_size
        if isinstance(self.recurrence, nn.RNNBase):
            zero = self.readout.weight.new_zeros(1, batch_size, size)
            return (zero, zero) if isinstance(self.recurrence, nn.LSTM) else zero
        zero = self.readout.weight.new_zeros(batch_size, size)
        return (zero, zero) if self.recurrence.states == 2 else zero

    def hidden_states(self, inputs: Float[Tensor, "T B D"], state: State) -> Float[Tensor, "T B N"]:
        """Return h_t after every step."""
        recurrence = self.recurrence
        if isinstance(recurrence, ElmanCell | Cell):
            return recurrence.run(inputs, state)
        compiled = inputs.device.type == "cpu" and inputs.dtype in (torch.float32, torch.float64)
        if compiled and isinstance(recurrence, FASTER_COMPILED):
            return compiled_states(recurrence, inputs, state)
        return recurrence(inputs, state)[0]

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: State | None = None
    ) -> Float[Tensor, "T B C"]:
        """Return the answers at every step, starting from a state or from `initial_state`."""
        first = self.initial_state(inputs.shape[1]) if state is None else state
        return self.readout(self.hidden_states(inputs, first))

    def vanilla_recurrence(self) -> StockRecurrence:
        """Return the recurrent map of a vanilla network, with its weights as they are now.

        Raises:
            UnsupportedSystemError: the network is not a vanilla network of PyTorch.
        """
        if not isinstance(self.recurrence, nn.RNN | ElmanCell):
            raise UnsupportedSystemError(
                f"a {type(self.recurrence).__name__} is not a vanilla network: pass a network "
                "whose cell is 'tanh' or 'relu'"
            )
        return stock_recurrence(self.recurrence, None, self.readout.weight.dtype)


class RateNetwork(SequenceNetwork):
    """x_t = W tanh(x_{t−1}) + b + W_in s_t with a readout linear in x_t; each x_0 is trained.

    Its state is h = tanh(x), whose trajectory is that of an `nn.RNN`.

    Source: Engelken, "Gradient Flossing", NeurIPS 2023, arXiv 2312.17306, and its released code.

    Args:
        recurrence: the recurrent part, a tanh network.
        readout: the linear readout.
        initial_potential: x_0, (N,), or several, (C, N), which the sequences take in turn.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        readout: nn.Linear,
        initial_potential: Float[Tensor, "*C N"],
    ) -> None:
        super().__init__(recurrence, readout)
        self.initial_potential = nn.Parameter(initial_potential)

    def initial_state(self, batch_size: int) -> State:
        """Return tanh(x_0) of every sequence."""
        hidden = self.initial_potential.tanh().reshape(-1, self.recurrence.hidden_size)
        hidden = hidden.repeat(math.ceil(batch_size / len(hidden)), 1)[:batch_size]
        return hidden.unsqueeze(0) if isinstance(self.recurrence, nn.RNNBase) else hidden

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: State | None = None
    ) -> Float[Tensor, "T B C"]:
        """Return the answers at every step, from x rather than from the state h = tanh(x)."""
        first = self.initial_state(inputs.shape[1]) if state is None else state
        previous = states_before(self.hidden_states(inputs, first), first)
        (weights,) = self.vanilla_recurrence().layers
        # R x + c = R W_in s + R W h + R b + c, by products with R first: it has few rows.
        readout = self.readout.weight
        biases = cast(Tensor, weights.bias_ih) + cast(Tensor, weights.bias_hh)
        from_inputs = linear(inputs, readout @ weights.weight_ih, self.readout(biases))
        return from_inputs + linear(previous, readout @ weights.weight_hh)


def states_before(states: Float[Tensor, "T B N"], first: State) -> Float[Tensor, "T B N"]:
    """Return the states of a vanilla network before every step, from those after every step."""
    return torch.cat([cast(Tensor, first).reshape(1, *states.shape[1:]), states[:-1]])


def make_network(
    architecture: Architecture,
    *,
    input_size: int,
    output_size: int,
    generator: torch.Generator,
) -> SequenceNetwork:
    """Return a network with fresh weights.

    The recurrent part is initialised as in `flossing_lab.networks.initialisation`. In the state
    form the readout's weights are uniform within ±1/√N, as in `nn.Linear`. In the rate form they
    are standard normal, the biases b uniform on [0, 0.1) unless `bias_scale` is set, and the
    initial values of x have relaxed for 100 steps without input. The readout's biases start at
    `readout_bias`.

    Args:
        architecture: of the network.
        input_size: number D of input channels.
        output_size: number C of outputs.
        generator: of all weights; the global random state is neither read nor changed.

    Raises:
        InvalidOptionError: a size is not a positive integer.

    Example:
        >>> lstm = Architecture(cell="lstm", size=32, initialisation="chrono")
        >>> network = make_network(lstm, input_size=1, output_size=10, generator=torch.Generator())
        >>> network(torch.zeros(20, 16, 1)).shape
        torch.Size([20, 16, 10])
        >>> [each.shape for each in network.initial_state(16)]
        [torch.Size([1, 16, 32]), torch.Size([1, 16, 32])]
    """
    require_integer("input_size", input_size, at_least=1)
    require_integer("output_size", output_size, at_least=1)
    # On the meta device, for the modules' own initialisation would draw from the global random
    # state, and would be overwritten anyway.
    recurrence = _recurrence(architecture, input_size).to_empty(device="cpu")
    readout = nn.Linear(architecture.size, output_size, device="meta").to_empty(device="cpu")
    initialise(recurrence, architecture, generator)
    with torch.no_grad():
        readout.bias.fill_(architecture.readout_bias)
        if architecture.form == "rate":
            potential = _initialise_rates(recurrence, readout, architecture, generator)
            network = RateNetwork(recurrence, readout, potential)
        else:
            bound = 1 / math.sqrt(architecture.size)
            readout.weight.uniform_(-bound, bound, generator=generator)
            network = SequenceNetwork(recurrence, readout)
    if architecture.orthogonal:
        parametrizations.orthogonal(recurrence, "weight_hh")
    return network


def _recurrence(architecture: Architecture, input_size: int) -> Recurrence:
    size = architecture.size
    with torch.device("meta"):
        match architecture.cell:
            case "tanh" | "relu":
                kind = nn.RNN if architecture.is_stock_layer else ElmanCell
                return kind(input_size, size, nonlinearity=architecture.cell)
            case "leaky":
                return LeakyCell(input_size, size, leak=architecture.leak)
            case "modrelu":
                return ModReluCell(input_size, size)
            case "gru":
                return nn.GRU(input_size, size)
            case "lstm":
                return nn.LSTM(input_size, size)
            case "lem":
                return LongExpressiveMemoryCell(input_size, size)


def _initialise_rates(
    recurrence: Recurrence,
    readout: nn.Linear,
    architecture: Architecture,
    generator: torch.Generator,
) -> Float[Tensor, "*C N"]:
    """Draw the biases and the readout of the rate form, and return the initial potential x_0."""
    weights = dict(recurrence.named_parameters())
    suffix = "_l0" if isinstance(recurrence, nn.RNNBase) else ""
    bias = weights["bias_ih" + suffix]
    if architecture.bias_scale is None:
        bias.uniform_(0, LARGEST_BIAS, generator=generator)
    readout.weight.normal_(generator=generator)
    several = (architecture.initial_states,) if architecture.initial_states > 1 else ()
    potential = torch.randn(*several, len(bias), generator=generator)
    for _ in range(RELAXATION_STEPS):
        potential = linear(potential.tanh(), weights["weight_hh" + suffix], bias)
    return potential


def compiled_states(
    layer: StockLayer, inputs: Float[Tensor, "T B D"], state: State
) -> Float[Tensor, "T B N"]:
    """Return h_t after every step of a time-first layer on the CPU, through compiled loops."""
    recurrence = stock_recurrence(layer, None, inputs.dtype)
    first = recurrence.pack(state, inputs.shape[1], inputs)
    # From step 0, and with window 0: the gradient of the whole sequence, not truncated.
    states, _ = recurrence.linearised_run(inputs, first, 0, 0)
    return states[1:, :, : layer.hidden_size]
