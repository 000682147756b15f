"""A run in a file: lines of JSON under a seal, that are read whole or not at all."""

import contextlib
import hashlib
import json
import os
import pickle
import re
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import torch

from flossing.errors import DamagedRunWarning, FlossingError, UnreadableFileError
from flossing.support.strict_json import storable
from flossing.support.tensor_files import require_file
from flossing_lab.runs.configuration import FORMAT, configuration_from
from flossing_lab.runs.records import Episode, Epoch, Evaluation, Run

Kind = TypeVar("Kind", Epoch, Episode, Evaluation)
Line: TypeAlias = Mapping[str, Any]

_SEAL = re.compile(rb', "sha256": "([0-9a-f]{64})"\}\n')
_SEAL_LENGTH = len(', "sha256": ""}\n') + 64
_NUMBERS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


def write_run(path: Path, run: Run) -> None:
    """Write a run to a file, which appears whole or not at all.

    The first line holds the number of the format, the configuration and the environment; then
    comes a line for every epoch, episode and evaluation; the last line holds the final evaluation,
    the seconds, and the SHA-256 of all bytes before it.

    Args:
        path: of the file; one that is there already is replaced.
        run: what is written.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from flossing_lab.runs.configuration import Architecture, Configuration
        >>> from flossing.tasks import DelayedCopy
        >>> run = Run(
        ...     configuration=Configuration(task=DelayedCopy(), architecture=Architecture()),
        ...     epochs=(Epoch(epoch=1, loss=0.7, gradient_norm=float("inf")),),
        ...     episodes=(),
        ...     evaluations=(),
        ...     final=Evaluation(epoch=1, loss=0.7, accuracy=0.5),
        ...     flossing_seconds=0.0,
        ...     training_seconds=0.1,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(Path(folder) / "run.jsonl", run)
        ...     read_run(Path(folder) / "run.jsonl") == run
        True
    """
    write_whole(path, sealed(map(_text, _lines(run))))


def read_run(path: Path) -> Run:
    """Read what `write_run` wrote.

    Args:
        path: of the file.

    Raises:
        UnreadableFileError: there is no such file, it is no run, it is one of another format, it
            is cut off, or a byte of it was changed.
    """
    require_file(path)
    content = path.read_bytes()
    _require_format(path, content)
    lines = unsealed(path, content)
    try:
        return _run([cast(Line, json.loads(line)) for line in lines])
    except (FlossingError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(
            f"{str(path)!r} is whole, but what it says is no run ({error}): it was written by "
            "something else; run it again"
        ) from error


def sealed(lines: Iterable[str]) -> bytes:
    """Return the content of a file whose last line ends in the SHA-256 of all bytes before it.

    Args:
        lines: of JSON, each an object with at least one name.

    Example:
        >>> content = sealed(['{"a": 1}', '{"b": 2}'])
        >>> unsealed(Path("numbers.jsonl"), content)
        [b'{"a": 1}', b'{"b": 2}']
    """
    # The last line's brace is left to the seal, which covers everything but itself.
    content = "\n".join(lines).removesuffix("}").encode()
    return content + f', "sha256": "{hashlib.sha256(content).hexdigest()}"}}\n'.encode()


def unsealed(path: Path, content: bytes) -> list[bytes]:
    """Return the lines of JSON that `sealed` was given.

    Args:
        path: of the file, to be named.
        content: of the file.

    Raises:
        UnreadableFileError: it is cut off, or a byte of it was changed.
    """
    body, seal = content[:-_SEAL_LENGTH], _SEAL.fullmatch(content[-_SEAL_LENGTH:])
    if seal is None:
        raise UnreadableFileError(
            f"{str(path)!r} is cut off or its end is damaged: its last line holds no SHA-256; "
            "run it again"
        )
    if seal[1].decode() != hashlib.sha256(body).hexdigest():
        raise UnreadableFileError(
            f"{str(path)!r} is damaged: its content does not have the SHA-256 that its last line "
            "tells; run it again"
        )
    # Not `splitlines`, which also splits at signs that JSON leaves as they are in strings.
    return (body + b"}").split(b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, in place of one that is there already.

    Args:
        path: of the file.
        content: what it will hold.

    Raises:
        OSError: the file cannot be written; what was there stays.
    """
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
    """Rename a file that cannot be trusted, with a `DamagedRunWarning`; it may be gone already.

    Args:
        path: of the file; its new name ends in ".damaged".
        error: what is wrong with it.
    """
    aside = path.with_name(f"{path.name}.damaged")
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
    warnings.warn(f"{error}; it is set aside as {aside.name!r}", DamagedRunWarning, stacklevel=3)


def _lines(run: Run) -> Iterator[Line]:
    yield {
        "format": FORMAT,
        "configuration": run.configuration.document(),
        "environment": run.environment,
    }
    for name in ("epochs", "episodes", "evaluations"):
        for record in getattr(run, name):
            yield {name: asdict(record)}
    yield {
        "final": asdict(run.final),
        "gradient_norm_by_lag": run.gradient_norm_by_lag,
        "flossing_seconds": run.flossing_seconds,
        "training_seconds": run.training_seconds,
        "together": run.together,
    }


def _text(line: Line) -> str:
    return json.dumps(storable(line), allow_nan=False)


def _require_format(path: Path, content: bytes) -> None:
    try:
        first = json.loads(content.partition(b"\n")[0])
    except ValueError:
        first = None
    if not isinstance(first, dict) or not {"format", "configuration"} <= cast(Line, first).keys():
        raise UnreadableFileError(
            f"{str(path)!r} is not the file of a run, or its beginning is damaged: its first line "
            "holds no format and configuration; expected a file that `flossing train` or "
            "`flossing sweep` wrote"
        )
    if first["format"] != FORMAT:
        raise UnreadableFileError(
            f"{str(path)!r} is of format {first['format']!r} and this version of flossing reads "
            f"format {FORMAT}: read it with the version that wrote it, or run it again"
        )


def _run(lines: list[Line]) -> Run:
    first, *records, last = lines
    return Run(
        configuration=configuration_from(first["configuration"]),
        epochs=_records(Epoch, "epochs", records),
        episodes=_records(Episode, "episodes", records),
        evaluations=_records(Evaluation, "evaluations", records),
        final=_record(Evaluation, last["final"]),
        gradient_norm_by_lag=_number(last["gradient_norm_by_lag"]),
        flossing_seconds=_number(last["flossing_seconds"]),
        training_seconds=_number(last["training_seconds"]),
        together=last["together"],
        environment=first["environment"],
    )


def _records(make: Callable[..., Kind], name: str, lines: list[Line]) -> tuple[Kind, ...]:
    return tuple(_record(make, line[name]) for line in lines if name in line)


def _record(make: Callable[..., Kind], values: Line) -> Kind:
    return make(**{name: _number(value) for name, value in values.items()})


def _number(value: Any) -> Any:
    """Numbers as they were: JSON has neither tuples nor numbers that are not finite."""
    if isinstance(value, list):
        return tuple(_number(item) for item in cast("list[Any]", value))
    return _NUMBERS[value] if isinstance(value, str) else value


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
