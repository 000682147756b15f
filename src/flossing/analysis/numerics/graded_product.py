"""Singular values of products of any number of matrices, each to high relative accuracy."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.analysis.numerics import graded_factor, jacobi
from flossing.errors import NonFiniteError
from flossing.support.torch_typed import from_numpy

LARGEST_AMPLIFICATION = 1e3
"""Where a factor amplifies rounding by more, a step is made in twice the digits: up to here three
of sixteen digits are lost."""


class GradedProduct(NamedTuple):
    """I products A_T ⋯ A_1 of matrices, each as Q · diag(exp d) · M, which is never multiplied out.

    Q has orthonormal columns and M is well conditioned, so that the logarithms d hold all of the
    grading, however steep (Stewart, "On graded QR decompositions of products of matrices", 1995;
    Bai, Lee, Li & Xu, "Stable solutions of linear systems involving long chain of matrix
    multiplications", 2011). Nothing over- or underflows, and each singular value has digits of its
    own, even if it is hundreds of orders of magnitude smaller than the largest. Where the product
    lost rank, d is −∞ and the columns of Q are zero; these come last.

    Factors count as exact: those that are ill conditioned are treated in twice the digits of
    double precision. The frame between two factors is rounded, however: a direction that no factor
    loses alone, but two in succession do, may come out at the size of that rounding instead of as
    zero. See docs/mathematics.md, Graded products.

    Attributes:
        frame: Q.
        log_scales: d.
        mixing: M.

    Example:
        >>> factor = torch.tensor([[[0.1, 0.0], [5.0, 10.0]]], dtype=torch.float64)
        >>> product = GradedProduct.on(torch.eye(2).unsqueeze(0))
        >>> for _ in range(1000):
        ...     product = product.times(factor @ product.frame, lambda: factor)
        >>> product.log_singular_values() / 1000 / torch.tensor(10.0).log()
        tensor([[ 1.0000, -1.0000]], dtype=torch.float64)
    """

    frame: Float[Tensor, "I n k"]
    log_scales: Float[Tensor, "I k"]
    mixing: Float[Tensor, "I k k"]

    @classmethod
    def on(cls, frame: Float[Tensor, "I n k"]) -> "GradedProduct":
        """Return the empty product, restricted to the subspaces that orthonormal frames span."""
        items, _, count = frame.shape
        frame = frame.to("cpu", torch.float64)
        identity = torch.eye(count, dtype=torch.float64).repeat(items, 1, 1)
        return cls(frame, frame.new_zeros(items, count), identity)

    def times(
        self, image: Float[Tensor, "I n k"], matrices: Callable[[], Float[Tensor, "I n n"]]
    ) -> "GradedProduct":
        """Return A · Q · diag(exp d) · M.

        Args:
            image: A Q, in double precision.
            matrices: returns A; called only if one of the factors is ill conditioned.

        Raises:
            NonFiniteError: the image is infinite or NaN.
        """
        if not bool(torch.isfinite(image).all()):
            raise NonFiniteError(
                "a factor of a product of Jacobians is infinite or NaN: check the weights and the "
                "scale of the states that the system was linearised at"
            )
        # Plain arithmetic first. Only it knows how far A amplifies rounding on the span of Q,
        # which the condition number of A would overestimate.
        result, amplification = _factored(image.mT, None, self)
        coarse = amplification > LARGEST_AMPLIFICATION
        return self._refined(result, coarse, matrices()) if bool(coarse.any()) else result

    def log_singular_values(self) -> Float[Tensor, "I k"]:
        """Return the logarithms of the singular values in descending order, −∞ for zero.

        Raises:
            NonFiniteError: entries of the factors were out of the range of the arithmetic.
        """
        # Those of diag(exp d) M: an orthonormal Q changes no singular value.
        values = from_numpy(
            jacobi.log_singular_values(self.log_scales.numpy(), self.mixing.numpy())
        )
        if bool(values.isnan().any()):
            raise NonFiniteError(
                "the singular values of a product of Jacobians could not be computed: its factors "
                "have entries too large for double precision; rescale the system"
            )
        return values

    def _refined(
        self, result: "GradedProduct", coarse: Bool[Tensor, "I"], matrices: Float[Tensor, "I n n"]
    ) -> "GradedProduct":
        """Return the result with some of the products computed again in twice the digits."""
        matrices = matrices[coarse]
        # A = A' · diag(sizes), exact since the sizes are powers of two. Columns of very different
        # size, as those of saturated units, would use up the digits even of the doubled
        # arithmetic. diag(sizes) Q has graded rows, which plain arithmetic treats accurately, and
        # what is ill conditioned in A' with its columns of equal size takes the doubled one.
        sizes = _powers_of_two(matrices.abs().amax(dim=1))
        own = GradedProduct(*(part[coarse] for part in self))
        own, _ = _factored((sizes.unsqueeze(-1) * own.frame).mT, None, own)
        matrices = matrices / sizes.masked_fill(sizes == 0, 1.0).unsqueeze(1)
        vectors = own.frame.mT.contiguous()
        image, low = torch.empty_like(vectors), torch.empty_like(vectors)
        graded_factor.extended_product(*(each.numpy() for each in (matrices, vectors, image, low)))
        refined, _ = _factored(image, low, own)
        for part, new in zip(result, refined, strict=True):
            part[coarse] = new
        return result


def _powers_of_two(sizes: Float[Tensor, "I n"]) -> Float[Tensor, "I n"]:
    """Return the powers of two just below the sizes, and zero for zero."""
    return torch.where(sizes > 0, sizes.log2().floor().exp2(), 0.0)


def _factored(
    vectors: Float[Tensor, "I k n"], low: Float[Tensor, "I k n"] | None, before: GradedProduct
) -> tuple[GradedProduct, Float[Tensor, "I"]]:
    """Return a product with Q replaced by other vectors, and by how much rounding was amplified."""
    # The compiled loops work in place, on columns that are contiguous in memory.
    vectors = vectors.clone(memory_format=torch.contiguous_format)
    log_scales, mixing = before.log_scales.clone(), before.mixing.clone()
    # In plain arithmetic the low parts are not read, but must be there.
    rest = torch.zeros_like(vectors) if low is None else low
    amplification = graded_factor.factor(
        *(each.numpy() for each in (vectors, rest, log_scales, mixing)), low is not None
    )
    return GradedProduct(vectors.mT, log_scales, mixing), from_numpy(amplification)
