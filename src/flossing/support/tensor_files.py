"""Files of tensors, read without running code that they contain."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from flossing.errors import UnreadableFileError
from flossing.support.warning_filters import ignored_warnings

_REMEDY = (
    "where the model was made, save the weights alone, torch.save(model.state_dict(), "
    "'weights.pt'), and pass that file"
)
_REFUSED_GLOBAL = re.compile(r"(?:Unsupported global|unsupported) ?:? GLOBAL ((?:\w+\.)+\w+)")


def require_file(path: Path) -> None:
    """Require the path of a file.

    Raises:
        UnreadableFileError: the path does not exist, or is a folder.

    Example:
        >>> from pathlib import Path
        >>> require_file(Path("nowhere.pt"))
        Traceback (most recent call last):
        ...
        flossing.errors.UnreadableFileError: there is no file 'nowhere.pt': check the path
    """
    if path.is_dir():
        raise UnreadableFileError(f"{str(path)!r} is a folder: pass a file in it")
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
    try:
        # The warnings advise to load unsafely; where they matter, an error follows.
        with ignored_warnings():
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


def named_tensors(content: object, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries, named by their keys, joined by dots.

    Args:
        content: A tensor or a dictionary; values of other types are skipped.
        name: Name of `content` itself.

    Example:
        >>> list(named_tensors({"epoch": 3, "state_dict": {"rnn.bias": torch.zeros(2)}}))
        ['state_dict.rnn.bias']
    """
    if isinstance(content, Tensor):
        return {name: content}
    found: dict[str, Tensor] = {}
    if isinstance(content, Mapping):
        for key, value in cast("Mapping[object, object]", content).items():
            found |= named_tensors(value, f"{name}.{key}" if name else str(key))
    return found


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
