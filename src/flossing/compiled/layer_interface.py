"""From tensors to the compiled layers and back."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flossing.compiled.cells import Gradient, GruLayer, Layer, LstmLayer
from flossing.compiled.compiler import in_threads, link, numpy_dtype, packed, padded, threads_for
from flossing.compiled.layer_scan import run, run_back, run_back_parallel, run_parallel


class LayerInputs(NamedTuple):
    """What a layer is made of, as tensors.

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
    """What a layer leaves behind, as tensors; see `flossing.compiled.cells.Layer`.

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
    """∂L/∂ of `LayerInputs`."""

    currents: Float[Tensor, "T B mN"]
    weight: Float[Tensor, "mN N"]
    bias: Float[Tensor, "mN"]
    state: Float[Tensor, "B n"]


def run_layer(kind: type[Layer], given: LayerInputs) -> LayerOutputs:
    """Run a layer.

    Args:
        kind: what kind of layer.
        given: what it is made of.
    """
    steps, batch, outputs = given.currents.shape
    units = given.weight.shape[1]
    blocks = 2 if kind is LstmLayer else 1
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
    threads = threads_for(batch, batch * given.weight.numel())
    scan = run if threads == 1 else run_parallel
    in_threads(threads, scan, _layer(kind, given, result, given.weight.mT), threads)
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
        kind: what kind of layer.
        given: what it is made of.
        done: what it left behind.
        of_states: ∂L/∂h of all states, as far as L depends on them directly.
        of_coefficients: ∂L/∂C.
        of_diagonal: ∂L/∂A.
        start: the number of the first step.
        window: see `flossing.compiled.layer_scan`.
    """
    batch = given.currents.shape[1]
    outputs, units = given.weight.shape
    dtype = numpy_dtype(given.currents)
    of_inputs = torch.empty_like(given.currents, memory_format=torch.contiguous_format)
    of_currents = torch.empty_like(of_inputs) if kind is GruLayer else of_inputs
    carried = torch.zeros_like(given.state, memory_format=torch.contiguous_format)
    gradient = Gradient(
        of_states[1:].contiguous().numpy(),
        of_coefficients.contiguous().numpy(),
        of_diagonal.contiguous().numpy(),
        of_inputs.numpy(),
        of_currents.numpy(),
    )
    threads = threads_for(batch, batch * given.weight.numel())
    in_threads(
        threads,
        run_back if threads == 1 else run_back_parallel,
        _layer(kind, given, done, given.weight),
        gradient,
        carried.numpy(),
        np.empty((threads, given.state.shape[1]), dtype),
        np.empty((batch, padded(units, dtype)), dtype),
        np.empty((batch, outputs), dtype),
        start,
        window,
    )
    rows = of_currents.flatten(0, 1)
    before = done.states[:-1, :, :units].flatten(0, 1)
    return LayerGradients(of_inputs, rows.mT @ before, rows.sum(0), carried + of_states[0])


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
