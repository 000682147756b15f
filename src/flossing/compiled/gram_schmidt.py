"""Gram–Schmidt vector by vector, each repeated as often as it takes; for vectors of any rank.

See docs/mathematics.md, Block Gram–Schmidt. Blocks go through it whose vectors are close to
dependent on one another.
"""

from typing import Any

import numpy as np

from flossing.compiled.compiler import inlined

# Let ρ be a vector's length before a pass divided by that after. The pass leaves components of
# about eps·ρ along the vectors before, its rounding errors beside what is left of the vector. Up to
# this ρ² they are a few roundings, and nothing needs repeating: the criterion of Daniel, Gragg,
# Kaufman & Stewart (1976), with 1/√2 as the least share of a vector that a pass must leave.
REPEAT_ABOVE = 2.0

# One repetition is enough where the vector is not dependent to working precision (Giraud, Langou &
# Rozložník 2005): the second pass takes away eps·ρ beside one. Two more, for what is borderline.
PASSES = 4


@inlined
def scale_row(rows: Any, row: int, factor: Any, columns: int) -> None:
    """Multiply a row by a number."""
    for column in range(columns):
        rows[row, column] *= factor


@inlined
def dot(rows: Any, row: int, other: int, columns: int) -> Any:
    """Return the inner product of two rows."""
    total = rows.dtype.type(0)
    for column in range(columns):
        total += rows[row, column] * rows[other, column]
    return total


@inlined
def gram_schmidt(
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
        # Here it is decided that rank is lost. What is left of the row is rounding errors of
        # arbitrary direction; made to unit length, they would go on as a tangent vector and grow
        # like one. A completion is as arbitrary, but exactly orthogonal, and known to be one.
        if length <= shortest:
            _complete(rows, row, size)
            # `0 * shortest` is zero in the type of the numbers.
            length = _project(rows, row, start, size, outside, within, 0 * shortest)
            diagonal[row] = 0
        within[row - start, row - start] = length
        scale_row(rows, row, 1 / length, size)


@inlined
def _project(
    rows: Any, row: int, start: int, size: int, outside: Any, within: Any, shortest: Any
) -> Any:
    """Project a row off all before it until that changes little; return its length."""
    # Modified Gram–Schmidt (Björck 1967): v ← v − (v·q_j) q_j for each j in turn, each coefficient
    # taken of what the others have left. Coefficients of repetitions add up.
    square = dot(rows, row, row, size)
    for _ in range(PASSES):
        for other in range(row):
            inner = dot(rows, row, other, size)
            for column in range(size):
                rows[row, column] -= inner * rows[other, column]
            if other < start:
                outside[row - start, other] += inner
            else:
                within[row - start, other - start] += inner
        before, square = square, dot(rows, row, row, size)
        if square * REPEAT_ABOVE > before or square <= shortest * shortest:
            break
    return np.sqrt(square)


@inlined
def _complete(rows: Any, row: int, size: int) -> None:
    """Replace a row by the unit vector that is farthest from the span of those before it."""
    # For a unit vector e_i the squared length of its projection on the span is Σ_j Q_ij². These sum
    # to the number of rows before, less than n, so the least of them is at most row/n < 1, and
    # what is left of e_i is no shorter than √(1/n).
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
