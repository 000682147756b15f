"""`flossing report`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flossing.support.arguments import try_outputs, writable_path
from flossing.support.terminal import console_for
from flossing_lab.cli.options import add_json_option, write_json

if TYPE_CHECKING:
    from flossing.support.arguments import Commands

REPORT = """\
Compare the runs in a folder. Prints a table with a row for each configuration,
over its seeds: success rate, epochs and seconds to an accuracy of 95 %, final
accuracy, and seconds of flossing and of training. Damaged or renamed files are
listed and left out.
"""

EXAMPLES = """\
examples:
  flossing report runs
  flossing report runs --output runs.html    # with learning curves
  flossing report runs --output runs.md
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report",
        help="compare the runs in a folder; write a page",
        description=REPORT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "folder", type=Path, metavar="FOLDER", help="output of `flossing train` or `flossing sweep`"
    )
    report.add_argument(
        "--output",
        type=writable_path(".html", ".htm", ".md"),
        metavar="PATH",
        help=".html: a self-contained page with tables and learning curves; .md: the tables as "
        "Markdown",
    )
    add_json_option(report)
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    # Imported here, because --help works without the extra `cli`.
    from flossing.errors import UnreadableFileError
    from flossing.report import render
    from flossing.report.rendering import markdown
    from flossing_lab.cli.progress import print_path, print_table
    from flossing_lab.runs.comparison import comparison, numbers_document, tables
    from flossing_lab.runs.store import Store

    console = console_for(options)
    try_outputs(options.output, options.json)
    runs, refused = Store(options.folder).runs()
    for error in refused:
        console.print(f"left out: {error}", soft_wrap=True)
    if not runs:
        raise UnreadableFileError(
            f"there is no run that can be trusted in {str(options.folder)!r}: pass the folder "
            "that was the --output of flossing train or flossing sweep"
        )
    for table in tables(runs):
        print_table(console, table)
    untrusted = [str(error) for error in refused]
    write_json(console, options.json, numbers_document(runs, untrusted))
    if options.output is not None:
        title = f"Runs in {options.folder.resolve().name}"
        report = comparison(runs, title=title, refused=untrusted)
        text = markdown(report) if options.output.suffix.lower() == ".md" else render(report)
        options.output.write_text(text, encoding="utf-8")
        print_path(console, "Report", options.output)
    return 0
