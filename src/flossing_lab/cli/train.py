"""`flossing train`."""

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from flossing.support.arguments import folder_path, positive_number, try_outputs, whole_number
from flossing.support.terminal import console_for
from flossing_lab.cli.options import add_json_option, write_json
from flossing_lab.runs.configuration import Architecture, Configuration, Training
from flossing_lab.runs.schedules import SCHEDULES
from flossing_lab.runs.setups import SETUPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flossing.report.model import Table
    from flossing.support.arguments import Commands, Group
    from flossing_lab.runs.records import Run

TRAIN = """\
Train a network on a task, with or without flossing. Prints the accuracy, the
largest Lyapunov exponents, and the seconds of flossing and of training.

TASK is delayed-copy, temporal-xor, spatial-xor, adding-problem, copy-memory or
digits, with options as in temporal-xor:delay=40,steps=300. Several seeds are
trained in parallel. With --output each run is kept in a file and not repeated;
an interrupted run resumes from its last checkpoint.
"""

EXAMPLES = """\
examples:
  flossing train temporal-xor:delay=40 --floss published --output runs
  flossing train spatial-xor:delay=40 --floss published --setup released
  flossing train delayed-copy:delay=20 --cell gru --size 64 --seeds 3
  flossing train adding-problem:steps=100 --cell lstm --initialisation chrono
"""

# The fields of the configuration that are options: name, type and help.
ARCHITECTURE = (
    ("cell", str, "tanh, relu, leaky, modrelu, gru, lstm or lem"),
    ("size", whole_number(1), "number N of hidden units"),
    (
        "initialisation",
        str,
        "of the recurrent weights: gaussian, orthogonal, identity, stock or chrono",
    ),
    ("gain", positive_number, "scale of the recurrent weights"),
    ("input_gain", positive_number, "scale of the input weights"),
    (
        "bias_scale",
        positive_number,
        "standard deviation of the biases of tanh, relu and leaky networks",
    ),
    ("form", str, "what is read out: state, or rate as published"),
    ("initial_states", whole_number(1), "number of trained initial states of form rate"),
    ("readout_bias", float, "initial value of the readout's biases"),
    ("orthogonal", str, "keep the recurrent weights orthogonal"),
    ("leak", positive_number, "leak of the leaky cell, at most 1"),
    ("longest_memory", whole_number(2), "longest memory of chrono, in steps"),
)
TRAINING = (
    ("epochs", whole_number(0), "gradient steps, each on a fresh batch"),
    ("batch_size", whole_number(1), "sequences per batch"),
    ("learning_rate", positive_number, "step size of Adam"),
    ("cooldown", positive_number, "final share of the epochs in which the step size falls to 0"),
    ("max_gradient_norm", positive_number, "norm that gradients are clipped to"),
    ("clipping", str, "what has this norm at most: network, or each array by itself"),
    (
        "norm_penalty",
        positive_number,
        "weight of the penalty on gradient growth and decay of Pascanu et al. (2013)",
    ),
    (
        "patience",
        whole_number(0),
        "stop after this many evaluations in a row at the accuracy --solved; 0: never",
    ),
    ("solved", positive_number, "accuracy at which an evaluation counts towards the patience"),
)


def add_command(commands: "Commands") -> None:
    """Add the command to the parser."""
    train = commands.add_parser(
        "train",
        help="train a network on a task, with or without flossing",
        description=TRAIN,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("task", metavar="TASK", help="task to learn, with options")
    train.add_argument(
        "--setup",
        choices=tuple(SETUPS),
        default="default",
        help="values of all options that are not given; released: those of the released code of "
        "Engelken (NeurIPS 2023), of which --floss published is the schedule (default: "
        "%(default)s)",
    )
    for kind, options in ((Architecture, ARCHITECTURE), (Training, TRAINING)):
        group = train.add_argument_group(kind.__name__.lower())
        for name, read, text in options:
            _add_field(group, kind, name, read, text)
    flossing = train.add_argument_group("flossing")
    flossing.add_argument(
        "--floss",
        choices=("none", *SCHEDULES),
        default="none",
        help="schedule of flossing (default: %(default)s)",
    )
    for option, text in (
        ("--k", "number of flossed exponents, from the largest (default: the schedule's)"),
        ("--time-steps", "length of the flossing sequences (default: the schedule's)"),
    ):
        flossing.add_argument(option, type=whole_number(1), metavar="NUMBER", help=text)
    measuring = train.add_argument_group("measuring")
    _add_field(
        measuring, Configuration, "evaluate_every", whole_number(1), "epochs between evaluations"
    )
    _add_number(
        measuring,
        "--exponents",
        0,
        1,
        "number of exponents measured at each evaluation",
        dest="measured_exponents",
    )
    _add_field(
        measuring, Configuration, "gradients", str, "also measure gradients with respect to states"
    )
    for name, text in (
        ("divide_inputs", "divide the inputs by the number of channels"),
        ("unseen_input", "leave out the first input, on which the first target depends"),
    ):
        _add_field(measuring, Configuration, name, str, text)
    running = train.add_argument_group("running")
    _add_number(running, "--seed", 0, 0, "first random seed")
    _add_number(running, "--seeds", 1, 1, "number of seeds")
    running.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="NUMBER",
        help="processes, of one thread each (default: one per processor)",
    )
    running.add_argument(
        "--output", type=folder_path, metavar="FOLDER", help="folder in which the runs are kept"
    )
    add_json_option(running)
    train.set_defaults(run=_train)


