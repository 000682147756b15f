"""Files of tensors, read without running code that they contain."""

import argparse
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from flossing.errors import UnreadableFileError
from flossing.support.foreign_files import refuse_foreign
from flossing.support.warning_filters import ignored_warnings

_REMEDY = (
    "where the model was made, save the weights alone, torch.save(model.state_dict(), "
    "'weights.pt'), and pass that file"
)
UNNAMED = ""
"""Name of a tensor or array that is the whole content of a file."""

_DEEPEST = 100
_MOST_NAMES = 200_000
_LARGEST_EXPANSION = 2**26
"""Bytes up to which a tensor may be larger than what the file holds of it."""
_LARGEST_RATIO = 200
"""By how much more than the file an archive may hold, if it is more than `_LARGEST_EXPANSION`."""

_numpy_scalar = np.float64(0).__reduce__()[0]
# Objects that often stand beside weights, and that do nothing when they are made: `torch.load` may
# rebuild them, by whichever of these names. NumPy 1 and Python 3.13 have other names.
_BYSTANDERS: list[tuple[Any, str]] = [
    (np.dtype, "numpy.dtype"),
    *((_numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(
        (kind, f"numpy.dtypes.{kind.__name__}")
        for kind in map(type, map(np.dtype, "?bBhHiIlLqQefd"))
    ),
    *(
        (kind, f"{module}.{kind.__name__}")
        for kind in (PosixPath, PurePosixPath, WindowsPath, PureWindowsPath)
        for module in ("pathlib", "pathlib._local")
    ),
    (argparse.Namespace, "argparse.Namespace"),
]
_REFUSED_GLOBAL = re.compile(r"(?:Unsupported global|unsupported) ?:? GLOBAL ((?:\w+\.)+\w+)")


def require_file(path: Path) -> None:
    """Require the path of a file.

    Raises:
        UnreadableFileError: the path does not exist, or is a folder, a pipe or a device.

    Example:
        >>> from pathlib import Path
        >>> require_file(Path("nowhere.pt"))
        Traceback (most recent call last):
        ...
        flossing.errors.UnreadableFileError: there is no file 'nowhere.pt': check the path
    """
    if path.is_dir():
        raise UnreadableFileError(f"{str(path)!r} is a folder: pass a file in it")
    if path.exists() and not path.is_file():
        raise UnreadableFileError(
            f"{str(path)!r} is a pipe or a device: write its contents to a file, and pass that"
        )
    if not path.is_file():
        raise UnreadableFileError(f"there is no file {str(path)!r}: check the path")


def load_pytorch(path: Path) -> object:
    """Return the contents of a file of `torch.save` if they are tensors and plain containers.

    Args:
        path: A file such as `.pt`, `.pth` or `.ckpt`.

    Raises:
        UnreadableFileError: the file is missing or damaged, or contains objects that can only be
            rebuilt by running code in the file or code that it names; nothing has been run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.pt"
        ...     torch.save({"weight": torch.zeros(2)}, path)
        ...     load_pytorch(path)
        {'weight': tensor([0., 0.])}
    """
    require_file(path)
    refuse_foreign(path)
    is_archive(path)
    try:
        # The warnings advise to load unsafely; where they matter, an error follows.
        with ignored_warnings(), torch.serialization.safe_globals(cast(Any, _BYSTANDERS)):
            return cast(Any, torch).load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # A damaged file can make the unpickler raise anything.
    except Exception as error:
        raise UnreadableFileError(_why_refused(path, error)) from error


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file by name.

    Raises:
        UnreadableFileError: the file is missing or damaged.
        ImportError: safetensors is not installed.
    """
    require_file(path)
    refuse_foreign(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import (
            load_file,  # pyright: ignore[reportUnknownVariableType]
        )
    except ImportError as error:
        raise ImportError(
            "files that end in .safetensors need the package safetensors, which could not be "
            'imported; install it with: pip install "flossing[cli]"'
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UnreadableFileError(
            f"{str(path)!r} is not a whole .safetensors file ({error}): write it again with "
            "safetensors.torch.save_file"
        ) from error


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, which has to hold about as much as its size lets expect.

    Raises:
        UnreadableFileError: it is damaged, or would fill the memory.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    # Damaged; `zipfile` is written for archives that are whole.
    except Exception as error:
        raise UnreadableFileError(
            f"{str(path)!r} is damaged ({error}): write or download it again"
        ) from error
    stored = path.stat().st_size
    if size > max(_LARGEST_EXPANSION, _LARGEST_RATIO * stored):
        raise UnreadableFileError(
            f"{str(path)!r} has {stored:,} bytes that unpack to {size:,}: if that is right, save "
            "it again without compression"
        )
    return True


def require_values(name: str, tensor: Tensor) -> None:
    """Require a dense tensor whose values are in the file, one by one.

    Raises:
        UnreadableFileError: the tensor has no values (meta device), is sparse, nested or
            quantised, or repeats so few values that it would fill the memory.

    Example:
        >>> require_values("weight", torch.zeros(1).expand(10**6, 10**4))
        Traceback (most recent call last):
        ...
        flossing.errors.UnreadableFileError: weight of shape (1000000, 10000) repeats 4 bytes to \
40,000,000,000: save it with .contiguous(), if it is meant so
    """
    if tensor.is_meta:
        raise UnreadableFileError(
            f"{name} is on the meta device and has no values: load the weights before saving"
        )
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        what = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else "sparse"
        remedy = "dequantize()" if tensor.is_quantized else "to_dense()"
        raise UnreadableFileError(
            f"{name} is {what} ({tensor.dtype}, {tensor.layout}); expected a dense tensor: convert "
            f"it with .{remedy} before saving"
        )
    size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > stored + _LARGEST_EXPANSION:
        raise UnreadableFileError(
            f"{name} of shape {tuple(tensor.shape)} repeats {stored:,} bytes to {size:,}: save it "
            "with .contiguous(), if it is meant so"
        )


def named_tensors(content: object) -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries and lists, named by their keys, joined by dots.

    Args:
        content: A tensor, `UNNAMED`, or a dictionary or list; values of other types are skipped.

    Raises:
        UnreadableFileError: `content` is nested more than 100 levels deep, as a dictionary that
            contains itself is, or has more than 200,000 entries, or two tensors of one name.

    Example:
        >>> list(named_tensors({"epoch": 3, "state_dict": {"rnn.bias": torch.zeros(2)}}))
        ['state_dict.rnn.bias']
        >>> list(named_tensors([{"rnn.bias": torch.zeros(2)}]))
        ['0.rnn.bias']
    """
    found: dict[str, Tensor] = {}
    visited = 0
    waiting: list[tuple[str, object, int]] = [(UNNAMED, content, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        visited += 1
        if depth > _DEEPEST or visited > _MOST_NAMES:
            raise UnreadableFileError(
                f"the file's dictionaries are nested more than {_DEEPEST} levels deep, contain "
                f"themselves, or have more than {_MOST_NAMES:,} entries: save the weights alone, "
                "torch.save(model.state_dict(), 'weights.pt'), and pass that file"
            )
        if isinstance(value, Tensor):
            if name in found:
                raise UnreadableFileError(
                    f"two tensors of the file are named {name!r}, if the keys of its dictionaries "
                    "are joined by dots: rename one of them before saving"
                )
            found[name] = value
            continue
        items: list[tuple[str, object, int]] = [
            (f"{name}.{key}" if name else str(key), inner, depth + 1)
            for key, inner in _items(value)
            if isinstance(inner, Tensor | Mapping | list | tuple)
        ]
        # The last is taken first; the names keep the order of the file.
        waiting.extend(reversed(items))
    return found


def _items(value: object) -> list[tuple[object, object]]:
    if isinstance(value, Mapping):
        return list(cast("Mapping[object, object]", value).items())
    if isinstance(value, list | tuple):
        return list(enumerate(cast("Sequence[object]", value)))
    return []


def _why_refused(path: Path, error: Exception) -> str:
    message = str(error)
    if "TorchScript" in message:
        return (
            f"{str(path)!r} is a TorchScript archive, that is, a program: load it with "
            "torch.jit.load if you trust it, save its state_dict() with torch.save, and pass "
            "that file"
        )
    objects = _objects_within(path, message)
    if any(name.startswith("torch.nn.") for name in objects):
        return (
            f"{str(path)!r} holds a whole module ({_listed(objects)}), and rebuilding it would run "
            f"code that the file names: {_REMEDY}"
        )
    if objects:
        return (
            f"{str(path)!r} holds more than tensors ({_listed(objects)}), and rebuilding it would "
            f"run code that the file names: {_REMEDY}"
        )
    reason = " ".join(message.split())[:100] if isinstance(error, RuntimeError) else ""
    return (
        f"{str(path)!r} is damaged, or not a file that torch.save wrote"
        f"{f' ({reason})' if reason else ''}: {_REMEDY}"
    )


def _objects_within(path: Path, message: str) -> list[str]:
    """Return the classes and functions that a file names and that may not be called to load it."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    # It raises for files in PyTorch's older format; there the message names the first of them.
    except Exception:
        return _REFUSED_GLOBAL.findall(message)[:1]


def _listed(objects: list[str]) -> str:
    return ", ".join(objects[:3]) + (", …" if len(objects) > 3 else "")
