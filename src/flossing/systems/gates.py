"""PyTorch's recurrent layers: how they run, and their Jacobians in the form A_t + C_t W.

The state of a layer is one vector: h, or for an LSTM h followed by c. Gates have the order and the
names of PyTorch's weights: GRU r, z, n ("reset", "update", "new"); LSTM i, f, g, o ("input",
"forget", "cell", "output"). Every formula is derived in docs/mathematics.md, Tangent maps of the
layers; here a = W_ih x + b_ih and q = W_hh h + b_hh, φ' is the derivative of a squashing function,
a prime on a state means the next step, and products of vectors are elementwise.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flossing.compiled.cells import GruLayer, Layer, LstmLayer, ReluLayer, TanhLayer

# σ' = σ (1 − σ) is largest where σ = ½. (That of tanh and ReLU is at most 1.)
_LARGEST_SLOPE_OF_SIGMOID = 0.25


class LayerWeights(NamedTuple):
    """Weights of one layer, in PyTorch's shapes; `weight_hr` is an LSTM's projection.

    With m gates of N units: `weight_ih` [m·N, D], `weight_hh` [m·N, N], biases [m·N]. With a
    projection to P outputs: `weight_hh` [m·N, P], `weight_hr` [P, N].
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    weight_hr: Tensor | None

    def present(self) -> list[Tensor]:
        """Return the weights that exist, in the order in which PyTorch's kernels take them."""
        return [weight for weight in self if weight is not None]

    def detached(self) -> "LayerWeights":
        """Return the weights without their graph."""
        detached = [None if weight is None else weight.detach() for weight in self]
        return LayerWeights(*cast(list[Any], detached))

    def currents(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return a = W_ih x + b_ih and q = W_hh h + b_hh, the two parts of the pre-activations."""
        return (
            functional.linear(inputs, self.weight_ih, self.bias_ih),
            functional.linear(hidden, self.weight_hh, self.bias_hh),
        )


class Coefficients(NamedTuple):
    """Blocks of diagonals of one layer's Jacobians (see `flossing.systems.tangent.Gates`).

    For s state blocks and m gates: `recurrent` is C in ∂h'/∂h = A + C W_hh, `diagonal` is A, and
    `feedforward` is the factor in ∂h'/∂x = C_x W_ih. C_x differs from C only for a GRU, whose reset
    gate multiplies the recurrent part of the new gate alone.
    """

    recurrent: Float[Tensor, "T B s m N"]
    feedforward: Float[Tensor, "T B s m N"]
    diagonal: Float[Tensor, "T B s s N"] | None


def _slope_of_tanh(current: Tensor) -> Tensor:
    # tanh'(a) = 1/cosh² a = 4 e^{−2|a|} / (1 + e^{−2|a|})². In float32, 1 − tanh² is exactly 0
    # above |a| = 9, which would turn exponents into −∞; this form keeps its relative precision up
    # to |a| = 44, where it underflows. Unlike cosh it cannot overflow, nor can its gradient.
    decay = torch.exp(-2 * current.abs())
    return 4 * decay / (1 + decay).square()


def _slope_of_sigmoid(current: Tensor) -> Tensor:
    # σ'(a) = σ(a) (1 − σ(a)), with 1 − σ(a) = σ(−a), so that nothing cancels for large a.
    return torch.sigmoid(current) * torch.sigmoid(-current)


def _slope_of_relu(current: Tensor) -> Tensor:
    # 0 at the kink, as in PyTorch's backward pass.
    return (current > 0).to(current.dtype)


def _elman_slopes(
    slope: Callable[[Tensor], Tensor], inputs: Tensor, state: Tensor, weights: LayerWeights
) -> dict[str, Tensor]:
    from_inputs, from_state = weights.currents(inputs, state)
    return {"hidden": slope(from_inputs + from_state)}


def _elman_coefficients(
    slope: Callable[[Tensor], Tensor], inputs: Tensor, state: Tensor, weights: LayerWeights
) -> Coefficients:
    # h' = φ(a + q), so dh' = φ'(a + q) (dq + da): C = C_x = φ', and A = 0.
    gates = _elman_slopes(slope, inputs, state, weights)["hidden"][..., None, None, :]
    return Coefficients(gates, gates, None)


def _gru_currents(
    inputs: Tensor, state: Tensor, weights: LayerWeights
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the pre-activations of reset, update and new gate, and q_n = W_hn h + b_hn."""
    from_inputs, from_state = weights.currents(inputs, state)
    input_r, input_z, input_n = from_inputs.chunk(3, dim=-1)
    state_r, state_z, state_n = from_state.chunk(3, dim=-1)
    # As in cuDNN, r multiplies q_n, its bias b_hn included. (The GRU of Cho et al. 2014 multiplies
    # h before the product with W_hn; its Jacobian is not of the form A + C W.)
    reset_current = input_r + state_r
    new_current = input_n + torch.sigmoid(reset_current) * state_n
    return reset_current, input_z + state_z, new_current, state_n


def _gru_coefficients(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Coefficients:
    reset_current, update_current, new_current, state_n = _gru_currents(inputs, state, weights)
    # r = σ(a_r + q_r), z = σ(a_z + q_z), n = tanh(a_n + r q_n), h' = (1 − z) n + z h, hence
    #     dh' = z dh + (h − n) dz + (1 − z) dn,    dz = z' (da_z + dq_z),
    #     dn = n' (da_n + r dq_n + q_n dr),        dr = r' (da_r + dq_r),
    # with the slopes r' = r (1 − r), z' = z (1 − z), n' = 1 − n². Collected by dq:
    #     A = z,    C = [(1 − z) n' q_n r',  (h − n) z',  (1 − z) n' r],
    # and by da the same but (1 − z) n', without r, for the new gate.
    to_update = (state - torch.tanh(new_current)) * _slope_of_sigmoid(update_current)
    to_new = torch.sigmoid(-update_current) * _slope_of_tanh(new_current)
    to_reset = to_new * state_n * _slope_of_sigmoid(reset_current)
    through_reset = to_new * torch.sigmoid(reset_current)
    recurrent = torch.stack([to_reset, to_update, through_reset], dim=-2)
    feedforward = torch.stack([to_reset, to_update, to_new], dim=-2)
    update = torch.sigmoid(update_current)[..., None, None, :]
    return Coefficients(recurrent.unsqueeze(-3), feedforward.unsqueeze(-3), update)


def _gru_slopes(inputs: Tensor, state: Tensor, weights: LayerWeights) -> dict[str, Tensor]:
    reset_current, update_current, new_current, _ = _gru_currents(inputs, state, weights)
    return {
        "reset": _slope_of_sigmoid(reset_current) / _LARGEST_SLOPE_OF_SIGMOID,
        "update": _slope_of_sigmoid(update_current) / _LARGEST_SLOPE_OF_SIGMOID,
        "new": _slope_of_tanh(new_current),
    }


def _lstm_gates(current: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return i, f and g, the gates that make the next cell state."""
    current_i, current_f, current_g, _ = current.chunk(4, dim=-1)
    return torch.sigmoid(current_i), torch.sigmoid(current_f), torch.tanh(current_g)


def _lstm_coefficients(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Coefficients:
    hidden, cell = state.chunk(2, dim=-1)
    from_inputs, from_state = weights.currents(inputs, hidden)
    current = from_inputs + from_state
    current_i, current_f, current_g, current_o = current.chunk(4, dim=-1)
    input_gate, forget_gate, cell_gate = _lstm_gates(current)
    new_cell = forget_gate * cell + input_gate * cell_gate
    zero = torch.zeros_like(cell)
    # i, f, o = σ(…), g = tanh(…), c' = f c + i g, h' = o tanh(c'). First the row of c':
    #     dc' = f dc + g i' dq_i + c f' dq_f + i g' dq_g,    with i' = i (1 − i) …, g' = 1 − g².
    to_cell = [
        cell_gate * _slope_of_sigmoid(current_i),
        cell * _slope_of_sigmoid(current_f),
        input_gate * _slope_of_tanh(current_g),
        zero,
    ]
    # Then that of h', which feels everything in c' through e = o (1 − tanh² c'), and o directly:
    #     dh' = e dc' + tanh(c') o' dq_o.
    out_of_cell = torch.sigmoid(current_o) * _slope_of_tanh(new_cell)
    to_output = torch.tanh(new_cell) * _slope_of_sigmoid(current_o)
    to_hidden = [out_of_cell * gate for gate in to_cell[:3]] + [to_output]
    # W acts on h alone, the first block of (h, c); c enters through A = [[0, e f], [0, f]].
    gates = torch.stack([torch.stack(to_hidden, dim=-2), torch.stack(to_cell, dim=-2)], dim=-3)
    diagonal = torch.stack(
        [
            torch.stack([zero, out_of_cell * forget_gate], dim=-2),
            torch.stack([zero, forget_gate], dim=-2),
        ],
        dim=-3,
    )
    return Coefficients(gates, gates, diagonal)


def _lstm_slopes(inputs: Tensor, state: Tensor, weights: LayerWeights) -> dict[str, Tensor]:
    # Unlike the coefficients these also exist under a projection, where h is shorter than c.
    outputs = weights.weight_hh.shape[1]
    hidden, cell = state[..., :outputs], state[..., outputs:]
    from_inputs, from_state = weights.currents(inputs, hidden)
    current = from_inputs + from_state
    current_i, current_f, current_g, current_o = current.chunk(4, dim=-1)
    input_gate, forget_gate, cell_gate = _lstm_gates(current)
    return {
        "input": _slope_of_sigmoid(current_i) / _LARGEST_SLOPE_OF_SIGMOID,
        "forget": _slope_of_sigmoid(current_f) / _LARGEST_SLOPE_OF_SIGMOID,
        "cell": _slope_of_tanh(current_g),
        "output": _slope_of_sigmoid(current_o) / _LARGEST_SLOPE_OF_SIGMOID,
        "cell state": _slope_of_tanh(forget_gate * cell + input_gate * cell_gate),
    }


def _kernel_options(weights: LayerWeights) -> tuple[bool, int, float, bool, bool, bool]:
    # has_biases, num_layers, dropout, train, bidirectional, batch_first: one layer, time first.
    # Train mode whatever the module's: without dropout it changes no value, and cuDNN keeps what
    # its backward pass needs in train mode only.
    return weights.bias_ih is not None, 1, 0.0, True, False, False


def _run_one_state(
    kernel: Callable[..., tuple[Tensor, Tensor]],
    inputs: Tensor,
    state: Tensor,
    weights: LayerWeights,
) -> Tensor:
    options = _kernel_options(weights)
    return kernel(inputs, state.unsqueeze(0), weights.present(), *options)[0]


def _run_lstm(inputs: Tensor, state: Tensor, weights: LayerWeights) -> Tensor:
    outputs = weights.weight_hh.shape[1]
    first_hidden, first_cell = state[:, :outputs], state[:, outputs:]
    hidden, _, last_cell = torch.lstm(
        inputs,
        # cuDNN takes contiguous states only.
        [first_hidden.unsqueeze(0).contiguous(), first_cell.unsqueeze(0).contiguous()],
        weights.present(),
        *_kernel_options(weights),
    )
    if len(inputs) == 1:
        return torch.cat([hidden, last_cell], dim=-1)
    cells = _lstm_cells(inputs, torch.cat([first_hidden[None], hidden[:-1]]), first_cell, weights)
    return torch.cat([hidden, cells], dim=-1)


def _lstm_cells(
    inputs: Tensor, previous_hidden: Tensor, cell: Tensor, weights: LayerWeights
) -> Tensor:
    """Return the cell states after every step, of which PyTorch's kernel returns the last only."""
    # With every h known, the gates of all steps are one matrix product. What remains in sequence,
    # c' = f c + i g, is elementwise, and much cheaper than nn.LSTMCell in a loop.
    from_inputs, from_state = weights.currents(inputs, previous_hidden)
    input_gate, forget_gate, cell_gate = _lstm_gates(from_inputs + from_state)
    added_each_step = (input_gate * cell_gate).unbind()
    cells: list[Tensor] = []
    for kept, added in zip(forget_gate.unbind(), added_each_step, strict=True):
        cell = torch.addcmul(added, kept, cell)
        cells.append(cell)
    return torch.stack(cells)


class Kind(NamedTuple):
    """A kind of recurrent layer: its dynamics and its derivatives."""

    run: Callable[[Tensor, Tensor, LayerWeights], Tensor]
    """Inputs [T, B, D] and a first state [B, n] to the states after every step [T, B, n]."""
    coefficients: Callable[[Tensor, Tensor, LayerWeights], Coefficients]
    """Inputs [T, B, D] and the states before every step [T, B, n] to Jacobian coefficients."""
    slopes: Callable[[Tensor, Tensor, LayerWeights], dict[str, Tensor]]
    """The same to the derivative of each squashing function, as a share of its largest value."""
    gate_names: tuple[str, ...]
    """PyTorch's names of the m gates, in the order of the m·N rows of the weights."""
    state_blocks: int
    """Number of state vectors: 2 for an LSTM's h and c, else 1."""
    compiled: type[Layer]
    """The layer's type in the compiled loops, which select their step function by it."""

    @property
    def gates(self) -> int:
        """Number of gates m."""
        return len(self.gate_names)


TANH = Kind(
    partial(_run_one_state, torch.rnn_tanh),
    partial(_elman_coefficients, _slope_of_tanh),
    partial(_elman_slopes, _slope_of_tanh),
    gate_names=("hidden",),
    state_blocks=1,
    compiled=TanhLayer,
)
RELU = Kind(
    partial(_run_one_state, torch.rnn_relu),
    partial(_elman_coefficients, _slope_of_relu),
    partial(_elman_slopes, _slope_of_relu),
    gate_names=("hidden",),
    state_blocks=1,
    compiled=ReluLayer,
)
GRU = Kind(
    partial(_run_one_state, torch.gru),
    _gru_coefficients,
    _gru_slopes,
    gate_names=("reset", "update", "new"),
    state_blocks=1,
    compiled=GruLayer,
)
LSTM = Kind(
    _run_lstm,
    _lstm_coefficients,
    _lstm_slopes,
    gate_names=("input", "forget", "cell", "output"),
    state_blocks=2,
    compiled=LstmLayer,
)
