"""The cells that PyTorch ships: how they run, and their Jacobians as A_t + C_t W.

The state of a layer is one vector: h, or for an LSTM h followed by c.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flossing.compiled.cells import GruLayer, Layer, LstmLayer, ReluLayer, TanhLayer


class LayerWeights(NamedTuple):
    """Weights of one layer, in PyTorch's shapes; `weight_hr` is an LSTM's projection."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    weight_hr: Tensor | None

    def present(self) -> list[Tensor]:
        """Return those that are there, in the order that PyTorch's kernels take."""
        return [weight for weight in self if weight is not None]

    def currents(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the gates receive from the inputs and from the hidden state."""
        return (
            functional.linear(inputs, self.weight_ih, self.bias_ih),
            functional.linear(hidden, self.weight_hh, self.bias_hh),
        )


class Coefficients(NamedTuple):
    """Blocks of diagonals of one layer's Jacobians (see `tangent.Gates`).

    `recurrent` stands in front of the recurrent weight, `feedforward` in front of the input
    weight, `diagonal` on its own.
    """

    recurrent: Float[Tensor, "T B s m N"]
    feedforward: Float[Tensor, "T B s m N"]
    diagonal: Float[Tensor, "T B s s N"] | None


def _slope_of_tanh(current: Tensor) -> Tensor:
    # 1/cosh², without the cancellation of 1 − tanh² and the overflow of cosh, nor in its gradient.
    decay = torch.exp(-2 * current.abs())
    return 4 * decay / (1 + decay).square()


def _slope_of_sigmoid(current: Tensor) -> Tensor:
    return torch.sigmoid(current) * torch.sigmoid(-current)


def _slope_of_relu(current: Tensor) -> Tensor:
    return (current > 0).to(current.dtype)


def _elman_coefficients(
    slope: Callable[[Tensor], Tensor], inputs: Tensor, state: Tensor, weights: LayerWeights
) -> Coefficients:
    from_inputs, from_state = weights.currents(inputs, state)
    gates = slope(from_inputs + from_state)[..., None, None, :]
    return Coefficients(gates, gates, None)


def _tanh_coefficients(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Coefficients:
    return _elman_coefficients(_slope_of_tanh, inputs, state, weights)


def _relu_coefficients(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Coefficients:
    return _elman_coefficients(_slope_of_relu, inputs, state, weights)


def _gru_coefficients(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Coefficients:
    r"""H' = (1 − z) n + z h with n = tanh(a_n + r q_n), q_n = W_hn h + b_hn."""
    reset_current, update_current, candidate_current, state_n = _gru_currents(
        inputs, state, weights
    )
    to_update = (state - torch.tanh(candidate_current)) * _slope_of_sigmoid(update_current)
    to_candidate = torch.sigmoid(-update_current) * _slope_of_tanh(candidate_current)
    to_reset = to_candidate * state_n * _slope_of_sigmoid(reset_current)
    through_reset = to_candidate * torch.sigmoid(reset_current)
    recurrent = torch.stack([to_reset, to_update, through_reset], dim=-2)
    feedforward = torch.stack([to_reset, to_update, to_candidate], dim=-2)
    update = torch.sigmoid(update_current)[..., None, None, :]
    return Coefficients(recurrent.unsqueeze(-3), feedforward.unsqueeze(-3), update)


def _gru_currents(
    inputs: Tensor, state: Tensor, weights: LayerWeights
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what reset, update and candidate squash, and q_n = W_hn h + b_hn."""
    from_inputs, from_state = weights.currents(inputs, state)
    input_r, input_z, input_n = from_inputs.chunk(3, dim=-1)
    state_r, state_z, state_n = from_state.chunk(3, dim=-1)
    reset_current = input_r + state_r
    candidate_current = input_n + torch.sigmoid(reset_current) * state_n
    return reset_current, input_z + state_z, candidate_current, state_n


def _lstm_coefficients(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Coefficients:
    r"""C' = f c + i g, h' = o tanh(c')."""
    hidden, cell = state.chunk(2, dim=-1)
    from_inputs, from_state = weights.currents(inputs, hidden)
    current = from_inputs + from_state
    current_i, current_f, current_g, current_o = current.chunk(4, dim=-1)
    input_gate, forget, candidate = _lstm_gates(current)
    new_cell = forget * cell + input_gate * candidate
    zero = torch.zeros_like(cell)
    to_cell = [
        candidate * _slope_of_sigmoid(current_i),
        cell * _slope_of_sigmoid(current_f),
        input_gate * _slope_of_tanh(current_g),
        zero,
    ]
    out_of_cell = torch.sigmoid(current_o) * _slope_of_tanh(new_cell)
    to_output = torch.tanh(new_cell) * _slope_of_sigmoid(current_o)
    to_hidden = [out_of_cell * gate for gate in to_cell[:3]] + [to_output]
    gates = torch.stack([torch.stack(to_hidden, dim=-2), torch.stack(to_cell, dim=-2)], dim=-3)
    diagonal = torch.stack(
        [
            torch.stack([zero, out_of_cell * forget], dim=-2),
            torch.stack([zero, forget], dim=-2),
        ],
        dim=-3,
    )
    return Coefficients(gates, gates, diagonal)


def _lstm_gates(current: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    current_i, current_f, current_g, _ = current.chunk(4, dim=-1)
    return torch.sigmoid(current_i), torch.sigmoid(current_f), torch.tanh(current_g)


def _elman_slopes(
    slope: Callable[[Tensor], Tensor], inputs: Tensor, state: Tensor, weights: LayerWeights
) -> dict[str, Tensor]:
    from_inputs, from_state = weights.currents(inputs, state)
    return {"hidden": slope(from_inputs + from_state)}


def _gru_slopes(inputs: Tensor, state: Tensor, weights: LayerWeights) -> dict[str, Tensor]:
    reset_current, update_current, candidate_current, _ = _gru_currents(inputs, state, weights)
    return {
        "reset": 4 * _slope_of_sigmoid(reset_current),
        "update": 4 * _slope_of_sigmoid(update_current),
        "candidate": _slope_of_tanh(candidate_current),
    }


def _lstm_slopes(inputs: Tensor, state: Tensor, weights: LayerWeights) -> dict[str, Tensor]:
    outputs = weights.weight_hh.shape[1]
    hidden, cell = state[..., :outputs], state[..., outputs:]
    from_inputs, from_state = weights.currents(inputs, hidden)
    current = from_inputs + from_state
    current_i, current_f, current_g, current_o = current.chunk(4, dim=-1)
    input_gate, forget, candidate = _lstm_gates(current)
    return {
        "input": 4 * _slope_of_sigmoid(current_i),
        "forget": 4 * _slope_of_sigmoid(current_f),
        "candidate": _slope_of_tanh(current_g),
        "output": 4 * _slope_of_sigmoid(current_o),
        "cell": _slope_of_tanh(forget * cell + input_gate * candidate),
    }


def _run_one_state(
    kernel: Callable[..., tuple[Tensor, Tensor]], inputs: Tensor, state: Tensor, w: LayerWeights
) -> Tensor:
    has_biases = w.bias_ih is not None
    # One layer, no dropout, training mode (which cuDNN needs for its backward), one direction.
    options = (has_biases, 1, 0.0, True, False, False)
    return kernel(inputs, state.unsqueeze(0), w.present(), *options)[0]


def _run_tanh(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Tensor:
    return _run_one_state(torch.rnn_tanh, inputs, state, weights)


def _run_relu(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Tensor:
    return _run_one_state(torch.rnn_relu, inputs, state, weights)


def _run_gru(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Tensor:
    return _run_one_state(torch.gru, inputs, state, weights)


def _run_lstm(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Tensor:
    outputs = weights.weight_hh.shape[1]
    first_hidden, first_cell = state[:, :outputs], state[:, outputs:]
    has_biases = weights.bias_ih is not None
    hidden, _, last_cell = torch.lstm(
        inputs,
        [first_hidden.unsqueeze(0).contiguous(), first_cell.unsqueeze(0).contiguous()],
        weights.present(),
        has_biases,
        1,
        0.0,
        True,
        False,
        False,
    )
    if len(inputs) == 1:
        return torch.cat([hidden, last_cell], dim=-1)
    cells = _lstm_cells(inputs, torch.cat([first_hidden[None], hidden[:-1]]), first_cell, weights)
    return torch.cat([hidden, cells], dim=-1)


def _lstm_cells(
    inputs: Tensor, previous_hidden: Tensor, cell: Tensor, weights: LayerWeights
) -> Tensor:
    """Recover the cell states, which PyTorch's kernel keeps to itself, from the hidden states."""
    from_inputs, from_state = weights.currents(inputs, previous_hidden)
    input_gate, forget, candidate = _lstm_gates(from_inputs + from_state)
    cells: list[Tensor] = []
    for kept, added in zip(forget.unbind(), (input_gate * candidate).unbind(), strict=True):
        cell = torch.addcmul(added, kept, cell)
        cells.append(cell)
    return torch.stack(cells)


class Kind(NamedTuple):
    """What tells one kind of stock layer from another."""

    run: Callable[[Tensor, Tensor, LayerWeights], Tensor]
    """Inputs [T, B, D] and a first state [B, n] to the states after every step [T, B, n]."""
    coefficients: Callable[[Tensor, Tensor, LayerWeights], Coefficients]
    """Inputs [T, B, D] and the states before every step [T, B, n] to Jacobian coefficients."""
    slopes: Callable[[Tensor, Tensor, LayerWeights], dict[str, Tensor]]
    """The same to the derivative of each squashing function, as a share of its largest."""
    gate_names: tuple[str, ...]
    """What each of the m gates is called; the weights have m·N rows."""
    state_blocks: int
    """Number of state vectors: 2 for an LSTM's h and c, else 1."""
    compiled: type[Layer]
    """The same for the compiled loops."""

    @property
    def gates(self) -> int:
        """Number of gates m."""
        return len(self.gate_names)


TANH = Kind(
    _run_tanh,
    _tanh_coefficients,
    partial(_elman_slopes, _slope_of_tanh),
    gate_names=("hidden",),
    state_blocks=1,
    compiled=TanhLayer,
)
RELU = Kind(
    _run_relu,
    _relu_coefficients,
    partial(_elman_slopes, _slope_of_relu),
    gate_names=("hidden",),
    state_blocks=1,
    compiled=ReluLayer,
)
GRU = Kind(
    _run_gru,
    _gru_coefficients,
    _gru_slopes,
    gate_names=("reset", "update", "candidate"),
    state_blocks=1,
    compiled=GruLayer,
)
LSTM = Kind(
    _run_lstm,
    _lstm_coefficients,
    _lstm_slopes,
    gate_names=("input", "forget", "candidate", "output"),
    state_blocks=2,
    compiled=LstmLayer,
)
