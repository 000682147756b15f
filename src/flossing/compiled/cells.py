"""One step of every kind of stock layer, and its adjoint, unit by unit.

With a = W_ih x + b_ih and q = W h + b_hh, a cell makes of (a, q, h) its next state and the
coefficients C, A of its Jacobian A + C W (see `flossing.systems.gates` for the formulas). The
adjoint takes the gradients of the three back to a, q and h. Second slopes: tanh'' = −2 tanh tanh',
σ'' = σ' (1 − 2σ).
"""

from typing import Any, NamedTuple, cast

from numba.core import types
from numba.extending import overload

from flossing.compiled.compiler import part, unchecked
from flossing.compiled.exponential import sigmoid, tanh


class Layer(NamedTuple):
    """What a layer is made of, and what it leaves behind.

    Attributes:
        inputs: a [T, B, m·N].
        bias: b_hh [m·N].
        panels: Wᵀ to go forward, W to go back, in panels as wide as a tile.
        currents: W h of every step, [T, B, m·N], padded.
        states: the states before the first step and after each one [T+1, B, s·N].
        coefficients: C [T, B, s, m, N].
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


class Gradient(NamedTuple):
    """The gradient of a layer, at what it leaves behind and at what it is made of.

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
    """Take the gradient of one step of a trajectory back.

    Args:
        layer: the layer.
        gradient: of its coefficients.
        time: the step.
        trajectory: the trajectory.
        arriving: ∂L/∂h' [s·N].
        of_inputs: filled in: ∂L/∂a [m·N].
        of_currents: filled in: ∂L/∂q [m·N]; may be the same array for all but GRUs.
        direct: filled in: ∂L/∂h other than through W [s·N].
    """
    raise NotImplementedError("for compiled code only")


def _kind(layer: Any) -> Any:
    is_named = isinstance(layer, types.NamedTuple)
    return cast(Any, layer).instance_class if is_named else None


@overload(step)
def _step(layer: Any, time: Any, trajectory: Any) -> Any:  # noqa: ARG001 # pyright: ignore[reportUnusedFunction]
    return unchecked(_STEPS[_kind(layer)][0])


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
    return unchecked(_STEPS[_kind(layer)][1])


@part
def _current(inputs: Any, currents: Any, bias: Any, index: int) -> Any:
    return inputs[index] + (currents[index] + bias[index])


def _tanh_step(layer: Any, time: Any, trajectory: Any) -> None:
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
    for unit in range(len(after)):
        value, slope = after[unit], slopes[unit]
        passed = slope * (arriving[unit] - (value + value) * of_slopes[unit])
        of_inputs[unit] = passed
        of_currents[unit] = passed
        direct[unit] = 0


def _relu_step(layer: Any, time: Any, trajectory: Any) -> None:
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    after, slopes = layer.states[time + 1, trajectory], layer.coefficients[time, trajectory, 0, 0]
    for unit in range(len(after)):
        current = _current(inputs, currents, layer.bias, unit)
        # NaN stays, as in PyTorch's own.
        after[unit] = 0 if current <= 0 else current
        slopes[unit] = 1 if current > 0 else 0


def _relu_step_back(
    layer: Any,
    gradient: Any,  # noqa: ARG001 - steps have no slope's slope
    time: Any,
    trajectory: Any,
    arriving: Any,
    of_inputs: Any,
    of_currents: Any,
    direct: Any,
) -> None:
    slopes = layer.coefficients[time, trajectory, 0, 0]
    for unit in range(len(slopes)):
        passed = slopes[unit] * arriving[unit]
        of_inputs[unit] = passed
        of_currents[unit] = passed
        direct[unit] = 0


@part
def _gru_gates(
    inputs: Any, currents: Any, bias: Any, unit: int, units: int, one: Any
) -> tuple[Any, Any, Any, Any]:
    """Return σ(r), σ(−r), σ'(r) and the same of u; then q_n, n and its slope."""
    reset = sigmoid(_current(inputs, currents, bias, unit), one)
    update = sigmoid(_current(inputs, currents, bias, units + unit), one)
    third = 2 * units + unit
    from_state = currents[third] + bias[third]
    candidate, slope = tanh(inputs[third] + reset[0] * from_state, one)
    return reset + update, from_state, candidate, slope


def _gru_step(layer: Any, time: Any, trajectory: Any) -> None:
    one = layer.bias.dtype.type(1)
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    before, after = layer.states[time, trajectory], layer.states[time + 1, trajectory]
    coefficients = layer.coefficients[time, trajectory, 0]
    diagonal = layer.diagonal[time, trajectory]
    units, bias = len(before), layer.bias
    for unit in range(units):
        gates, from_state, candidate, candidate_slope = _gru_gates(
            inputs, currents, bias, unit, units, one
        )
        reset, _, reset_slope, update, keep_new, update_slope = gates
        after[unit] = keep_new * candidate + update * before[unit]
        to_candidate = keep_new * candidate_slope
        coefficients[0, unit] = to_candidate * from_state * reset_slope
        coefficients[1, unit] = (before[unit] - candidate) * update_slope
        coefficients[2, unit] = to_candidate * reset
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
        gates, from_state, candidate, candidate_slope = _gru_gates(
            inputs, currents, bias, unit, units, one
        )
        reset, not_reset, reset_slope, update, keep_new, update_slope = gates
        to_candidate, change = keep_new * candidate_slope, before[unit] - candidate
        of_reset_gate, of_update_gate = of_coefficients[0, unit], of_coefficients[1, unit]
        of_candidate_gate = of_coefficients[2, unit]
        of_to_candidate = of_reset_gate * from_state * reset_slope + of_candidate_gate * reset
        of_update = of_diagonal[0, 0, unit] + arriving[unit] * change
        of_update -= of_to_candidate * candidate_slope
        of_candidate = arriving[unit] * keep_new - of_update_gate * update_slope
        of_candidate_current = candidate_slope * (
            of_candidate - (candidate + candidate) * of_to_candidate * keep_new
        )
        of_reset = of_candidate_gate * to_candidate + of_candidate_current * from_state
        of_reset_slope = of_reset_gate * to_candidate * from_state
        of_inputs[unit] = reset_slope * (of_reset + of_reset_slope * (not_reset - reset))
        of_inputs[second] = update_slope * (
            of_update + of_update_gate * change * (keep_new - update)
        )
        of_inputs[third] = of_candidate_current
        of_currents[unit] = of_inputs[unit]
        of_currents[second] = of_inputs[second]
        of_currents[third] = (
            of_reset_gate * to_candidate * reset_slope + of_candidate_current * reset
        )
        direct[unit] = arriving[unit] * update + of_update_gate * update_slope


