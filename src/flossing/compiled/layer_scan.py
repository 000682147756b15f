"""A stock layer through time, and backpropagation through it: h_t = f(h_{t-1}, x_t)."""

from typing import Any

from numba import prange

from flossing.compiled.cells import step, step_back
from flossing.compiled.compiler import part, serial_and_parallel
from flossing.compiled.products import multiply_packed
from flossing.compiled.tangents import share


def _run(layer: Any, threads: int) -> None:
    """Fill in the states after the first one, and the coefficients of every step."""
    steps, trajectories = layer.inputs.shape[:2]
    for thread in prange(threads):
        own = share(thread, threads, trajectories, 1)
        for time in range(steps):
            _multiply(layer.states[time], layer.panels, layer.currents[time], own)
            for trajectory in range(own.first, own.last):
                step(layer, time, trajectory)


def _run_back(
    layer: Any,
    gradient: Any,
    carried: Any,
    arriving: Any,
    through_weight: Any,
    cut: Any,
    start: int,
    window: int,
) -> None:
    """Fill in the gradient of inputs and currents, and that of the state before the first step.

    Args:
        layer: the layer, after its run, with W in place of Wᵀ.
        gradient: of what it left behind.
        carried: zeros [B, n]; afterwards the gradient of the first state.
        arriving: work space [threads, n].
        through_weight: work space [B, N], padded.
        cut: work space [B, m·N].
        start: the number of the first step.
        window: states before every `window`-th step count as constants for the states after it,
            though not for the coefficients of the step; 0 for never, −1 for constants always.
    """
    steps, trajectories = layer.inputs.shape[:2]
    threads = len(arriving)
    for thread in prange(threads):
        own = share(thread, threads, trajectories, 1)
        arrived = arriving[thread]
        for time in range(steps - 1, -1, -1):
            number = start + time
            _back(layer, gradient, time, own, carried, arrived, gradient.currents[time], False)
            if window < 0:
                _clear(carried, own)
            elif window > 0 and number > 0 and number % window == 0:
                # Once more for what reaches the coefficients alone: that passes the cut.
                _back(layer, gradient, time, own, carried, arrived, cut, True)
                _through_weight(layer, cut, own, through_weight, carried)
            else:
                _through_weight(layer, gradient.currents[time], own, through_weight, carried)


run, run_parallel = serial_and_parallel(_run)
run_back, run_back_parallel = serial_and_parallel(_run_back)


@part
def _multiply(rows: Any, panels: Any, products: Any, own: Any) -> None:
    start, stop = own.first, own.last
    multiply_packed(rows[start:stop], stop - start, panels, products[start:stop])


@part
def _back(
    layer: Any,
    gradient: Any,
    time: int,
    own: Any,
    carried: Any,
    arrived: Any,
    of_currents: Any,
    coefficients_only: bool,
) -> None:
    """Take one step back; `carried` is overwritten by what passes other than through W."""
    for trajectory in range(own.first, own.last):
        of_inputs = gradient.inputs[time, trajectory]
        for unit in range(len(arrived)):
            later = carried[trajectory, unit]
            arrived[unit] = later + gradient.states[time, trajectory, unit]
        if coefficients_only:
            of_inputs = of_currents[trajectory]
            for unit in range(len(arrived)):
                arrived[unit] = 0
        step_back(
            layer, gradient, time, trajectory, arrived,
            of_inputs, of_currents[trajectory], carried[trajectory],
        )  # fmt: skip


@part
def _through_weight(
    layer: Any, of_currents: Any, own: Any, through_weight: Any, carried: Any
) -> None:
    _multiply(of_currents, layer.panels, through_weight, own)
    for trajectory in range(own.first, own.last):
        for unit in range(layer.coefficients.shape[4]):
            carried[trajectory, unit] += through_weight[trajectory, unit]


@part
def _clear(carried: Any, own: Any) -> None:
    for trajectory in range(own.first, own.last):
        for unit in range(carried.shape[1]):
            carried[trajectory, unit] = 0
