"""A stock layer on the CPU: its states and Jacobians, differentiably, in compiled loops.

The product of the inputs with W_ih is one matrix product for all steps. The steps themselves run in
compiled loops, and so does backpropagation through them: the gradients of the states and of the
Jacobians' coefficients C_t, A_t go back together, without an autograd graph of every step. See
docs/mathematics.md, Gradients of gated maps.
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
from flossing.systems.gates import RELU, Kind, LayerWeights
from flossing.systems.tangent import GatedTangent, Gates

# What `linearised_layer` takes as `window` for the options "full" and "detach".
NEVER_CUT = 0
ALWAYS_CUT = -1


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
        kind: the kind of layer.
        weights: its weights.
        inputs: its inputs.
        state: its state before the first step.
        start: the number of that step in the whole run, which decides where the windows begin.
        window: the graph through the states is cut before every `window`-th step: the state there
            is a constant for the states after it, though not for the Jacobian of the step. Or
            `NEVER_CUT`; or `ALWAYS_CUT`, where states are constants for the Jacobians as well.
    """
    weight = weights.weight_hh
    # The loops always add b_hh. It is not merged with b_ih: in a GRU's new gate the reset gate
    # multiplies b_hh alone. A module without biases has neither; zeros cost no branch.
    bias = weight.new_zeros(len(weight)) if weights.bias_hh is None else weights.bias_hh
    currents = functional.linear(inputs, weights.weight_ih, weights.bias_ih)
    states, coefficients, diagonal = cast(
        tuple[Tensor, Tensor, Tensor],
        _Layer.apply(currents, weight, bias, state, kind, start, window),  # pyright: ignore[reportUnknownMemberType]
    )
    gates = Gates(weight, coefficients)
    # The loops return arrays only: A = 0 comes as an array without blocks.
    return LayerRun(states, GatedTangent(gates, diagonal if diagonal.shape[2] else None))


class _Layer(torch.autograd.Function):
    """From a = W_ih x + b_ih, W_hh, b_hh and the first state to all states, C_t and A_t."""

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
        # The fourth output, W_hh h of every step, is kept for the backward pass but not returned:
        # together with the states it saves that pass a product with W_hh at every step.
        ctx.save_for_backward(*given, *outputs)
        ctx.kind, ctx.start, ctx.window = kind, start, window
        if kind is RELU:
            # Slopes of 0 and 1, constants: no backward pass for them.
            ctx.mark_non_differentiable(outputs.coefficients)
        return outputs[:3]

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        of_states: Float[Tensor, "T_plus_1 B n"],
        of_coefficients: Float[Tensor, "T B s m N"],
        of_diagonal: Float[Tensor, "T B a a N"],
    ) -> tuple[Tensor | None, ...]:
        # Two gradients arrive at a state: backpropagation through time, and that of the Jacobians
        # J_t = A_t + C_t W, whose coefficients are functions of the state (they bring in second
        # derivatives of the squashing functions, e.g. tanh'' = −2 tanh tanh'). Both pass the same
        # pre-activations, so one loop from the last step to the first takes them back together.
        # As second derivatives are in here already, a derivative of this pass is refused: it would
        # take third ones.
        saved = ctx.saved_tensors
        given, outputs = LayerInputs(*saved[:4]), LayerOutputs(*saved[4:])
        cotangents = of_states, of_coefficients, of_diagonal
        gradients = differentiable_once(
            lambda: run_layer_back(
                ctx.kind.compiled, given, outputs, *cotangents, ctx.start, ctx.window
            ),
            (*given, *cotangents),
        )
        # No gradient for `kind`, `start` and `window`.
        return *gradients, None, None, None
