"""Recurrent cells that PyTorch does not ship.

A cell is a callable `(x_t, state) -> state`, as `flossing.floss` takes it. `run` takes whole
sequences, in operations that `torch.vmap` maps over stacked parameters.
"""

from abc import ABC, abstractmethod
from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from flossing.support.torch_typed import split

State: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""One tensor (B, N), or two for a cell with a memory; a layer's have a first dimension of 1."""


class Cell(nn.Module, ABC):
    """Base of the cells: W, W_in and b, which an initialisation fills in.

    Args:
        input_size: number D of input channels.
        hidden_size: number N of hidden units.
        gates: number m of blocks of N rows in the input weights.
        recurrent_gates: number r of such blocks in the recurrent weights.

    Attributes:
        weight_hh: W, (rN, N).
        weight_ih: W_in, (mN, D).
        bias: b, (mN,).
        states: number of tensors (B, N) in the state, 1 or 2.
    """

    states = 1

    def __init__(
        self, input_size: int, hidden_size: int, *, gates: int = 1, recurrent_gates: int = 1
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.zeros(gates * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.zeros(recurrent_gates * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(gates * hidden_size))

    def forward(self, inputs: Float[Tensor, "B D"], state: State) -> State:
        """Return the state after one step."""
        return self._step(self._currents(inputs), state, self.weight_hh)

    def run(self, inputs: Float[Tensor, "T B D"], state: State) -> Float[Tensor, "T B N"]:
        """Return the hidden states h_t after every step, from the state before the first."""
        # Read once, for a parametrised weight is computed at each access.
        weight = self.weight_hh
        hidden: list[Tensor] = []
        for current in self._currents(inputs).unbind():
            state = self._step(current, state, weight)
            hidden.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(hidden)

    def _currents(self, inputs: Float[Tensor, "*steps D"]) -> Float[Tensor, "*steps mN"]:
        return linear(inputs, self.weight_ih, self.bias)

    @abstractmethod
    def _step(
        self, current: Float[Tensor, "B mN"], state: State, weight: Float[Tensor, "rN N"]
    ) -> State:
        """Return the state after a step, given W_in x_t + b."""


class LeakyCell(Cell):
    """h' = (1 − α) h + α tanh(W h + W_in x + b), a tanh cell with a time constant of 1/α steps.

    Source: Jaeger, Lukoševičius, Popovici & Siewert, Neural Networks 20, 335 (2007).

    Args:
        input_size: number D of input channels.
        hidden_size: number N of hidden units.
        leak: α, in (0, 1]; at 1 this is the vanilla cell.

    Example:
        >>> LeakyCell(2, 5, leak=0.1)(torch.zeros(3, 2), torch.ones(3, 5))[0]
        tensor([0.9000, 0.9000, 0.9000, 0.9000, 0.9000], grad_fn=...)
    """

    def __init__(self, input_size: int, hidden_size: int, *, leak: float) -> None:
        super().__init__(input_size, hidden_size)
        self.leak = leak

    def _step(
        self, current: Float[Tensor, "B N"], state: State, weight: Float[Tensor, "N N"]
    ) -> State:
        hidden = cast(Tensor, state)
        return (1 - self.leak) * hidden + self.leak * torch.tanh(current + linear(hidden, weight))


class ModReluCell(Cell):
    """h' = sign(z) max(|z| + b, 0) with z = W h + W_in x: a bias on |z| that keeps the sign.

    The derivative is 0 where |z| < −b and 1 elsewhere, at z = 0 with b ≥ 0 too, though for b > 0
    the function jumps there: a start from zero does not cut gradients. The second derivative is 0,
    as that of ReLU.

    Source: Arjovsky, Shah & Bengio, ICML 2016, arXiv 1511.06464; for real weights Helfrich,
    Willmott & Ye, ICML 2018, arXiv 1707.09520.

    Example:
        >>> cell = ModReluCell(1, 3)
        >>> _ = nn.init.eye_(cell.weight_hh), nn.init.constant_(cell.bias, -0.5)
        >>> cell(torch.zeros(1, 1), torch.tensor([[-2.0, 0.3, 2.0]])).tolist()
        [[-1.5, 0.0, 1.5]]
    """

    def _currents(self, inputs: Float[Tensor, "*steps D"]) -> Float[Tensor, "*steps N"]:
        return linear(inputs, self.weight_ih)

    def _step(
        self, current: Float[Tensor, "B N"], state: State, weight: Float[Tensor, "N N"]
    ) -> State:
        z = current + linear(cast(Tensor, state), weight)
        return torch.where(z.abs() + self.bias >= 0, z + self.bias * z.sign(), 0.0)


class LongExpressiveMemoryCell(Cell):
    r"""Long expressive memory: two states whose time steps depend on input and state.

    .. math::
        z' = (1 - \Delta) z + \Delta \tanh(W_3 y + V_3 x + b_3), \quad
        y' = (1 - \bar\Delta) y + \bar\Delta \tanh(W_z z' + V_4 x + b_4)

    with Δ = σ(W₁y + V₁x + b₁) and Δ̄ = σ(W₂y + V₂x + b₂). The state is (y, z). y' depends on the
    new z', as in the paper and its code; in torchrecurrent 0.2.5 it depends on z.

    Source: Rusch, Mishra, Erichson & Mahoney, "Long Expressive Memory for Sequence Modeling",
    ICLR 2022, arXiv 2110.04744, with Δt = 1.

    Attributes:
        weight_hh: W₁, W₂ and W₃, one below the other.
        weight_ih: V₁ … V₄.
        bias: b₁ … b₄.
        weight_zy: W_z.

    Example:
        >>> cell = LongExpressiveMemoryCell(1, 5)
        >>> y, z = cell(torch.zeros(2, 1), (torch.ones(2, 5), torch.zeros(2, 5)))
        >>> y[0]
        tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000], grad_fn=...)
    """

    states = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, recurrent_gates=3)
        self.weight_zy = nn.Parameter(torch.zeros(hidden_size, hidden_size))

    def _step(
        self, current: Float[Tensor, "B mN"], state: State, weight: Float[Tensor, "rN N"]
    ) -> State:
        y, z = cast(tuple[Tensor, Tensor], state)
        to_gates, to_y = split(current, [3 * self.hidden_size, self.hidden_size])
        step_of_z, step_of_y, to_z = (to_gates + linear(y, weight)).chunk(3, dim=-1)
        z = torch.lerp(z, to_z.tanh(), step_of_z.sigmoid())
        return torch.lerp(y, (to_y + linear(z, self.weight_zy)).tanh(), step_of_y.sigmoid()), z


class ElmanCell(nn.RNNCell):
    """A vanilla cell of PyTorch that also runs over whole sequences.

    Unlike a layer it keeps no copy of its weights, which a parametrisation would not reach.

    Example:
        >>> cell = ElmanCell(2, 5)
        >>> cell.run(torch.zeros(7, 3, 2), torch.zeros(3, 5)).shape
        torch.Size([7, 3, 5])
    """

    states = 1

    def run(self, inputs: Float[Tensor, "T B D"], state: State) -> Float[Tensor, "T B N"]:
        """Return the hidden states h_t after every step, from the state before the first."""
        squash = torch.relu if self.nonlinearity == "relu" else torch.tanh
        weight, hidden = self.weight_hh, cast(Tensor, state)
        states: list[Tensor] = []
        for current in linear(inputs, self.weight_ih, self.bias_ih + self.bias_hh).unbind():
            hidden = squash(current + linear(hidden, weight))
            states.append(hidden)
        return torch.stack(states)
