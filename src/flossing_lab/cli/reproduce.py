"""`flossing reproduce`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flossing.support.arguments import folder_path
from flossing_lab.cli.options import add_worker_options

if TYPE_CHECKING:
    from rich.console import Console

    from flossing.support.arguments import Commands
    from flossing_lab.runs.configuration import Configuration
    from flossing_lab.runs.records import Run
    from flossing_lab.studies.study import Measurement, Study

ALL = "all"

REPRODUCE = """\
Run the figures of Engelken, "Gradient Flossing", NeurIPS 2023, again:

  fig1  exponents driven to targets
  fig2  the condition number of the long-term Jacobian
  fig3  flossing before training
  fig4  flossing during training
  fig5  how many exponents to floss
  fig6  other architectures, and the rank of the gradient

and three studies beside them, which take longer:

  horizon   tasks of growing delay: no flossing, the published schedule, the default
  schedule  the default schedule with one part changed
  rivals    flossing beside what else is done against vanishing gradients

Writes into a folder the figures, a page that puts what the paper states beside
what came out, reproduction.md, and records/, from which both can be made again.
All of the quick size takes under an hour on two free processor cores; --full is
the paper's own, and takes days. What is in the folder already is not run again;
after an interruption the same command goes on from the last checkpoints.
"""

EXAMPLES = """\
examples:
  flossing reproduce fig3
  flossing reproduce all --output build/reproduction
  flossing reproduce fig4 --full --output full --dask tcp://localhost:8786
  flossing reproduce all --from docs/reproduction/records    # draws, runs nothing
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser.

    Args:
        commands: What the parser keeps its commands in.
    """
    reproduce = commands.add_parser(
        "reproduce",
        help="run the paper's figures again; draw them and write a page",
        description=REPRODUCE,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reproduce.add_argument(
        "names",
        nargs="+",
        type=_name,
        metavar="NAME",
        help="fig1 … fig6, or all of these; horizon, schedule, rivals; several may be",
    )
    reproduce.add_argument(
        "--full", action="store_true", help="the paper's own size rather than a quick one"
    )
    reproduce.add_argument(
        "--output",
        type=folder_path,
        default=Path("reproduction"),
        metavar="FOLDER",
        help="where everything goes (default: %(default)s)",
    )
    place = add_worker_options(reproduce)
    place.add_argument(
        "--from",
        type=Path,
        dest="records",
        metavar="FOLDER",
        help="run nothing: draw figures and page from the records in this folder",
    )
    place.add_argument(
        "--finished",
        action="store_true",
        help="run nothing: write down and draw what is finished, as after an interruption",
    )
    reproduce.set_defaults(run=_reproduce)


def _name(text: str) -> str:
    # Imported here, for it takes a while, and other commands do not need it.
    from flossing_lab.studies.registry import STUDIES

    if text != ALL and text not in STUDIES:
        raise argparse.ArgumentTypeError(
            f"there is no {text!r}: choose among {', '.join((*STUDIES, ALL))}"
        )
    return text


def _reproduce(options: argparse.Namespace) -> int:
    # Imported here, for it needs the extra `cli`, and --help does not.
    from rich.console import Console

    from flossing.plots import new_figure
    from flossing_lab.studies.page import PAGE
    from flossing_lab.studies.registry import FIGURES, STUDIES
    from flossing_lab.studies.reproduce import Folder, present

    # Found missing now rather than after hours of training.
    new_figure()
    console = Console()
    folder = Folder(options.output)
    wanted = {*options.names, *(FIGURES if ALL in options.names else ())}
    names = [name for name in STUDIES if name in wanted]
    if options.records is None:
        for name in names:
            _run(STUDIES[name], folder, options, console)
            _show_figures(present(folder, [name]), console)
    else:
        _show_figures(present(folder, names, records=options.records), console)
    console.print(f"Page: {folder.path / PAGE}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _run(study: "Study", folder: Any, options: argparse.Namespace, console: "Console") -> None:
    from flossing_lab.cli.progress import measure_with_progress, run_with_progress
    from flossing_lab.studies.measuring import finished_measurements
    from flossing_lab.studies.page import VERDICTS
    from flossing_lab.studies.reproduce import finished_runs, reproduce

    place = {"workers": options.workers, "dask": options.dask}

    def run_all(configurations: "Sequence[Configuration]", path: Path) -> "list[Run]":
        return run_with_progress(configurations, path, console, **place)

    def measure_all(study: "Study", settings: Sequence[Any], path: Path) -> "list[Measurement]":
        return measure_with_progress(study, settings, path, console, **place)

    console.print(study.title, style="bold")
    size = "full" if options.full else "quick"
    ways: Any = (
        {"run_all": finished_runs, "measure_all": finished_measurements}
        if options.finished
        else {"run_all": run_all, "measure_all": measure_all}
    )
    record = reproduce(study, size, folder, **ways)
    for finding in study.findings(record.results):
        verdict = VERDICTS[finding.agrees]
        console.print(f"  {verdict}: {finding.claim} {finding.found}", highlight=False)


def _show_figures(figures: "dict[str, Path]", console: "Console") -> None:
    for path in figures.values():
        console.print(f"Figure: {path}", soft_wrap=True, highlight=False, markup=False)
