"""States of a stock layer as a differentiable function of its inputs, weights and first state.

The layer runs without a graph. All its steps are then computed once more, in one batch, each from
the constant state before it: what a state depends on directly. What reaches a state through later
ones obeys the recursion of the tangent map, δ_t = g_t + J_{t+1}ᵀ δ_{t+1}. Together that is
backpropagation through time, exactly, without a graph of every step.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from flossing.gates import Kind, LayerWeights
from flossing.scan.compiled import drive
from flossing.scan.compiled.drive import GatedTensors
from flossing.typed import unflatten


def layer_states(
    kind: Kind,
    weights: LayerWeights,
    inputs: Float[Tensor, "T B D"],
    state: Float[Tensor, "B n"],
    start: int,
    window: int,
) -> Float[Tensor, "T B n"]:
    """Return the states of a layer without projection after every step, differentiably.

    Args:
        kind: what kind of layer.
        weights: its weights.
        inputs: its inputs.
        state: its state before the first step.
        start: the number of that step.
        window: cut the graph through the states before every `window`-th step; 0 for never.
    """
    with torch.no_grad():
        states = kind.run(inputs, state, weights)
        before = torch.cat([state.unsqueeze(0), states[:-1]])
    rows = before.flatten(0, 1)
    images = kind.run(inputs.flatten(0, 1).unsqueeze(0), rows, weights)
    images = unflatten(images.squeeze(0), 0, states.shape[:2])
    return _States.apply(images, state, states, before, inputs, kind, weights, start, window)  # pyright: ignore


class _States(torch.autograd.Function):
    """The images of constant states, and the first state, to the states themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Float[Tensor, "T B n"],  # noqa: ARG004 - carries the gradient
        state: Float[Tensor, "B n"],  # noqa: ARG004 - carries the gradient
        states: Float[Tensor, "T B n"],
        before: Float[Tensor, "T B n"],
        inputs: Float[Tensor, "T B D"],
        kind: Kind,
        weights: LayerWeights,
        start: int,
        window: int,
    ) -> Tensor:
        ctx.save_for_backward(before, inputs, *weights.present())
        ctx.kind, ctx.start, ctx.window = kind, start, window
        return states

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, covectors: Float[Tensor, "T B n"]
    ) -> tuple[Tensor | None, ...]:
        before, inputs, *present = ctx.saved_tensors
        weights = LayerWeights(*present, *([None] * (5 - len(present))))
        coefficients = ctx.kind.coefficients(inputs, before, weights)
        tangent = GatedTensors(weights.weight_hh, coefficients.recurrent, coefficients.diagonal)
        covectors, carried = drive.states_adjoint(tangent, covectors, ctx.start, ctx.window)
        return covectors, carried, *(None,) * 7
