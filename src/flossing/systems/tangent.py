"""The tangent map along a trajectory: V ↦ J_t V, G ↦ J_tᵀ G, and all steps at once.

Frames are [..., n, k] everywhere, one tangent vector a column. In memory the columns are
contiguous, so that one product with a weight serves all columns of all frames.

Every tangent map is a named tuple of tensors, so that autograd can keep, offload or recompute
them, and offers

- `push(t, V)`: J_t V for V [B, n, k];
- `pull(t, G)`: J_tᵀ G for G [B, n, k];
- `push_all(V)`: J_t V_{t-1} of every step for V [T, B, n, k], differentiable with respect to
  everything that the Jacobians depend on.
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
"""Numbers in the largest stack of explicit Jacobians that is built: 256 MiB in float32."""

_ROW_ELEMENTS = 1 << 22


@runtime_checkable
class TangentMap(Protocol):
    """The Jacobians of a trajectory, known by what they do to vectors."""

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
    """Blocks of diagonals in front of a weight: the matrix C W of J = A + C W.

    With s state blocks and m gates of N units each, block (i, g) of C is diag(coefficients[i, g]),
    and the weight has m·N rows.
    """

    weight: Float[Tensor, "mN N_in"]
    coefficients: Float[Tensor, "*leading s m N"]

    def at(self, t: int) -> "Gates":
        """Return the gates of step t alone."""
        return Gates(self.weight, self.coefficients[t])

    def push(self, vectors: Float[Tensor, "*leading N_in k"]) -> Float[Tensor, "*leading n k"]:
        """Return C W V."""
        blocks, gates = self.coefficients.shape[-3:-1]
        if blocks == gates == 1:
            return (functional.linear(vectors.mT, self.weight) * self.coefficients[..., 0, :]).mT
        currents = unflatten(functional.linear(vectors.mT, self.weight), -1, (gates, -1))
        return _mix(self.coefficients, currents).flatten(-2).mT

    def pull(self, covectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "*leading N_in k"]:
        """Return Wᵀ Cᵀ G."""
        blocks, gates = self.coefficients.shape[-3:-1]
        if blocks == gates == 1:
            return ((covectors.mT * self.coefficients[..., 0, :]) @ self.weight).mT
        rows = unflatten(covectors.mT, -1, (blocks, -1))
        currents = _mix(self.coefficients.transpose(-3, -2), rows)
        return (currents.flatten(-2) @ self.weight).mT


class GatedTangent(NamedTuple):
    """J_t = A_t + C_t W of one recurrent layer; W acts on the first state block, of N units.

    Block (i, j) of A is diag(diagonal[i, j]); `None` stands for A = 0.
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
        through_weight = self.recurrent.push(vectors[..., :units, :])
        blocks = unflatten(vectors.mT, -1, (-1, units))
        return through_weight + _mix(self.diagonal, blocks).flatten(-2).mT

    def pull_all(self, covectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "*leading n k"]:
        """Return Jᵀ G for all leading dimensions at once."""
        through_weight = self.recurrent.pull(covectors)
        if self.diagonal is None:
            return through_weight
        units = self.recurrent.weight.shape[-1]
        blocks = unflatten(covectors.mT, -1, (-1, units))
        result = _mix(self.diagonal.transpose(-3, -2), blocks).flatten(-2).mT
        result[..., :units, :] += through_weight
        return result


