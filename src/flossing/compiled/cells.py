"""One step of every kind of stock layer with the coefficients of its Jacobian, and its adjoint.

See docs/mathematics.md, State adjoints. With a = W_ih x + b_ih and q = W h + b_hh, a step makes of
(a, q, h) the next state h' and the coefficients C, A of its Jacobian ∂h'/∂h = A + C W. The adjoint
takes the gradients of the three back to a, q and h.
"""

from typing import Any, NamedTuple

from numba.extending import overload

from flossing.compiled.compiler import inlined, unchecked
from flossing.compiled.exponential import sigmoid, tanh


class Layer(NamedTuple):
    """A layer's inputs and weights, and what its run fills in; the kinds are its subclasses.

    Attributes:
        inputs: a [T, B, m·N].
        bias: b_hh [m·N].
        panels: Wᵀ to go forward, W to go back, in panels as wide as a tile.
        currents: W h of every step, without b_hh, [T, B, m·N], padded.
        states: the states before the first step and after each one [T+1, B, s·N].
        coefficients: C [T, B, s, m, N]: of state block s with respect to gate m.
        diagonal: A [T, B, s, s, N], or [T, B, 0, 0, N] for A = 0.
    """

    inputs: Any
    bias: Any
    panels: Any
    currents: Any
    states: Any
    coefficients: Any
    diagonal: Any


class TanhLayer(Layer):
    """h' = tanh(a + q)."""


class ReluLayer(Layer):
    """h' = max(a + q, 0)."""


class GruLayer(Layer):
    """r = σ(a_r + q_r), u = σ(a_u + q_u), n = tanh(a_n + r q_n), h' = (1 − u) n + u h."""


class LstmLayer(Layer):
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c'), with (i, f, g, o) = a + q."""


# Numba compiles `step` and `step_back` anew for every kind of layer: the class of the named tuple
# is part of its type, so that which cell it is costs nothing in the loops.


class Gradient(NamedTuple):
    """The gradients of what a run fills in, and of what it takes.

    Attributes:
        states: ∂L/∂h of the states after every step, as far as L depends on them directly.
        coefficients: ∂L/∂C.
        diagonal: ∂L/∂A.
        inputs: ∂L/∂a, filled in.
        currents: ∂L/∂q, filled in; for all but GRUs the same array.
    """

    states: Any
    coefficients: Any
    diagonal: Any
    inputs: Any
    currents: Any


def step(layer: Any, time: Any, trajectory: Any) -> None:
    """Fill in the next state of a trajectory, and the coefficients of the step."""
    raise NotImplementedError("for compiled code only")


def step_back(
    layer: Any,
    gradient: Any,
    time: Any,
    trajectory: Any,
    arriving: Any,
    of_inputs: Any,
    of_currents: Any,
    direct: Any,
) -> None:
    """Take the gradient of one step of a trajectory back, given `arriving`, ∂L/∂h' [s·N].

    It fills in `of_inputs`, ∂L/∂a [m·N]; `of_currents`, ∂L/∂q [m·N], which for all but GRUs may be
    the same array; and `direct`, ∂L/∂h other than through W [s·N].
    """
    raise NotImplementedError("for compiled code only")


@overload(step)
def _step(layer: Any, time: Any, trajectory: Any) -> Any:  # noqa: ARG001 # pyright: ignore[reportUnusedFunction]
    return unchecked(_STEPS[layer.instance_class][0])


@overload(step_back)
def _step_back(  # pyright: ignore[reportUnusedFunction]
    layer: Any,
    gradient: Any,  # noqa: ARG001
    time: Any,  # noqa: ARG001
    trajectory: Any,  # noqa: ARG001
    arriving: Any,  # noqa: ARG001
    of_inputs: Any,  # noqa: ARG001
    of_currents: Any,  # noqa: ARG001
    direct: Any,  # noqa: ARG001
) -> Any:
    return unchecked(_STEPS[layer.instance_class][1])


# In what follows p = a + q is the sum that a nonlinearity takes, and a bar is a gradient: C̄ =
# ∂L/∂C. Gradients of coefficients bring in second slopes:
#   tanh'' = −2 tanh tanh',    σ'' = σ' (1 − 2σ) = σ' (σ(−p) − σ(p)).
# Gates are computed again on the way back; to keep them would double the memory.


@inlined
def _current(inputs: Any, currents: Any, bias: Any, index: int) -> Any:
    return inputs[index] + (currents[index] + bias[index])


def _tanh_step(layer: Any, time: Any, trajectory: Any) -> None:
    # h' = tanh p,    C = tanh' p
    one = layer.bias.dtype.type(1)
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    after, slopes = layer.states[time + 1, trajectory], layer.coefficients[time, trajectory, 0, 0]
    for unit in range(len(after)):
        current = _current(inputs, currents, layer.bias, unit)
        after[unit], slopes[unit] = tanh(current, one)


