"""Arrays in files of NumPy and MATLAB, read one at a time and without running code in the files."""

import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flossing.errors import UnreadableFileError
from flossing.support.foreign_files import refuse_foreign
from flossing.support.tensor_files import UNNAMED, require_archive, require_file

ARRAY_SUFFIXES = (".npy", ".npz", ".mat")

# What `scipy.io.whosmat` calls arrays of numbers.
_NUMERIC = (
    "double",
    "single",
    "logical",
    *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
)
_LARGEST_MAT = 2**32
"""Bytes of the largest array of MATLAB that is read; the file may be compressed a thousandfold."""


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of numbers in a file, `[UNNAMED]` for `.npy`.

    Raises:
        UnreadableFileError: The file is missing, damaged, or of another kind.
        ImportError: SciPy, which reads `.mat`, is not installed.
    """
    require_file(path)
    if path.suffix.lower() == ".mat":
        return list(_variables(path))
    refuse_foreign(path)
    if not zipfile.is_zipfile(path):
        return [UNNAMED]
    require_archive(path)
    with _opened(path) as archive:
        return list(archive.files)


def load_array(path: Path, name: str) -> NDArray[Any]:
    """Return one of the arrays that `array_names` returns.

    Raises:
        UnreadableFileError: The array is damaged, or contains objects instead of numbers.
    """
    if path.suffix.lower() == ".mat":
        return _load_variable(path, name)
    with _opened(path) as content:
        return content if name == UNNAMED else content[name]


def is_real(array: NDArray[Any]) -> bool:
    """Whether an array holds real numbers or booleans."""
    return array.dtype.kind in "biuf"


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return an array of real numbers as a tensor in float32 if it is that, else in float64."""
    # PyTorch lacks most unsigned types, floats beyond float64, and foreign byte orders.
    return torch.as_tensor(array.astype(np.float32 if array.dtype == np.float32 else np.float64))


def holds_objects(path: Path, name: str) -> bool:
    """Whether an array of `.npz` holds Python objects, which only running code could restore."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            return bool(read(file)[2].hasobject)
    # Damaged: reading it tells what is wrong.
    except Exception:
        return False


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    """Open a file of NumPy: the array in it, or a mapping from which arrays are read by name."""
    try:
        # NumPy would leave a damaged file open.
        with path.open("rb") as file:
            yield np.load(file, allow_pickle=False)
    # It raises various errors for damaged files and for arrays of pickled objects.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).partition(". ")[0].split())[:100]
        raise UnreadableFileError(
            f"{str(path)!r} is damaged, or contains objects instead of numbers ({reason}): write "
            "it again with numpy.save"
        ) from error


def _variables(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the numeric variables of a file of MATLAB."""
    with path.open("rb") as file:
        beginning = file.read(32)
    if beginning.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise UnreadableFileError(
            f"{str(path)!r} is of MATLAB's version 7.3, which is HDF5: save it in MATLAB with "
            "save('weights.mat', 'W', '-v7'), and pass that file"
        )
    refuse_foreign(path)
    try:
        from scipy.io import whosmat  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
    except ImportError as error:
        raise ImportError(
            "files that end in .mat need the package SciPy, which could not be imported; install "
            "it with: pip install scipy"
        ) from error
    try:
        found = cast("list[tuple[str, tuple[int, ...], str]]", whosmat(str(path)))
    except Exception as error:
        raise _not_matlab(path, error) from error
    return {name: shape for name, shape, kind in found if kind in _NUMERIC}


def _load_variable(path: Path, name: str) -> NDArray[Any]:
    if np.prod([float(size) for size in _variables(path)[name]]) * 8 > _LARGEST_MAT:
        raise UnreadableFileError(
            f"{name} in {str(path)!r} has the shape {_variables(path)[name]}, more than "
            f"{_LARGEST_MAT / 2**30:.0f} GiB: save the part that is needed"
        )
    from scipy.io import loadmat  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    try:
        return cast(Any, loadmat)(str(path), variable_names=[name])[name]
    except Exception as error:
        raise _not_matlab(path, error) from error


def _not_matlab(path: Path, error: Exception) -> UnreadableFileError:
    reason = " ".join(str(error).split())[:100]
    return UnreadableFileError(
        f"{str(path)!r} is damaged, or not a file of MATLAB ({reason}): save it again "
        "with save('weights.mat', 'W', '-v7')"
    )
