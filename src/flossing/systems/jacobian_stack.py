"""A given stack of Jacobians in place of a system: a tangent map without a trajectory."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import InvalidInputError
from flossing.support.checks import require_tensor
from flossing.systems.recurrence import DrivenMap
from flossing.systems.tangent import DenseTangent
from flossing.systems.wrapped import require_no_transform


class JacobianStack:
    """The recurrence whose inputs are its Jacobians, and whose state is empty.

    So `log_growth_rates(jacobians)` is measured by the same code as a system.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    @property
    def state_size(self) -> int:
        """Length of the state: 0."""
        # Not n: nothing is advanced, stored or cut. The frame takes its size from `tangent_slice`.
        return 0

    @property
    def tangent_slice(self) -> slice:
        """All directions, [0, n)."""
        return slice(0, self._size)

    def elements_per_step(self, exponents: int) -> int:
        """Return roughly how many elements a scan holds for a step of one trajectory."""
        # The Jacobians themselves exist already; what is added is a frame.
        return self._size * exponents

    def requires_grad(self, inputs: Any, state: Tensor) -> bool:  # noqa: ARG002
        """Whether the Jacobians require gradients."""
        return inputs.requires_grad

    def unpack(self, state: Tensor, *, batched: bool) -> None:
        """Return `None`: there is no state."""

    def step(self, inputs: Any, state: Float[Tensor, "R n"]) -> Float[Tensor, "R n"]:  # noqa: ARG002
        """Return the empty state."""
        return state

    def advance(
        self,
        inputs: Any,  # noqa: ARG002
        state: Float[Tensor, "B n"],
        steps: int,
    ) -> Float[Tensor, "T B n"]:
        """Return empty states."""
        return state.new_empty(steps, *state.shape)

    def tangent(self, inputs: Any, states: Tensor, exponents: int) -> DenseTangent:  # noqa: ARG002
        """Return the Jacobians as a tangent map."""
        return DenseTangent(inputs)


def jacobian_map(jacobians: Float[Tensor, "T *B n n"]) -> DrivenMap:
    """Check a stack of Jacobians and convert it to a driven map.

    Raises:
        InvalidInputError: the stack is empty, not square, not floating point or not finite.
    """
    require_tensor("jacobians", jacobians, InvalidInputError)
    require_no_transform()
    shape = tuple(jacobians.shape)
    if jacobians.dim() not in (3, 4) or shape[-1] != shape[-2] or 0 in shape:
        raise InvalidInputError(
            f"jacobians must have the shape (steps, batch, n, n) or (steps, n, n), not {shape}"
        )
    if jacobians.is_meta:
        raise InvalidInputError("jacobians are on the meta device, so they have no values")
    if jacobians.is_complex():
        raise InvalidInputError(
            f"jacobians must be real, not {jacobians.dtype}: pass those of the real and imaginary "
            "parts, [[Re J, −Im J], [Im J, Re J]], whose exponents are those of J twice"
        )
    if not jacobians.is_floating_point():
        raise InvalidInputError(
            f"jacobians must be floating point, not {jacobians.dtype}: convert them with .float()"
        )
    if not bool(torch.isfinite(jacobians).all()):
        raise InvalidInputError("jacobians contain infinite or NaN values")
    # PyTorch has no QR in half precision, and it would be of little use: between two boundaries a
    # frame can spread by about log(1/eps), 16 nats in float32 but 5 in bfloat16.
    if jacobians.dtype in (torch.float16, torch.bfloat16):
        jacobians = jacobians.float()
    batched = jacobians.dim() == 4
    if not batched:
        jacobians = jacobians.unsqueeze(1)
    # All trajectories have all steps: only a PackedSequence brings lengths.
    steps, batch, size, _ = jacobians.shape
    empty = jacobians.new_empty(batch, 0)
    return DrivenMap(JacobianStack(size), jacobians, empty, steps, (steps,) * batch, batched)
