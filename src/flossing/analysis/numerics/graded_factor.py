# Numba is untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
"""One step of a graded product: B diag(exp d) M = Q diag(exp d') M', in compiled loops.

Householder's QR with pivots in columns and rows. Columns are chosen by their scaled norms, so
that M stays well conditioned (Stewart, "On graded QR decompositions of products of matrices",
1995); rows so that each is as accurate as its own size allows (Powell & Reid 1969; Cox & Higham
1998), as the small rows that saturated units give to a Jacobian require.

For ill conditioned factors the same is done in twice the digits, every vector an unevaluated sum
of two (Dekker 1971; Ogita, Rump & Oishi 2005). See docs/mathematics.md, Graded products.
"""

from typing import Any

import numpy as np

from flossing.compiled.compiler import compiled, inlined, inlined_exactly

# 2^27 + 1 splits the 53 bits of a double into two halves of 26, whose products are exact.
_SPLITTER = 2.0**27 + 1.0
# What is left of a row at or below this share of it is rounding of the doubled arithmetic: its
# unit roundoff is 2^-106, and sums of up to a thousand terms lose up to ten bits.
_NOISE = 2.0**-96
# Shares of a row that change none of its digits, with a margin for rows of M that differ in size.
_NEGLIGIBLE = 1e-30
# Sums of squares between this and its inverse have neither overflowed nor lost what matters to
# underflow: their terms may be 10^58 times smaller and still be normal numbers.
_SMALLEST = 1e-250
# Random vectors in the estimate of ‖B⁺‖; more than one, since one alone may be unlucky (Dixon
# 1983). The estimate only decides which arithmetic is used.
_PROBES = 2


# Sums and products without error, a ∘ b = high + low (Knuth 1969; Dekker 1971). They rely on the
# order of operations, and so are compiled without leave to reassociate.


@inlined_exactly
def _two_sum(a: float, b: float) -> tuple[float, float]:
    """Return a + b rounded, and its error."""
    total = a + b
    part_of_b = total - a
    return total, (a - (total - part_of_b)) + (b - part_of_b)


@inlined_exactly
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


