"""`flossing reproduce`."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flossing.errors import InvalidOptionError
from flossing.support.arguments import folder_path, try_outputs
from flossing.support.environment import environment
from flossing.support.terminal import console_for
from flossing_lab.cli.options import add_json_option, add_worker_options, write_json
from flossing_lab.runs.setups import SETUPS

if TYPE_CHECKING:
    from rich.console import Console

    from flossing.support.arguments import Commands
    from flossing_lab.runs.configuration import Configuration
    from flossing_lab.runs.records import Run
    from flossing_lab.studies.reproduce import Folder
    from flossing_lab.studies.study import Measurement, Study

ALL = "all"

REPRODUCE = """\
Reproduce the figures of Engelken, "Gradient Flossing", NeurIPS 2023:

  fig1  control of Lyapunov exponents
  fig2  the condition number of the long-term Jacobian
  fig3  flossing before training
  fig4  flossing during training
  fig5  the number of flossed exponents
  fig6  other architectures, and the rank of the gradient

and five further studies, of which all but windows take longer:

  horizon    performance against the delay: no flossing, the published schedule,
             the default schedule
  schedule   ablation of the default schedule
  windows    the condition number by the length of the windows that are flossed
  baselines  comparison with other remedies for vanishing gradients
  step-size  the largest step size that learns, against the delay

Writes into a folder the figures; a page that compares the paper's claims with
the results, reproduction.md; and records/, from which both can be made again.
All figures in the quick size take less than an hour on two idle processor
cores; in the paper's size, --full, they take days. Finished runs in the folder
are not repeated; after an interruption the same command resumes from the last
checkpoints. --setup released trains the networks of figures 3 to 6 exactly as
the paper's released code does, on sequences of 300 steps.
"""

EXAMPLES = """\
examples:
  flossing reproduce fig3
  flossing reproduce all --output build/reproduction
  flossing reproduce fig4 --full --output full --dask tcp://localhost:8786
  flossing reproduce fig4 --setup released --output released
  flossing reproduce all --from docs/reproduction/records    # only draw
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser."""
    reproduce = commands.add_parser(
        "reproduce",
        help="reproduce the paper's figures; draw them and write a page",
        description=REPRODUCE,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reproduce.add_argument(
        "names",
        nargs="+",
        type=_name,
        metavar="NAME",
        help="one or more of fig1 … fig6, all (for these six), horizon, schedule, windows, "
        "baselines, step-size",
    )
    reproduce.add_argument(
        "--full", action="store_true", help="the paper's size instead of the quick one"
    )
    reproduce.add_argument(
        "--setup",
        choices=tuple(SETUPS),
        default="default",
        help="how the figures' networks are trained (default: %(default)s)",
    )
    reproduce.add_argument(
        "--output",
        type=folder_path,
        default=Path("reproduction"),
        metavar="FOLDER",
        help="folder to write to (default: %(default)s)",
    )
    place = add_worker_options(reproduce)
    place.add_argument(
        "--from",
        type=Path,
        dest="records",
        metavar="FOLDER",
        help="run nothing; draw figures and page from the records in this folder",
    )
    place.add_argument(
        "--finished",
        action="store_true",
        help="run nothing; record and draw what is finished, after an interruption",
    )
    add_json_option(reproduce)
    reproduce.set_defaults(run=_reproduce)


def _name(text: str) -> str:
    # Imported here, because these take a while and other commands do not need them.
    from flossing_lab.studies.record import FORMER_NAMES
    from flossing_lab.studies.registry import STUDIES

    name = FORMER_NAMES.get(text, text)
    if name != ALL and name not in STUDIES:
        raise argparse.ArgumentTypeError(
            f"there is no {text!r}: choose among {', '.join((*STUDIES, ALL))}"
        )
    return name


def _reproduce(options: argparse.Namespace) -> int:
    # Imported here, because --help works without the extra `cli`.
    from flossing_lab.cli.progress import print_path
    from flossing_lab.studies.page import PAGE
    from flossing_lab.studies.record import read_records
    from flossing_lab.studies.registry import FIGURES, STUDIES
    from flossing_lab.studies.reproduce import Folder, present
    from flossing_lab.studies.study import in_released_setup

    console = console_for(options)
    try_outputs(options.output / PAGE, options.json)
    folder = Folder(options.output)
    wanted = {*options.names, *(FIGURES if ALL in options.names else ())}
    names = [name for name in STUDIES if name in wanted]
    released = options.setup == "released"
    others = [name for name in names if name not in FIGURES]
    if released and (others or options.records):
        raise InvalidOptionError(
            f"--setup released came with {', '.join(others) or '--from'}; it is for running the "
            "paper's figures, fig1 … fig6: leave it out"
        )

    def draw(*studies: str) -> None:
        for path in present(folder, studies, records=options.records).values():
            print_path(console, "Figure", path)

    if options.records is None:
        for name in names:
            study = in_released_setup(STUDIES[name]) if released else STUDIES[name]
            _run(study, folder, options, console)
            draw(name)
    else:
        draw(*names)
    print_path(console, "Page", folder.path / PAGE)
    found = read_records(options.records or folder.records)
    findings = {
        name: [asdict(each) for each in STUDIES[name].findings(found[name].results)]
        for name in names
        if name in found
    }
    write_json(console, options.json, {"environment": environment(), "findings": findings})
    return 0


def _run(study: "Study", folder: "Folder", options: argparse.Namespace, console: "Console") -> None:
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
    record = reproduce(
        study,
        "full" if options.full else "quick",
        folder,
        run_all=finished_runs if options.finished else run_all,
        measure_all=finished_measurements if options.finished else measure_all,
    )
    for finding in study.findings(record.results):
        verdict = VERDICTS[finding.agrees]
        console.print(f"  {verdict}: {finding.claim} {finding.found}")
