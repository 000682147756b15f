"""Where a run stands, in a file that is whole or is not there."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import torch


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, strings, lists and dictionaries.

    It replaces the file before it at once: a process that is killed while writing leaves that one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return what `write_checkpoint` wrote, or `None` if there is none, or none that is whole."""
    try:
        # Bytes that were changed on the disk fail the check sums of the archive's parts.
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state = torch.load(path, weights_only=True)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError):
        return None
    return cast("dict[str, Any]", state) if isinstance(state, dict) else None
