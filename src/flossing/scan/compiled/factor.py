"""The factorisation at a boundary: accepted where the frame has not stretched too far."""

from typing import Any

import numpy as np

from flossing.scan.compiled.machine import part
from flossing.scan.compiled.orthonormal import orthonormalise


@part
def factor(
    rows: Any,
    size: int,
    triangle: Any,
    diagonal: Any,
    space: Any,
    spread: float,
    magnitude: float,
) -> float:
    """Orthonormalise the tangent vectors of one trajectory in place; see `orthonormalise`.

    `spread` and `magnitude` are `boundaries.Limits`.

    Returns:
        The share of the limits that the frame used: infinite for lost rank, NaN for vectors that
        are not finite.
    """
    longest = orthonormalise(rows, size, triangle, diagonal, space)
    if not longest < np.inf:
        return np.nan
    shortest = diagonal[0]
    for index in range(len(rows)):
        shortest = min(shortest, diagonal[index])
    if shortest == 0:
        return np.inf
    high, low = np.log(longest), np.log(shortest)
    return max((high - low) / spread, max(abs(high), abs(low)) / magnitude)
