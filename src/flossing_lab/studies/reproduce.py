"""Running studies into a folder, and presenting their records as figures and a page."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flossing.errors import UnreadableFileError
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.records import Run, condensed
from flossing_lab.runs.store import Store
from flossing_lab.studies.page import picture, write_page
from flossing_lab.studies.record import SUFFIX, Record, read_records, recorded_runs, write_record
from flossing_lab.studies.registry import STUDIES
from flossing_lab.studies.study import Measurement, Results, SizeName, Study

DOTS_PER_INCH = 150

RunAll = Callable[[Sequence[Configuration], Path], list[Run]]
MeasureAll = Callable[[Study, Sequence[Any], Path], list[Measurement]]


@dataclass(frozen=True)
class Folder:
    """The folder of a reproduction, which holds the page and the figures."""

    path: Path

    @property
    def runs(self) -> Path:
        """Complete runs, a file for each."""
        return self.path / "runs"

    @property
    def measurements(self) -> Path:
        """Measurements, a file for each."""
        return self.path / "measurements"

    @property
    def records(self) -> Path:
        """Records, a file for each study, from which figures and page are made."""
        return self.path / "records"


def reproduce(
    study: Study, size: SizeName, folder: Folder, *, run_all: RunAll, measure_all: MeasureAll
) -> Record:
    """Run a study and write its record.

    Runs and measurements in the folder are reused; so are the runs in its records, from which alone
    a study can be continued. Pass `finished_runs` and `finished_measurements` to run nothing.

    Args:
        study: the study.
        size: its size.
        folder: where to write.
        run_all: runs configurations and keeps the runs in a folder.
        measure_all: measures settings and keeps the measurements in a folder.

    Raises:
        UnreadableFileError: too little is finished for a record.
    """
    configurations = study.configurations.get(size, ())
    settings = study.settings.get(size, ())
    store = Store(folder.runs)
    recorded = recorded_runs(folder.records)
    finished = {each.digest for each in configurations if store.finished(each) is not None}
    # Complete runs take precedence over recorded ones: only times of one machine are comparable.
    wanted = [
        each for each in configurations if each.digest in finished or each.digest not in recorded
    ]
    measured_before = set(folder.measurements.glob("*.json"))
    start = time.perf_counter()
    ran = run_all(wanted, folder.runs) if wanted else []
    measurements = measure_all(study, settings, folder.measurements) if settings else []
    measured = len(set(folder.measurements.glob("*.json")) - measured_before)
    known = recorded | {each.configuration.digest: condensed(each) for each in ran}
    runs = [known[each.digest] for each in configurations if each.digest in known]
    planned = len(configurations) + len(settings)
    count = len(runs) + len(measurements)
    if count < planned and not (count and study.partial):
        raise UnreadableFileError(
            f"{count} of {planned} runs and measurements of {study.name} are finished, and "
            f"{'at least one is' if study.partial else 'all are'} needed to draw and judge it: run "
            "it without --finished"
        )
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
    """Return the runs that a folder holds already, in the order of their configurations."""
    store = Store(folder)
    return [run for each in configurations if (run := store.finished(each)) is not None]


def present(
    folder: Folder, names: Sequence[str], *, records: Path | None = None
) -> dict[str, Path]:
    """Draw studies from their records, and write the page of all records in the folder.

    Args:
        folder: where figures and page are written, and records copied to if they are elsewhere.
        names: studies to draw.
        records: folder of the records; `None` for that in `folder`.

    Returns:
        The files of the figures by study.

    Raises:
        UnreadableFileError: the record of a study is missing.
    """
    source = records or folder.records
    found = read_records(source)
    missing = [name for name in names if name not in found]
    if missing:
        raise UnreadableFileError(
            f"there is no record of {', '.join(missing)} in {str(source)!r}, only of "
            f"{', '.join(found) or 'nothing'}: run it first, without --from"
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    if source.resolve() != folder.records.resolve():
        for name in names:
            write_record(folder.records / f"{name}{SUFFIX}", found[name])
    drawn: dict[str, Path] = {}
    for name in names:
        study = STUDIES[name]
        if study.draw is not None:
            drawn[name] = folder.path / picture(study)
            figure = study.draw(found[name].results)
            figure.savefig(drawn[name], dpi=DOTS_PER_INCH)  # pyright: ignore[reportUnknownMemberType]
    write_page(folder.path, read_records(folder.records), STUDIES)
    return drawn
