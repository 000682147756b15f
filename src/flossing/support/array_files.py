"""Arrays in files of NumPy and MATLAB, read one at a time and without running code in the files."""

import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flossing.errors import UnreadableFileError
from flossing.support.foreign_files import refuse_foreign
from flossing.support.matlab_files import matlab_arrays
from flossing.support.tensor_files import UNNAMED, is_archive, require_file

ARRAY_SUFFIXES = (".npy", ".npz", ".mat")


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of numbers in a file, `[UNNAMED]` for `.npy`.

    Raises:
        UnreadableFileError: The file is missing, damaged, or of another kind.
    """
    require_file(path)
    if path.suffix.lower() == ".mat":
        return list(matlab_arrays(path))
    refuse_foreign(path)
    if not is_archive(path):
        return [UNNAMED]
    with _opened(path) as archive:
        return list(archive.files)


def load_array(path: Path, name: str) -> NDArray[Any]:
    """Return one of the arrays that `array_names` returns.

    Raises:
        UnreadableFileError: The array is damaged, or contains objects instead of numbers.
    """
    if path.suffix.lower() == ".mat":
        return matlab_arrays(path)[name]
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
