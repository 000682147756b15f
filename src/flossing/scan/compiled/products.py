"""Matrix products over tiles.

All matrices are two-dimensional and contiguous along their rows, padded to whole vector registers
of columns.
"""

from typing import Any

from flossing.scan.compiled.kernels import FULL, multiply_at, transpose_at
from flossing.scan.compiled.machine import part


@part
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

    With a triangular L, R and P may be the same matrix: rows are done in the order in which none
    is needed after it was overwritten.

    Args:
        left: L, or its transpose.
        transposed: whether `left` is the transpose.
        shape: FULL or LOWER: which entries of L may differ from zero.
        rows: rows of L and P.
        depth: columns of L and rows of R.
        right: R.
        right_column: the first column of R that is meant.
        product: P.
        column: the first column of P that is meant.
        columns: how many columns.
        scale: a factor.
        add: add to P instead of overwriting it.
    """
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


@part
def transpose(matrix: Any, rows: int, columns: int, result: Any) -> None:
    """Copy the transpose.

    Both matrices are padded. Whole square blocks are written, with what means nothing beyond the
    rows of the result that there are: it needs padded rows as well as columns.
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


@part
def multiply_packed(left: Any, rows: int, panels: Any, product: Any) -> None:
    """Set P = L R, padding included, for R in panels as wide as a tile.

    Args:
        left: L.
        rows: rows of L and P.
        panels: R [number of panels, rows of R, columns of a tile], padded with zeros.
        product: P.
    """
    count, depth, width = panels.shape
    columns = product.shape[1]
    for panel in range(count):
        start = panel * width
        multiply(
            left, False, FULL, rows, depth, panels[panel], 0,
            product, start, min(width, columns - start), 1.0, False,
        )  # fmt: skip
