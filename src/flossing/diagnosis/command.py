"""`flossing analyze`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flossing.diagnosis.checkpoints import Description, Network, load_network, read_description
from flossing.diagnosis.inputs import driving_inputs
from flossing.support.arguments import make_folders, whole_number, writable_path

if TYPE_CHECKING:
    from rich.console import Console

    from flossing.diagnosis.chapters import Chapter
    from flossing.diagnosis.study import Study
    from flossing.report import Report
    from flossing.support.arguments import Commands, Group

DEFAULT_HORIZON = 100

ANALYZE = """\
Tell whether the gradients of a saved recurrent network vanish or explode, over
what horizon and along how many directions, and whether to floss it.

CHECKPOINT is a state dict as torch.save or safetensors writes it, also inside a
trainer's checkpoint. Nothing in it is run. The recurrent layer, nn.RNN, nn.GRU,
nn.LSTM or one of their cells, is found by its names, and its sizes by its
shapes. Without --inputs and --task it is driven by standard normal noise.

Writes an HTML page that needs nothing beside itself, and with --json the
numbers behind it; numbers that are not finite are "inf", "-inf" and "nan".
"""

EXAMPLES = """\
examples:
  flossing analyze model.pt
  flossing analyze model.ckpt --prefix model.rnn. --inputs validation.npy --layout batch-first
  flossing analyze model.pt --sections spectrum,reach,advice
  flossing analyze weights.safetensors --task delayed-copy:delay=40 --steps 1000 --json report.json
  flossing analyze cell.pt --module my_project.models:make_cell --inputs data.csv --horizon 200

