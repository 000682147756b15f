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

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flossing.support.torch_typed import unflatten


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


def _mix(
    coefficients: Float[Tensor, "*leading rows columns N"],
    parts: Float[Tensor, "*leading k columns N"],
) -> Float[Tensor, "*leading k rows N"]:
    """Multiply each vector by a matrix of diagonal blocks, summing over the columns of blocks."""
    if coefficients.shape[-2] == 1:
        # One block in each row, as in Cᵀ and A of a GRU: nothing to sum.
        return coefficients.squeeze(-2).unsqueeze(-3) * parts
    return (coefficients.unsqueeze(-4) * parts.unsqueeze(-3)).sum(-2)