class StackedTangent(NamedTuple):
    """Layers above one another: layer l also feels the new output of layer l−1.

    The state is layer after layer. `couplings[l]` leads from the output of layer l, its first
    state block, to layer l+1.
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
        pieces = vectors.chunk(len(self.layers), dim=-2)
        pushed = [self.layers[0].push_all(pieces[0])]
        for layer, coupling, piece in zip(self.layers[1:], self.couplings, pieces[1:], strict=True):
            from_below = pushed[-1][..., : coupling.weight.shape[-1], :]
            pushed.append(layer.push_all(piece) + coupling.push(from_below))
        return torch.cat([piece.mT for piece in pushed], dim=-1).mT

    def _at(self, t: int) -> "StackedTangent":
        return StackedTangent(
            tuple(layer.at(t) for layer in self.layers),
            tuple(coupling.at(t) for coupling in self.couplings),
        )

    def _pull_all(self, covectors: Float[Tensor, "*leading n k"]) -> Float[Tensor, "*leading n k"]:
        pieces = list(covectors.chunk(len(self.layers), dim=-2))
        pulled: list[Tensor] = []
        for index in reversed(range(len(self.layers))):
            pulled.append(self.layers[index].pull_all(pieces[index]))
            if index:
                coupling = self.couplings[index - 1]
                below = pieces[index - 1].clone()
                below[..., : coupling.weight.shape[-1], :] += coupling.pull(pieces[index])
                pieces[index - 1] = below
        return torch.cat([piece.mT for piece in reversed(pulled)], dim=-1).mT


class CellTangent(NamedTuple):
    """The tangent map of any differentiable step, by automatic differentiation.

    Only first derivatives of the step's own backward pass are used (two vector-Jacobian products
    in place of a Jacobian-vector product), so a surrogate gradient defined as a backward pass
    counts as the derivative. Explicit Jacobians serve the scans where they fit in memory and are
    not much larger than the frames; elsewhere the products are taken one step at a time.
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
        """Return the tangent map for so many exponents, with explicit Jacobians if they pay."""
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

    A Jacobian takes `size` products, but those of all steps at once.
    """
    return size <= max(64, 4 * exponents)


def depends_on_state(step: RowStep, inputs: Tensor | None, states: Float[Tensor, "R n"]) -> bool:
    """Whether autograd sees any way from the states before a step to those after it."""
    with torch.enable_grad():
        states = states.detach().requires_grad_()
        images = step(inputs, states)
        pulled = _gradient(images, states, torch.zeros_like(images), create_graph=False)
    return pulled is not None


def _stack_jacobians(
    step: RowStep, inputs: Float[Tensor, "T B *features"] | None, states: Float[Tensor, "T B n"]
) -> Float[Tensor, "T B n n"]:
    """Return all Jacobians without a graph, so many steps at a time that the rows stay small."""
    steps, batch, size = states.shape
    identity = torch.eye(size, dtype=states.dtype, device=states.device)
    chunk = max(1, _ROW_ELEMENTS // (batch * size * size))
    pieces: list[Tensor] = []
    for start in range(0, steps, chunk):
        part = slice(start, start + chunk)
        part_inputs = None if inputs is None else inputs[part].detach()
        row_inputs, rows = _repeat_rows(part_inputs, states[part].detach(), size)
        basis = identity.repeat(len(rows) // size, 1)
        pulled = _vector_jacobian(step, row_inputs, rows, basis)
        pieces.append(pulled.reshape(-1, batch, size, size))
    return torch.cat(pieces)


def _repeat_rows(
    inputs: Float[Tensor, "T B *features"] | None, states: Float[Tensor, "T B n"], copies: int
) -> tuple[Tensor | None, Float[Tensor, "R n"]]:
    """Flatten time and batch into rows, each repeated `copies` times in succession."""
    rows = states.flatten(0, 1).repeat_interleave(copies, dim=0)
    if inputs is None:
        return None, rows
    return inputs.flatten(0, 1).repeat_interleave(copies, dim=0), rows


def _vector_jacobian(
    step: RowStep, inputs: Tensor | None, states: Float[Tensor, "R n"], rows: Float[Tensor, "R n"]
) -> Float[Tensor, "R n"]:
    """Return gᵀ J for every row, without a graph."""
    with torch.enable_grad():
        states = states.detach().requires_grad_()
        pulled = _gradient(step(inputs, states), states, rows, create_graph=False)
    return torch.zeros_like(rows) if pulled is None else pulled


def _jacobian_vector(
    step: RowStep, inputs: Tensor | None, states: Float[Tensor, "R n"], rows: Float[Tensor, "R n"]
) -> Float[Tensor, "R n"]:
    """Return J v for every row, with a graph.

    gᵀ J is linear in g, so its derivative with respect to g, applied to v, is J v; the value of g
    does not matter.
    """
    if not states.requires_grad:
        states = states.detach().requires_grad_()
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
    """Return a vector-Jacobian product; nothing where the outputs do not depend on the inputs."""
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
    """Multiply each vector by a matrix of diagonals."""
    if coefficients.shape[-2] == 1:
        return coefficients.squeeze(-2).unsqueeze(-3) * parts
    return (coefficients.unsqueeze(-4) * parts.unsqueeze(-3)).sum(-2)