def _add_number(
    group: "Group", option: str, at_least: int, default: int, text: str, **more: Any
) -> None:
    group.add_argument(
        option,
        type=whole_number(at_least),
        default=default,
        metavar="NUMBER",
        help=f"{text} (default: %(default)s)",
        **more,
    )


def _add_field(group: "Group", kind: Any, name: str, read: Any, text: str) -> None:
    """Add an option for a field, absent from the namespace's values unless given."""
    default = next(each.default for each in fields(kind) if each.name == name)
    option = f"--{name.replace('_', '-')}"
    if isinstance(default, bool):
        group.add_argument(option, action="store_true", default=None, help=text)
        return
    shown = "that of the initialisation" if default is None else default
    metavar = "NAME" if read is str else "NUMBER"
    group.add_argument(option, type=read, metavar=metavar, help=f"{text} (default: {shown})")


def _train(options: argparse.Namespace) -> int:
    # Imported here, because --help works without the extra `cli`.
    from flossing_lab.cli.progress import print_path, print_table, run_with_progress
    from flossing_lab.runs.grid import grid
    from flossing_lab.runs.records import condensed
    from flossing_lab.runs.store import Store

    console = console_for(options)
    configurations = grid(_document(options))
    try_outputs(options.output and options.output / "tried", options.json)
    runs = run_with_progress(configurations, options.output, console, workers=options.workers)
    print_table(console, _table(runs), title=options.task)
    write_json(console, options.json, {"runs": [condensed(run).document() for run in runs]})
    if options.output is not None:
        for run in runs:
            print_path(console, "Run", Store(options.output).path(run.configuration))
    return 0


def _document(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options as the document of a sweep; see `flossing_lab.runs.grid`."""

    def given(*names: str) -> dict[str, Any]:
        values = {name: getattr(options, name, None) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    return {
        "task": options.task,
        "setup": options.setup,
        "seeds": range(options.seed, options.seed + options.seeds),
        "floss": options.floss,
        "architecture": given(*(name for name, _, _ in ARCHITECTURE)),
        "training": given(*(name for name, _, _ in TRAINING)),
        "flossing": given("k", "time_steps"),
        **given(
            "evaluate_every", "measured_exponents", "gradients", "divide_inputs", "unseen_input"
        ),
    }


def _table(runs: "Sequence[Run]") -> "Table":
    from flossing.report.model import Table
    from flossing.support.formatting import format_number, format_share
    from flossing_lab.runs.comparison import NEVER, or_never
    from flossing_lab.runs.outcomes import SUCCESS, epochs_to_success

    regression = runs[0].configuration.task.kind == "regression"
    measured = runs[0].configuration.measured_exponents
    result = ("error",) if regression else ("accuracy", f"epochs to {format_share(SUCCESS)}")
    exponents = ("λ₁",) if measured == 1 else ("λ₁", f"λ_{measured}") if measured else ()

    def row(run: "Run") -> tuple[str | int, ...]:
        outcome = (
            (format_number(run.final.loss),)
            if run.final.accuracy is None
            else (f"{100 * run.final.accuracy:.1f} %", or_never(epochs_to_success(run), "{:.0f}"))
        )
        before, after = run.evaluations[0].exponents, run.final.exponents
        shown = sorted({0, measured - 1}) if measured else ()
        flossed = run.configuration.flossing is not None
        return (
            run.configuration.seed,
            *outcome,
            *(f"{before[index]:.3f} → {after[index]:.3f}" for index in shown),
            f"{run.flossing_seconds:.1f} s" if flossed else NEVER,
            f"{run.training_seconds:.1f} s",
        )

    return Table(
        f"{'Mean squared error' if regression else 'Accuracy'} on held-out data after training. "
        "Exponents before → after training, in nats per step.",
        ("seed", *result, *exponents, "flossing", "training"),
        tuple(row(run) for run in runs),
    )
