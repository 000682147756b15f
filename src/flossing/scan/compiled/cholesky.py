"""Cholesky factors of Gram matrices, by blocks of rows."""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types

from flossing.scan.compiled.kernels import FULL, LOWER
from flossing.scan.compiled.machine import TILE, linked, part
from flossing.scan.compiled.products import multiply, transpose
from flossing.scan.compiled.tile import pointer_to

BLOCK = 8
"""Rows of a block on the diagonal of a triangle."""
_CHUNK = 24
"""Rows that are updated at a time."""
_MARGIN = TILE.vector_bytes
"""Rows that a transposed block may write beyond those that there are, at most."""


class CholeskySpace(NamedTuple):
    """Work space: rows of k numbers and at least a vector register more.

    `pivots` and `lengths` are results: the diagonal of R, and the lengths of the rows of X; so is
    `block_inverses`, whose first columns are the inverses of the blocks on the diagonal of R.
    """

    pivots: Any
    lengths: Any
    block_inverses: Any
    columns: Any


def space_rows(count: int, size: int) -> int:
    """Return how many rows the work space for k vectors of n numbers has."""
    return 2 + count + size + _MARGIN


@part
def divide(rows: Any, count: int) -> Any:
    """Divide work space of `space_rows` rows."""
    return CholeskySpace(rows[0], rows[1], rows[2 : 2 + count], rows[2 + count :])


@part
def cholesky(rows: Any, size: int, triangle: Any, space: Any, nearly_orthonormal: bool) -> float:
    """Compute the upper triangle R with X Xᵀ = Rᵀ R.

    Args:
        rows: X [k, n].
        size: n.
        triangle: afterwards R [k, k], zeros below its diagonal included.
        space: work space; see `CholeskySpace` for the results in it.
        nearly_orthonormal: compute to first order in X Xᵀ − 1, if that does.

    Returns:
        The largest ratio of a row's squared length to that of its part at right angles to the rows
        before it, at least 1; infinite where there is no factor that means anything.
    """
    count, length = rows.shape
    return _cholesky_at(
        rows.ctypes.data,
        count,
        size,
        length,
        triangle.ctypes.data,
        triangle.shape[1],
        space.ctypes.data,
        nearly_orthonormal,
        rows.dtype.type(0),
    )


@part
def _gram_matrix(rows: Any, count: int, size: int, columns: Any, gram: Any) -> None:
    """Compute the upper triangle of X Xᵀ, and some more."""
    transpose(rows, count, size, columns)
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        multiply(
            rows[start:stop], False, FULL, stop - start, size, columns, start,
            gram[start:stop], start, count - start, 1.0, False,
        )  # fmt: skip


@part
def _squares_are_normal(gram: Any, count: int, lengths: Any) -> bool:
    """Note the lengths; return whether their squares neither overflow nor underflow."""
    info = np.finfo(gram.dtype)
    for index in range(count):
        square = gram[index, index]
        if not info.tiny < square * info.eps < np.inf:
            return False
        lengths[index] = np.sqrt(square)
    return True


@part
def _first_order(gram: Any, count: int, space: Any) -> bool:
    """Replace 1 + F by its factor to first order in F; return whether that does."""
    defect = gram.dtype.type(0)
    for row in range(count):
        defect = max(defect, abs(gram[row, row] - 1))
        for column in range(row + 1, count):
            defect = max(defect, abs(gram[row, column]))
    if not defect * defect * count <= np.finfo(gram.dtype).eps:
        return False
    for row in range(count):
        gram[row, row] = (1 + gram[row, row]) / 2
        space.pivots[row] = gram[row, row]
    for start in range(0, count, BLOCK):
        height = min(BLOCK, count - start)
        block = gram[start : start + height]
        invert_block(block, start, height, space.block_inverses[start : start + height], 0)
    return True


@part
def _factor(triangle: Any, count: int, space: Any) -> float:
    """Replace the upper triangle of a Gram matrix by its factor, block of rows by block of rows.

    R₁₁ᵀ R₁₁ = G₁₁; R₁₂ = R₁₁^{-T} G₁₂; and G₂₂ − R₁₂ᵀ R₁₂ is what is left to be factored.
    """
    worst = 1.0
    for start in range(0, count, BLOCK):
        stop = min(count, start + BLOCK)
        height, rest = stop - start, count - stop
        rows, inverse = triangle[start:stop], space.block_inverses[start:stop]
        worst = max(worst, _factor_block(rows, start, height, space))
        if not worst < np.inf:
            return np.inf
        invert_block(rows, start, height, inverse, 0)
        multiply(
            inverse, True, LOWER, height, height, rows, stop, rows, stop, rest, 1.0, False
        )
        for first in range(stop, count, _CHUNK):
            last = min(count, first + _CHUNK)
            multiply(
                rows[:, first:], True, FULL, last - first, height, rows, first,
                triangle[first:last], first, count - first, -1.0, True,
            )  # fmt: skip
    return worst


@part
def _factor_block(rows: Any, start: int, height: int, space: Any) -> float:
    """Factor the block on the diagonal; return the worst of its ratios."""
    worst = 1.0
    for row in range(height):
        square = rows[row, start + row]
        if not square > 0:
            return np.inf
        pivot, length = np.sqrt(square), space.lengths[start + row]
        worst = max(worst, length * length / square)
        space.pivots[start + row] = pivot
        scale = 1 / pivot
        rows[row, start + row] = pivot
        for column in range(row + 1, height):
            rows[row, start + column] *= scale
        for other in range(row + 1, height):
            factor = rows[row, start + other]
            for column in range(other, height):
                rows[other, start + column] -= factor * rows[row, start + column]
    return worst


@part
def invert_block(rows: Any, start: int, height: int, inverse: Any, at: int) -> None:
    """Put the inverse of a block on the diagonal into some columns of `inverse`; they may be its own.

    The block is an upper triangle; what is below is set to zero.
    """
    for row in range(height - 1, -1, -1):
        scale = 1 / rows[row, start + row]
        for column in range(height - 1, row, -1):
            total = rows.dtype.type(0)
            for index in range(row + 1, column + 1):
                total += rows[row, start + index] * inverse[index, at + column]
            inverse[row, at + column] = -total * scale
        inverse[row, at + row] = scale
        for column in range(row):
            inverse[row, at + column] = 0


def _signature(number: Any) -> Any:
    return types.float64(*(types.intp,) * 8, number)


@linked("cholesky", _signature)
def _cholesky_at(
    rows: int,
    count: int,
    size: int,
    length: int,
    triangle: int,
    width: int,
    space: int,
    nearly_orthonormal: int,
    number: Any,
) -> float:
    matrix = numba.carray(pointer_to(rows, number), (count, length))
    result = numba.carray(pointer_to(triangle, number), (count, width))
    whole = numba.carray(pointer_to(space, number), (_FIXED_ROWS + size + count, width))
    parts = divide(whole, count)
    _gram_matrix(matrix, count, size, parts.columns, result)
    if nearly_orthonormal and _first_order(result, count, parts):
        ratio = 1.0
    elif _squares_are_normal(result, count, parts.lengths):
        ratio = _factor(result, count, parts)
    else:
        ratio = np.inf
    for row in range(count):
        for column in range(row):
            result[row, column] = 0
    return ratio


_FIXED_ROWS = space_rows(0, 0)