@inlined_exactly
def _product(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:
    high, low = _two_product(a, b)
    # a_low · b_low lies below the doubled precision.
    return _two_sum(high, low + (a * b_low + a_low * b))


@inlined_exactly
def _quotient(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:
    # One step of Newton's method: a/b ≈ q + (a − q b) / b.
    high = a / b
    back, back_low = _product(high, 0.0, b, b_low)
    return _two_sum(high, ((a - back) - back_low + a_low) / b)


@inlined_exactly
def _root(a: float, a_low: float) -> tuple[float, float]:
    # One step of Newton's method: √a ≈ r + (a − r²) / 2r.
    high = np.sqrt(a)
    square, error = _two_product(high, high)
    return _two_sum(high, ((a - square) - error + a_low) / (2.0 * high))


@inlined_exactly
def _sum(a: float, a_low: float, b: float, b_low: float) -> tuple[float, float]:
    total, lost = _two_sum(a, b)
    return _two_sum(total, lost + (a_low + b_low))


@inlined_exactly
def _extended_dot(a: Any, a_low: Any, b: Any, b_low: Any) -> tuple[float, float]:
    # Ogita, Rump & Oishi's Dot2: errors of products and sums are summed on their own.
    total = 0.0
    correction = 0.0
    for index in range(len(a)):
        product, error = _two_product(a[index], b[index])
        total, lost = _two_sum(total, product)
        correction += lost + (error + (a[index] * b_low[index] + a_low[index] * b[index]))
    return _two_sum(total, correction)


@inlined
def _dot(a: Any, b: Any) -> float:
    total = 0.0
    for index in range(len(a)):
        total += a[index] * b[index]
    return total


@inlined_exactly
def _extended_add(a: Any, a_low: Any, factor: float, factor_low: float, b: Any, b_low: Any) -> None:
    for index in range(len(a)):
        high, low = _product(factor, factor_low, b[index], b_low[index])
        a[index], a_low[index] = _sum(a[index], a_low[index], high, low)


@inlined
def _add(a: Any, factor: float, b: Any) -> None:
    for index in range(len(a)):
        a[index] += factor * b[index]


@inlined
def _largest(a: Any) -> float:
    result = 0.0
    for index in range(len(a)):
        result = max(result, abs(a[index]))
    return result


@inlined
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


@inlined
def _is_noise(column: Any, row_scales: Any) -> bool:
    for row in range(len(column)):  # noqa: SIM110 - compiled
        if abs(column[row]) > _NOISE * row_scales[row]:
            return False
    return True


@inlined
def _pivot_column(
    vectors: Any, scales: Any, row_scales: Any, stage: int, live: int, extended: bool
) -> int:
    """Return the column with the longest remainder, or −1 if nothing is left of any."""
    longest = -np.inf
    pivot = -1
    for column in range(stage, live):
        remainder = vectors[column, stage:]
        # Only the doubled arithmetic tells lost rank from rounding. In plain arithmetic a
        # remainder of rounding passes here, and the large amplification that it causes has the
        # step repeated in twice the digits.
        if extended and _is_noise(remainder, row_scales[stage:]):
            continue
        length = scales[column] + _log_norm(remainder)
        if length > longest:
            longest = length
            pivot = column
    return pivot


@inlined
def _pivot_row(column: Any) -> int:
    pivot = 0
    for row in range(1, len(column)):
        if abs(column[row]) > abs(column[pivot]):
            pivot = row
    return pivot


@inlined
def _swap(a: Any, first: int, second: int) -> None:
    if first != second:
        for index in range(len(a)):
            a[index, first], a[index, second] = a[index, second], a[index, first]


# A reflection H = 1 − 2 v vᵀ / vᵀv takes x to β e_0 for v = x − β e_0 with β = ∓‖x‖. The sign
# opposite to that of x_0 adds in v_0 = x_0 + sign(x_0) ‖x‖ where the other one would cancel, and it
# is the one for which errors are small row by row (Cox & Higham 1998). v is stored with v_0 = 1.
@inlined
def _reflector(x: Any, x_low: Any, extended: bool) -> float:
    """Replace x by v, v_0 = 1, for which (1 − 2 v vᵀ / vᵀv) x = β e_0; return β."""
    # x_0 is the largest entry. Divided by a power of two near it, without rounding, no entry has
    # a square that overflows, and only negligible ones have a square that underflows.
    unit = 2.0 ** np.floor(np.log2(max(abs(x[0]), _SMALLEST)))
    for index in range(len(x)):
        x[index] /= unit
    sign = 1.0 if x[0] >= 0.0 else -1.0
    if extended:
        for index in range(len(x)):
            x_low[index] /= unit
        square, square_low = _extended_dot(x, x_low, x, x_low)
        length, length_low = _root(square, square_low)
        first, first_low = _sum(x[0], x_low[0], sign * length, sign * length_low)
        for index in range(1, len(x)):
            x[index], x_low[index] = _quotient(x[index], x_low[index], first, first_low)
        x_low[0] = 0.0
    else:
        length = np.sqrt(_dot(x, x))
        first = x[0] + sign * length
        for index in range(1, len(x)):
            x[index] /= first
    x[0] = 1.0
    return -sign * length * unit


@inlined
def _reflect(v: Any, square: float, w: Any) -> None:
    """Replace w by (1 − 2 v vᵀ / vᵀv) w, given vᵀv."""
    _add(w, -2.0 * _dot(v, w) / square, v)


@inlined
def _reflect_all(vectors: Any, low: Any, stage: int, live: int, extended: bool) -> None:
    """Apply the reflection of a stage to the later columns."""
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


@inlined
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

    On return `columns` and `rows` hold the former indices of the pivoted columns and rows.
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
        # A reflection changes row i in proportion to v_i, and |v_i| ≤ 1 with the largest entry
        # on top: small rows receive no rounding errors of large ones.
        row = stage + _pivot_row(vectors[stage, stage:])
        _swap(vectors, stage, row)
        _swap(low, stage, row)
        rows[stage], rows[row] = rows[row], rows[stage]
        row_scales[stage], row_scales[row] = row_scales[row], row_scales[stage]
        diagonal[stage] = _reflector(vectors[stage, stage:], low[stage, stage:], extended)
        _reflect_all(vectors, low, stage, live, extended)
    return live


@inlined
def _form_frame(vectors: Any, rank: int, frame: Any) -> None:
    """Compute H_0 H_1 ⋯ applied to the first unit vectors, the orthonormal factor Q."""
    frame[:] = 0.0
    # Backward, so that reflection `stage` acts on vectors that are zero before that row.
    for stage in range(rank - 1, -1, -1):
        frame[stage, stage] = 1.0
        v = vectors[stage, stage:]
        square = _dot(v, v)
        for column in range(stage, rank):
            _reflect(v, square, frame[column, stage:])


# B diag(exp d) P = Q R diag(exp d) for the pivoted columns P, so that
#
#     R diag(exp d) = diag(exp d') T,  d'_i = d_i + log |R_ii|,  T_ij = R_ij / R_ii exp(d_j − d_i)
#
# and M' = T Pᵀ M, up to the signs of R_ii, which go to Q. Pivoting makes |R_ij| exp(d_j) ≤
# |R_ii| exp(d_i): T is upper triangular, with ones on its diagonal and no entry above 1, and M, a
# product of such matrices, stays well conditioned.
@inlined
def _mix(
    vectors: Any, diagonal: Any, scales: Any, columns: Any, rank: int, mixing: Any, mixed: Any
) -> None:
    """Replace M by T Pᵀ M, and d by d' = d + log|R_ii|."""
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


# Rounding replaces B by B + δB = B (1 + B⁺ δB), with |δB| in each row of the order of ε times the
# largest entry α of that row. So ε max |B⁺ s| over sign vectors s, scaled by α, bounds the relative
# change of the product. Random s in the place of all: B⁺ s = R⁻¹ Qᵀ s by back substitution.
@inlined
def _amplification(
    vectors: Any, diagonal: Any, frame: Any, row_scales: Any, rank: int, solution: Any
) -> float:
    """Estimate the relative change of the product per relative change of the rows of B."""
    result = 0.0
    state = np.uint32(1)
    signed = np.empty_like(row_scales)
    for _ in range(_PROBES):
        for row in range(len(row_scales)):
            # Linear congruential generator of Numerical Recipes: the same numbers every time.
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
        vectors: B, one column in each row [I, k, n]; afterwards Q.
        low: the low parts of B [I, k, n], if extended; overwritten.
        scales: d [I, k], with −inf for rank lost before, at the end; afterwards d'.
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
            # T has ones on its diagonal, so the sign of R_ii goes to the column of Q.
            sign = 1.0 if column >= rank or diagonal[column] > 0.0 else -1.0
            for row in range(size):
                own[column, rows[row]] = sign * frame[column, row] if column < rank else 0.0
    return amplification


@compiled
def extended_product(matrices: Any, vectors: Any, product: Any, low: Any) -> None:
    """Compute product + low = matrices · vectors in twice the digits.

    `matrices` are [I, n, n], one row in each row; the others [I, k, n], one column in each row.
    """
    items, count, size = vectors.shape
    nothing = np.zeros(size)
    for item in range(items):
        for column in range(count):
            for row in range(size):
                product[item, column, row], low[item, column, row] = _extended_dot(
                    matrices[item, row], nothing, vectors[item, column], nothing
                )
