"""What is kept of a study: a file with a line for each run and each measurement."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flossing.errors import FlossingError, UnreadableFileError
from flossing.support.tensor_files import require_file
from flossing_lab.runs.files import sealed, set_aside, unsealed, write_whole
from flossing_lab.runs.records import CondensedRun, condensed_from
from flossing_lab.studies.measuring import measurement_document, measurement_from
from flossing_lab.studies.study import Results, SizeName

SUFFIX = ".jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The results of a study.

    Attributes:
        study: its name.
        size: of what was run.
        results: what came of it.
        planned: how many runs and measurements the size has; some may not be finished.
        done: how many runs and measurements the command did that wrote this; the others were there.
        wall_clock_seconds: of that command, for this study.
    """

    study: str
    size: SizeName
    results: Results
    planned: int
    done: int
    wall_clock_seconds: float


def write_record(path: Path, record: Record) -> None:
    """Write a record to a file, which appears whole or not at all.

    Args:
        path: of the file; one that is there already is replaced.
        record: what is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(line, allow_nan=False, ensure_ascii=False) for line in _lines(record))
    write_whole(path, sealed(lines))


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote.

    Args:
        path: of the file.

    Raises:
        UnreadableFileError: there is no such file, it is none, it is cut off, or a byte of it was
            changed.
    """
    require_file(path)
    try:
        first, *others = map(json.loads, unsealed(path, path.read_bytes()))
        runs = [condensed_from(each["run"]) for each in others if "run" in each]
        measured = [measurement_from(each["measurement"]) for each in others if "run" not in each]
        return Record(
            study=first["study"],
            size=first["size"],
            results=Results(runs=tuple(runs), measurements=tuple(measured)),
            planned=first["planned"],
            done=first["done"],
            wall_clock_seconds=first["wall_clock_seconds"],
        )
    except (FlossingError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(
            f"{str(path)!r} is not a whole record of a study ({error}): expected a file that "
            "`flossing reproduce` wrote; write it again"
        ) from error


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records of a folder by the names of their studies.

    Args:
        folder: where they are; need not exist.

    Raises:
        UnreadableFileError: a file is no record.
    """
    found = [read_record(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    return {each.study: each for each in found}


def recorded_runs(folder: Path) -> dict[str, CondensedRun]:
    """Return all runs of the records of a folder, by the digest of their configuration.

    A record that cannot be trusted is set aside under a name that ends in ".damaged", with a
    `DamagedRunWarning`.

    Args:
        folder: where they are; need not exist.
    """
    runs: dict[str, CondensedRun] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            runs |= {each.configuration.digest: each for each in read_record(path).results.runs}
        except UnreadableFileError as error:
            set_aside(path, error)
    return runs


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    results = record.results
    yield {
        "study": record.study,
        "size": record.size,
        "planned": record.planned,
        "done": record.done,
        "wall_clock_seconds": float(f"{record.wall_clock_seconds:.4g}"),
    }
    for run in results.runs:
        yield {"run": run.document()}
    for each in results.measurements:
        yield {"measurement": measurement_document(each)}
