"""Sequences from files of numbers, read without running anything that is in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from flossing.diagnosis.sequences.table import read_table
from flossing.errors import InvalidInputError, InvalidOptionError, UnreadableFileError
from flossing.support.checks import require_choice
from flossing.support.tensor_files import (
    load_pytorch,
    load_safetensors,
    named_tensors,
    require_file,
)

Layout: TypeAlias = Literal["time-first", "batch-first"]

Array = TypeVar("Array")

LAYOUTS: tuple[Layout, ...] = ("time-first", "batch-first")
SUFFIXES = (".npy", ".npz", ".csv", ".pt", ".pth", ".safetensors")

_UNNAMED = ""


def read_sequences(
    path: Path,
    *,
    array: str | None = None,
    sequence_column: str | None = None,
    layout: Layout = "time-first",
) -> Float[Tensor, "T B D"]:
    """Read sequences from a file.

    An array of one dimension is one sequence of one feature; of two, (steps, features), one
    sequence; of three, (steps, sequences, features), or with `layout="batch-first"`
    (sequences, steps, features). A `.csv` file has a row a step and a column a feature, numbers
    separated by commas, with a line of names first or without.

    Args:
        path: `.npy`, `.npz`, `.csv`, `.pt`, `.pth` or `.safetensors`.
        array: Which array of a file that holds several.
        sequence_column: The column of a `.csv` file that names the sequence which a row belongs
            to; `None`: all rows are one sequence.
        layout: Whether steps or sequences come first in an array of three dimensions.

    Returns:
        The sequences; whole numbers become floats of the default type, floats keep theirs.

    Raises:
        UnreadableFileError: the file is missing, damaged, or holds more than numbers.
        InvalidInputError: it holds no sequences: wrong dimensions, empty, not real numbers.
        InvalidOptionError: an option does not fit the file.
    """
    require_choice("layout", layout, LAYOUTS)
    require_file(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInputError(
            f"{str(path)!r} ends in {suffix!r}; sequences are read from {', '.join(SUFFIXES)}"
        )
    if suffix == ".csv":
        _refuse("array", array, path, "it holds one table")
        return read_table(path, sequence_column)
    _refuse("sequence_column", sequence_column, path, "columns with names are for .csv files")
    found = _read_numpy(path, array) if suffix in (".npy", ".npz") else _read_torch(path, array)
    return _time_first(_real(found, path), path, layout)


def _refuse(name: str, value: str | None, path: Path, reason: str) -> None:
    if value is not None:
        raise InvalidOptionError(
            f"{name}={value!r} does not fit {str(path)!r}: {reason}; leave it out"
        )


def _read_numpy(path: Path, array: str | None) -> Tensor:
    chosen = _chosen(_numpy_arrays(path), array, path)
    if chosen.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"{str(path)!r} holds {chosen.dtype} entries; expected real numbers: convert them with "
            ".astype(float)"
        )
    # PyTorch has no unsigned types but the smallest, no longer floats, one order of bytes.
    return torch.as_tensor(chosen.astype(np.float32 if chosen.dtype == np.float32 else np.float64))


def _numpy_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        content: Any = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {_UNNAMED: cast("NDArray[Any]", content)}
        with content:
            return dict(content)
    # A damaged file can fail in any way; so does one with objects, which are not read.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableFileError(
            f"{str(path)!r} is damaged, or holds objects instead of numbers "
            f"({str(error).partition('.')[0]}): write it again with numpy.save"
        ) from error


def _read_torch(path: Path, array: str | None) -> Tensor:
    if path.suffix.lower() == ".safetensors":
        return _chosen(load_safetensors(path), array, path)
    return _chosen(named_tensors(load_pytorch(path)), array, path)


def _chosen(arrays: Mapping[str, Array], array: str | None, path: Path) -> Array:
    """Return the one array there is, or the one that is named."""
    if _UNNAMED in arrays:
        _refuse("array", array, path, "it holds one array without a name")
        return arrays[_UNNAMED]
    if array is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    if array is None or array not in arrays:
        listed = ", ".join(map(repr, arrays)) or "none"
        raise InvalidOptionError(
            f"array is {array!r}, and the arrays in {str(path)!r} are {listed}: choose one by its "
            "name"
        )
    return arrays[array]


def _real(values: Tensor, path: Path) -> Tensor:
    if values.is_complex() or values.is_quantized or values.layout is not torch.strided:
        raise InvalidInputError(
            f"{str(path)!r} holds {values.dtype} entries ({values.layout}); expected a dense array "
            "of real numbers"
        )
    return values if values.is_floating_point() else values.to(torch.get_default_dtype())


def _time_first(values: Tensor, path: Path, layout: Layout) -> Float[Tensor, "T B D"]:
    if values.dim() not in (1, 2, 3) or values.numel() == 0:
        raise InvalidInputError(
            f"{str(path)!r} holds an array of shape {tuple(values.shape)}; expected (steps,), "
            "(steps, features), or with sequences as well three dimensions, none of them zero"
        )
    if values.dim() == 3:
        return values if layout == "time-first" else values.transpose(0, 1)
    return values.reshape(len(values), 1, -1)
