# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false
# pyright: reportUnknownArgumentType=false
"""The factorisation at a boundary: block Gram–Schmidt, repeated where it must be.

A block of vectors is projected off those before it by two matrix products, and made orthonormal
within by the Cholesky factor of its Gram matrix. What rounding leaves of other directions is about
eps·ρ, where ρ is the largest ratio of a vector's length before to that after. Where that is more
than a few roundings the block goes through once more, which is enough (Giraud, Langou and
Rozložník, "The loss of orthogonality in the Gram–Schmidt orthogonalization process", 2005).

A block whose vectors are close to dependent on one another goes vector by vector instead: its
Gram matrix would square its condition number. So any rank will do.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types

from flossing.compiled.compiler import TILE, linked, padded, part
from flossing.compiled.products import FULL, LOWER, multiply, transpose
from flossing.compiled.tile import pointer_to

_BLOCK = 8
_ORTHONORMAL = 2.0
"""The ρ² after which nothing needs repeating."""
_PASSES = 4
"""More than enough: the second leaves ρ near one."""
_INDEPENDENT = 64.0
"""The ρ² within a block up to which its Gram matrix is as good as its vectors."""
_SMALL = 1e-12
"""Entries up to the inverse of this have squares far from overflow and underflow."""


class Space(NamedTuple):
    """Work space.

    Attributes:
        columns: the frame transposed [n, k].
        outside: a block's coefficients on the vectors before it [8, k].
        within: its coefficients within [8, 8].
        inverse: their inverse [8, 8]; sums [8, k].
        lengths: squares of its vectors' lengths [8].
    """

    columns: Any
    outside: Any
    within: Any
    inverse: Any
    lengths: Any

    @classmethod
    def of(cls, count: int, size: int, dtype: np.dtype[Any], threads: int) -> "Space":
        """Return work space for k vectors of n numbers, for each of several threads."""
        width = row_length(count, dtype)
        return cls(
            np.zeros((threads, padded(size, dtype), width), dtype),
            np.zeros((threads, _BLOCK, width), dtype),
            np.zeros((threads, _BLOCK, width), dtype),
            np.zeros((threads, _BLOCK, width), dtype),
            np.zeros((threads, _BLOCK), dtype),
        )


def row_length(count: int, dtype: np.dtype[Any]) -> int:
    """Return the length of a row of a k×k matrix: padded, with a vector register to spare."""
    return padded(count, dtype) + TILE.lanes(dtype)


@part
def orthonormalise(rows: Any, size: int, triangle: Any, diagonal: Any, space: Any) -> float:
    """Factor V = Q R for the tangent vectors of one trajectory.

    A vector that rounding cannot tell from one that depends on those before it gets the diagonal
    entry zero, a completion as its vector of Q, and a column of the identity as its column of R:
    that of the frame with the vector replaced.

    Args:
        rows: Vᵀ [k, n]; afterwards Qᵀ.
        size: n.
        triangle: afterwards Rᵀ [k, k], a lower triangle.
        diagonal: afterwards the diagonal of R [k], positive or zero.
        space: one thread's work space.

    Returns:
        The length of the longest vector; infinite or NaN where V is not finite, and nothing done.
    """
    count, length = rows.shape
    return _orthonormalise_at(
        rows.ctypes.data,
        count,
        size,
        length,
        triangle.ctypes.data,
        triangle.shape[1],
        diagonal.ctypes.data,
        space.columns.ctypes.data,
        space.outside.ctypes.data,
        space.within.ctypes.data,
        space.inverse.ctypes.data,
        space.lengths.ctypes.data,
        rows.dtype.type(0),
    )


@part
def _subtract(rows: Any, row: int, factor: Any, other: int, columns: int) -> None:
    for column in range(columns):
        rows[row, column] -= factor * rows[other, column]


@part
def _scale(rows: Any, row: int, factor: Any, columns: int) -> None:
    for column in range(columns):
        rows[row, column] *= factor


@part
def _dot(rows: Any, row: int, other: int, columns: int) -> Any:
    total = rows.dtype.type(0)
    for column in range(columns):
        total += rows[row, column] * rows[other, column]
    return total


@part
def _largest(rows: Any, columns: int) -> Any:
    """Return the largest magnitude; NaN where an entry is not finite."""
    largest = undefined = rows.dtype.type(0)
    for row in range(len(rows)):
        for column in range(columns):
            largest = max(largest, abs(rows[row, column]))
            undefined += 0 * rows[row, column]
    return largest + undefined


@part
def _longest(rows: Any, columns: int) -> Any:
    """Return the length of the longest row; NaN or infinite where one is not finite."""
    longest = undefined = rows.dtype.type(0)
    for row in range(len(rows)):
        square = _dot(rows, row, row, columns)
        longest = max(longest, square)
        undefined += 0 * square
    return np.sqrt(longest) + undefined


@part
def _gram_schmidt(
    rows: Any, start: int, stop: int, size: int, space: Any, diagonal: Any, shortest: Any
) -> None:
    """Make the rows of a block orthonormal one by one, each as often as it takes.

    Args:
        rows: the frame; the block has been projected off the rows before it once.
        start: the block's first row.
        stop: the row after its last one.
        size: n.
        space: coefficients are added to `outside` and put into `within`.
        diagonal: set to zero for rows that are replaced.
        shortest: length up to which a row is dependent on those before it.
    """
    outside, within = space.outside, space.within
    for row in range(start, stop):
        for other in range(start, stop):
            within[row - start, other - start] = 0
        length = _project(rows, row, start, size, outside, within, shortest)
        if length <= shortest:
            _complete(rows, row, size)
            length = _project(rows, row, start, size, outside, within, 0 * shortest)
            diagonal[row] = 0
        within[row - start, row - start] = length
        _scale(rows, row, 1 / length, size)


@part
def _project(
    rows: Any, row: int, start: int, size: int, outside: Any, within: Any, shortest: Any
) -> Any:
    """Project a row off all before it until that changes little; return its length."""
    square = _dot(rows, row, row, size)
    for _ in range(_PASSES):
        for other in range(row):
            inner = _dot(rows, row, other, size)
            _subtract(rows, row, inner, other, size)
            if other < start:
                outside[row - start, other] += inner
            else:
                within[row - start, other - start] += inner
        before, square = square, _dot(rows, row, row, size)
        if square * _ORTHONORMAL > before or square <= shortest * shortest:
            break
    return np.sqrt(square)


@part
def _complete(rows: Any, row: int, size: int) -> None:
    """Replace a row by the unit vector that is farthest from the span of those before it."""
    best, least = 0, np.inf
    for column in range(size):
        square = 0.0
        for other in range(row):
            square += rows[other, column] * rows[other, column]
        if square < least:
            best, least = column, square
    for column in range(size):
        rows[row, column] = 0
    rows[row, best] = 1


@part
def _compose(triangle: Any, start: int, height: int, space: Any, first: bool) -> None:
    """Take one more pass into a block's rows of Rᵀ: old block = S Q + W new block."""
    outside, within, sums = space.outside, space.within, space.inverse
    if not first:
        # Not in place: products write whole vector registers, and the block lies right behind.
        multiply(
            triangle[:, start:], False, LOWER, height, height, outside, 0,
            sums, 0, start, 1.0, False,
        )  # fmt: skip
        for row in range(height):
            for column in range(start):
                triangle[row, column] += sums[row, column]
    for row in range(height):
        if first:
            for column in range(start):
                triangle[row, column] = outside[row, column]
            for column in range(height):
                # Tiles of a product read a whole block.
                known = column <= row
                triangle[row, start + column] = within[row, column] if known else 0
        else:
            for column in range(row + 1):
                total = triangle.dtype.type(0)
                for index in range(column, row + 1):
                    total += triangle[row, start + index] * within[index, column]
                triangle[row, start + column] = total


