"""A stock layer through time, h_t = f(h_{t-1}, x_t), and backpropagation through it.

See docs/mathematics.md, State adjoints.
"""

from typing import Any

from numba import prange

from flossing.compiled.cells import step, step_back
from flossing.compiled.compiler import inlined, serial_and_parallel
from flossing.compiled.products import multiply_packed
from flossing.compiled.tangents import share


def _run(layer: Any, threads: int, first: int, last: int) -> None:
    """Fill in the states after steps from `first` to before `last`, and their coefficients."""
    # Trajectories are independent: a thread takes some of them through all steps, without barriers.
    # A trajectory is one row, the share of a batch with one vector each.
    trajectories = layer.inputs.shape[1]
    for thread in prange(threads):
        own = share(thread, threads, trajectories, 1)
        for time in range(first, last):
            # q = W h for all of its trajectories at once, then the step unit by unit.
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
    first: int,
    last: int,
) -> None:
    """Fill in the gradients of inputs and currents, and that of the state before these steps.

    Args:
        layer: the layer, after its run, with W in place of Wᵀ.
        gradient: ∂L/∂ of what the run filled in, and room for ∂L/∂a and ∂L/∂q.
        carried: the gradient of the state after these steps as far as later steps send it, zeros
            [B, n] at first; afterwards that of the state before them.
        arriving: work space [threads, n].
        through_weight: work space [B, N], padded.
        cut: work space [B, m·N].
        start: the number of the first step.
        window: states before every `window`-th step count as constants for the states after it,
            though not for the coefficients of the step; 0 for never, −1 for constants always.
        first: the first of the steps to go back through.
        last: the step after the last of them.
    """
    trajectories = layer.inputs.shape[1]
    threads = len(arriving)
    # With carried = what the steps after t send back to h_t, from the last step to the first:
    #   arriving = carried + ∂L/∂h_t
    #   (∂L/∂a, ∂L/∂q, direct) = the step's adjoint of (arriving, ∂L/∂C, ∂L/∂A)
    #   carried = Wᵀ ∂L/∂q + direct,
    # for h_{t-1} reaches the step as q = W h_{t-1} + b, and directly.
    for thread in prange(threads):
        own = share(thread, threads, trajectories, 1)
        arrived = arriving[thread]
        for time in range(last - 1, first - 1, -1):
            number = start + time
            _back(layer, gradient, time, own, carried, arrived, gradient.currents[time], False)
            if window < 0:
                _clear(carried, own)
            elif window > 0 and number > 0 and number % window == 0:
                # Only what comes through h_t stops here: the coefficients of step t still depend on
                # h_{t-1}. The adjoint is linear in (arriving, ∂L/∂C, ∂L/∂A), so what they send back
                # is a second call with arriving = 0. Of its ∂L/∂q only Wᵀ ∂L/∂q goes on: the first
                # call has added all there is to the gradients of a and q.
                _back(layer, gradient, time, own, carried, arrived, cut, True)
                _through_weight(layer, cut, own, through_weight, carried)
            else:
                _through_weight(layer, gradient.currents[time], own, through_weight, carried)


run, run_parallel = serial_and_parallel(_run)
run_back, run_back_parallel = serial_and_parallel(_run_back)


@inlined
def _multiply(rows: Any, panels: Any, products: Any, own: Any) -> None:
    start, stop = own.first, own.last
    multiply_packed(rows[start:stop], stop - start, panels, products[start:stop])


@inlined
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
            # Into work space, so that ∂L/∂a is kept.
            of_inputs = of_currents[trajectory]
            for unit in range(len(arrived)):
                arrived[unit] = 0
        step_back(
            layer, gradient, time, trajectory, arrived,
            of_inputs, of_currents[trajectory], carried[trajectory],
        )  # fmt: skip


@inlined
def _through_weight(
    layer: Any, of_currents: Any, own: Any, through_weight: Any, carried: Any
) -> None:
    # As rows, (∂L/∂q) W; it belongs to h, the first N entries of the state.
    _multiply(of_currents, layer.panels, through_weight, own)
    for trajectory in range(own.first, own.last):
        for unit in range(layer.coefficients.shape[4]):
            carried[trajectory, unit] += through_weight[trajectory, unit]


@inlined
def _clear(carried: Any, own: Any) -> None:
    for trajectory in range(own.first, own.last):
        for unit in range(carried.shape[1]):
            carried[trajectory, unit] = 0
