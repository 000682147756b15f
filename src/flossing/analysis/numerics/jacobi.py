# Numba is untyped.
# pyright: reportMissingTypeStubs=false
"""Singular values of diag(exp d) M by one-sided Jacobi rotations, in compiled loops."""

from typing import Any

import numpy as np

from flossing.compiled.compiler import compiled
from flossing.compiled.compiler import inlined as part

_SWEEPS = 60


@part
def _dot(a: Any, b: Any) -> float:
    total = 0.0
    for index in range(len(a)):
        total += a[index] * b[index]
    return total


@part
def _normalise(row: Any) -> float:
    """Bring a row to length 1, and return the logarithm of the length that it had."""
    length = np.sqrt(_dot(row, row))
    for index in range(len(row)):
        row[index] /= length
    return np.log(length)


@part
def _rotate(longer: Any, shorter: Any, log_ratio: float, cosine: float) -> None:
    """Make two rows orthogonal, given as unit vectors with the logarithm of their ratio ≤ 0.

    With ρ = exp(log_ratio), tangent t of the angle and cosine c of the rows, x = u and y = ρ w
    become u + t ρ w and ρ (w − (t/ρ) u), up to the length. t/ρ stays finite where ρ underflows.
    """
    ratio = np.exp(log_ratio)
    gap = -np.expm1(2.0 * log_ratio)
    tangent_by_ratio = 2.0 * cosine / (gap + np.hypot(gap, 2.0 * ratio * cosine))
    tangent_times_ratio = tangent_by_ratio * ratio * ratio
    shrink = 1.0 / np.sqrt(1.0 + tangent_by_ratio * tangent_times_ratio)
    for index in range(len(longer)):
        first, second = longer[index], shorter[index]
        longer[index] = shrink * (first + tangent_times_ratio * second)
        shorter[index] = shrink * (second - tangent_by_ratio * first)


@part
def _sweep(rows: Any, logs: Any, tolerance: float) -> bool:
    """Rotate every pair of rows; return whether all were orthogonal already."""
    done = True
    for first in range(len(rows)):
        for second in range(first + 1, len(rows)):
            cosine = _dot(rows[first], rows[second])
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
    """Return the logarithms of the singular values of diag(exp d) M, each to its own digits.

    One-sided Jacobi keeps the relative accuracy that the grading and a well conditioned M allow
    (Demmel & Veselić 1992). Rows are kept as unit vectors and the logarithms of their lengths, so
    that no ratio of them leaves the range of the type.

    Args:
        scales: d [I, k]; where it is −inf, at the end, so are the singular values.
        mixing: M [I, k, k].

    Returns:
        In descending order [I, k]; NaN if the rotations do not converge.
    """
    items, count = scales.shape
    result = np.full((items, count), -np.inf)
    tolerance = count * 2.0**-53
    for item in range(items):
        rank = 0
        while rank < count and scales[item, rank] > -np.inf:
            rank += 1
        rows = mixing[item, :rank].copy()
        logs = scales[item, :rank].copy()
        for row in range(rank):
            logs[row] += _normalise(rows[row])
        sweeps = 0
        while sweeps < _SWEEPS and not _sweep(rows, logs, tolerance):
            sweeps += 1
        if sweeps == _SWEEPS:
            logs[:] = np.nan
        result[item, :rank] = np.sort(logs)[::-1]
    return result
