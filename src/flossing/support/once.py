"""Gradients that refuse to be differentiated again.

`torch.autograd.function.once_differentiable` raises only if the second backward pass reaches its
node. A pass towards given inputs, as of `torch.autograd.grad`, does not: that node has no edges to
them, so the engine prunes it and returns the remaining terms as if they were the whole derivative.
The node made here has edges to all inputs of the first function, so no pass goes round it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from flossing.errors import UnsupportedDerivativeError

Gradients = TypeVar("Gradients", bound=Sequence[Tensor | None])


def differentiable_once(
    gradients: Callable[[], Gradients], inputs: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Return what a backward pass computes, without a graph that could be followed.

    Args:
        gradients: computes the gradients of a function's inputs; called without gradient mode.
        inputs: all that they depend on and that may itself have a graph: the function's inputs,
            and the gradients of its outputs.
    """
    with torch.no_grad():
        results = gradients()
    # In a backward pass gradient mode is on exactly if a graph is asked for (create_graph=True).
    linked = [each for each in inputs if each is not None and each.requires_grad]
    if not (torch.is_grad_enabled() and linked):
        return tuple(results)
    return tuple(
        None if each is None else cast(Tensor, cast(Any, _Refusal).apply(each, *linked))
        for each in results
    )


class _Refusal(torch.autograd.Function):
    """The identity of a gradient, with edges to all that it depends on."""

    @staticmethod
    def forward(_: Any, gradient: Tensor, *linked: Tensor) -> Tensor:  # noqa: ARG004
        return gradient.view_as(gradient)

    @staticmethod
    def backward(*_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise UnsupportedDerivativeError(
            "second derivatives of exponents (create_graph=True, Hessians, Hessian-vector and "
            "Jacobian-vector products by automatic differentiation) need backend='reference', "
            "which differentiates through every factorisation and is slower"
        )
