# Numba is untyped.
# pyright: reportMissingTypeStubs=false
"""Singular values of diag(exp d) M by one-sided Jacobi rotations, in compiled loops.

See docs/mathematics.md, The one-sided Jacobi SVD.
"""

from typing import Any

import numpy as np

from flossing.compiled.compiler import compiled, inlined

# Six to ten sweeps suffice in practice, since convergence is quadratic in the end. Only
# matrices with entries that overflow come anywhere near this many.
_MOST_SWEEPS = 60

_UNIT_ROUNDOFF = 2.0**-53


@inlined
def _dot(a: Any, b: Any) -> float:
    total = 0.0
    for index in range(len(a)):
        total += a[index] * b[index]
    return total


@inlined
def _normalise(row: Any) -> float:
    """Scale a row to unit length and return the logarithm of its former length."""
    length = np.sqrt(_dot(row, row))
    for index in range(len(row)):
        row[index] /= length
    return np.log(length)


# The rotation. Divided by the length of the longer one, the two rows are x = u and y = ρ w, with
# unit vectors u and w, ρ = exp(log_ratio) ≤ 1, and c = u·w the cosine of their angle. With the
# tangent t of the angle of rotation they become, up to the common factor 1/√(1 + t²),
#
#     x' = x + t y = u + t ρ w,      y' = y − t x = ρ (w − (t/ρ) u).
#
# They are orthogonal where (1 − t²) x·y = t (x·x − y·y), that is t² + 2 ζ t − 1 = 0 with
# ζ = (1 − ρ²) / (2 ρ c). The root of smaller modulus, |t| ≤ 1, rotates by at most 45°, as
# convergence requires (Forsythe & Henrici 1960), and leaves the longer row the longer one:
#
#     t = sign(ζ) / (|ζ| + √(1 + ζ²)) = 2 ρ c / (g + √(g² + (2 ρ c)²)),      g = 1 − ρ² ≥ 0.
#
# Both terms of the denominator are positive, so nothing cancels. The code uses t/ρ and t ρ, of
# which the former stays finite where ρ underflows; there t/ρ = c, and the rotation is a step of
# Gram–Schmidt. The factor ρ of y' remains in the logarithm of its length.
@inlined
def _rotate(longer: Any, shorter: Any, log_ratio: float, cosine: float) -> None:
    """Make two unit rows orthogonal, given the logarithm of the ratio of their lengths, ≤ 0."""
    ratio = np.exp(log_ratio)
    # 1 − ρ² without cancellation where the rows are almost equally long.
    gap = -np.expm1(2.0 * log_ratio)
    tangent_by_ratio = 2.0 * cosine / (gap + np.hypot(gap, 2.0 * ratio * cosine))
    tangent_times_ratio = tangent_by_ratio * ratio * ratio
    shrink = 1.0 / np.sqrt(1.0 + tangent_by_ratio * tangent_times_ratio)
    for index in range(len(longer)):
        first, second = longer[index], shorter[index]
        longer[index] = shrink * (first + tangent_times_ratio * second)
        shorter[index] = shrink * (second - tangent_by_ratio * first)


@inlined
def _sweep(rows: Any, logs: Any, tolerance: float) -> bool:
    """Rotate every pair of rows once; return whether all were orthogonal already."""
    done = True
    for first in range(len(rows)):
        for second in range(first + 1, len(rows)):
            cosine = _dot(rows[first], rows[second])
            # False for NaN too: such rows end the sweeps at once and leave NaN in the result.
            if not abs(cosine) > tolerance:
                continue
            done = False
            longer, shorter = (first, second) if logs[first] >= logs[second] else (second, first)
            _rotate(rows[longer], rows[shorter], logs[shorter] - logs[longer], cosine)
            logs[first] += _normalise(rows[first])
            logs[second] += _normalise(rows[second])
    return done


@compiled
def log_singular_values(scales: Any, mixing: Any) -> Any:
    """Return the logarithms of the singular values of diag(exp d) M, each to high accuracy.

    One-sided Jacobi preserves the relative accuracy that a graded matrix with a well conditioned
    factor M allows (Demmel & Veselić 1992). Rows are stored as unit vectors and the logarithms of
    their lengths, so that no ratio of lengths leaves the range of the type.

    Args:
        scales: d [I, k]; where it is −inf, at the end, so are the singular values.
        mixing: M [I, k, k].

    Returns:
        [I, k], in descending order; NaN if the rotations do not converge.
    """
    items, count = scales.shape
    result = np.full((items, count), -np.inf)
    # Criterion of Demmel & Veselić: every cosine, not every inner product, is of the size of a
    # rounding error. Then W Wᵀ = 1 + E for the unit rows W, with ‖E‖₂ ≤ k · tolerance, and by
    # Ostrowski's theorem the lengths are the singular values to within a factor √(1 ± ‖E‖₂).
    tolerance = count * _UNIT_ROUNDOFF
    for item in range(items):
        rank = 0
        while rank < count and scales[item, rank] > -np.inf:
            rank += 1
        # Pivoting has sorted the rows from the longest to the shortest, nearly: for such an
        # order the first sweep already decouples the scales (Drmač & Veselić 2008).
        rows = mixing[item, :rank].copy()
        logs = scales[item, :rank].copy()
        for row in range(rank):
            logs[row] += _normalise(rows[row])
        sweeps = 0
        while sweeps < _MOST_SWEEPS and not _sweep(rows, logs, tolerance):
            sweeps += 1
        if sweeps == _MOST_SWEEPS:
            logs[:] = np.nan
        # Rotations keep longer rows longer, but equal lengths may end in any order.
        result[item, :rank] = np.sort(logs)[::-1]
    return result
