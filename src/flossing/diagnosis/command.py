"""The command `flossing analyze`: its options, and the report that it writes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flossing.diagnosis.checkpoints import (
    Description,
    Network,
    load_network,
    rate_network_of,
    read_description,
)
from flossing.diagnosis.inputs import driving_inputs
from flossing.support.arguments import try_outputs, whole_number, writable_path
from flossing.support.terminal import console_for

if TYPE_CHECKING:
    from rich.console import Console

    from flossing.diagnosis.chapters import Chapter
    from flossing.diagnosis.subject import Subject
    from flossing.report import Report
    from flossing.support.arguments import Commands, Group

DEFAULT_HORIZON = 100

ANALYZE = """\
Measure whether the gradients of a saved recurrent network vanish or explode,
over how many steps and along how many directions, and recommend whether to
floss it.

CHECKPOINT is a state dict saved by torch.save or safetensors, or a trainer's
checkpoint that contains one. No code in it is run. The recurrent layer, an
nn.RNN, nn.GRU, nn.LSTM or one of their cells, is recognised by its parameter
names, and its sizes by their shapes. Without --inputs and --task the network is
driven by standard normal noise.

The report is a single, self-contained HTML file. --json writes its numbers, in
which infinities and NaN are the strings "inf", "-inf" and "nan".
"""

EXAMPLES = """\
examples:
  flossing analyze model.pt
  flossing analyze model.ckpt --prefix model.rnn. --inputs validation.npy --layout batch-first
  flossing analyze model.pt --sections spectrum,reach,advice
  flossing analyze weights.safetensors --task delayed-copy:delay=40 --steps 1000 --json report.json
  flossing analyze cell.pt --module my_project.models:make_cell --inputs data.csv --horizon 200

custom modules:
  The factory given to --module is imported, also from the current folder, and
  called. It returns an nn.Module that maps (x_t, state) to the next state and
  has a method initial_state(batch_size). A description file can hold its
  keyword arguments along with the other options:
    module = "my_project.models:make_cell"    # or "RNN", "GRU", "LSTM"
    prefix = "model.rnn."
    nonlinearity = "relu"                     # of an RNN
    [arguments]                               # of the factory
    hidden_size = 64

