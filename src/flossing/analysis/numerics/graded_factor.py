# Numba is untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
"""One step of a graded product: B diag(exp d) M = Q diag(exp d') M', in compiled loops.

Householder's QR with pivots in columns and rows: columns by their scaled norms, so that M stays
well conditioned (Stewart, "On graded QR decompositions of products of matrices", 1994); rows so
that each is as accurate as its own size allows (Powell & Reid 1969; Cox & Higham 1998), which is
what saturated units, the small rows of a Jacobian, need.

Where single factors are so ill conditioned that their rounding would show, the same is done with
every vector as a sum of two numbers, in twice the digits (Dekker 1971; Ogita, Rump & Oishi 2005).
"""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np

from flossing.compiled.compiler import compiled, unchecked
from flossing.compiled.compiler import inlined as part

_SPLITTER = 2.0**27 + 1.0
# What is left of a row at or below this share of it is rounding of the doubled arithmetic.
_NOISE = 2.0**-96
_NEGLIGIBLE = 1e-30
_SMALLEST = 1e-250
_PROBES = 2


def _exact(function: Callable[..., Any]) -> Any:
    """Compile a function as a part of its callers, with every operation rounded as written."""
    # Said, for otherwise the callers' leave to reorder sums would be inherited.
    exact: dict[str, Any] = {"fastmath": False, "error_model": "numpy"}
    return cast(Any, numba.njit)(no_cpython_wrapper=True, no_cfunc_wrapper=True, **exact)(  # pyright: ignore[reportUnknownMemberType]
        unchecked(function)
    )


@_exact
def _two_sum(a: float, b: float) -> tuple[float, float]:
    """Return a + b rounded, and its error."""
    total = a + b
    part_of_b = total - a
    return total, (a - (total - part_of_b)) + (b - part_of_b)


@_exact
def _two_product(a: float, b: float) -> tuple[float, float]:
    """Return a · b rounded, and its error."""
    product = a * b
    scaled = _SPLITTER * a
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    scaled = _SPLITTER * b
    b_high = scaled - (scaled - b)
    b_low = b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


