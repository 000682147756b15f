"""The compiled layers with tensors as arguments and results."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flossing.compiled.cells import Gradient, GruLayer, Layer, LstmLayer
from flossing.compiled.compiler import (
    in_threads,
    link,
    numpy_dtype,
    packed,
    padded,
    threads_for,
    windows,
)
from flossing.compiled.layer_scan import run, run_back, run_back_parallel, run_parallel


class LayerInputs(NamedTuple):
    """What a layer takes, as tensors.

    Attributes:
        currents: W_ih x + b_ih.
        weight: W.
        bias: b_hh.
        state: the state before the first step.
    """

    currents: Float[Tensor, "T B mN"]
    weight: Float[Tensor, "mN N"]
    bias: Float[Tensor, "mN"]
    state: Float[Tensor, "B n"]


class LayerOutputs(NamedTuple):
    """What a layer's run fills in, as tensors; see `flossing.compiled.cells.Layer`.

    Attributes:
        states: before the first step and after each one.
        coefficients: C of every step.
        diagonal: A of every step, without entries where A = 0.
        from_state: W h of every step, padded.
    """

    states: Float[Tensor, "T_plus_1 B n"]
    coefficients: Float[Tensor, "T B s m N"]
    diagonal: Float[Tensor, "T B a a N"]
    from_state: Float[Tensor, "T B columns"]


class LayerGradients(NamedTuple):
    """The gradients of `LayerInputs`."""

    currents: Float[Tensor, "T B mN"]
    weight: Float[Tensor, "mN N"]
    bias: Float[Tensor, "mN"]
    state: Float[Tensor, "B n"]


def run_layer(kind: type[Layer], given: LayerInputs) -> LayerOutputs:
    """Run a layer of some kind."""
    steps, batch, outputs = given.currents.shape
    units = given.weight.shape[1]
    blocks = 2 if kind is LstmLayer else 1
    # A is zero for the others, which is told by arrays without entries: loops over them are empty,
    # and no layer needs code of its own.
    diagonal = blocks if kind in (LstmLayer, GruLayer) else 0
    new = given.currents.new_empty
    dtype = numpy_dtype(given.currents)
    result = LayerOutputs(
        new(steps + 1, batch, blocks * units),
        new(steps, batch, blocks, outputs // units, units),
        new(steps, batch, diagonal, diagonal, units),
        new(steps, batch, padded(outputs, dtype)),
    )
    result.states[0] = given.state
    link(dtype)
    # One step multiplies B rows by W.
    work = batch * given.weight.numel()
    threads = threads_for(batch, work)
    scan = run if threads == 1 else run_parallel
    layer = _layer(kind, given, result, given.weight.mT)
    # In several calls, for only between two of them is an interrupt heard.
    for first, last in windows(steps, work + batch * given.weight.shape[0]):
        in_threads(threads, scan, layer, threads, first, last)
    return result


def run_layer_back(
    kind: type[Layer],
    given: LayerInputs,
    done: LayerOutputs,
    of_states: Float[Tensor, "T_plus_1 B n"],
    of_coefficients: Float[Tensor, "T B s m N"],
    of_diagonal: Float[Tensor, "T B a a N"],
    start: int,
    window: int,
) -> LayerGradients:
    """Backpropagate through a layer and the coefficients of its Jacobians.

    Args:
        kind: the kind of the layer.
        given: what its run took.
        done: what its run filled in.
        of_states: ∂L/∂h of all states, as far as L depends on them directly.
        of_coefficients: ∂L/∂C.
        of_diagonal: ∂L/∂A.
        start: the number of the first step, from which windows are counted.
        window: steps after which the gradient through the states is cut; 0 for never, −1 for
            always.
    """
    steps, batch = given.currents.shape[:2]
    outputs, units = given.weight.shape
    dtype = numpy_dtype(given.currents)
    of_inputs = torch.empty_like(given.currents, memory_format=torch.contiguous_format)
    # A GRU multiplies q_n by the reset gate, so ∂L/∂a and ∂L/∂q differ; elsewhere a and q are only
    # ever added, and one array serves for both.
    of_currents = torch.empty_like(of_inputs) if kind is GruLayer else of_inputs
    carried = torch.zeros_like(given.state, memory_format=torch.contiguous_format)
    gradient = Gradient(
        of_states[1:].contiguous().numpy(),
        of_coefficients.contiguous().numpy(),
        of_diagonal.contiguous().numpy(),
        of_inputs.numpy(),
        of_currents.numpy(),
    )
    work = batch * given.weight.numel()
    threads = threads_for(batch, work)
    arguments = (
        _layer(kind, given, done, given.weight),
        gradient,
        carried.numpy(),
        np.empty((threads, given.state.shape[1]), dtype),
        np.empty((batch, padded(units, dtype)), dtype),
        np.empty((batch, outputs), dtype),
        start,
        window,
    )
    scan = run_back if threads == 1 else run_back_parallel
    for first, last in reversed(windows(steps, work + batch * outputs)):
        in_threads(threads, scan, *arguments, first, last)
    # With q = W h + b: ∂L/∂W = Σ q̄ hᵀ and ∂L/∂b = Σ q̄, over all steps and trajectories. One large
    # product after the scan, for BLAS, instead of a small one in every step. W takes h, the first
    # N entries of a state.
    rows = of_currents.flatten(0, 1)
    before = done.states[:-1, :, :units].flatten(0, 1)
    return LayerGradients(of_inputs, rows.mT @ before, rows.sum(0), carried + of_states[0])


# Numba distinguishes arrays by their layout and by whether they can be written to. Contiguous
# copies where needed, and no gradients, make them all of one type, for which the code is compiled.


def _layer(kind: type[Layer], given: LayerInputs, done: LayerOutputs, weight: Tensor) -> Any:
    return kind(
        given.currents.detach().contiguous().numpy(),
        given.bias.detach().contiguous().numpy(),
        packed(weight),
        done.from_state.numpy(),
        done.states.numpy(),
        done.coefficients.numpy(),
        done.diagonal.numpy(),
    )
