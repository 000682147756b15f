"""Sequences from files of arrays, without running code in the files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.diagnosis.sequences.table import read_table
from flossing.errors import InvalidInputError, InvalidOptionError
from flossing.support.array_files import (
    ARRAY_SUFFIXES,
    array_names,
    as_tensor,
    is_real,
    load_array,
)
from flossing.support.checks import require_choice
from flossing.support.tensor_files import (
    UNNAMED,
    load_pytorch,
    load_safetensors,
    named_tensors,
    require_file,
    require_values,
)

Layout: TypeAlias = Literal["time-first", "batch-first"]

Array = TypeVar("Array")

LAYOUTS: tuple[Layout, ...] = ("time-first", "batch-first")
SUFFIXES = (*ARRAY_SUFFIXES, ".csv", ".pt", ".pth", ".safetensors")


def read_sequences(
    path: Path,
    *,
    array: str | None = None,
    sequence_column: str | None = None,
    layout: Layout = "time-first",
) -> Float[Tensor, "T B D"]:
    """Read sequences from a file.

    The axes of an array are (steps,), (steps, features) or (steps, sequences, features), the last
    with `layout="batch-first"` (sequences, steps, features). A `.csv` file has a row per step and
    a column per feature, separated by commas, with or without a header.

    Args:
        path: `.npy`, `.npz`, `.mat`, `.csv`, `.pt`, `.pth` or `.safetensors`.
        array: Name of the array in a file that contains several.
        sequence_column: Column of a `.csv` file that identifies the sequence of each row; `None`
            if all rows are one sequence.
        layout: Order of the axes of a three-dimensional array.

    Returns:
        The sequences; integers are converted to the default floating-point type.

    Raises:
        UnreadableFileError: The file is missing or damaged, or contains more than numbers.
        InvalidInputError: It contains no sequences of real numbers.
        InvalidOptionError: An option does not fit the file.
    """
    require_choice("layout", layout, LAYOUTS)
    require_file(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInputError(
            f"{str(path)!r} ends in {suffix!r}; expected one of {', '.join(SUFFIXES)}: convert it"
        )
    if suffix == ".csv":
        _refuse("array", array, path, "it contains a single table")
        return read_table(path, sequence_column)
    _refuse("sequence_column", sequence_column, path, "only .csv files have named columns")
    found = _read_arrays(path, array) if suffix in ARRAY_SUFFIXES else _read_torch(path, array)
    require_values(array or "the array", found)
    return _time_first(_real(found, path), path, layout)


def _refuse(name: str, value: str | None, path: Path, reason: str) -> None:
    if value is not None:
        raise InvalidOptionError(f"{name}={value!r} does not fit {str(path)!r}: {reason}; omit it")


def _read_arrays(path: Path, array: str | None) -> Tensor:
    # By name alone, so that no other array of a large file is read.
    name = _chosen({name: name for name in array_names(path)}, array, path)
    chosen = load_array(path, name)
    if not is_real(chosen):
        raise InvalidInputError(
            f"{str(path)!r} contains {chosen.dtype} entries; expected real numbers: convert them "
            "with .astype(float)"
        )
    return as_tensor(chosen)


def _read_torch(path: Path, array: str | None) -> Tensor:
    if path.suffix.lower() == ".safetensors":
        return _chosen(load_safetensors(path), array, path)
    return _chosen(named_tensors(load_pytorch(path)), array, path)


def _chosen(arrays: Mapping[str, Array], array: str | None, path: Path) -> Array:
    """Return the only array, or the one that is named."""
    if UNNAMED in arrays:
        _refuse("array", array, path, "it contains a single array without a name")
        return arrays[UNNAMED]
    if array is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    if array is None or array not in arrays:
        listed = ", ".join(map(repr, arrays)) or "none"
        raise InvalidOptionError(
            f"array is {array!r}, but the arrays in {str(path)!r} are {listed}: select one by its "
            "name"
        )
    return arrays[array]


def _real(values: Tensor, path: Path) -> Tensor:
    if values.is_complex():
        raise InvalidInputError(
            f"{str(path)!r} contains {values.dtype} entries; expected real numbers: convert them "
            "before saving"
        )
    return values if values.is_floating_point() else values.to(torch.get_default_dtype())


def _time_first(values: Tensor, path: Path, layout: Layout) -> Float[Tensor, "T B D"]:
    if values.dim() not in (1, 2, 3) or values.numel() == 0:
        raise InvalidInputError(
            f"{str(path)!r} contains an array of shape {tuple(values.shape)}; expected (steps,), "
            "(steps, features) or (steps, sequences, features), none of them zero"
        )
    if values.dim() == 3:
        return values if layout == "time-first" else values.transpose(0, 1)
    return values.reshape(len(values), 1, -1)