@_exact
def _product(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:
    high, low = _two_product(a, b)
    return _two_sum(high, low + (a * b_low + a_low * b))


@_exact
def _quotient(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:
    high = a / b
    back, back_low = _product(high, 0.0, b, b_low)
    return _two_sum(high, ((a - back) - back_low + a_low) / b)


@_exact
def _root(a: float, a_low: float) -> tuple[float, float]:
    high = np.sqrt(a)
    square, error = _two_product(high, high)
    return _two_sum(high, ((a - square) - error + a_low) / (2.0 * high))


@_exact
def _sum(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:
    total, lost = _two_sum(a, b)
    return _two_sum(total, lost + (a_low + b_low))


@_exact
def _extended_dot(a: Any, a_low: Any, b: Any, b_low: Any) -> tuple[float, float]:
    total = 0.0
    correction = 0.0
    for index in range(len(a)):
        product, error = _two_product(a[index], b[index])
        total, lost = _two_sum(total, product)
        correction += lost + (error + (a[index] * b_low[index] + a_low[index] * b[index]))
    return _two_sum(total, correction)


@part
def _dot(a: Any, b: Any) -> float:
    total = 0.0
    for index in range(len(a)):
        total += a[index] * b[index]
    return total


@_exact
def _extended_add(a: Any, a_low: Any, factor: float, factor_low: float, b: Any, b_low: Any) -> None:
    for index in range(len(a)):
        high, low = _product(factor, factor_low, b[index], b_low[index])
        a[index], a_low[index] = _sum(a[index], a_low[index], high, low)


@part
def _add(a: Any, factor: float, b: Any) -> None:
    for index in range(len(a)):
        a[index] += factor * b[index]


@part
def _largest(a: Any) -> float:
    result = 0.0
    for index in range(len(a)):
        result = max(result, abs(a[index]))
    return result


@part
def _power_of_two_below(value: float) -> float:
    """Return one by which a positive number can be divided without rounding, to about 1."""
    return 2.0 ** np.floor(np.log2(max(value, _SMALLEST)))


@part
def _log_norm(a: Any) -> float:
    """Return the logarithm of the length of a vector whose squares may leave the range."""
    square = _dot(a, a)
    if _SMALLEST < square < 1.0 / _SMALLEST:
        return 0.5 * np.log(square)
    scale = _largest(a)
    if scale == 0.0:
        return -np.inf
    total = 0.0
    for index in range(len(a)):
        total += (a[index] / scale) ** 2
    return np.log(scale) + 0.5 * np.log(total)


@part
def _is_noise(column: Any, row_scales: Any) -> bool:
    for row in range(len(column)):  # noqa: SIM110 - compiled
        if abs(column[row]) > _NOISE * row_scales[row]:
            return False
    return True


@part
def _pivot_column(
    vectors: Any, scales: Any, row_scales: Any, stage: int, live: int, extended: bool
) -> int:
    """Return the column with the longest rest, or −1 if nothing is left of any."""
    longest = -np.inf
    pivot = -1
    for column in range(stage, live):
        rest = vectors[column, stage:]
        if extended and _is_noise(rest, row_scales[stage:]):
            continue
        length = scales[column] + _log_norm(rest)
        if length > longest:
            longest = length
            pivot = column
    return pivot


@part
def _pivot_row(column: Any) -> int:
    pivot = 0
    for row in range(1, len(column)):
        if abs(column[row]) > abs(column[pivot]):
            pivot = row
    return pivot


@part
def _swap(a: Any, first: int, second: int) -> None:
    if first != second:
        for index in range(len(a)):
            a[index, first], a[index, second] = a[index, second], a[index, first]


@part
def _reflector(x: Any, x_low: Any, extended: bool) -> float:
    """Replace x by v, v_0 = 1, for which (1 − 2 v vᵀ / vᵀv) x = β e_0; return β."""
    unit = _power_of_two_below(abs(x[0]))
    for index in range(len(x)):
        x[index] /= unit
    if extended:
        for index in range(len(x)):
            x_low[index] /= unit
        square, square_low = _extended_dot(x, x_low, x, x_low)
        length, length_low = _root(square, square_low)
        sign = 1.0 if x[0] >= 0.0 else -1.0
        first, first_low = _sum(x[0], x_low[0], sign * length, sign * length_low)
        for index in range(1, len(x)):
            x[index], x_low[index] = _quotient(x[index], x_low[index], first, first_low)
        x_low[0] = 0.0
    else:
        length = np.sqrt(_dot(x, x))
        sign = 1.0 if x[0] >= 0.0 else -1.0
        first = x[0] + sign * length
        for index in range(1, len(x)):
            x[index] /= first
    x[0] = 1.0
    return -sign * length * unit


@part
def _reflect(v: Any, square: float, w: Any) -> None:
    """Replace w by (1 − 2 v vᵀ / vᵀv) w, given vᵀv."""
    _add(w, -2.0 * _dot(v, w) / square, v)


@part
def _reflect_all(vectors: Any, low: Any, stage: int, live: int, extended: bool) -> None:
    """Apply the reflection of a stage to the columns that come later."""
    v, v_low = vectors[stage, stage:], low[stage, stage:]
    if extended:
        square, square_low = _extended_dot(v, v_low, v, v_low)
        for column in range(stage + 1, live):
            w, w_low = vectors[column, stage:], low[column, stage:]
            along, along_low = _extended_dot(v, v_low, w, w_low)
            factor, factor_low = _quotient(-2.0 * along, -2.0 * along_low, square, square_low)
            _extended_add(w, w_low, factor, factor_low, v, v_low)
    else:
        square = _dot(v, v)
        for column in range(stage + 1, live):
            _reflect(v, square, vectors[column, stage:])


@part
def _eliminate(
    vectors: Any,
    low: Any,
    scales: Any,
    columns: Any,
    rows: Any,
    row_scales: Any,
    diagonal: Any,
    extended: bool,
) -> int:
    """Factor in place: v of every reflection below the diagonal, R above it; return the rank.

    `columns` and `rows` become the numbers that the pivoted ones had before.
    """
    count = len(vectors)
    live = 0
    while live < count and scales[live] > -np.inf:
        live += 1
    for stage in range(live):
        pivot = _pivot_column(vectors, scales, row_scales, stage, live, extended)
        if pivot < 0:
            return stage
        _swap(vectors.T, stage, pivot)
        _swap(low.T, stage, pivot)
        scales[stage], scales[pivot] = scales[pivot], scales[stage]
        columns[stage], columns[pivot] = columns[pivot], columns[stage]
        row = stage + _pivot_row(vectors[stage, stage:])
        _swap(vectors, stage, row)
        _swap(low, stage, row)
        rows[stage], rows[row] = rows[row], rows[stage]
        row_scales[stage], row_scales[row] = row_scales[row], row_scales[stage]
        diagonal[stage] = _reflector(vectors[stage, stage:], low[stage, stage:], extended)
        _reflect_all(vectors, low, stage, live, extended)
    return live


@part
def _form_frame(vectors: Any, rank: int, frame: Any) -> None:
    """Multiply the reflections out, into orthonormal vectors."""
    frame[:] = 0.0
    for stage in range(rank - 1, -1, -1):
        frame[stage, stage] = 1.0
        v = vectors[stage, stage:]
        square = _dot(v, v)
        for column in range(stage, rank):
            _reflect(v, square, frame[column, stage:])


@part
def _mix(
    vectors: Any, diagonal: Any, scales: Any, columns: Any, rank: int, mixing: Any, mixed: Any
) -> None:
    """Replace M by exp(−d') R exp(d) M, and d by d' = d + log|R_ii|."""
    mixed[:] = 0.0
    for row in range(rank):
        for column in range(row, len(vectors)):
            share = 1.0 if column == row else vectors[column, row] / diagonal[row]
            share *= np.exp(scales[column] - scales[row])
            if abs(share) > _NEGLIGIBLE:
                _add(mixed[row], share, mixing[columns[column]])
    mixing[:] = mixed
    for row in range(rank):
        scales[row] += np.log(abs(diagonal[row]))
    scales[rank:] = -np.inf


@part
def _amplification(
    vectors: Any, diagonal: Any, frame: Any, row_scales: Any, rank: int, solution: Any
) -> float:
    """Return about how much a relative change of every row's rounding moves the product.

    That is B⁺ times random numbers, each about as large as its row.
    """
    result = 0.0
    state = np.uint32(1)
    signed = np.empty_like(row_scales)
    for _ in range(_PROBES):
        for row in range(len(row_scales)):
            state = np.uint32(state * np.uint32(1664525) + np.uint32(1013904223))
            signed[row] = (state * 2.0**-31 - 1.0) * row_scales[row]
        for row in range(rank - 1, -1, -1):
            value = _dot(frame[row], signed)
            for column in range(row + 1, rank):
                value -= vectors[column, row] * solution[column]
            solution[row] = value / diagonal[row]
        result = max(result, _largest(solution[:rank]))
    return result


@compiled
def factor(vectors: Any, low: Any, scales: Any, mixing: Any, extended: bool) -> Any:
    """Bring B diag(exp d) M into the form Q diag(exp d') M', with orthonormal Q, in place.

    Where rank is lost, d' is −inf and the columns of Q are zero; they come last.

    Args:
        vectors: B, a column a row [I, k, n]; afterwards Q.
        low: what B is more than its rounding [I, k, n], if extended; overwritten.
        scales: d [I, k], the columns of rank lost before last; afterwards d'.
        mixing: M [I, k, k]; afterwards M'.
        extended: whether to compute in twice the digits.

    Returns:
        By how much rounding may have been amplified [I].
    """
    items, count, size = vectors.shape
    amplification = np.zeros(items)
    frame = np.empty((count, size))
    mixed = np.empty((count, count))
    diagonal = np.empty(count)
    solution = np.empty(count)
    row_scales = np.empty(size)
    for item in range(items):
        own, own_low = vectors[item], low[item]
        for row in range(size):
            row_scales[row] = _largest(own[:, row])
        columns, rows = np.arange(count), np.arange(size)
        rank = _eliminate(own, own_low, scales[item], columns, rows, row_scales, diagonal, extended)
        _form_frame(own, rank, frame)
        amplification[item] = _amplification(own, diagonal, frame, row_scales, rank, solution)
        _mix(own, diagonal, scales[item], columns, rank, mixing[item], mixed)
        for column in range(count):
            sign = 1.0 if column >= rank or diagonal[column] > 0.0 else -1.0
            for row in range(size):
                own[column, rows[row]] = sign * frame[column, row] if column < rank else 0.0
    return amplification


@compiled
def extended_product(matrices: Any, vectors: Any, product: Any, low: Any) -> None:
    """Multiply to twice the digits: product + low = matrices · vectors.

    Args:
        matrices: [I, n, n], a row a row.
        vectors: [I, k, n], a column a row.
        product: the product rounded [I, k, n], a column a row.
        low: what it is more than that.
    """
    items, count, size = vectors.shape
    nothing = np.zeros(size)
    for item in range(items):
        for column in range(count):
            for row in range(size):
                high, rest = _extended_dot(
                    matrices[item, row], nothing, vectors[item, column], nothing
                )
                product[item, column, row] = high
                low[item, column, row] = rest
