"""The tangent map of any differentiable step, by automatic differentiation.

See docs/mathematics.md, Tangent maps of the layers.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import UnsupportedSystemError

RowStep = Callable[[Tensor | None, Tensor], Tensor]
"""One step of a recurrent map on independent rows: inputs [R, ...], states [R, n] -> [R, n]."""


LARGEST_JACOBIAN_STACK = 1 << 26
"""Largest number of elements in a stack of explicit Jacobians: 256 MiB in float32."""

# Number of state elements in one batch of rows while Jacobians are computed: 16 MiB in float32,
# of which the step's own graph takes a multiple.
ROW_ELEMENTS = 1 << 22

# Below this size a Jacobian is computed whatever the number of exponents: its products are so small
# that calling the step costs more than computing it.
_SMALL_STATE = 64


class CellTangent(NamedTuple):
    """The tangent map of any differentiable step, by reverse-mode differentiation alone.

    Jᵀ G is a vector-Jacobian product, and J V is two of them, one through the other. Forward-mode
    differentiation would take one pass, but needs a forward-mode formula of every operation, which
    many lack (custom autograd functions, some fused kernels), and it would pass over a surrogate
    gradient, which is defined as a backward pass: here that counts as the derivative.

    `push` and `pull` use explicit Jacobians where these fit in memory and are not much larger than
    the frames, and products one step at a time elsewhere; `push_all` never needs them.
    """

    step: RowStep
    inputs: Float[Tensor, "T B *features"] | None
    states: Float[Tensor, "T B n"]
    jacobians: Float[Tensor, "T B n n"] | None

    @classmethod
    def of(
        cls,
        step: RowStep,
        inputs: Float[Tensor, "T B *features"] | None,
        states: Float[Tensor, "T B n"],
        exponents: int,
    ) -> "CellTangent":
        """Return the tangent map, with explicit Jacobians where they cost less than products."""
        explicit = jacobians_pay(states.shape[-1], exponents) and (
            states.numel() * states.shape[-1] <= LARGEST_JACOBIAN_STACK
        )
        jacobians = _stack_jacobians(step, inputs, states) if explicit else None
        return cls(step, inputs, states, jacobians)

    def push(self, t: int, vectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_t V."""
        if self.jacobians is not None:
            return self.jacobians[t] @ vectors
        inputs, states = self._row_arguments(slice(t, t + 1), vectors.shape[-1])
        # The scans run without gradients, but the second product differentiates the first.
        with torch.enable_grad():
            rows = jacobian_vector(self.step, inputs, states, _to_rows(vectors))
        return _from_rows(rows.detach(), vectors)

    def pull(self, t: int, covectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_tᵀ G."""
        if self.jacobians is not None:
            return self.jacobians[t].mT @ covectors
        inputs, states = self._row_arguments(slice(t, t + 1), covectors.shape[-1])
        return _from_rows(
            vector_jacobian(self.step, inputs, states, _to_rows(covectors)), covectors
        )

    def push_all(self, vectors: Float[Tensor, "T B n k"]) -> Float[Tensor, "T B n k"]:
        """Return J_t V_{t-1} of every step, differentiably."""
        inputs, states = self._row_arguments(slice(None), vectors.shape[-1])
        return _from_rows(jacobian_vector(self.step, inputs, states, _to_rows(vectors)), vectors)

    def _row_arguments(self, steps: slice, copies: int) -> tuple[Tensor | None, Tensor]:
        inputs = None if self.inputs is None else self.inputs[steps]
        return _repeat_rows(inputs, self.states[steps], copies)


def jacobians_pay(size: int, exponents: int) -> bool:
    """Whether explicit Jacobians of a cell cost less than products taken one step at a time.

    A Jacobian takes `size` products, but those of all steps in one batch; the scans take one for
    each exponent, and for J V twice the passes, but step after step.
    """
    return size <= max(_SMALL_STATE, 4 * exponents)


def depends_on_state(step: RowStep, inputs: Tensor | None, states: Float[Tensor, "R n"]) -> bool:
    """Whether autograd finds a path from the states before a step to those after it."""
    with torch.enable_grad():
        states = states.detach().requires_grad_()
        images = step(inputs, states)
        pulled = gradient_of(images, states, torch.zeros_like(images), create_graph=False)
    return pulled is not None


def _stack_jacobians(
    step: RowStep, inputs: Float[Tensor, "T B *features"] | None, states: Float[Tensor, "T B n"]
) -> Float[Tensor, "T B n n"]:
    """Return all Jacobians, without a graph, for as many steps at a time as the rows allow."""
    steps, batch, size = states.shape
    identity = torch.eye(size, dtype=states.dtype, device=states.device)
    # Row i of J is e_iᵀ J: with every state repeated n times, copy i paired with basis vector e_i,
    # a single backward pass yields all rows of all Jacobians of a window of steps.
    window = max(1, ROW_ELEMENTS // (batch * size * size))
    windows: list[Tensor] = []
    for start in range(0, steps, window):
        part = slice(start, start + window)
        part_inputs = None if inputs is None else inputs[part].detach()
        row_inputs, rows = _repeat_rows(part_inputs, states[part].detach(), size)
        basis = identity.repeat(len(rows) // size, 1)
        pulled = vector_jacobian(step, row_inputs, rows, basis)
        windows.append(pulled.reshape(-1, batch, size, size))
    return torch.cat(windows)


def _repeat_rows(
    inputs: Float[Tensor, "T B *features"] | None, states: Float[Tensor, "T B n"], copies: int
) -> tuple[Tensor | None, Float[Tensor, "R n"]]:
    """Flatten time and batch into rows, each repeated `copies` times in succession."""
    # A vector-Jacobian product takes one cotangent for each output, but a state has n or k vectors:
    # so the step runs on as many copies of it. Rows are independent (`custom.probe` makes sure),
    # which keeps each copy's product its own. Unlike torch.vmap over cotangents this works for any
    # step, custom autograd functions without a batching rule included.
    rows = states.flatten(0, 1).repeat_interleave(copies, dim=0)
    if inputs is None:
        return None, rows
    return inputs.flatten(0, 1).repeat_interleave(copies, dim=0), rows


def vector_jacobian(
    step: RowStep, inputs: Tensor | None, states: Float[Tensor, "R n"], rows: Float[Tensor, "R n"]
) -> Float[Tensor, "R n"]:
    """Return gᵀ J for every row, without a graph."""
    with torch.enable_grad():
        # A leaf of its own, so that the backward pass ends at the states.
        states = states.detach().requires_grad_()
        pulled = gradient_of(step(inputs, states), states, rows, create_graph=False)
    return torch.zeros_like(rows) if pulled is None else pulled


def jacobian_vector(
    step: RowStep, inputs: Tensor | None, states: Float[Tensor, "R n"], rows: Float[Tensor, "R n"]
) -> Float[Tensor, "R n"]:
    """Return J v for every row, with a graph."""
    # The "double backward trick": u(g) = Jᵀ g is linear in g, so ∂u/∂g = Jᵀ whatever g is, and the
    # vector-Jacobian product of u with cotangent v is (Jᵀ)ᵀ v = J v. Both products keep their
    # graph, through which J v is differentiated with respect to states, inputs and parameters.
    if not states.requires_grad:
        states = states.detach().requires_grad_()
    # Zero is as good as any g; its value enters nothing.
    dummy = torch.zeros_like(rows, requires_grad=True)
    images = step(inputs, states)
    try:
        pulled = gradient_of(images, states, dummy, create_graph=True)
        if pulled is None:
            return torch.zeros_like(rows)
        pushed = gradient_of(pulled, dummy, rows, create_graph=True)
    except RuntimeError as error:
        if "torch.compile" in str(error):
            remedy = (
                "pass it as it was before torch.compile, or make this call inside "
                "`with torch.compiler.set_stance('force_eager'):`"
            )
        else:
            remedy = (
                "its exponents can be measured under torch.no_grad() with backend='reference', but "
                "not differentiated; replace that operation by a smooth one"
            )
        raise UnsupportedSystemError(
            f"the step cannot be differentiated twice: {error}. To go on, {remedy}"
        ) from error
    return torch.zeros_like(rows) if pushed is None else pushed


def gradient_of(
    outputs: Tensor, inputs: Tensor, cotangent: Tensor, *, create_graph: bool
) -> Tensor | None:
    """Return a vector-Jacobian product, or `None` if the outputs do not depend on the inputs."""
    # E.g. a step that returns a constant; autograd.grad itself would raise.
    if not outputs.requires_grad:
        return None
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        outputs, inputs, cotangent, create_graph=create_graph, allow_unused=True
    )
    return gradients[0]


def _to_rows(vectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "R n"]:
    return vectors.mT.flatten(0, -2)


def _from_rows(
    rows: Float[Tensor, "R n"], like: Float[Tensor, "*leading n k"]
) -> Float[Tensor, "*leading n k"]:
    return rows.reshape(like.mT.shape).mT