rate networks:
  Matrices W and U and a vector b, by their names in the file, with the settings
    product       Wx: rows of W receive, U is (units, inputs); xW: columns do
    leak          a = dt / tau; 1 for discrete time
    variable      rate:    r <- (1 - a) r + a phi(W r + U u + b)
                  current: x <- (1 - a) x + a (W phi(x) + U u + b)
    nonlinearity  phi: tanh, relu, sigmoid, softplus or linear
    recurrent, inputs, bias, mask, input_mask, signs
                  names of arrays, or none; masks multiply weights entry by entry,
                  signs (Dale's law) make W = |W| times the sign of the sender
  on the command line or as a table [rate_network] of a description file:
    flossing analyze W.npy --rate-network product=Wx,leak=1,nonlinearity=tanh
"""


def add_command(commands: "Commands") -> None:
    """Add `analyze` to the commands of the parser."""
    analyze = commands.add_parser(
        "analyze",
        help="measure how a saved network propagates gradients; write a report",
        description=ANALYZE,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    analyze.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a file saved by torch.save, or .safetensors, .npz, .npy or .mat",
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
        help="RNN, GRU or LSTM, to check the kind of the layer; or package.module:factory, a "
        "function that is run and returns a custom module",
    )
    group.add_argument(
        "--prefix",
        metavar="NAME",
        help="prefix of the layer's parameter names, where there are several recurrent layers",
    )
    group.add_argument(
        "--nonlinearity",
        choices=("tanh", "relu"),
        help="nonlinearity of an RNN, which a checkpoint does not contain (default: tanh)",
    )
    group.add_argument(
        "--rate-network",
        type=_settings,
        metavar="SETTINGS",
        help="the file's arrays are a rate network, such as product=Wx,leak=0.1,variable=rate,"
        "nonlinearity=tanh,recurrent=W,inputs=U,bias=b; see below",
    )
    group.add_argument(
        "--description",
        type=Path,
        metavar="PATH",
        help="TOML file with any of module, prefix, nonlinearity and arguments; options override "
        "it",
    )
    group.add_argument(
        "--layer",
        type=whole_number(0),
        metavar="NUMBER",
        help="layer of a stack to analyse, counted from 0 (default: the whole stack as one state)",
    )


def _add_input_options(group: "Group") -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--inputs",
        type=Path,
        metavar="PATH",
        help="file of sequences: .npy, .npz, .mat, .csv, .pt, .pth or .safetensors",
    )
    source.add_argument(
        "--task",
        metavar="NAME",
        help="delayed-copy, temporal-xor, spatial-xor, adding-problem, copy-memory or digits; with "
        "settings: delayed-copy:delay=40,steps=300",
    )
    group.add_argument(
        "--array", metavar="NAME", help="name of the array in a file that contains several"
    )
    group.add_argument(
        "--sequence-column",
        metavar="NAME",
        help="column of a .csv file that identifies the sequence of each row",
    )
    group.add_argument(
        "--layout",
        choices=("time-first", "batch-first"),
        help="order of axes: (steps, sequences, features), or (sequences, steps, features) "
        "(default: time-first)",
    )
    group.add_argument(
        "--steps",
        type=whole_number(1),
        metavar="NUMBER",
        help="maximum number of steps (default: all; 1000 of noise)",
    )
    group.add_argument(
        "--trajectories",
        type=whole_number(1),
        metavar="NUMBER",
        help="maximum number of trajectories (default: all of a file; 4 of a task or of noise)",
    )
    group.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="NUMBER",
        help="seed of the noise or of the task (default: %(default)s)",
    )


def _add_analysis_options(group: "Group") -> None:
    group.add_argument(
        "--horizon",
        type=whole_number(1),
        metavar="NUMBER",
        help="number of steps over which gradients should be carried (default: the delay of the "
        f"task if it has one, otherwise {DEFAULT_HORIZON})",
    )
    group.add_argument(
        "--k",
        type=whole_number(1),
        metavar="NUMBER",
        help="number of exponents, from the largest (default: all, up to 256)",
    )
    group.add_argument(
        "--state-transient",
        type=whole_number(0),
        metavar="NUMBER",
        help="number of first steps to discard while the state settles (default: a tenth)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        help="precision of the analysis (default: that of the network; float64 resolves smaller "
        "exponents)",
    )


def _add_output_options(group: "Group") -> None:
    group.add_argument(
        "--sections",
        type=_chapters,
        metavar="NAMES",
        help="comma-separated sections of the report: spectrum (always measured), advice, "
        "conditioning, reach, convergence, directions, context (default: all)",
    )
    group.add_argument(
        "--output",
        type=writable_path(".html", ".htm"),
        default=Path("flossing-report.html"),
        metavar="PATH",
        help="the report (default: %(default)s)",
    )
    group.add_argument(
        "--json", type=writable_path(), metavar="PATH", help="the numbers of the report, as JSON"
    )


def _settings(text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and value.strip() for name, _, value in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of settings: write NAME=VALUE,NAME=VALUE"
        )
    return {name.strip(): value.strip() for name, _, value in parts}


def _chapters(text: str) -> "tuple[Chapter, ...]":
    from flossing.diagnosis.chapters import CHAPTERS

    known = [chapter.key for chapter in CHAPTERS]
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"there is no section {name!r}: choose from {', '.join(known)}"
            )
    return tuple(chapter for chapter in CHAPTERS if chapter.key in wanted)


def _analyze(options: argparse.Namespace) -> int:
    # Imported here because they need the extra `cli`, which --help does not.
    from flossing.report import render

    console = console_for(options)
    subject = _subject(options)
    try_outputs(options.output, options.json)
    for line in (subject.network.summary, *subject.network.rebuilt):
        console.print(line, soft_wrap=True)
    report = _analyse_with_progress(subject, options.sections, console)
    options.output.write_text(render(report), encoding="utf-8")
    for sentence in report.summary:
        console.print(f"\n{sentence}")
    console.print(f"\nReport:  {options.output}", soft_wrap=True)
    if options.json is not None:
        options.json.write_text(report.json(), encoding="utf-8")
        console.print(f"Numbers: {options.json}", soft_wrap=True)
    return 0


def _subject(options: argparse.Namespace) -> "Subject":
    import torch

    from flossing.diagnosis.subject import Subject

    network = _network(options)
    driving = driving_inputs(network, options)
    transient = options.state_transient
    return Subject(
        name=options.checkpoint.name,
        network=network,
        inputs=driving.inputs,
        source=driving.source,
        assumption=driving.assumption,
        horizon=options.horizon or driving.delay or DEFAULT_HORIZON,
        k=options.k,
        layer=options.layer,
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        state_transient=len(driving.inputs) // 10 if transient is None else transient,
    )


def _network(options: argparse.Namespace) -> Network:
    told = Description() if options.description is None else read_description(options.description)
    description = Description(
        module=told.module if options.module is None else options.module,
        prefix=told.prefix if options.prefix is None else options.prefix,
        nonlinearity=options.nonlinearity or told.nonlinearity,
        arguments=told.arguments,
        rate_network=told.rate_network
        if options.rate_network is None
        else rate_network_of(options.rate_network),
    )
    return load_network(options.checkpoint, description)


def _analyse_with_progress(
    subject: "Subject", chosen: "tuple[Chapter, ...] | None", console: "Console"
) -> "Report":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from flossing.diagnosis.chapters import CHAPTERS, analyse

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    chapters = chosen or CHAPTERS
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(chapters))
        return analyse(
            subject,
            chapters=chapters,
            on_progress=lambda done, name: progress.update(task, completed=done, description=name),
        )