def _tanh_step_back(
    layer: Any,
    gradient: Any,
    time: Any,
    trajectory: Any,
    arriving: Any,
    of_inputs: Any,
    of_currents: Any,
    direct: Any,
) -> None:
    after, slopes = layer.states[time + 1, trajectory], layer.coefficients[time, trajectory, 0, 0]
    of_slopes = gradient.coefficients[time, trajectory, 0, 0]
    # p̄ = tanh' h̄' + tanh'' C̄ = tanh' (h̄' − 2 tanh C̄), and ā = q̄ = p̄. Nothing is direct.
    for unit in range(len(after)):
        value, slope = after[unit], slopes[unit]
        passed = slope * (arriving[unit] - (value + value) * of_slopes[unit])
        of_inputs[unit] = passed
        of_currents[unit] = passed
        direct[unit] = 0


def _relu_step(layer: Any, time: Any, trajectory: Any) -> None:
    # h' = max(p, 0),    C = 1 where p > 0
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    after, slopes = layer.states[time + 1, trajectory], layer.coefficients[time, trajectory, 0, 0]
    for unit in range(len(after)):
        current = _current(inputs, currents, layer.bias, unit)
        # NaN stays, as in PyTorch's own.
        after[unit] = 0 if current <= 0 else current
        slopes[unit] = 1 if current > 0 else 0


def _relu_step_back(
    layer: Any,
    gradient: Any,  # noqa: ARG001 - the slope is constant but for a jump
    time: Any,
    trajectory: Any,
    arriving: Any,
    of_inputs: Any,
    of_currents: Any,
    direct: Any,
) -> None:
    slopes = layer.coefficients[time, trajectory, 0, 0]
    # p̄ = C h̄'; the second slope is zero wherever there is one.
    for unit in range(len(slopes)):
        passed = slopes[unit] * arriving[unit]
        of_inputs[unit] = passed
        of_currents[unit] = passed
        direct[unit] = 0


@inlined
def _gru_gates(
    inputs: Any, currents: Any, bias: Any, unit: int, units: int, one: Any
) -> tuple[Any, Any, Any, Any]:
    """Return σ, σ(−p), σ' of the reset and the update gate; q_n; the new gate and its slope."""
    reset = sigmoid(_current(inputs, currents, bias, unit), one)
    update = sigmoid(_current(inputs, currents, bias, units + unit), one)
    # Only q_n = W_n h + b_n, not a_n, is multiplied by the reset gate.
    third = 2 * units + unit
    from_state = currents[third] + bias[third]
    new, slope = tanh(inputs[third] + reset[0] * from_state, one)
    return reset + update, from_state, new, slope


# A GRU: r = σ(p_r), u = σ(p_u), n = tanh p_n with p_n = a_n + r q_n, h' = (1 − u) n + u h. Then
#   dh' = (1 − u) n' dp_n + (h − n) u' dp_u + u dh,    dp_n = da_n + r dq_n + q_n r' dp_r,
# a prime at a gate being its slope, so with y = (1 − u) n', which is ∂h'/∂p_n,
#   C_r = y q_n r',    C_u = (h − n) u',    C_n = y r,    A = u.
# In the code y is `to_new`, and 1 − u = σ(−p_u) is `not_update`, which loses no digits near u = 1.


def _gru_step(layer: Any, time: Any, trajectory: Any) -> None:
    one = layer.bias.dtype.type(1)
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    before, after = layer.states[time, trajectory], layer.states[time + 1, trajectory]
    coefficients = layer.coefficients[time, trajectory, 0]
    diagonal = layer.diagonal[time, trajectory]
    units, bias = len(before), layer.bias
    for unit in range(units):
        gates, from_state, new, new_slope = _gru_gates(inputs, currents, bias, unit, units, one)
        reset, _, reset_slope, update, not_update, update_slope = gates
        after[unit] = not_update * new + update * before[unit]
        to_new = not_update * new_slope
        coefficients[0, unit] = to_new * from_state * reset_slope
        coefficients[1, unit] = (before[unit] - new) * update_slope
        coefficients[2, unit] = to_new * reset
        diagonal[0, 0, unit] = update


