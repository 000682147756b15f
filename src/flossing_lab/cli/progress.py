"""Runs and measurements with progress bars, and tables on the terminal."""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flossing.support.formatting import plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID
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
    **place: Any,
) -> "list[Run]":
    """Run configurations, with a bar for all runs and one for each group at work; see `sweep`."""
    from flossing_lab.sweeps.sweep import sweep

    with _bars(console) as bars:
        shown = _SweepBars(bars, len({each.digest for each in configurations}))
        runs = sweep(configurations, folder, on_progress=shown.update, **place)
        shown.end()
        return runs


def measure_with_progress(
    study: "Study", settings: "Sequence[Any]", folder: Path, console: "Console", **place: Any
) -> "list[Measurement]":
    """Measure settings, with a bar for all of them; see `measure_all`."""
    from flossing_lab.studies.measuring import measure_all

    with _bars(console) as bars:
        whole = bars.add_task(plural(len(settings), "measurement"), total=len(settings))
        return measure_all(
            study,
            settings,
            folder,
            on_progress=lambda done, total: bars.update(whole, completed=done, total=total),
            **place,
        )


@contextmanager
def _bars(console: "Console") -> "Generator[Bars]":
    """Show bars, and warnings as sentences above them rather than with a line of source code."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    def show(message: Warning | str, *where: object) -> None:
        del where
        console.print(f"warning: {message}", soft_wrap=True)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with (
        Bars(*columns, console=console, transient=not console.is_terminal) as bars,
        warnings.catch_warnings(),
    ):
        warnings.showwarning = show
        yield bars


@dataclass
class _SweepBars:
    """The bars of a sweep: one for all runs, and one for each group at work."""

    bars: "Bars"
    total: int
    unfinished: set[str] = field(default_factory=set[str])
    groups: "dict[tuple[str, ...], TaskID]" = field(
        default_factory=lambda: cast("dict[tuple[str, ...], TaskID]", {})
    )

    def __post_init__(self) -> None:
        self.whole = self.bars.add_task(plural(self.total, "run"), total=self.total)

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


def print_table(console: "Console", table: "Table", *, title: str | None = None) -> None:
    """Print a report's table with as many of its columns, from the left, as the console is wide.

    At least two columns are shown; a line names those that are left out.
    """
    shown = len(table.columns)
    # Without a limit: what is measured is otherwise cut to the width of the console.
    unlimited = console.options.update(width=10_000)
    while shown > 2:
        drawn = rich_table(_first(table, shown))
        if console.measure(drawn, options=unlimited).minimum <= console.width:
            break
        shown -= 1
    console.print(rich_table(_first(table, shown), title=title))
    if left_out := table.columns[shown:]:
        console.print(f"Left out for width: {', '.join(left_out)}.")


def _first(table: "Table", columns: int) -> "Table":
    rows = tuple(row[:columns] for row in table.rows)
    return replace(table, columns=table.columns[:columns], rows=rows)


def rich_table(table: "Table", *, title: str | None = None) -> "RichTable":
    """Return a report's table for the terminal, with columns of words aligned to the left.

    Headings break between words; cells do not break.
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
        cells = [row[index] for row in table.rows]
        words = all(isinstance(cell, str) and cell[:1].isalpha() for cell in cells)
        widest = max(len(word) for word in (*column.split(), *map(shown, cells)))
        justify = "left" if words else "right"
        drawn.add_column(column, justify=justify, overflow="fold", min_width=widest)
    for row in table.rows:
        drawn.add_row(*map(shown, row))
    return drawn


def print_path(console: "Console", label: str, path: Path) -> None:
    """Print the path of a written file on one line, so that it can be copied."""
    console.print(f"{label}: {path}", soft_wrap=True)
