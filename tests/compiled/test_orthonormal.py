"""The compiled factorisation: LAPACK's accuracy, whatever the rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from flossing.compiled.compiler import TILE, link, padded
from flossing.compiled.orthonormal import Space, orthonormalise, row_length
from flossing.compiled.products import solve

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]


@njit
def call_orthonormalise(rows, size, triangle, diagonal, space):
    return orthonormalise(rows, size, triangle, diagonal, space)


@njit
def call_solve(triangle, rows, first, length):
    solve(triangle, rows, first, length)


def factor(vectors, dtype):
    """Return Q, R, the diagonal and the longest length, for V [n, k]."""
    link(dtype)
    size, count = vectors.shape
    rows = np.zeros((count, padded(size, dtype)), dtype)
    rows[:, :size] = vectors.T
    triangle = np.full((count, row_length(count, dtype)), np.nan, dtype)
    diagonal = np.full(count, np.nan, dtype)
    space = Space(*(work[0] for work in Space.of(count, size, dtype, 1)))
    longest = call_orthonormalise(rows, size, triangle, diagonal, space)
    return rows[:, :size].T, np.tril(triangle[:, :count]).T, diagonal, longest


def graded(size, count, nats, dtype, seed=0):
    """Random vectors whose singular values span so many nats."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((size, count)))[0]
    right = np.linalg.qr(rng.standard_normal((count, count)))[0]
    return ((left * np.exp(-nats * np.linspace(0, 1, count))) @ right).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 40), st.floats(0, 12), st.integers(0, 1000))
def test_equals_lapack(dtype, count, more, nats, seed):
    vectors = graded(count + more, count, nats, dtype, seed)
    frame, triangle, diagonal, longest = factor(vectors, dtype)
    epsilon = np.finfo(dtype).eps
    np.testing.assert_allclose(frame.T @ frame, np.eye(count), atol=60 * epsilon)
    np.testing.assert_allclose(frame @ triangle, vectors, atol=60 * epsilon)
    assert np.array_equal(np.diagonal(triangle), diagonal)
    exact = np.abs(np.diagonal(np.linalg.qr(vectors.astype(np.float64))[1]))
    error = np.abs(diagonal - exact) / exact
    # A rounding of the longest vector, seen from the shortest.
    assert (error <= 60 * epsilon * longest / exact).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dependent", [[1], [0], [3, 4, 9], [10, 11], list(range(12))])
def test_dependent_vectors_are_replaced(dtype, dependent):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 12)).astype(dtype)
    for index in dependent:
        weights = rng.standard_normal(index)
        vectors[:, index] = vectors[:, :index] @ weights if index else 0
    frame, triangle, diagonal, _ = factor(vectors, dtype)
    epsilon = np.finfo(dtype).eps
    assert [int(i) for i in np.flatnonzero(diagonal == 0)] == dependent
    np.testing.assert_allclose(frame.T @ frame, np.eye(12), atol=60 * epsilon)
    kept = [index for index in range(12) if index not in dependent]
    product = (frame @ triangle)[:, kept]
    np.testing.assert_allclose(product, vectors[:, kept], atol=500 * epsilon)
    assert np.array_equal(triangle[:, dependent], np.eye(12, dtype=dtype)[:, dependent])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_dependent_vectors_than_dimensions_are_left(dtype):
    vectors = np.zeros((9, 9), dtype)
    vectors[:, 4] = 1
    frame, _, diagonal, longest = factor(vectors, dtype)
    np.testing.assert_allclose(frame.T @ frame, np.eye(9), atol=1e-5)
    assert longest == pytest.approx(3.0)
    assert [index for index in range(9) if diagonal[index] > 0] == [4]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("power", [-0.8, -0.4, 0.4, 0.8])
def test_squares_may_overflow_or_underflow(dtype, power):
    scale = float(np.finfo(dtype).max) ** power
    vectors = graded(20, 10, 3, dtype)
    frame, _, diagonal, longest = factor((vectors * dtype.type(scale)).astype(dtype), dtype)
    plain_frame, _, plain, plain_longest = factor(vectors, dtype)
    tolerance = 1e4 * np.finfo(dtype).eps
    np.testing.assert_allclose(diagonal / scale, plain, rtol=tolerance)
    np.testing.assert_allclose(frame, plain_frame, atol=tolerance)
    assert longest / scale == pytest.approx(plain_longest, rel=float(tolerance))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(dtype, bad):
    vectors = graded(20, 10, 1, dtype)
    vectors[13, 7] = bad
    assert not np.isfinite(factor(vectors, dtype)[3])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_solve(dtype, count):
    link(dtype)
    rng = np.random.default_rng(0)
    triangle = np.full((count, row_length(count, dtype)), np.nan, dtype)
    lower = np.tril(rng.standard_normal((count, count)) / count) + np.eye(count)
    triangle[:, :count] = np.where(np.tri(count, dtype=bool), lower, np.nan)
    rows = rng.standard_normal((count, padded(30, dtype))).astype(dtype)
    expected = np.linalg.solve(lower.T, rows.astype(np.float64))
    lanes = TILE.lanes(np.dtype(dtype))
    call_solve(triangle, rows, 0, lanes)
    call_solve(triangle, rows, lanes, rows.shape[1] - lanes)
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e3 * np.finfo(dtype).eps)
