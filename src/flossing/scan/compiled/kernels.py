# Numba and llvmlite are untyped, and what they decorate takes other arguments than it declares.
# pyright: reportCallIssue=false
"""The two kernels over tiles, compiled once for each floating point type.

They are written in addresses, and strides in numbers. `products` makes them presentable.
"""

from typing import Any

from numba.core import types

from flossing.scan.compiled.machine import TILE, linked
from flossing.scan.compiled.tile import multiply_tile, transpose_tile

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
    lanes = _BYTES // size
    for column in range(0, columns, _VECTORS * lanes):
        width = min(_VECTORS, (columns - column + lanes - 1) // lanes)
        remaining = rows
        while remaining > 0:
            height = 1
            if shape == LOWER:
                # From below, in the order in which R may be overwritten: the uneven rest first.
                while height < _ROWS and remaining % (2 * height) == 0:
                    height *= 2
            else:
                while height < _ROWS and 2 * height <= remaining:
                    height *= 2
            remaining -= height
            row = remaining if shape == LOWER else rows - remaining - height
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
