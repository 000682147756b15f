"""The record of a study: a file of JSON lines, one for each run and each measurement."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flossing.errors import FlossingError, UnreadableFileError
from flossing.support.tensor_files import require_file
from flossing_lab.runs.files import sealed, set_aside, unsealed, write_whole
from flossing_lab.runs.records import CondensedRun, condensed_from
from flossing_lab.runs.setups import as_released
from flossing_lab.studies.measuring import measurement_document, measurement_from
from flossing_lab.studies.study import Results, SizeName

SUFFIX = ".jsonl"

FORMER_NAMES = {"rivals": "baselines"}
"""Studies that were renamed; records and the command line may still use the former name."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The results of a study, and how they were obtained.

    Attributes:
        study: name of the study.
        size: size of the study.
        results: its runs and measurements.
        planned: number of runs and measurements of that size; some may be unfinished.
        done: number of runs and measurements done by the command that wrote the record; the
            others existed before.
        wall_clock_seconds: duration of that command.
    """

    study: str
    size: SizeName
    results: Results
    planned: int
    done: int
    wall_clock_seconds: float

    @property
    def released(self) -> bool:
        """Whether all runs are in the set-up of the released code."""
        configurations = [run.configuration for run in self.results.runs]
        return bool(configurations) and all(as_released(each) == each for each in configurations)


def write_record(path: Path, record: Record) -> None:
    """Write a record atomically, in place of any earlier file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(line, allow_nan=False, ensure_ascii=False) for line in _lines(record))
    write_whole(path, sealed(lines))


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        UnreadableFileError: the file does not exist, is not a record, or is damaged.
    """
    require_file(path)
    try:
        first, *others = map(json.loads, unsealed(path, path.read_bytes()))
        name = str(first["study"])
        runs = [condensed_from(each["run"]) for each in others if "run" in each]
        measured = [measurement_from(each["measurement"]) for each in others if "run" not in each]
        return Record(
            study=FORMER_NAMES.get(name, name),
            size=first["size"],
            results=Results(runs=tuple(runs), measurements=tuple(measured)),
            planned=first["planned"],
            done=first["done"],
            wall_clock_seconds=first["wall_clock_seconds"],
        )
    except (FlossingError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableFileError(
            f"{str(path)!r} is not a whole record of a study ({error}): expected a file written by "
            "`flossing reproduce`; write it again"
        ) from error


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records of a folder, if there is one, by study.

    Raises:
        UnreadableFileError: a file is not a record, or is damaged.
    """
    # A record under a former name comes first, so that a newer one replaces it.
    paths = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stem not in FORMER_NAMES)
    found = [read_record(path) for path in paths]
    return {each.study: each for each in found}


def recorded_runs(folder: Path) -> dict[str, CondensedRun]:
    """Return all runs in the records of a folder, if there is one, by digest of the configuration.

    A damaged record is renamed to end in ".damaged", with a `DamagedRunWarning`.
    """
    runs: dict[str, CondensedRun] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            runs |= read_record(path).results.by_digest
        except UnreadableFileError as error:
            set_aside(path, error)
    return runs


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    yield {
        "study": record.study,
        "size": record.size,
        "planned": record.planned,
        "done": record.done,
        "wall_clock_seconds": float(f"{record.wall_clock_seconds:.4g}"),
    }
    for run in record.results.runs:
        yield {"run": run.document()}
    for each in record.results.measurements:
        yield {"measurement": measurement_document(each)}