@part
def _orthonormalise_block(
    rows: Any,
    start: int,
    stop: int,
    size: int,
    triangle: Any,
    diagonal: Any,
    space: Any,
    shortest: Any,
) -> None:
    height, length = stop - start, rows.shape[1]
    block, result = rows[start:stop], triangle[start:stop]
    outside, lengths = space.outside, space.lengths
    for attempt in range(_PASSES):
        for row in range(height):
            if attempt == 0:
                diagonal[start + row] = 1
                lengths[row] = _dot(block, row, row, size)
            else:
                lengths[row] = 1
        multiply(block, False, FULL, height, size, space.columns, 0, outside, 0, start, 1.0, False)
        multiply(outside, False, FULL, height, start, rows, 0, block, 0, length, -1.0, True)
        ratio = _cholesky(rows, start, stop, size, space, shortest)
        if not ratio < np.inf:
            _gram_schmidt(rows, start, stop, size, space, diagonal, shortest)
            ratio = 1.0
        _compose(result, start, height, space, attempt == 0)
        for row in range(height):
            if diagonal[start + row] == 0:
                for column in range(start + row):
                    result[row, column] = 0
                result[row, start + row] = 1
        if ratio <= _ORTHONORMAL:
            break
        shortest = rows.dtype.type(0)
    transpose(block, height, size, space.columns[:, start:])


