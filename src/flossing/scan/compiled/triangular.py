"""Substitution: systems of equations with a triangular matrix, as a factorisation leaves it."""

from typing import Any

from flossing.scan.compiled.kernels import FULL
from flossing.scan.compiled.machine import part
from flossing.scan.compiled.products import multiply

_BLOCK = 8


@part
def solve(triangle: Any, rows: Any, first: int, length: int) -> None:
    """Replace some columns of G [k, n] by those of R^{-1} G, given Rᵀ.

    Args:
        triangle: Rᵀ [k, k].
        rows: G.
        first: the first column that is meant.
        length: how many columns; whole vector registers.
    """
    count = len(rows)
    for number in range((count - 1) // _BLOCK, -1, -1):
        start, stop = number * _BLOCK, min(count, (number + 1) * _BLOCK)
        target = rows[start:stop]
        multiply(
            triangle[stop:, start:], True, FULL, stop - start, count - stop, rows[stop:], first,
            target, first, length, -1.0, True,
        )  # fmt: skip
        for row in range(stop - start - 1, -1, -1):
            own = target[row][first : first + length]
            for other in range(row + 1, stop - start):
                factor, solved = triangle[start + other, start + row], target[other]
                _subtract_from(own, factor, solved[first : first + length])
            scale = 1 / triangle[start + row, start + row]
            for column in range(length):
                own[column] *= scale


@part
def _subtract_from(own: Any, factor: Any, other: Any) -> None:
    for column in range(len(own)):
        own[column] -= factor * other[column]