a factory named by --module is imported, from the current folder too, and run;
it returns an nn.Module that maps (x_t, state) to the next state and has a
method initial_state(batch_size). A description says the same in a file:
  module = "my_project.models:make_cell"    # or "RNN", "GRU", "LSTM"
  prefix = "model.rnn."
  nonlinearity = "relu"                     # of an RNN
  [arguments]                               # for the factory
  hidden_size = 64
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser.

    Args:
        commands: What the parser keeps its commands in.
    """
    analyze = commands.add_parser(
        "analyze",
        help="tell what a saved network does to its gradients; write a report",
        description=ANALYZE,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    analyze.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="what torch.save wrote, or .safetensors"
    )
    _add_network_options(analyze.add_argument_group("network"))
    _add_input_options(analyze.add_argument_group("inputs"))
    _add_analysis_options(analyze.add_argument_group("analysis"))
    _add_output_options(analyze.add_argument_group("output"))
    analyze.set_defaults(run=_analyze)


def _add_network_options(group: "Group") -> None:
    group.add_argument(
        "--module",
        metavar="NAME",
        help="RNN, GRU or LSTM, to be sure; or package.module:factory, whose code is run",
    )
    group.add_argument(
        "--prefix",
        metavar="NAME",
        help="what the names of the recurrent weights begin with, where there are several layers",
    )
    group.add_argument(
        "--nonlinearity",
        choices=("tanh", "relu"),
        help="of an RNN; a checkpoint does not tell (default: tanh)",
    )
    group.add_argument(
        "--description", type=Path, metavar="PATH", help="a TOML file that says these three"
    )
    group.add_argument(
        "--layer",
        type=whole_number(0),
        metavar="NUMBER",
        help="of a stack, that layer alone, from 0 (default: all as one state)",
    )


def _add_input_options(group: "Group") -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--inputs", type=Path, metavar="PATH", help="sequences: .npy, .npz, .csv, .pt, .safetensors"
    )
    source.add_argument(
        "--task",
        metavar="NAME",
        help="delayed-copy, temporal-xor, spatial-xor, adding-problem, copy-memory or digits; with "
        "settings: delayed-copy:delay=40,steps=300",
    )
    group.add_argument("--array", metavar="NAME", help="which array of a file with several")
    group.add_argument(
        "--sequence-column", metavar="NAME", help="the column of a .csv that names the sequence"
    )
    group.add_argument(
        "--layout",
        choices=("time-first", "batch-first"),
        default="time-first",
        help="(steps, sequences, features), or sequences first (default: %(default)s)",
    )
    group.add_argument(
        "--steps",
        type=whole_number(1),
        metavar="NUMBER",
        help="at most so many (default: all; 1000 of noise)",
    )
    group.add_argument(
        "--trajectories",
        type=whole_number(1),
        metavar="NUMBER",
        help="at most so many (default: all of a file; 4 of a task or of noise)",
    )
    group.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="NUMBER",
        help="of the noise or of the task (default: %(default)s)",
    )


def _add_analysis_options(group: "Group") -> None:
    group.add_argument(
        "--horizon",
        type=whole_number(1),
        metavar="NUMBER",
        help="steps over which gradients are to be carried (default: the task's delay if it has "
        f"one, else {DEFAULT_HORIZON})",
    )
    group.add_argument(
        "--k",
        type=whole_number(1),
        metavar="NUMBER",
        help="how many exponents, from the largest (default: all, up to 256)",
    )
    group.add_argument(
        "--state-transient",
        type=whole_number(0),
        metavar="NUMBER",
        help="first steps that only bring the state to where it usually is (default: a tenth)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        help="precision to compute in (default: the network's; float64 resolves smaller exponents)",
    )


def _chapters(text: str) -> "tuple[Chapter, ...]":
    from flossing.diagnosis.chapters import CHAPTERS

    known = [chapter.key for chapter in CHAPTERS]
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no section {name!r}: {', '.join(known)}")
    return tuple(chapter for chapter in CHAPTERS if chapter.key in wanted)


def _add_output_options(group: "Group") -> None:
    group.add_argument(
        "--sections",
        type=_chapters,
        metavar="NAMES",
        help="which, with commas between them: spectrum (which is measured in any case), "
        "conditioning, reach, convergence, directions, context, advice (default: all)",
    )
    group.add_argument(
        "--output",
        type=writable_path(".html", ".htm"),
        default=Path("flossing-report.html"),
        metavar="PATH",
        help="the report (default: %(default)s)",
    )
    group.add_argument(
        "--json", type=writable_path(), metavar="PATH", help="the numbers behind it as JSON"
    )


def _analyze(options: argparse.Namespace) -> int:
    # Imported here, for it needs the extra `cli`, and --help does not.
    from rich.console import Console

    from flossing.report import render

    console = Console()
    study = _study(options)
    console.print(study.network.summary, highlight=False, soft_wrap=True)
    report = _analyse_with_progress(study, options.sections, console)
    make_folders(options.output, options.json)
    options.output.write_text(render(report), encoding="utf-8")
    for sentence in report.summary:
        console.print(f"\n{sentence}", highlight=False, markup=False)
    console.print(f"\nReport:  {options.output}", soft_wrap=True, highlight=False, markup=False)
    if options.json is not None:
        options.json.write_text(report.json(), encoding="utf-8")
        console.print(f"Numbers: {options.json}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _study(options: argparse.Namespace) -> "Study":
    import torch

    from flossing.diagnosis.study import Study

    network = _network(options)
    driving = driving_inputs(network, options)
    steps = len(driving.inputs)
    transient = options.state_transient
    return Study(
        name=options.checkpoint.name,
        network=network,
        inputs=driving.inputs,
        source=driving.source,
        horizon=options.horizon or driving.delay or DEFAULT_HORIZON,
        k=options.k,
        layer=options.layer,
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        state_transient=steps // 10 if transient is None else transient,
    )


def _network(options: argparse.Namespace) -> Network:
    told = Description() if options.description is None else read_description(options.description)
    description = Description(
        module=told.module if options.module is None else options.module,
        prefix=told.prefix if options.prefix is None else options.prefix,
        nonlinearity=options.nonlinearity or told.nonlinearity,
        arguments=told.arguments,
    )
    return load_network(options.checkpoint, description)


def _analyse_with_progress(
    study: "Study", chosen: "tuple[Chapter, ...] | None", console: "Console"
) -> "Report":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from flossing.diagnosis.chapters import CHAPTERS, analyse

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    chapters = chosen or CHAPTERS
    with bar:
        task = bar.add_task("", total=len(chapters))
        return analyse(
            study,
            chapters=chapters,
            on_progress=lambda done, name: bar.update(task, completed=done, description=name),
        )
