"""Cholesky factors of Gram matrices, with their inverses, by blocks of rows."""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types

from flossing.scan.compiled.kernels import FULL, LOWER
from flossing.scan.compiled.machine import TILE, linked, part
from flossing.scan.compiled.products import clear, multiply, transpose
from flossing.scan.compiled.tile import pointer_to

_BLOCK = 8
_MARGIN = TILE.vector_bytes
"""Rows that a transposed block may write beyond those that there are, at most."""


class CholeskySpace(NamedTuple):
    """Work space: rows of k numbers and at least a vector register more.

    `pivots` and `lengths` are results: the diagonal of L, and the lengths of the rows of X.
    """

    pivots: Any
    lengths: Any
    gram: Any
    columns: Any
    mirrored: Any
    left: Any
    left_mirrored: Any
    right: Any
    block: Any
    block_inverse: Any


def space_rows(count: int, size: int) -> int:
    """Return how many rows the work space for k vectors of n numbers has."""
    return 2 + 4 * _BLOCK + 3 * _MARGIN + size + 3 * count


@part
def divide(rows: Any, count: int, size: int) -> Any:
    """Divide work space of `space_rows` rows."""
    left = 2 + count
    right, block, block_inverse = left + _BLOCK, left + 2 * _BLOCK, left + 3 * _BLOCK
    columns = left + 4 * _BLOCK
    mirrored = columns + size + _MARGIN
    left_mirrored = mirrored + count + _MARGIN
    return CholeskySpace(
        rows[0],
        rows[1],
        rows[2:left],
        rows[columns:mirrored],
        rows[mirrored:left_mirrored],
        rows[left:right],
        rows[left_mirrored:],
        rows[right:block],
        rows[block:block_inverse],
        rows[block_inverse:columns],
    )


@part
def cholesky(rows: Any, size: int, inverse: Any, space: Any, nearly_orthonormal: bool) -> float:
    """Compute L^{-1} and the diagonal of L, where X Xᵀ = L Lᵀ.

    Args:
        rows: X [k, n].
        size: n.
        inverse: afterwards L^{-1} [k, k], zeros above its diagonal.
        space: work space; the first two rows are the diagonal of L and the lengths of the rows.
        nearly_orthonormal: try to first order in X Xᵀ − 1.

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
        inverse.ctypes.data,
        inverse.shape[1],
        space.ctypes.data,
        nearly_orthonormal,
        rows.dtype.type(0),
    )


_FIXED_ROWS = space_rows(0, 0)


@part
def _gram_matrix(rows: Any, count: int, size: int, space: Any) -> None:
    """Compute the lower triangle of X Xᵀ, and some more."""
    transpose(rows, count, size, space.columns)
    for start in range(0, count, 2 * _BLOCK):
        stop = min(count, start + 2 * _BLOCK)
        multiply(
            rows[start:stop], False, FULL, stop - start, size, space.columns,
            space.gram[start:stop], 0, stop, 1.0, False,
        )  # fmt: skip


@part
def _squares_are_normal(space: Any, count: int) -> bool:
    """Note the lengths; return whether their squares neither overflow nor underflow."""
    info = np.finfo(space.gram.dtype)
    for index in range(count):
        square = space.gram[index, index]
        if not info.tiny < square * info.eps < np.inf:
            return False
        space.lengths[index] = np.sqrt(square)
    return True


@part
def _first_order(space: Any, count: int, inverse: Any) -> bool:
    """Invert the factor of 1 + F to first order in F; return whether that does."""
    gram = space.gram
    defect = gram.dtype.type(0)
    for row in range(count):
        for column in range(row):
            defect = max(defect, abs(gram[row, column]))
        defect = max(defect, abs(gram[row, row] - 1))
    if not defect * defect * count <= np.finfo(gram.dtype).eps:
        return False
    for row in range(count):
        for column in range(row):
            inverse[row, column] = -gram[row, column]
        for column in range(row, count):
            inverse[row, column] = 0
        space.pivots[row] = (1 + gram[row, row]) / 2
        inverse[row, row] = 2 - space.pivots[row]
    return True


@part
def _invert(space: Any, count: int, inverse: Any) -> float:
    """Invert block of rows by block of rows.

    With L₁₁ the part that is known and G₂₁, G₂₂ the next rows of the Gram matrix,
    L₂₁ = G₂₁ L₁₁^{-T}; L₂₂ L₂₂ᵀ = G₂₂ − L₂₁ L₂₁ᵀ; and L^{-1} goes on with the rows
    −L₂₂^{-1} L₂₁ L₁₁^{-1}, L₂₂^{-1}.
    """
    block, left, right = space.block, space.left, space.right
    clear(inverse)
    worst = 1.0
    for start in range(0, count, _BLOCK):
        height = min(_BLOCK, count - start)
        rows = space.gram[start : start + height]
        target = inverse[start : start + height]
        for row in range(height):
            for column in range(height):
                block[row, column] = rows[row, start + column]
        multiply(rows, False, FULL, height, start, space.mirrored, left, 0, start, 1.0, False)
        transpose(left, height, start, space.left_mirrored)
        multiply(
            left, False, FULL, height, start, space.left_mirrored, block, 0, height, -1.0, True
        )
        worst = max(worst, _factor_block(space, start, height))
        if not worst < np.inf:
            return np.inf
        _invert_block(block, height, space.block_inverse)
        multiply(left, False, FULL, height, start, inverse, right, 0, start, 1.0, False)
        multiply(
            space.block_inverse, False, LOWER, height, height, right, target, 0, start, -1.0, False
        )
        for row in range(height):
            for column in range(height):
                target[row, start + column] = space.block_inverse[row, column]
        transpose(target, height, start + height, space.mirrored[:, start:])
    return worst


@part
def _factor_block(space: Any, start: int, height: int) -> float:
    """Replace a block by its Cholesky factor; return the worst G_jj / L_jj²."""
    block = space.block
    worst = 1.0
    for column in range(height):
        square = block[column, column]
        if not square > 0:
            return np.inf
        worst = max(worst, space.gram[start + column, start + column] / square)
        pivot = np.sqrt(square)
        space.pivots[start + column] = pivot
        scale = 1 / pivot
        block[column, column] = pivot
        for row in range(column + 1, height):
            block[row, column] *= scale
        for row in range(column + 1, height):
            for other in range(column + 1, row + 1):
                block[row, other] -= block[row, column] * block[other, column]
    return worst


@part
def _invert_block(block: Any, height: int, inverse: Any) -> None:
    for row in range(height):
        scale = 1 / block[row, row]
        for column in range(height):
            inverse[row, column] = 0
        for other in range(row):
            factor = block[row, other] * scale
            for column in range(other + 1):
                inverse[row, column] -= factor * inverse[other, column]
        inverse[row, row] = scale


def _signature(number: Any) -> Any:
    return types.float64(*(types.intp,) * 8, number)


@linked("cholesky", _signature)
def _cholesky_at(
    rows: int,
    count: int,
    size: int,
    length: int,
    inverse: int,
    width: int,
    space: int,
    nearly_orthonormal: int,
    number: Any,
) -> float:
    matrix = numba.carray(pointer_to(rows, number), (count, length))
    result = numba.carray(pointer_to(inverse, number), (count, width))
    whole = numba.carray(pointer_to(space, number), (_FIXED_ROWS + size + 3 * count, width))
    parts = divide(whole, count, size)
    _gram_matrix(matrix, count, size, parts)
    if nearly_orthonormal and _first_order(parts, count, result):
        return 1.0
    if not _squares_are_normal(parts, count):
        return np.inf
    return _invert(parts, count, result)