@part
def _lstm_gates(
    inputs: Any, currents: Any, bias: Any, unit: int, units: int, one: Any
) -> tuple[Any, Any, Any]:
    """Return σ(x), σ(−x), σ'(x) for the gates i, f and o."""
    return (
        sigmoid(_current(inputs, currents, bias, unit), one),
        sigmoid(_current(inputs, currents, bias, units + unit), one),
        sigmoid(_current(inputs, currents, bias, 3 * units + unit), one),
    )


def _lstm_step(layer: Any, time: Any, trajectory: Any) -> None:
    one = layer.bias.dtype.type(1)
    inputs, currents = layer.inputs[time, trajectory], layer.currents[time, trajectory]
    before, after = layer.states[time, trajectory], layer.states[time + 1, trajectory]
    coefficients, diagonal = layer.coefficients[time, trajectory], layer.diagonal[time, trajectory]
    units, bias = len(before) // 2, layer.bias
    for unit in range(units):
        second = units + unit
        (entry, _, entry_slope), (forget, _, forget_slope), (output, _, output_slope) = _lstm_gates(
            inputs, currents, bias, unit, units, one
        )
        candidate, candidate_slope = tanh(_current(inputs, currents, bias, 2 * units + unit), one)
        cell = before[second]
        new_cell = forget * cell + entry * candidate
        shown, shown_slope = tanh(new_cell, one)
        after[unit], after[second] = output * shown, new_cell
        out_of_cell = output * shown_slope
        to_cell = candidate * entry_slope, cell * forget_slope, entry * candidate_slope
        for gate in range(3):
            coefficients[0, gate, unit] = out_of_cell * to_cell[gate]
            coefficients[1, gate, unit] = to_cell[gate]
        coefficients[0, 3, unit], coefficients[1, 3, unit] = shown * output_slope, 0
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
        entry, no_entry, entry_slope = entries
        forget, no_forget, forget_slope = forgets
        output, no_output, output_slope = outputs
        candidate, candidate_slope = tanh(_current(inputs, currents, bias, 2 * units + unit), one)
        cell = before[second]
        shown, shown_slope = tanh(forget * cell + entry * candidate, one)
        out_of_cell = output * shown_slope
        # Of the three ways into the cell: g i', c f', i g'.
        of_first = of_coefficients[0, 0, unit] * out_of_cell + of_coefficients[1, 0, unit]
        of_second = of_coefficients[0, 1, unit] * out_of_cell + of_coefficients[1, 1, unit]
        of_third = of_coefficients[0, 2, unit] * out_of_cell + of_coefficients[1, 2, unit]
        of_output_gate = of_coefficients[0, 3, unit]
        of_out_of_cell = (
            of_coefficients[0, 0, unit] * (candidate * entry_slope)
            + of_coefficients[0, 1, unit] * (cell * forget_slope)
            + of_coefficients[0, 2, unit] * (entry * candidate_slope)
            + of_diagonal[0, 1, unit] * forget
        )
        of_shown = of_output_gate * output_slope + arriving[unit] * output
        of_new_cell = arriving[second] + shown_slope * (
            of_shown - (shown + shown) * of_out_of_cell * output
        )
        of_entry = of_third * candidate_slope + of_new_cell * candidate
        of_forget = of_diagonal[0, 1, unit] * out_of_cell + of_diagonal[1, 1, unit]
        of_forget += of_new_cell * cell
        of_candidate = of_first * entry_slope + of_new_cell * entry
        of_output = of_out_of_cell * shown_slope + arriving[unit] * shown
        passed = (
            entry_slope * (of_entry + of_first * candidate * (no_entry - entry)),
            forget_slope * (of_forget + of_second * cell * (no_forget - forget)),
            candidate_slope * (of_candidate - (candidate + candidate) * of_third * entry),
            output_slope * (of_output + of_output_gate * shown * (no_output - output)),
        )
        for gate in range(4):
            of_inputs[gate * units + unit] = passed[gate]
            of_currents[gate * units + unit] = passed[gate]
        direct[unit] = 0
        direct[second] = of_second * forget_slope + of_new_cell * forget


_STEPS: dict[Any, tuple[Any, Any]] = {
    TanhLayer: (_tanh_step, _tanh_step_back),
    ReluLayer: (_relu_step, _relu_step_back),
    GruLayer: (_gru_step, _gru_step_back),
    LstmLayer: (_lstm_step, _lstm_step_back),
}
