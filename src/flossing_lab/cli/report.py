"""`flossing report`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flossing.support.arguments import make_folders, writable_path

if TYPE_CHECKING:
    from flossing.support.arguments import Commands

REPORT = """\
Compare the runs of a folder: a table with the success rate, epochs and seconds
to 95 %, accuracy, and the seconds of flossing and of training, by all that the
runs differ in but for the seed. Files that are damaged, or renamed, are listed
and not counted.
"""

EXAMPLES = """\
examples:
  flossing report runs
  flossing report runs --output runs.html    # with learning curves
  flossing report runs --output runs.md
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser.

    Args:
        commands: What the parser keeps its commands in.
    """
    report = commands.add_parser(
        "report",
        help="compare the runs of a folder; write a page",
        description=REPORT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "folder", type=Path, metavar="FOLDER", help="what flossing train or sweep wrote"
    )
    report.add_argument(
        "--output",
        type=writable_path(".html", ".htm", ".md"),
        metavar="PATH",
        help=".html: a page with tables and learning curves that needs nothing beside itself; "
        ".md: the tables as Markdown",
    )
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    # Imported here, for it needs the extra `cli`, and --help does not.
    from rich.console import Console

    from flossing.errors import UnreadableFileError
    from flossing.report import render
    from flossing.report.rendering import markdown
    from flossing_lab.cli.progress import rich_table
    from flossing_lab.runs.comparison import comparison, tables
    from flossing_lab.runs.store import Store

    console = Console()
    runs, refused = Store(options.folder).runs()
    for error in refused:
        console.print(f"not counted: {error}", soft_wrap=True, highlight=False, markup=False)
    if not runs:
        raise UnreadableFileError(
            f"there is no run that can be trusted in {str(options.folder)!r}: pass the folder "
            "that was the --output of flossing train or flossing sweep"
        )
    for table in tables(runs):
        console.print(rich_table(table))
    if options.output is not None:
        title = f"Runs in {options.folder.resolve().name}"
        report = comparison(runs, title=title, refused=[str(error) for error in refused])
        make_folders(options.output)
        text = markdown(report) if options.output.suffix.lower() == ".md" else render(report)
        options.output.write_text(text, encoding="utf-8")
        console.print(f"Report: {options.output}", soft_wrap=True, highlight=False, markup=False)
    return 0
