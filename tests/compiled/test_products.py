"""Products over tiles equal NumPy's, for all shapes that a matrix can leave at its edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from flossing.compiled.compiler import TILE, link, padded
from flossing.compiled.products import FULL, LOWER, multiply, multiply_packed, transpose

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]


@njit
def call_multiply(
    left, transposed, shape, rows, depth, right, product, column, columns, scale, add
):
    multiply(
        left, transposed, shape, rows, depth, right, column, product, column, columns, scale, add
    )  # fmt: skip


@njit
def call_packed(left, rows, panels, product):
    multiply_packed(left, rows, panels, product)


@njit
def call_transpose(matrix, rows, columns, result):
    transpose(matrix, rows, columns, result)


both_types = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True, scope="module")
def linked():
    for dtype in DTYPES:
        link(dtype)


def random_matrix(rows, columns, dtype, seed=0):
    """A matrix padded with numbers that must not matter."""
    result = np.full((rows, padded(columns, dtype) + TILE.lanes(dtype)), 7.0, dtype)
    result[:, :columns] = np.random.default_rng(seed).standard_normal((rows, columns))
    return result


def close(ours, theirs, dtype):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e3 * np.finfo(dtype).eps)


sizes = st.integers(1, 90)


@both_types
@settings(max_examples=60, deadline=None)
@given(sizes, sizes, sizes, st.booleans(), st.sampled_from([1.0, -2.0]), st.booleans())
def test_any_shape(dtype, rows, depth, columns, transposed, scale, add):
    left = random_matrix(*((depth, rows) if transposed else (rows, depth)), dtype)
    right, product = random_matrix(depth, columns, dtype, 1), random_matrix(rows, columns, dtype, 2)
    before = product.copy()
    call_multiply(
        left, transposed, FULL, rows, depth, right, product, 0, columns, scale, add
    )  # fmt: skip
    factor = left[:depth, :rows].T if transposed else left[:rows, :depth]
    expected = scale * factor @ right[:, :columns] + (before[:, :columns] if add else 0)
    close(product[:, :columns], expected, dtype)


@both_types
@settings(max_examples=40, deadline=None)
@given(sizes, sizes)
def test_triangles_in_place(dtype, rows, columns):
    left = random_matrix(rows, rows, dtype)
    left[:, :rows] = np.tril(left[:, :rows])
    product = random_matrix(rows, columns, dtype, 1)
    expected = left[:, :rows] @ product[:, :columns]
    call_multiply(left, False, LOWER, rows, rows, product, product, 0, columns, 1.0, False)
    close(product[:, :columns], expected, dtype)


@both_types
def test_some_columns_leave_those_before_alone(dtype):
    left, right = random_matrix(5, 4, dtype), random_matrix(4, 40, dtype, 1)
    product = random_matrix(5, 40, dtype, 2)
    before = product.copy()
    call_multiply(left, False, FULL, 5, 4, right, product, 17, 23, 1.0, False)
    assert np.array_equal(product[:, :17], before[:, :17])
    close(product[:, 17:40], left[:, :4] @ right[:, 17:40], dtype)


@both_types
def test_an_empty_sum_is_zero(dtype):
    left, right = random_matrix(3, 1, dtype), random_matrix(1, 5, dtype)
    product = random_matrix(3, 5, dtype)
    call_multiply(left, False, FULL, 3, 0, right, product, 0, 5, 1.0, False)
    assert not product[:, :5].any()


@both_types
@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes)
def test_packed(dtype, rows, depth, columns):
    width = TILE.vectors * TILE.lanes(dtype)
    right = np.random.default_rng(3).standard_normal((depth, columns)).astype(dtype)
    whole = np.zeros((depth, -(-columns // width) * width), dtype)
    whole[:, :columns] = right
    panels = np.ascontiguousarray(whole.reshape(depth, -1, width).transpose(1, 0, 2))
    left, product = (
        random_matrix(rows, depth, dtype),
        np.empty((rows, padded(columns, dtype)), dtype),
    )
    call_packed(left, rows, panels, product)
    close(product[:, :columns], left[:, :depth] @ right, dtype)
    assert not product[:, columns:].any()


@both_types
@settings(max_examples=40, deadline=None)
@given(sizes, sizes)
def test_transpose(dtype, rows, columns):
    matrix = random_matrix(rows, columns, dtype)
    result = np.empty((padded(columns, dtype), padded(rows, dtype)), dtype)
    call_transpose(matrix, rows, columns, result)
    assert np.array_equal(result[:columns, :rows], matrix[:, :columns].T)
