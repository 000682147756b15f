"""The factorisation at a boundary: Cholesky-QR, repeated where it must be.

A Cholesky factor of the Gram matrix costs little but matrix products, and squares the condition
number: the frame comes out orthonormal to about eps·ρ², where ρ is the largest ratio of a vector's
length to its distance from the span of those before it. A second pass, on a frame that is nearly
orthonormal, repairs that (Yamamoto et al., "Roundoff error analysis of the CholeskyQR2 algorithm",
2015). A frame for which even the first pass would be meaningless is left to Householder
reflections.

Triangles are solved by substitution, block by block: their inverses could be far larger than the
frame is ill conditioned.
"""

from typing import Any

import numpy as np

from flossing.scan.compiled.cholesky import BLOCK, cholesky, divide, invert_block, space_rows
from flossing.scan.compiled.kernels import FULL, LOWER, UPPER
from flossing.scan.compiled.machine import TILE, padded, part
from flossing.scan.compiled.products import multiply

_ORTHONORMAL = 2.0
"""The ρ² up to which one pass leaves a frame orthonormal to a few roundings."""
_TRUSTED = 0.03
"""The largest eps·ρ² at which a Cholesky factor is used at all."""


def square_space(count: int, size: int, dtype: np.dtype[Any], threads: int) -> tuple[Any, Any]:
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
    rows: Any, size: int, triangle: Any, diagonal: Any, spaces: Any, limits: Any, forced: bool
) -> float:
    """Orthonormalise the tangent vectors of one trajectory in place.

    Args:
        rows: the tangent vectors Vᵀ [k, n]; afterwards the frame Qᵀ.
        size: n.
        triangle: afterwards R [k, k], the blocks on its diagonal inverted.
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
    parts = divide(space, count)
    ratio = cholesky(rows, size, triangle, space, False)
    if not ratio * np.finfo(rows.dtype).eps <= _TRUSTED:
        return np.nan
    longest, shortest = parts.lengths[0], parts.pivots[0]
    for index in range(count):
        diagonal[index] = parts.pivots[index]
        longest = max(longest, parts.lengths[index])
        shortest = min(shortest, parts.pivots[index])
    high, low = np.log(longest), np.log(shortest)
    used = max((high - low) / limits.spread, max(abs(high), abs(low)) / limits.magnitude)
    if not (used <= 1.0 or forced):
        return used
    _divide_by(triangle, parts.block_inverses, rows)
    while ratio > _ORTHONORMAL:
        ratio = cholesky(rows, size, correction, space, True)
        for index in range(count):
            diagonal[index] *= parts.pivots[index]
        multiply(
            correction, False, UPPER, count, count, triangle, 0, triangle, 0, count, 1.0, False
        )
        _divide_by(correction, parts.block_inverses, rows)
    for start in range(0, count, BLOCK):
        height = min(BLOCK, count - start)
        block = triangle[start : start + height]
        invert_block(block, start, height, block, start)
    return used


@part
def solve_upper(triangle: Any, rows: Any) -> None:
    """Replace G [k, n] by R^{-1} G, for a triangle whose blocks on the diagonal are inverted."""
    count, columns = rows.shape
    for number in range((count - 1) // BLOCK, -1, -1):
        start, stop = number * BLOCK, min(count, (number + 1) * BLOCK)
        height, block, target = stop - start, triangle[start:stop], rows[start:stop]
        multiply(
            block[:, stop:], False, FULL, height, count - stop, rows[stop:], 0,
            target, 0, columns, -1.0, True,
        )  # fmt: skip
        multiply(
            block[:, start:], False, UPPER, height, height, target, 0,
            target, 0, columns, 1.0, False,
        )  # fmt: skip


@part
def _divide_by(triangle: Any, block_inverses: Any, rows: Any) -> None:
    """Replace X [k, n] by R^{-T} X."""
    count, columns = rows.shape
    for start in range(0, count, BLOCK):
        height = min(BLOCK, count - start)
        target = rows[start : start + height]
        multiply(
            triangle[:, start:], True, FULL, height, start, rows, 0,
            target, 0, columns, -1.0, True,
        )  # fmt: skip
        multiply(
            block_inverses[start : start + height], True, LOWER, height, height, target, 0,
            target, 0, columns, 1.0, False,
        )  # fmt: skip
