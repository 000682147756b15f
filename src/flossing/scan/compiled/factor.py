"""The factorisation at a boundary: Cholesky-QR, repeated where it must be.

A Cholesky factor of the Gram matrix costs little but matrix products, and squares the condition
number: the frame comes out orthonormal to about eps·ρ², where ρ is the largest ratio of a vector's
length to its distance from the span of those before it. A second pass, on a frame that is nearly
orthonormal, repairs that (Yamamoto et al., "Roundoff error analysis of the CholeskyQR2 algorithm",
2015). A frame for which even the first pass would be meaningless is left to Householder
reflections.
"""

from typing import Any

import numpy as np

from flossing.scan.compiled.cholesky import cholesky, space_rows
from flossing.scan.compiled.kernels import LOWER
from flossing.scan.compiled.machine import TILE, padded, part
from flossing.scan.compiled.products import multiply

_ORTHONORMAL = 2.0
"""The ρ² up to which one pass leaves a frame orthonormal to a few roundings."""
_TRUSTED = 0.03
"""The largest eps·ρ² at which a Cholesky factor is used at all."""


def square_space(
    count: int, size: int, dtype: np.dtype[Any], threads: int
) -> tuple[Any, Any]:
    """Return work space for k vectors of n numbers: two matrices for every thread."""
    width = row_length(count, dtype)
    return (
        np.zeros((threads, space_rows(count, size), width), dtype),
        np.zeros((threads, count, width), dtype),
    )


def row_length(count: int, dtype: np.dtype[Any]) -> int:
    """Return the length of a row of a k×k matrix: padded, with a vector register to spare."""
    return padded(count, dtype) + TILE.lanes(dtype)


@part
def factor(
    rows: Any, size: int, inverse: Any, diagonal: Any, spaces: Any, limits: Any, forced: bool
) -> float:
    """Orthonormalise the tangent vectors of one trajectory in place.

    Args:
        rows: the tangent vectors Vᵀ [k, n]; afterwards the frame Qᵀ.
        size: n.
        inverse: afterwards R^{-T} [k, k].
        diagonal: afterwards the diagonal of R [k], positive.
        spaces: one thread's work space.
        limits: how far the frame may have stretched.
        forced: go on where that is more than the limits.

    Returns:
        The share of the limits that the frame used, NaN where there is no Cholesky factor to be
        trusted. `rows` are as they were in that case, and where the share is above one and the
        factorisation not forced.
    """
    count = len(rows)
    space, correction = spaces
    ratio = cholesky(rows, size, inverse, space, False)
    if not ratio * np.finfo(rows.dtype).eps <= _TRUSTED:
        return np.nan
    pivots, lengths = space[0], space[1]
    longest, shortest = lengths[0], pivots[0]
    for index in range(count):
        diagonal[index] = pivots[index]
        longest, shortest = max(longest, lengths[index]), min(shortest, pivots[index])
    high, low = np.log(longest), np.log(shortest)
    used = max((high - low) / limits.spread, max(abs(high), abs(low)) / limits.magnitude)
    if not (used <= 1.0 or forced):
        return used
    _apply(inverse, rows)
    while ratio > _ORTHONORMAL:
        ratio = cholesky(rows, size, correction, space, True)
        for index in range(count):
            diagonal[index] *= pivots[index]
        _apply(correction, rows)
        _apply(correction, inverse)
    return used


@part
def _apply(lower: Any, matrix: Any) -> None:
    """Multiply a matrix by a lower triangle from the left, in place."""
    count = len(matrix)
    multiply(lower, False, LOWER, count, count, matrix, matrix, 0, matrix.shape[1], 1.0, False)
