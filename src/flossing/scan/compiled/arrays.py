"""Tensors as the compiled loops take them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from flossing.scan.compiled.machine import TILE, available_threads
from flossing.typed import unflatten

_PARALLEL_WORK = 1 << 19
"""Multiplications in a step that are worth a second thread."""


def numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    """Return the dtype of a tensor's array."""
    return np.dtype(np.float32 if tensor.dtype == torch.float32 else np.float64)


def packed(matrix: Tensor) -> Any:
    """Return R in panels as wide as a tile: [number of panels, rows, columns of a tile]."""
    columns = matrix.shape[1]
    width = TILE.vectors * TILE.lanes(numpy_dtype(matrix))
    panels = -(-columns // width)
    whole = torch.nn.functional.pad(matrix.detach(), (0, panels * width - columns))
    return unflatten(whole, 1, (panels, width)).transpose(0, 1).contiguous().numpy()


def threads_for(rows: int, work: int) -> int:
    """Return how many threads share so many rows, in steps of so many multiplications."""
    if work < _PARALLEL_WORK:
        return 1
    return min(max(1, rows // TILE.rows), torch.get_num_threads(), available_threads())
