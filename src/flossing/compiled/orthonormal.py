# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false
# pyright: reportUnknownArgumentType=false
"""The factorisation at a boundary, V = Q R, by block Gram–Schmidt with reorthogonalisation.

See docs/mathematics.md, Block Gram–Schmidt. A block of vectors is projected off those before it by
two matrix products, and made orthonormal within by the Cholesky factor of its Gram matrix. Blocks
that have lost too many digits to either go through once more; blocks whose vectors are close to
dependent on one another go vector by vector. So any rank will do.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types

from flossing.compiled.compiler import TILE, inlined, linked, padded
from flossing.compiled.gram_schmidt import PASSES, REPEAT_ABOVE, dot, gram_schmidt
from flossing.compiled.products import FULL, LOWER, multiply, transpose
from flossing.compiled.tile import pointer_to

# Rows of a block: as many as a tile has, and few. Work within a block is done by loops over single
# vectors, a share of about 8/k; work between blocks, by products over tiles.
_BLOCK = 8

# The largest ratio of a diagonal entry of a block's Gram matrix to its pivot, ρ² within the block,
# for Cholesky's factorisation. The pivot is known to 64 eps, and the block is orthonormal to as
# much, some 1e-5 in single precision, before the second pass makes it so to a few eps (as in
# Cholesky QR done twice, Yamamoto et al. 2015). With a bound of 1/eps even that could fail.
_CHOLESKY_UP_TO = 64.0

# A vector of n numbers has lost rank where no more is left of it than 4 √n eps of the longest
# vector. A sum of n products with independent roundings has an error of about √n eps; and in a
# product with Jacobians these errors are relative to the longest vectors of the frame, not to each.
_RANK_ROUNDINGS = 4

# Frames with lengths from this to its inverse are not rescaled. In single precision, whose normal
# numbers begin at 1e-38, even the square of a length at which rank is lost, some 5e-7 of the
# longest, is normal: (5e-7 · 1e-12)² = 2.5e-37. And n · 1e24 is far below the largest number, 3e38.
_SMALL = 1e-12


class Space(NamedTuple):
    """Work space.

    Attributes:
        columns: the frame transposed [n, k], of which a block's predecessors are filled in.
        outside: S, a block's coefficients on the vectors before it [8, k].
        within: W, its coefficients within [8, 8].
        inverse: W⁻¹ [8, 8]; also sums of coefficients [8, k].
        lengths: the squared lengths of its vectors before a pass [8].
    """

    columns: Any
    outside: Any
    within: Any
    inverse: Any
    lengths: Any

    @classmethod
    def of(cls, count: int, size: int, dtype: np.dtype[Any], threads: int) -> "Space":
        """Return work space for k vectors of n numbers, for each of several threads."""
        # n is padded too: a transposition writes whole square blocks.
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
    # A product may start at any column, and writes whole registers from there.
    return padded(count, dtype) + TILE.lanes(dtype)


@inlined
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


@inlined
def _largest(rows: Any, columns: int) -> Any:
    """Return the largest magnitude; NaN where an entry is not finite."""
    largest = undefined = rows.dtype.type(0)
    for row in range(len(rows)):
        for column in range(columns):
            # `max` may drop a NaN. 0 · x is zero for all finite x, and NaN for others, and so is
            # the sum: one number to test in the end, and no branch in the loop.
            largest = max(largest, abs(rows[row, column]))
            undefined += 0 * rows[row, column]
    return largest + undefined


@inlined
def _longest(rows: Any, columns: int) -> Any:
    """Return the length of the longest row; NaN or infinite where one is not finite."""
    longest = undefined = rows.dtype.type(0)
    for row in range(len(rows)):
        square = dot(rows, row, row, columns)
        longest = max(longest, square)
        undefined += 0 * square
    return np.sqrt(longest) + undefined


@inlined
def _compose(triangle: Any, start: int, height: int, space: Any, first: bool) -> None:
    """Take one more pass into a block's rows of Rᵀ."""
    # A pass writes the block as B = S Q + W B', with the rows Q before it and what it makes of B.
    # With rows [S₀ W₀] of Rᵀ so far, for the block as it was at first,
    #   S₀ Q + W₀ B = S₀ Q + W₀ (S Q + W B') = (S₀ + W₀ S) Q + (W₀ W) B',
    # so S₀ ← S₀ + W₀ S and W₀ ← W₀ W.
    outside, within, sums = space.outside, space.within, space.inverse
    if not first:
        # W₀ S goes by way of `sums`, for a product writes whole vector registers, and W₀ lies
        # right behind S₀.
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
                # Above the diagonal `within` holds what is left of the Gram matrix; products with
                # a lower triangle read the whole of its diagonal blocks, which must be zero there.
                known = column <= row
                triangle[row, start + column] = within[row, column] if known else 0
        else:
            # In place: (W₀ W)_rc = Σ_{i=c}^{r} W₀_ri W_ic needs entries of W₀ from c on only.
            for column in range(row + 1):
                total = triangle.dtype.type(0)
                for index in range(column, row + 1):
                    total += triangle[row, start + index] * within[index, column]
                triangle[row, start + column] = total