@part
def _cholesky(rows: Any, start: int, stop: int, size: int, space: Any, shortest: Any) -> float:
    """Do what `_gram_schmidt` does by the Gram matrix of the block, where that is as good.

    Returns:
        The ρ² of the block, or infinity, and nothing done, where vectors of the block are close to
        dependent on one another.
    """
    height, block, within, lengths = stop - start, rows[start:stop], space.within, space.lengths
    transpose(block, height, size, space.columns[:, start:])
    multiply(block, False, FULL, height, size, space.columns, start, within, 0, height, 1.0, False)
    worst = 1.0
    for column in range(height):
        whole = within[column, column]
        for index in range(column):
            within[column, column] -= within[column, index] * within[column, index]
        square = within[column, column]
        if not (square * _INDEPENDENT > whole and square > shortest * shortest):
            return np.inf
        worst = max(worst, lengths[column] / square)
        within[column, column] = np.sqrt(square)
        for row in range(column + 1, height):
            for index in range(column):
                within[row, column] -= within[row, index] * within[column, index]
            within[row, column] /= within[column, column]
    inverse = space.inverse
    for row in range(height):
        scale = 1 / within[row, row]
        for column in range(height):
            inverse[row, column] = 0
        for other in range(row):
            for column in range(other + 1):
                inverse[row, column] -= within[row, other] * scale * inverse[other, column]
        inverse[row, row] = scale
    columns = rows.shape[1]
    multiply(inverse, False, LOWER, height, height, block, 0, block, 0, columns, 1.0, False)
    return worst


def _signature(number: Any) -> Any:
    return number(*(types.intp,) * 12, number)


@linked("orthonormalise", _signature)
def _orthonormalise_at(
    rows: int,
    count: int,
    size: int,
    length: int,
    triangle: int,
    width: int,
    diagonal: int,
    columns: int,
    outside: int,
    within: int,
    inverse: int,
    lengths: int,
    number: Any,
) -> Any:
    frame = numba.carray(pointer_to(rows, number), (count, length))
    result = numba.carray(pointer_to(triangle, number), (count, width))
    pivots = numba.carray(pointer_to(diagonal, number), count)
    space = Space(
        numba.carray(pointer_to(columns, number), (size, width)),
        numba.carray(pointer_to(outside, number), (_BLOCK, width)),
        numba.carray(pointer_to(within, number), (_BLOCK, width)),
        numba.carray(pointer_to(inverse, number), (_BLOCK, width)),
        numba.carray(pointer_to(lengths, number), _BLOCK),
    )
    scale = frame.dtype.type(1)
    longest = _longest(frame, size)
    if not _SMALL < longest < 1 / _SMALL:
        largest = _largest(frame, size)
        if not largest < np.inf:
            return largest
        if largest > 0:
            scale = largest
            for row in range(count):
                _scale(frame, row, 1 / scale, size)
            longest = _longest(frame, size)
    rounding = 4 * np.sqrt(size) * np.finfo(frame.dtype).eps
    for start in range(0, count, _BLOCK):
        stop = min(count, start + _BLOCK)
        shortest = frame.dtype.type(rounding * longest)
        _orthonormalise_block(frame, start, stop, size, result, pivots, space, shortest)
    for row in range(count):
        if pivots[row] > 0:
            pivots[row] = result[row, row] * scale
            for column in range(row + 1):
                result[row, column] *= scale
    return longest * scale
