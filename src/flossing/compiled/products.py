# pyright: reportCallIssue=false
# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
"""Matrix products, transposition and triangular solves, over tiles in vector registers.

See docs/mathematics.md, Products over register tiles. All matrices are two-dimensional, contiguous
along their rows, and padded to whole vector registers of columns.
"""

from typing import Any

from numba.core import types

from flossing.compiled.compiler import TILE, inlined, linked
from flossing.compiled.tile import multiply_tile, transpose_tile

FULL, LOWER = 0, 1
"""What is known of a left factor: nothing, or that it is a lower triangle."""

_ROWS = TILE.rows
_VECTORS = TILE.vectors
_BYTES = TILE.vector_bytes


def _multiply_signature(number: Any) -> Any:
    return types.void(*(types.intp,) * 13, number)


@linked("multiply", _multiply_signature)
def multiply_at(
    left: int,
    left_row_stride: int,
    left_depth_stride: int,
    shape: int,
    rows: int,
    depth: int,
    right: int,
    right_stride: int,
    product: int,
    product_stride: int,
    columns: int,
    size: int,
    add: int,
    scale: Any,
) -> None:
    """See `products.multiply`."""
    # The columns in steps of a tile's width, the last one narrower; for each, all rows. So the few
    # columns of R that a tile needs stay in the fastest cache while the rows of L go past them.
    lanes = _BYTES // size
    for column in range(0, columns, _VECTORS * lanes):
        width = min(_VECTORS, (columns - column + lanes - 1) // lanes)
        remaining = rows
        while remaining > 0:
            # Tiles of 2^j rows: as many of the full height as there are, and for the rest one for
            # each one among its binary digits.
            height = 1
            if shape == LOWER:
                # From the last row up: row r of the product needs rows 0 … r of R, so that none
                # is needed any more once it is overwritten. The rest comes first, at the bottom,
                # so that the tiles above it begin at multiples of their heights.
                while height < _ROWS and remaining % (2 * height) == 0:
                    height *= 2
            else:
                while height < _ROWS and 2 * height <= remaining:
                    height *= 2
            remaining -= height
            row = remaining if shape == LOWER else rows - remaining - height
            # Of a lower triangle, the columns up to the tile's last row.
            last = min(depth, row + height) if shape == LOWER else depth
            multiply_tile(
                height,
                width,
                left + row * left_row_stride * size,
                left_row_stride,
                left_depth_stride,
                right + column * size,
                right_stride,
                product + (row * product_stride + column) * size,
                product_stride,
                last,
                scale,
                add != 0,
            )


def _transpose_signature(number: Any) -> Any:
    return types.void(*(types.intp,) * 7, number)


@linked("transpose", _transpose_signature)
def transpose_at(
    matrix: int,
    stride: int,
    rows: int,
    columns: int,
    result: int,
    result_stride: int,
    size: int,
    number: Any,
) -> None:
    """See `products.transpose`."""
    # T[c, r] = M[r, c], in square blocks of as many rows as a register has lanes.
    lanes = _BYTES // size
    for column in range(0, columns, lanes):
        for row in range(0, rows, lanes):
            transpose_tile(
                matrix + (row * stride + column) * size,
                stride,
                rows - row,
                result + (column * result_stride + row) * size,
                result_stride,
                number,
            )


@inlined
def multiply(
    left: Any,
    transposed: bool,
    shape: int,
    rows: int,
    depth: int,
    right: Any,
    right_column: int,
    product: Any,
    column: int,
    columns: int,
    scale: float,
    add: bool,
) -> None:
    """Set some columns of P to `scale` · L R, or add that.

    With a triangular L, R and P may be the same matrix.

    Args:
        left: L, or its transpose.
        transposed: whether `left` is the transpose.
        shape: FULL or LOWER: which entries of L may differ from zero.
        rows: rows of L and P.
        depth: columns of L and rows of R.
        right: R.
        right_column: the first column of R to use.
        product: P.
        column: the first column of P to set.
        columns: how many columns.
        scale: the factor.
        add: add to P instead of overwriting it.
    """
    # Addresses are in bytes, strides in numbers.
    size = product.itemsize
    row_stride, depth_stride = left.strides[0] // size, left.strides[1] // size
    if transposed:
        row_stride, depth_stride = depth_stride, row_stride
    multiply_at(
        left.ctypes.data,
        row_stride,
        depth_stride,
        shape,
        rows,
        depth,
        right.ctypes.data + right_column * size,
        right.strides[0] // size,
        product.ctypes.data + column * size,
        product.strides[0] // size,
        columns,
        size,
        add,
        product.dtype.type(scale),
    )


@inlined
def transpose(matrix: Any, rows: int, columns: int, result: Any) -> None:
    """Copy the transpose of a matrix.

    Whole square blocks are written, so the result must be padded in its rows as well as in its
    columns. What is written there has no meaning.
    """
    size = matrix.itemsize
    transpose_at(
        matrix.ctypes.data,
        matrix.strides[0] // size,
        rows,
        columns,
        result.ctypes.data,
        result.strides[0] // size,
        size,
        matrix.dtype.type(0),
    )


@inlined
def multiply_packed(left: Any, rows: int, panels: Any, product: Any) -> None:
    """Set P = L R, padding included, for R in the panels that `compiler.packed` returns."""
    # A panel's columns are one tile wide, so `multiply` goes down the rows of L once for each.
    count, depth, width = panels.shape
    columns = product.shape[1]
    for panel in range(count):
        start = panel * width
        multiply(
            left, False, FULL, rows, depth, panels[panel], 0,
            product, start, min(width, columns - start), 1.0, False,
        )  # fmt: skip


# Rows that are solved together, as many as a tile has. What the rows after them contribute is one
# product over tiles; within, there are loops over single rows, a share of about 8/k of the work.
_BLOCK = 8


@inlined
def solve(triangle: Any, rows: Any, first: int, length: int) -> None:
    """Replace some columns of G [k, n] by those of R^{-1} G, given Rᵀ.

    Args:
        triangle: Rᵀ [k, k].
        rows: G.
        first: the first column to replace.
        length: how many columns; whole vector registers.
    """
    # Back substitution in R X = G, from the last row up, in blocks of rows I:
    #   X_I = R_II^{-1} (G_I − Σ_{J>I} R_IJ X_J),    R_IJ = (Rᵀ)_JI as it lies in memory,
    # and within a block x_i = (g_i − Σ_{j>i} R_ij x_j) / R_ii. Each column of G is solved by
    # itself, so threads may take different columns.
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
                factor = triangle[start + other, start + row]
                solved = target[other][first : first + length]
                for column in range(length):
                    own[column] -= factor * solved[column]
            scale = 1 / triangle[start + row, start + row]
            for column in range(length):
                own[column] *= scale
