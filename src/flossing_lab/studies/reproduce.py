"""Studies run, drawn and written down."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flossing.errors import UnreadableFileError
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.records import Run, condensed
from flossing_lab.runs.store import Store
from flossing_lab.studies.page import picture, write_page
from flossing_lab.studies.record import (
    SUFFIX,
    Record,
    read_records,
    recorded_runs,
    write_record,
)
from flossing_lab.studies.registry import STUDIES
from flossing_lab.studies.study import Measurement, Results, SizeName, Study

DOTS_PER_INCH = 150

RunAll = Callable[[Sequence[Configuration], Path], list[Run]]
MeasureAll = Callable[[Study, Sequence[Any], Path], list[Measurement]]


@dataclass(frozen=True)
class Folder:
    """Where everything of a reproduction is.

    Attributes:
        path: of the page and the figures; made if needed.
    """

    path: Path

    @property
    def runs(self) -> Path:
        """Every run in a file, with all its epochs."""
        return self.path / "runs"

    @property
    def measurements(self) -> Path:
        """Every measurement in a file."""
        return self.path / "measurements"

    @property
    def records(self) -> Path:
        """A file for each study: all that figures and page are made from."""
        return self.path / "records"


def reproduce(
    study: Study, size: SizeName, folder: Folder, *, run_all: RunAll, measure_all: MeasureAll
) -> Record:
    """Run a study and write its record; what is in the folder already is not run again.

    Runs that are in a record of the folder count as there, so that a study can be gone on with
    from its record alone.

    With `finished_runs` and `finished_measurements` nothing is run.

    Args:
        study: what is run.
        size: how much of it.
        folder: where everything is.
        run_all: runs configurations into a folder.
        measure_all: measures settings into a folder.

    Raises:
        UnreadableFileError: too little is finished to write it down.
    """
    configurations = study.configurations(study.sizes[size])
    settings = study.settings(study.sizes[size])
    store = Store(folder.runs)
    recorded = recorded_runs(folder.records)
    finished = {each.digest for each in configurations if store.finished(each) is not None}
    # Whole runs go before recorded ones: seconds are compared among those of one machine.
    wanted = [
        each for each in configurations if each.digest in finished or each.digest not in recorded
    ]
    kept = set(folder.measurements.glob("*.json"))
    start = time.perf_counter()
    ran = run_all(wanted, folder.runs) if wanted else []
    measurements = measure_all(study, settings, folder.measurements) if settings else []
    measured = len(set(folder.measurements.glob("*.json")) - kept)
    known = recorded | {each.configuration.digest: condensed(each) for each in ran}
    runs = [known[each.digest] for each in configurations if each.digest in known]
    planned = len(configurations) + len(settings)
    _require_enough(study, len(runs) + len(measurements), planned)
    record = Record(
        study=study.name,
        size=size,
        results=Results(runs=tuple(runs), measurements=tuple(measurements)),
        planned=planned,
        done=len(ran) - len(finished) + measured,
        wall_clock_seconds=time.perf_counter() - start,
    )
    write_record(folder.records / f"{study.name}{SUFFIX}", record)
    return record


def finished_runs(configurations: Sequence[Configuration], folder: Path) -> list[Run]:
    """Return the runs that are in a folder already, in the order of their configurations.

    Args:
        configurations: what may have been run.
        folder: where the runs are kept.
    """
    store = Store(folder)
    return [run for each in configurations if (run := store.finished(each)) is not None]


def present(
    folder: Folder, names: Sequence[str], *, records: Path | None = None
) -> dict[str, Path]:
    """Draw figures from records, and write the page of all records that are there.

    Args:
        folder: where figures and page go, and copies of the records if they come from elsewhere.
        names: the studies to draw.
        records: the folder of the records; `None` for that of `folder`.

    Returns:
        The figures by the names of their studies.

    Raises:
        UnreadableFileError: there is no record of one of the studies.
    """
    found = read_records(records or folder.records)
    missing = [name for name in names if name not in found]
    if missing:
        raise UnreadableFileError(
            f"there is no record of {', '.join(missing)} in {str(records or folder.records)!r}, "
            f"only of {', '.join(found) or 'nothing'}: run it first, without --from"
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    if records is not None and records.resolve() != folder.records.resolve():
        for name in names:
            write_record(folder.records / f"{name}{SUFFIX}", found[name])
    drawn = {name: path for name in names if (path := _draw(STUDIES[name], found[name], folder))}
    write_page(folder.path, _known(read_records(folder.records)), STUDIES)
    return drawn


def _require_enough(study: Study, finished: int, planned: int) -> None:
    if finished == planned or (finished and study.in_parts):
        return
    needed = "something" if study.in_parts else "all"
    raise UnreadableFileError(
        f"{finished} of {planned} runs and measurements of {study.name} are finished, and {needed} "
        "must be to draw and judge it: run it, without --finished"
    )


def _draw(study: Study, record: Record, folder: Folder) -> Path | None:
    if study.draw is None:
        return None
    path = folder.path / picture(study)
    figure = study.draw(record.results)
    figure.savefig(path, dpi=DOTS_PER_INCH)  # pyright: ignore[reportUnknownMemberType]
    return path


def _known(records: Mapping[str, Record]) -> dict[str, Record]:
    return {name: record for name, record in records.items() if name in STUDIES}