@inlined
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
    for attempt in range(PASSES):
        for row in range(height):
            if attempt == 0:
                diagonal[start + row] = 1
                lengths[row] = dot(block, row, row, size)
            else:
                # The pass before has made them so.
                lengths[row] = 1
        # S = B Qᵀ and B ← B − S Q: classical between blocks, so that both are matrix products; the
        # repetition makes up for what it is less accurate than the modified way.
        multiply(block, False, FULL, height, size, space.columns, 0, outside, 0, start, 1.0, False)
        multiply(outside, False, FULL, height, start, rows, 0, block, 0, length, -1.0, True)
        ratio = _cholesky(rows, start, stop, size, space, shortest)
        if not ratio < np.inf:
            gram_schmidt(rows, start, stop, size, space, diagonal, shortest)
            # Each row has repeated what it had to.
            ratio = 1.0
        _compose(result, start, height, space, attempt == 0)
        # A replaced row: in V too it counts as replaced, V e_j = Q e_j.
        for row in range(height):
            if diagonal[start + row] == 0:
                for column in range(start + row):
                    result[row, column] = 0
                result[row, start + row] = 1
        if ratio <= REPEAT_ABOVE:
            break
        # Rank is decided by the first pass; later ones have unit vectors before them.
        shortest = rows.dtype.type(0)
    transpose(block, height, size, space.columns[:, start:])


@inlined
def _cholesky(rows: Any, start: int, stop: int, size: int, space: Any, shortest: Any) -> float:
    """Do what `gram_schmidt` does by the Gram matrix of the block, where that is as good.

    Returns:
        The ρ² of the block, or infinity, and nothing done, where vectors of the block are close to
        dependent on one another.
    """
    # B Bᵀ = W Wᵀ with a lower triangle W, so that B' = W⁻¹ B has B' B'ᵀ = 1.
    height, block, within, lengths = stop - start, rows[start:stop], space.within, space.lengths
    transpose(block, height, size, space.columns[:, start:])
    multiply(block, False, FULL, height, size, space.columns, start, within, 0, height, 1.0, False)
    worst = 1.0
    # Column by column, with g = B Bᵀ in the lower triangle of `within` at first:
    #   W_cc² = g_cc − Σ_{i<c} W_ci²,    W_rc = (g_rc − Σ_{i<c} W_ri W_ci) / W_cc for r > c.
    # W_cc² is the squared distance of row c from the span of the rows before it in the block.
    for column in range(height):
        whole = within[column, column]
        for index in range(column):
            within[column, column] -= within[column, index] * within[column, index]
        square = within[column, column]
        # So written that NaN fails too, as a Gram matrix that is not finite.
        if not (square * _CHOLESKY_UP_TO > whole and square > shortest * shortest):
            return np.inf
        # Beside the length before both projections, off the other blocks and within this one.
        worst = max(worst, lengths[column] / square)
        within[column, column] = np.sqrt(square)
        for row in range(column + 1, height):
            for index in range(column):
                within[row, column] -= within[row, index] * within[column, index]
            within[row, column] /= within[column, column]
    # W⁻¹ by rows, from W W⁻¹ = 1: (W⁻¹)_rc = −(1/W_rr) Σ_{i<r} W_ri (W⁻¹)_ic for c < r. Its errors
    # are as small as those of solving with W, for W is well conditioned here.
    inverse = space.inverse
    for row in range(height):
        scale = 1 / within[row, row]
        for column in range(height):
            inverse[row, column] = 0
        for other in range(row):
            for column in range(other + 1):
                inverse[row, column] -= within[row, other] * scale * inverse[other, column]
        inverse[row, row] = scale
    # In place, as `multiply` does it for a lower triangle.
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
    # Squares of lengths may overflow or underflow where lengths do not. Divided by its largest
    # entry the frame has lengths from 1 to √n, and R gets the factor back in the end.
    scale = frame.dtype.type(1)
    longest = _longest(frame, size)
    if not _SMALL < longest < 1 / _SMALL:
        largest = _largest(frame, size)
        if not largest < np.inf:
            return largest
        # Nothing but zeros is left as it is: no length exceeds `shortest`, so all are replaced.
        if largest > 0:
            scale = largest
            # Divided, for the inverse of a subnormal number overflows.
            for row in range(count):
                for column in range(size):
                    frame[row, column] /= scale
            longest = _longest(frame, size)
    rounding = _RANK_ROUNDINGS * np.sqrt(size) * np.finfo(frame.dtype).eps
    for start in range(0, count, _BLOCK):
        stop = min(count, start + _BLOCK)
        shortest = frame.dtype.type(rounding * longest)
        _orthonormalise_block(frame, start, stop, size, result, pivots, space, shortest)
    # Until here `pivots` was one, or zero for rows that were replaced. These keep the identity.
    for row in range(count):
        if pivots[row] > 0:
            pivots[row] = result[row, row] * scale
            for column in range(row + 1):
                result[row, column] *= scale
            # Subnormal numbers may vanish only here; then this row is one that was replaced.
            if pivots[row] == 0:
                for column in range(row):
                    result[row, column] = 0
                result[row, row] = 1
    return longest * scale
