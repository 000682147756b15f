"""Runs with live progress, and their tables on the terminal."""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flossing.support.formatting import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn, TaskID
    from rich.table import Table as RichTable

    from flossing.report.model import Table
    from flossing_lab.runs.configuration import Configuration
    from flossing_lab.runs.records import Run
    from flossing_lab.studies.study import Measurement, Study
    from flossing_lab.sweeps.sweep import Progress


def run_with_progress(
    configurations: "Sequence[Configuration]",
    folder: Path | None,
    console: "Console",
    *,
    workers: int | None = None,
    dask: str | None = None,
) -> "list[Run]":
    """Return a run of each configuration, with a bar for all and one for each group at work.

    Args:
        configurations: what is run.
        folder: where the runs are kept; `None` to keep nothing.
        console: where the progress is shown.
        workers: see `sweep`.
        dask: see `sweep`.
    """
    from rich.progress import Progress as Bars

    from flossing_lab.sweeps.sweep import sweep

    with (
        Bars(*_columns(), console=console, transient=not console.is_terminal) as bars,
        _warnings_on(console),
    ):
        shown = _Shown(bars, len({each.digest for each in configurations}))
        runs = sweep(configurations, folder, workers=workers, dask=dask, on_progress=shown.update)
        shown.end()
        return runs


def measure_with_progress(
    study: "Study",
    settings: "Sequence[Any]",
    folder: Path,
    console: "Console",
    *,
    workers: int | None = None,
    dask: str | None = None,
) -> "list[Measurement]":
    """Return a measurement of each setting, with a bar for all.

    Args:
        study: what is measured.
        settings: with what.
        folder: where the measurements are kept.
        console: where the progress is shown.
        workers: see `measure_all`.
        dask: see `measure_all`.
    """
    from rich.progress import Progress as Bars

    from flossing_lab.studies.measuring import measure_all

    with (
        Bars(*_columns(), console=console, transient=not console.is_terminal) as bars,
        _warnings_on(console),
    ):
        whole = bars.add_task(counted(len(settings), "measurement"), total=len(settings))
        return measure_all(
            study,
            settings,
            folder,
            workers=workers,
            dask=dask,
            on_progress=lambda done, total: bars.update(whole, completed=done, total=total),
        )


def rich_table(table: "Table", *, title: str | None = None) -> "RichTable":
    """Return a report's table for a terminal.

    Args:
        table: of a report; columns of words are to the left, others to the right.
        title: above it.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    from flossing.report.model import shown

    drawn = RichTable(
        title=title,
        caption=table.caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for index, column in enumerate(table.columns):
        words = all(_is_word(row[index]) for row in table.rows)
        drawn.add_column(column, justify="left" if words else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(shown, row))
    return drawn


def _columns() -> "tuple[ProgressColumn, ...]":
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    return (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value[:1].isalpha()


@dataclass
class _Shown:
    """The bars of a sweep: runs that are finished, and what is at work."""

    bars: "Bars"
    total: int
    unfinished: set[str] = field(default_factory=set[str])
    groups: "dict[tuple[str, ...], TaskID]" = field(
        default_factory=lambda: cast("dict[tuple[str, ...], TaskID]", {})
    )

    def __post_init__(self) -> None:
        self.whole = self.bars.add_task(counted(self.total, "run"), total=self.total)

    def update(self, progress: "Progress") -> None:
        members = tuple(each.digest for each in progress.configurations)
        if progress.phase == "waiting":
            self.unfinished |= set(members)
        elif progress.phase in ("finished", "failed"):
            self.unfinished -= set(members)
            if members in self.groups:
                self.bars.remove_task(self.groups.pop(members))
        else:
            if members not in self.groups:
                self.groups[members] = self.bars.add_task("")
            self.bars.update(
                self.groups[members],
                description=f"  {_label(progress)}",
                completed=progress.done,
                total=progress.total,
            )
        self.bars.update(self.whole, completed=self.total - len(self.unfinished))

    def end(self) -> None:
        self.bars.update(self.whole, completed=self.total)


def _label(progress: "Progress") -> str:
    from flossing_lab.runs.differences import task_in_words

    first, *others = progress.configurations
    seeds = f"seed {first.seed}" if not others else f"{len(others) + 1} networks"
    arm = "without flossing" if first.flossing is None else "flossed"
    return f"{task_in_words(first)}, {first.architecture.cell}, {arm}, {seeds}: {progress.phase}"


@contextmanager
def _warnings_on(console: "Console") -> Generator[None]:
    """Show warnings as sentences rather than with a line of source code."""

    def show(message: Warning | str, *where: object) -> None:
        del where
        console.print(f"warning: {message}", markup=False, highlight=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
