"""The tangent map along a trajectory: V ↦ J_t V, G ↦ J_tᵀ G, and all steps at once.

A frame V [..., n, k] has one tangent vector in each column. In memory the columns are contiguous,
that is, `V.mT` is: then `functional.linear(V.mT, W)` is one matrix product for all columns of all
frames, without a copy.

Every tangent map is a named tuple of tensors, so that autograd can save, offload or recompute
them, and has three methods:

- `push(t, V)`: J_t V for V [B, n, k], for the forward scan;
- `pull(t, G)`: J_tᵀ G for G [B, n, k], for the adjoint scan;
- `push_all(V)`: J_t V_{t-1} of every step for V [T, B, n, k], differentiable with respect to
  everything that the Jacobians depend on. Its gradient is what the adjoint scan computes.

See docs/mathematics.md, Tangent maps of the layers.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flossing.errors import UnsupportedSystemError
from flossing.support.torch_typed import unflatten

RowStep = Callable[[Tensor | None, Tensor], Tensor]
"""One step of a recurrent map on independent rows: inputs [R, ...], states [R, n] -> [R, n]."""


LARGEST_JACOBIAN_STACK = 1 << 26
"""Largest number of elements in a stack of explicit Jacobians: 256 MiB in float32."""

# Number of state elements in one batch of rows while Jacobians are computed: 16 MiB in float32,
# of which the step's own graph takes a multiple.
_ROW_ELEMENTS = 1 << 22

# Below this size a Jacobian is computed whatever the number of exponents: its products are so small
# that calling the step costs more than computing it.
_SMALL_STATE = 64


@runtime_checkable
class TangentMap(Protocol):
    """The Jacobians of a trajectory as linear operators."""

    def push(self, t: int, vectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_t V."""
        ...

    def pull(self, t: int, covectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_tᵀ G."""
        ...

    def push_all(self, vectors: Float[Tensor, "T B n k"]) -> Float[Tensor, "T B n k"]:
        """Return J_t V_{t-1} of every step, differentiably."""
        ...


class DenseTangent(NamedTuple):
    """Explicit Jacobians."""

    jacobians: Float[Tensor, "T B n n"]

    def push(self, t: int, vectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_t V."""
        return self.jacobians[t] @ vectors

    def pull(self, t: int, covectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_tᵀ G."""
        return self.jacobians[t].mT @ covectors

    def push_all(self, vectors: Float[Tensor, "T B n k"]) -> Float[Tensor, "T B n k"]:
        """Return J_t V_{t-1} of every step, differentiably."""
        return self.jacobians @ vectors


class Gates(NamedTuple):
    """A matrix of diagonal blocks times a weight: the C W of J = A + C W.

    With s state blocks and m gates of N units each, C is s·N × m·N, its block (i, g) is
    diag(coefficients[i, g]), and W, `weight`, has m·N rows, gate after gate.
    """

    weight: Float[Tensor, "mN N_in"]
    coefficients: Float[Tensor, "*leading s m N"]

    def at(self, t: int) -> "Gates":
        """Return the gates of step t alone."""
        return Gates(self.weight, self.coefficients[t])

    def push(self, vectors: Float[Tensor, "*leading N_in k"]) -> Float[Tensor, "*leading n k"]:
        """Return C W V."""
        blocks, gates = self.coefficients.shape[-3:-1]
        # (C W V)[i, u] = Σ_g coefficients[i, g, u] (W V)[g, u] for block i, gate g, unit u: one
        # product with W, the same for all steps, then elementwise work. C W is never formed.
        if blocks == gates == 1:
            # A vanilla network: one product of tensors, without the axes of blocks and gates.
            return (functional.linear(vectors.mT, self.weight) * self.coefficients[..., 0, :]).mT
        currents = unflatten(functional.linear(vectors.mT, self.weight), -1, (gates, -1))
        return _mix(self.coefficients, currents).flatten(-2).mT

    def pull(self, covectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "*leading N_in k"]:
        """Return Wᵀ Cᵀ G."""
        blocks, gates = self.coefficients.shape[-3:-1]
        # The same in reverse order: (Cᵀ G)[g, u] = Σ_i coefficients[i, g, u] G[i, u], then Wᵀ.
        if blocks == gates == 1:
            return ((covectors.mT * self.coefficients[..., 0, :]) @ self.weight).mT
        rows = unflatten(covectors.mT, -1, (blocks, -1))
        currents = _mix(self.coefficients.transpose(-3, -2), rows)
        return (currents.flatten(-2) @ self.weight).mT


class GatedTangent(NamedTuple):
    """J_t = A_t + C_t W of one recurrent layer; W acts on the first state block, h, of N units.

    Block (i, j) of A is diag(diagonal[i, j]); `None` means A = 0.
    """

    recurrent: Gates
    diagonal: Float[Tensor, "*leading s s N"] | None

    def at(self, t: int) -> "GatedTangent":
        """Return the tangent map of step t alone."""
        return GatedTangent(
            self.recurrent.at(t), None if self.diagonal is None else self.diagonal[t]
        )

    def push(self, t: int, vectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_t V."""
        return self.at(t).push_all(vectors)

    def pull(self, t: int, covectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_tᵀ G."""
        return self.at(t).pull_all(covectors)

    def push_all(self, vectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "*leading n k"]:
        """Return J V for all leading dimensions at once, differentiably."""
        if self.diagonal is None:
            return self.recurrent.push(vectors)
        units = self.recurrent.weight.shape[-1]
        # J V = A V + C W V_h, where V_h are the rows of h; an LSTM's c does not pass through W.
        through_weight = self.recurrent.push(vectors[..., :units, :])
        blocks = unflatten(vectors.mT, -1, (-1, units))
        return through_weight + _mix(self.diagonal, blocks).flatten(-2).mT

    def pull_all(self, covectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "*leading n k"]:
        """Return Jᵀ G for all leading dimensions at once."""
        through_weight = self.recurrent.pull(covectors)
        if self.diagonal is None:
            return through_weight
        units = self.recurrent.weight.shape[-1]
        # Jᵀ G = Aᵀ G + Wᵀ Cᵀ G, the second term in the rows of h alone. Added in place: covectors
        # are pulled back without a graph.
        blocks = unflatten(covectors.mT, -1, (-1, units))
        result = _mix(self.diagonal.transpose(-3, -2), blocks).flatten(-2).mT
        result[..., :units, :] += through_weight
        return result


class StackedTangent(NamedTuple):
    r"""A stack of layers, whose Jacobian is block lower triangular.

    The state is layer after layer. At step t layer l is driven by the new output of layer l−1,

        h^l_t = f_l(h^l_{t-1}, h^{l-1}_t),    so    dh^l_t = J^l dh^l_{t-1} + K^l dh^{l-1}_t

    with J^l of `layers[l]` and the derivative with respect to the input K^l = C_x W_ih, of
    `couplings[l − 1]`, which acts on the first state block of layer l−1.
    """

    layers: tuple[GatedTangent, ...]
    couplings: tuple[Gates, ...]

    def push(self, t: int, vectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_t V."""
        return self._at(t).push_all(vectors)

    def pull(self, t: int, covectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_tᵀ G."""
        return self._at(t)._pull_all(covectors)

    def push_all(self, vectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "*leading n k"]:
        """Return J V for all leading dimensions at once, differentiably."""
        own = vectors.chunk(len(self.layers), dim=-2)
        # U^0 = J^0 V^0, U^l = J^l V^l + K^l U^{l-1}, from the bottom up: forward substitution, in
        # place of the blocks K^l J^{l-1}, K^l K^{l-1} J^{l-2}, … below the diagonal.
        pushed = [self.layers[0].push_all(own[0])]
        for layer, coupling, block in zip(self.layers[1:], self.couplings, own[1:], strict=True):
            from_below = pushed[-1][..., : coupling.weight.shape[-1], :]
            pushed.append(layer.push_all(block) + coupling.push(from_below))
        # Joined along the last dimension of the transposes, which keeps columns contiguous.
        return torch.cat([block.mT for block in pushed], dim=-1).mT

    def _at(self, t: int) -> "StackedTangent":
        return StackedTangent(
            tuple(layer.at(t) for layer in self.layers),
            tuple(coupling.at(t) for coupling in self.couplings),
        )

    def _pull_all(self, covectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "*leading n k"]:
        own = list(covectors.chunk(len(self.layers), dim=-2))
        pulled: list[Tensor] = []
        # The transpose, from the top down: G^{l-1} ← G^{l-1} + K^lᵀ G^l, then J^{l-1}ᵀ G^{l-1}.
        for index in reversed(range(len(self.layers))):
            pulled.append(self.layers[index].pull_all(own[index]))
            if index:
                coupling = self.couplings[index - 1]
                # A copy: the chunks are views of the caller's covectors.
                below = own[index - 1].clone()
                below[..., : coupling.weight.shape[-1], :] += coupling.pull(own[index])
                own[index - 1] = below
        return torch.cat([block.mT for block in reversed(pulled)], dim=-1).mT


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
            rows = _jacobian_vector(self.step, inputs, states, _to_rows(vectors))
        return _from_rows(rows.detach(), vectors)

    def pull(self, t: int, covectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        """Return J_tᵀ G."""
        if self.jacobians is not None:
            return self.jacobians[t].mT @ covectors
        inputs, states = self._row_arguments(slice(t, t + 1), covectors.shape[-1])
        return _from_rows(
            _vector_jacobian(self.step, inputs, states, _to_rows(covectors)), covectors
        )

    def push_all(self, vectors: Float[Tensor, "T B n k"]) -> Float[Tensor, "T B n k"]:
        """Return J_t V_{t-1} of every step, differentiably."""
        inputs, states = self._row_arguments(slice(None), vectors.shape[-1])
        return _from_rows(_jacobian_vector(self.step, inputs, states, _to_rows(vectors)), vectors)

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
        pulled = _gradient(images, states, torch.zeros_like(images), create_graph=False)
    return pulled is not None


def _stack_jacobians(
    step: RowStep, inputs: Float[Tensor, "T B *features"] | None, states: Float[Tensor, "T B n"]
) -> Float[Tensor, "T B n n"]:
    """Return all Jacobians, without a graph, for as many steps at a time as the rows allow."""
    steps, batch, size = states.shape
    identity = torch.eye(size, dtype=states.dtype, device=states.device)
    # Row i of J is e_iᵀ J: with every state repeated n times, copy i paired with basis vector e_i,
    # a single backward pass yields all rows of all Jacobians of a window of steps.
    window = max(1, _ROW_ELEMENTS // (batch * size * size))
    windows: list[Tensor] = []
    for start in range(0, steps, window):
        part = slice(start, start + window)
        part_inputs = None if inputs is None else inputs[part].detach()
        row_inputs, rows = _repeat_rows(part_inputs, states[part].detach(), size)
        basis = identity.repeat(len(rows) // size, 1)
        pulled = _vector_jacobian(step, row_inputs, rows, basis)
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


def _vector_jacobian(
    step: RowStep, inputs: Tensor | None, states: Float[Tensor, "R n"], rows: Float[Tensor, "R n"]
) -> Float[Tensor, "R n"]:
    """Return gᵀ J for every row, without a graph."""
    with torch.enable_grad():
        # A leaf of its own, so that the backward pass ends at the states.
        states = states.detach().requires_grad_()
        pulled = _gradient(step(inputs, states), states, rows, create_graph=False)
    return torch.zeros_like(rows) if pulled is None else pulled


def _jacobian_vector(
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
    pulled = _gradient(step(inputs, states), states, dummy, create_graph=True)
    if pulled is None:
        return torch.zeros_like(rows)
    try:
        pushed = _gradient(pulled, dummy, rows, create_graph=True)
    except RuntimeError as error:
        raise UnsupportedSystemError(
            f"the step cannot be differentiated twice: {error}. Its exponents can be measured "
            "under torch.no_grad() with backend='reference', but not differentiated; replace that "
            "operation by a smooth one"
        ) from error
    return torch.zeros_like(rows) if pushed is None else pushed


def _gradient(
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


def _mix(
    coefficients: Float[Tensor, "*leading rows columns N"],
    parts: Float[Tensor, "*leading k columns N"],
) -> Float[Tensor, "*leading k rows N"]:
    """Multiply each vector by a matrix of diagonal blocks, summing over the columns of blocks."""
    if coefficients.shape[-2] == 1:
        # One block in each row, as in Cᵀ and A of a GRU: nothing to sum.
        return coefficients.squeeze(-2).unsqueeze(-3) * parts
    return (coefficients.unsqueeze(-4) * parts.unsqueeze(-3)).sum(-2)
