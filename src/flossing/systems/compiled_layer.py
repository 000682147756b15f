"""A stock layer on the CPU: its states and Jacobians, differentiably, in compiled loops.

What a layer receives from its inputs is one matrix product. The steps themselves run in compiled
loops, and so does backpropagation through them: the gradient of the states and that of the
Jacobians' coefficients go back together, without a graph of every step.
"""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flossing.compiled.layer_interface import (
    LayerInputs,
    LayerOutputs,
    run_layer,
    run_layer_back,
)
from flossing.support.once import differentiable_once
from flossing.systems.gates import Kind, LayerWeights
from flossing.systems.tangent import GatedTangent, Gates

ALWAYS_CUT = -1
"""The window under which all states count as constants."""


class LayerRun(NamedTuple):
    """The states before the first step and after each one, and the Jacobians of the steps."""

    states: Float[Tensor, "T_plus_1 B n"]
    tangent: GatedTangent


def linearised_layer(
    kind: Kind,
    weights: LayerWeights,
    inputs: Float[Tensor, "T B D"],
    state: Float[Tensor, "B n"],
    start: int,
    window: int,
) -> LayerRun:
    """Run a layer without projection, and linearise it at every step.

    Args:
        kind: what kind of layer.
        weights: its weights.
        inputs: its inputs.
        state: its state before the first step.
        start: the number of that step.
        window: cut the graph through the states before every `window`-th step; 0 for never, and
            `ALWAYS_CUT` for a state that counts as a constant for its step's Jacobian too.
    """
    weight = weights.weight_hh
    bias = weight.new_zeros(len(weight)) if weights.bias_hh is None else weights.bias_hh
    currents = functional.linear(inputs, weights.weight_ih, weights.bias_ih)
    states, coefficients, diagonal = cast(
        tuple[Tensor, Tensor, Tensor],
        _Layer.apply(currents, weight, bias, state, kind, start, window),  # pyright: ignore[reportUnknownMemberType]
    )
    gates = Gates(weight, coefficients)
    return LayerRun(states, GatedTangent(gates, diagonal if diagonal.shape[2] else None))


class _Layer(torch.autograd.Function):
    """What the gates receive from the inputs, to states and coefficients."""

    @staticmethod
    def forward(
        ctx: Any,
        currents: Float[Tensor, "T B mN"],
        weight: Float[Tensor, "mN N"],
        bias: Float[Tensor, "mN"],
        state: Float[Tensor, "B n"],
        kind: Kind,
        start: int,
        window: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = LayerInputs(currents, weight, bias, state)
        outputs = run_layer(kind.compiled, given)
        ctx.save_for_backward(*given, *outputs)
        ctx.kind, ctx.start, ctx.window = kind, start, window
        return outputs[:3]

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        of_states: Float[Tensor, "T_plus_1 B n"],
        of_coefficients: Float[Tensor, "T B s m N"],
        of_diagonal: Float[Tensor, "T B a a N"],
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        given, outputs = LayerInputs(*saved[:4]), LayerOutputs(*saved[4:])
        cotangents = of_states, of_coefficients, of_diagonal
        gradients = differentiable_once(
            lambda: run_layer_back(
                ctx.kind.compiled, given, outputs, *cotangents, ctx.start, ctx.window
            ),
            (*given, *cotangents),
        )
        return *gradients, None, None, None
