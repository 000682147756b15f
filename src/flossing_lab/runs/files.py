"""Files that are written whole, sealed with a checksum, and set aside if damaged."""

import contextlib
import hashlib
import io
import json
import os
import re
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch

from flossing.errors import DamagedRunWarning, UnreadableFileError
from flossing.support.tensor_files import require_file
from flossing.support.warning_filters import ignored_warnings
from flossing_lab.runs.codec import decode, encode
from flossing_lab.runs.configuration import FORMAT
from flossing_lab.runs.records import Run

Line: TypeAlias = Mapping[str, Any]

_SEAL = re.compile(rb', "sha256": "([0-9a-f]{64})"\}\n')
_SEAL_LENGTH = len(', "sha256": ""}\n') + 64

# The parts of a run's file: its first line, a line for each record of the sequences, its last line.
_FIRST = ("configuration", "environment")
_SEQUENCES = ("epochs", "episodes", "evaluations")
_LAST = ("final", "gradient_norm_by_lag", "flossing_seconds", "training_seconds", "together")


def write_run(path: Path, run: Run) -> None:
    """Write a run to a file, which appears whole or not at all.

    The first line holds the version of the format, the configuration and the environment; then
    comes a line for every epoch, episode and evaluation; the last line holds the final evaluation,
    the seconds, and the SHA-256 of all bytes before it.

    Raises:
        OSError: the file cannot be written.
    """
    document = encode(run)
    lines = [
        {"format": FORMAT, **{name: document[name] for name in _FIRST}},
        *({name: record} for name in _SEQUENCES for record in document[name]),
        {name: document[name] for name in _LAST},
    ]
    write_whole(path, sealed(json.dumps(line, allow_nan=False) for line in lines))


def read_run(path: Path) -> Run:
    """Return the run that `write_run` wrote to a file.

    Raises:
        UnreadableFileError: there is no such file, it is not the file of a run, it has another
            format, it is cut off, or a byte of it was changed.
    """
    require_file(path)
    content = path.read_bytes()
    _require_format(path, content)
    lines = unsealed(path, content)
    try:
        first, *records, last = map(json.loads, lines)
        document = {name: first[name] for name in _FIRST} | {name: last[name] for name in _LAST}
        for name in _SEQUENCES:
            document[name] = [line[name] for line in records if name in line]
        run = decode(Run, document)
        if not run.evaluations:
            raise ValueError("it has no evaluation")
        return run
    # Nesting without end exhausts the stack.
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnreadableFileError(
            f"{str(path)!r} is whole but does not hold a run ({error}): another program wrote it; "
            "run it again"
        ) from error


def sealed(lines: Iterable[str]) -> bytes:
    """Return the content of a file whose last line ends in the SHA-256 of all bytes before it.

    Args:
        lines: JSON objects, none of them empty.

    Example:
        >>> content = sealed(['{"a": 1}', '{"b": 2}'])
        >>> unsealed(Path("numbers.jsonl"), content)
        [b'{"a": 1}', b'{"b": 2}']
    """
    # The closing brace of the last line is part of the seal, which covers everything but itself.
    return _with_seal("\n".join(lines).removesuffix("}").encode())


def unsealed(path: Path, content: bytes) -> list[bytes]:
    """Return the lines of JSON that `sealed` was given.

    Args:
        path: of the file, for messages.
        content: of the file.

    Raises:
        UnreadableFileError: it is cut off, or a byte of it was changed.
    """
    # Not `splitlines`, which also splits at separators that JSON leaves unescaped in strings.
    return (_without_seal(path, content) + b"}").split(b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, with its folder, that appears whole or not at all and replaces an older one.

    Raises:
        OSError: the file cannot be written; an older one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            # Otherwise the new name may reach the disk before the content does.
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def set_aside(path: Path, error: UnreadableFileError) -> None:
    """Rename a damaged file, which may be gone already, with a `DamagedRunWarning`.

    Args:
        path: of the file; its new name ends in ".damaged".
        error: why it cannot be read.
    """
    aside = path.with_name(f"{path.name}.damaged")
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
    warnings.warn(f"{error}; it is set aside as {aside.name!r}", DamagedRunWarning, stacklevel=3)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, strings, lists and dictionaries to a sealed file.

    A process that is killed while writing leaves the file that was there before.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, _with_seal(buffer.getvalue()))


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return what `write_checkpoint` wrote; `None` if the file is missing.

    A damaged file is set aside, with a `DamagedRunWarning`: `None`, too.
    """
    try:
        content = _without_seal(path, path.read_bytes())
        return _loaded(path, content)
    except UnreadableFileError as error:
        set_aside(path, error)
    except OSError:
        pass
    return None


def _loaded(path: Path, content: bytes) -> dict[str, Any]:
    try:
        # What torch warns of is an error of its own or does not matter.
        with ignored_warnings():
            state: Any = torch.load(io.BytesIO(content), weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"a {type(state).__name__} rather than a dict")
        return cast("dict[str, Any]", state)
    # Of what was damaged before it was sealed, the unpickler raises anything.
    except Exception as error:
        raise UnreadableFileError(
            f"{str(path)!r} is whole but holds no checkpoint ({type(error).__name__}): it was "
            "damaged before it was written, or another program wrote it; run it again"
        ) from error


def _with_seal(content: bytes) -> bytes:
    return content + f', "sha256": "{hashlib.sha256(content).hexdigest()}"}}\n'.encode()


def _without_seal(path: Path, content: bytes) -> bytes:
    body, seal = content[:-_SEAL_LENGTH], _SEAL.fullmatch(content[-_SEAL_LENGTH:])
    if seal is None:
        raise UnreadableFileError(
            f"{str(path)!r} is cut off or its end is damaged: its last line holds no SHA-256; "
            "run it again"
        )
    if seal[1] != hashlib.sha256(body).hexdigest().encode():
        raise UnreadableFileError(
            f"{str(path)!r} is damaged: its content does not have the SHA-256 in its last line; "
            "run it again"
        )
    return body


def _require_format(path: Path, content: bytes) -> None:
    try:
        first = json.loads(content.partition(b"\n")[0])
    except (ValueError, RecursionError):
        first = None
    if not isinstance(first, dict) or not {"format", "configuration"} <= cast(Line, first).keys():
        raise UnreadableFileError(
            f"{str(path)!r} is not the file of a run, or its beginning is damaged: its first line "
            "holds no format and configuration; expected a file that `flossing train` or "
            "`flossing sweep` wrote"
        )
    if first["format"] != FORMAT:
        raise UnreadableFileError(
            f"{str(path)!r} has format {first['format']!r}, and this version of flossing reads "
            f"format {FORMAT}: read it with the version that wrote it, or run it again"
        )