def _gru_step_back(
    layer: Any,
    gradient: Any,
    time: Any,
    trajectory: Any,
    arriving: Any,
    of_inputs: Any,
    of_currents: Any,
    direct: Any,
) -> None:
    one = layer.bias.dtype.type(1)
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    before, bias = layer.states[time, trajectory], layer.bias
    of_coefficients = gradient.coefficients[time, trajectory, 0]
    of_diagonal = gradient.diagonal[time, trajectory]
    units = len(before)
    for unit in range(units):
        second, third = units + unit, 2 * units + unit
        gates, from_state, new, new_slope = _gru_gates(inputs, currents, bias, unit, units, one)
        reset, not_reset, reset_slope, update, not_update, update_slope = gates
        to_new, change = not_update * new_slope, before[unit] - new
        of_c_reset, of_c_update = of_coefficients[0, unit], of_coefficients[1, unit]
        of_c_new = of_coefficients[2, unit]
        # y enters C_r and C_n:     ȳ = C̄_r q_n r' + C̄_n r
        of_to_new = of_c_reset * from_state * reset_slope + of_c_new * reset
        # u enters A, h' and y:     ū = Ā + h̄' (h − n) − n' ȳ
        of_update = of_diagonal[0, 0, unit] + arriving[unit] * change
        of_update -= of_to_new * new_slope
        # n enters h' and C_u:      n̄ = h̄' (1 − u) − C̄_u u'
        of_new = arriving[unit] * not_update - of_c_update * update_slope
        # p_n enters n and, by n'' = −2 n n', y:    p̄_n = n' (n̄ − 2 n (1 − u) ȳ)
        of_new_current = new_slope * (of_new - (new + new) * of_to_new * not_update)
        # r enters C_n and p_n:     r̄ = C̄_n y + p̄_n q_n;    its slope C_r:    C̄_r y q_n
        of_reset = of_c_new * to_new + of_new_current * from_state
        of_reset_slope = of_c_reset * to_new * from_state
        # p̄_r = r' (r̄ + (1 − 2r) C̄_r y q_n),    p̄_u = u' (ū + (1 − 2u) C̄_u (h − n))
        of_inputs[unit] = reset_slope * (of_reset + of_reset_slope * (not_reset - reset))
        of_inputs[second] = update_slope * (
            of_update + of_c_update * change * (not_update - update)
        )
        of_inputs[third] = of_new_current
        of_currents[unit] = of_inputs[unit]
        of_currents[second] = of_inputs[second]
        # q_n enters C_r and p_n:   q̄_n = C̄_r y r' + p̄_n r
        of_currents[third] = of_c_reset * to_new * reset_slope + of_new_current * reset
        # h enters h' and C_u, besides q:    h̄ = h̄' u + C̄_u u'
        direct[unit] = arriving[unit] * update + of_c_update * update_slope


@inlined
def _lstm_gates(
    inputs: Any, currents: Any, bias: Any, unit: int, units: int, one: Any
) -> tuple[Any, Any, Any]:
    """Return σ(p), σ(−p), σ'(p) for the input, forget and output gate."""
    return (
        sigmoid(_current(inputs, currents, bias, unit), one),
        sigmoid(_current(inputs, currents, bias, units + unit), one),
        sigmoid(_current(inputs, currents, bias, 3 * units + unit), one),
    )


# An LSTM, whose state is (h, c): i, f, o = σ(p_i), σ(p_f), σ(p_o), g = tanh p_g,
# c' = f c + i g, h' = o s with s = tanh c'. Then, with y = o s', which is ∂h'/∂c',
#   dc' = K_i dp_i + K_f dp_f + K_g dp_g + f dc,    K = (g i', c f', i g'),
#   dh' = y dc' + s o' dp_o,
# so that of the two blocks of rows, for h' and for c', and the four gates (i, f, g, o)
#   C = [y K_i, y K_f, y K_g, s o';  K_i, K_f, K_g, 0],    A = [0, y f;  0, f].
# In the code K is `to_cell`, y is `out_of_cell`, g is `cell_gate`, and s is `squashed`.


def _lstm_step(layer: Any, time: Any, trajectory: Any) -> None:
    one = layer.bias.dtype.type(1)
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    before, after = layer.states[time, trajectory], layer.states[time + 1, trajectory]
    coefficients, diagonal = layer.coefficients[time, trajectory], layer.diagonal[time, trajectory]
    units, bias = len(before) // 2, layer.bias
    for unit in range(units):
        second = units + unit
        entries, forgets, outputs = _lstm_gates(inputs, currents, bias, unit, units, one)
        input_gate, _, input_slope = entries
        forget, _, forget_slope = forgets
        output, _, output_slope = outputs
        cell_gate, cell_slope = tanh(_current(inputs, currents, bias, 2 * units + unit), one)
        cell = before[second]
        new_cell = forget * cell + input_gate * cell_gate
        squashed, squashed_slope = tanh(new_cell, one)
        after[unit], after[second] = output * squashed, new_cell
        out_of_cell = output * squashed_slope
        to_cell = cell_gate * input_slope, cell * forget_slope, input_gate * cell_slope
        for gate in range(3):
            coefficients[0, gate, unit] = out_of_cell * to_cell[gate]
            coefficients[1, gate, unit] = to_cell[gate]
        coefficients[0, 3, unit], coefficients[1, 3, unit] = squashed * output_slope, 0
        diagonal[0, 0, unit], diagonal[1, 0, unit] = 0, 0
        diagonal[0, 1, unit], diagonal[1, 1, unit] = out_of_cell * forget, forget


