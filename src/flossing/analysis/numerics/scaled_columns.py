"""Vectors with a separate logarithmic scale each, whose products neither overflow nor underflow.

A column is c = m · exp(a): a mantissa vector m whose largest entry is 1 in modulus, and an
exponent a, a sum of logarithms. A Jacobian acts on the mantissa alone, J c = (J m) · exp(a), and
what J m has grown by is moved into the exponent. Each column has its own exponent: with a common
one, a column e^-2000 times as long as another would be zero, and missing should it outgrow the
other later. See docs/mathematics.md, Graded products.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import NonFiniteError
from flossing.support.torch_typed import matrix_norm, vector_norm
from flossing.systems.tangent import TangentMap


class ScaledColumns(NamedTuple):
    """The matrix with columns `columns[:, i]` · exp(`log_scale[i]`).

    The largest entry of each column has modulus 1, or all are 0 and the log scale is −∞. Log
    scales are in double precision, since they are sums over thousands of steps.
    """

    columns: Float[Tensor, "B n m"]
    log_scale: Float[Tensor, "B m"]

    @classmethod
    def of(
        cls, columns: Float[Tensor, "B n m"], log_scale: Float[Tensor, "B m"] | None = None
    ) -> "ScaledColumns":
        """Scale columns that are to be multiplied by exp(`log_scale`), or by 1 if it is `None`."""
        # The largest entry rather than the Euclidean norm: nothing is squared, so that subnormal
        # and huge entries pass.
        largest = columns.abs().amax(dim=-2)
        scale = torch.where(largest > 0, largest, 1.0)
        # Of `largest`, not of `scale`: a column of zeros has the log scale −∞, and keeps it.
        logs = largest.double().log()
        return cls(columns / scale.unsqueeze(-2), logs if log_scale is None else logs + log_scale)

    def last(self, count: int) -> "ScaledColumns":
        """Return the last `count` columns."""
        return ScaledColumns(self.columns[..., -count:], self.log_scale[..., -count:])

    def pushed(self, tangent: TangentMap, step: int) -> "ScaledColumns":
        """Return J_t V."""
        return self._times(tangent.push(step, self.columns))

    def pulled(self, tangent: TangentMap, step: int) -> "ScaledColumns":
        """Return J_tᵀ G."""
        return self._times(tangent.pull(step, self.columns))

    def plus(self, columns: Float[Tensor, "B n m"]) -> "ScaledColumns":
        """Return the sum with other columns."""
        other = ScaledColumns.of(columns)
        # Relative to the larger scale both summands are at most 1. What underflows in the
        # smaller one would have been rounded away in the sum.
        top = _finite_or_zero(torch.maximum(self.log_scale, other.log_scale))
        return ScaledColumns.of(self._relative_to(top) + other._relative_to(top), top)

    def log_norms(self) -> Float[Tensor, "B m"]:
        """Return the log of the Euclidean norm of each column; −∞ for zero."""
        return vector_norm(self.columns, dim=-2).double().log() + self.log_scale

    def log_spectral_norm(self) -> Float[Tensor, "B"]:
        """Return the log of the largest singular value of the whole matrix."""
        # σ_1 is at least exp(top), the modulus of some entry, so that columns that underflow
        # relative to it do not contribute.
        top = _finite_or_zero(self.log_scale.amax(dim=-1, keepdim=True))
        largest = matrix_norm(self._relative_to(top), ord=2)
        return largest.double().log() + top.squeeze(-1)

    def _times(self, product: Float[Tensor, "B n m"]) -> "ScaledColumns":
        if not bool(product.isfinite().all()):
            raise NonFiniteError(
                "a Jacobian of the trajectory has infinite or NaN entries: check the weights and "
                "the scale of the inputs, or compute with dtype=torch.float64"
            )
        return ScaledColumns.of(product, self.log_scale)

    def _relative_to(self, log_scale: Float[Tensor, "B _"]) -> Float[Tensor, "B n m"]:
        """Return the columns divided by exp(`log_scale`)."""
        return self.columns * (self.log_scale - log_scale).exp().unsqueeze(-2).to(self.columns)


def _finite_or_zero(log_scale: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    # −∞ − (−∞) would be NaN; columns of zeros are zero relative to any scale.
    return torch.where(log_scale.isneginf(), 0.0, log_scale)