def _lstm_step_back(
    layer: Any,
    gradient: Any,
    time: Any,
    trajectory: Any,
    arriving: Any,
    of_inputs: Any,
    of_currents: Any,
    direct: Any,
) -> None:
    one = layer.bias.dtype.type(1)
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    before, bias = layer.states[time, trajectory], layer.bias
    of_coefficients = gradient.coefficients[time, trajectory]
    of_diagonal = gradient.diagonal[time, trajectory]
    units = len(before) // 2
    for unit in range(units):
        second = units + unit
        entries, forgets, outputs = _lstm_gates(inputs, currents, bias, unit, units, one)
        input_gate, not_input, input_slope = entries
        forget, not_forget, forget_slope = forgets
        output, not_output, output_slope = outputs
        cell_gate, cell_slope = tanh(_current(inputs, currents, bias, 2 * units + unit), one)
        cell = before[second]
        squashed, squashed_slope = tanh(forget * cell + input_gate * cell_gate, one)
        out_of_cell = output * squashed_slope
        # K enters both rows of C:    K̄_γ = C̄_hγ y + C̄_cγ for γ = i, f, g
        of_to_cell_input = of_coefficients[0, 0, unit] * out_of_cell + of_coefficients[1, 0, unit]
        of_to_cell_forget = of_coefficients[0, 1, unit] * out_of_cell + of_coefficients[1, 1, unit]
        of_to_cell_gate = of_coefficients[0, 2, unit] * out_of_cell + of_coefficients[1, 2, unit]
        of_c_output = of_coefficients[0, 3, unit]
        # y enters the first row of C, and of A:    ȳ = Σ_γ C̄_hγ K_γ + Ā_hc f
        of_out_of_cell = (
            of_coefficients[0, 0, unit] * (cell_gate * input_slope)
            + of_coefficients[0, 1, unit] * (cell * forget_slope)
            + of_coefficients[0, 2, unit] * (input_gate * cell_slope)
            + of_diagonal[0, 1, unit] * forget
        )
        # s enters C_ho and h':    s̄ = C̄_ho o' + h̄' o
        of_squashed = of_c_output * output_slope + arriving[unit] * output
        # c' itself, s and, by s'' = −2 s s', y = o s':    c̄'_all = c̄' + s' (s̄ − 2 s o ȳ)
        of_new_cell = arriving[second] + squashed_slope * (
            of_squashed - (squashed + squashed) * of_out_of_cell * output
        )
        # i enters K_g and c', f enters A and c', g enters K_i and c', o enters y and h':
        #   ī = K̄_g g' + c̄'_all g,    f̄ = Ā_hc y + Ā_cc + c̄'_all c,
        #   ḡ = K̄_i i' + c̄'_all i,    ō = ȳ s' + h̄' s
        of_input = of_to_cell_gate * cell_slope + of_new_cell * cell_gate
        of_forget = of_diagonal[0, 1, unit] * out_of_cell + of_diagonal[1, 1, unit]
        of_forget += of_new_cell * cell
        of_cell_gate = of_to_cell_input * input_slope + of_new_cell * input_gate
        of_output = of_out_of_cell * squashed_slope + arriving[unit] * squashed
        # Through each gate and its slope, of which K_i, K_f, K_g and C_ho have one each:
        #   p̄_i = i' (ī + K̄_i g (1 − 2i)),    p̄_f = f' (f̄ + K̄_f c (1 − 2f)),
        #   p̄_g = g' (ḡ − 2 g K̄_g i),         p̄_o = o' (ō + C̄_ho s (1 − 2o))
        passed = (
            input_slope * (of_input + of_to_cell_input * cell_gate * (not_input - input_gate)),
            forget_slope * (of_forget + of_to_cell_forget * cell * (not_forget - forget)),
            cell_slope * (of_cell_gate - (cell_gate + cell_gate) * of_to_cell_gate * input_gate),
            output_slope * (of_output + of_c_output * squashed * (not_output - output)),
        )
        for gate in range(4):
            of_inputs[gate * units + unit] = passed[gate]
            of_currents[gate * units + unit] = passed[gate]
        # h enters by q alone; c enters K_f and c':    c̄ = K̄_f f' + c̄'_all f
        direct[unit] = 0
        direct[second] = of_to_cell_forget * forget_slope + of_new_cell * forget


_STEPS: dict[Any, tuple[Any, Any]] = {
    TanhLayer: (_tanh_step, _tanh_step_back),
    ReluLayer: (_relu_step, _relu_step_back),
    GruLayer: (_gru_step, _gru_step_back),
    LstmLayer: (_lstm_step, _lstm_step_back),
}
