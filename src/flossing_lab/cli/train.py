"""`flossing train`."""

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from flossing.support.arguments import folder_path, positive_number, whole_number
from flossing_lab.runs.configuration import Architecture, Configuration, Training
from flossing_lab.runs.schedules import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flossing.report.model import Table
    from flossing.support.arguments import Commands, Group
    from flossing_lab.runs.records import Run

TRAIN = """\
Train a network on a task, flossed or not, and show what came of it: accuracy,
the largest Lyapunov exponents, and the seconds of flossing and of training.

TASK is delayed-copy, temporal-xor, spatial-xor, adding-problem, copy-memory or
digits, with settings: temporal-xor:delay=40,steps=300. Several seeds are
trained side by side. With --output every run is kept in a file; what is there
already is not run again, and what was interrupted goes on.
"""

EXAMPLES = """\
examples:
  flossing train temporal-xor:delay=40 --form rate --floss published --output runs
  flossing train delayed-copy:delay=20 --cell gru --size 64 --epochs 1000 --seeds 3
  flossing train adding-problem:steps=100 --cell lstm --initialisation chrono
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser.

    Args:
        commands: What the parser keeps its commands in.
    """
    train = commands.add_parser(
        "train",
        help="train a network on a task, flossed or not; keep the run",
        description=TRAIN,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("task", metavar="TASK", help="what is learned")
    _add_architecture_options(train.add_argument_group("architecture"))
    _add_training_options(train.add_argument_group("training"))
    _add_flossing_options(train.add_argument_group("flossing"))
    _add_measuring_options(train.add_argument_group("measuring"))
    _add_running_options(train.add_argument_group("running"))
    train.set_defaults(run=_train)


def _add_architecture_options(group: "Group") -> None:
    number = whole_number(1)
    _setting(group, Architecture, "cell", "tanh, relu, leaky, modrelu, gru, lstm or lem")
    _setting(group, Architecture, "size", "number N of hidden units", number)
    _setting(
        group,
        Architecture,
        "initialisation",
        "of the recurrent weights: gaussian, orthogonal, identity, stock or chrono",
    )
    _setting(group, Architecture, "gain", "scale of the recurrent weights", positive_number)
    _setting(group, Architecture, "input_gain", "scale of the input weights", positive_number)
    _setting(
        group,
        Architecture,
        "bias_scale",
        "standard deviation of the biases of tanh, relu and leaky networks",
        positive_number,
    )
    _setting(group, Architecture, "form", "what is read out: state, or rate as published")
    _setting(group, Architecture, "orthogonal", "keep the recurrent weights orthogonal")
    _setting(group, Architecture, "leak", "of the leaky cell, up to 1", positive_number)
    _setting(group, Architecture, "longest_memory", "in steps, for chrono", whole_number(2))


def _add_training_options(group: "Group") -> None:
    _setting(group, Training, "epochs", "gradient steps, each on a fresh batch", whole_number(0))
    _setting(group, Training, "batch_size", "sequences in a batch", whole_number(1))
    _setting(group, Training, "learning_rate", "step size of Adam", positive_number)
    _setting(
        group, Training, "cooldown", "share of the epochs in which it falls to 0", positive_number
    )
    _setting(group, Training, "max_gradient_norm", "gradients are clipped to it", positive_number)
    _setting(
        group,
        Training,
        "norm_penalty",
        "weight of the penalty on growth and decay of gradients of Pascanu et al. (2013)",
        positive_number,
    )
    _setting(
        group,
        Training,
        "patience",
        "end after so many evaluations in a row at 99.5 %%; 0 for never",
        whole_number(0),
    )


def _add_flossing_options(group: "Group") -> None:
    group.add_argument(
        "--floss",
        choices=("none", *SCHEDULES),
        default="none",
        help="by which schedule (default: %(default)s)",
    )
    group.add_argument(
        "--k",
        type=whole_number(1),
        metavar="NUMBER",
        help="how many exponents, from the largest, are pushed to zero (default: the schedule's)",
    )
    group.add_argument(
        "--time-steps",
        type=whole_number(1),
        metavar="NUMBER",
        help="length of the sequences it is flossed with (default: the schedule's)",
    )


def _add_measuring_options(group: "Group") -> None:
    _setting(group, Configuration, "evaluate_every", "epochs between evaluations", whole_number(1))
    group.add_argument(
        "--exponents",
        type=whole_number(0),
        default=1,
        metavar="NUMBER",
        dest="measured_exponents",
        help="how many are measured at each evaluation (default: %(default)s)",
    )
    _setting(group, Configuration, "gradients", "measure gradients with respect to states too")


def _add_running_options(group: "Group") -> None:
    group.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="NUMBER",
        help="what all randomness follows from (default: %(default)s)",
    )
    group.add_argument(
        "--seeds",
        type=whole_number(1),
        default=1,
        metavar="NUMBER",
        help="how many, from that of --seed on (default: %(default)s)",
    )
    group.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="NUMBER",
        help="processes, of one thread each (default: one a processor)",
    )
    group.add_argument(
        "--output", type=folder_path, metavar="FOLDER", help="keep every run in a file there"
    )


def _setting(group: "Group", kind: Any, name: str, text: str, read: Any = str) -> None:
    """An option for a field; left out, the field's own default holds."""
    default = next(each.default for each in fields(kind) if each.name == name)
    option = f"--{name.replace('_', '-')}"
    if isinstance(default, bool):
        group.add_argument(option, action="store_true", default=None, help=text)
        return
    metavar = "NAME" if read is str else "NUMBER"
    group.add_argument(option, type=read, metavar=metavar, help=f"{text} (default: {default})")


def _train(options: argparse.Namespace) -> int:
    # Imported here, for it needs the extra `cli`, and --help does not.
    from rich.console import Console

    from flossing_lab.cli.progress import rich_table, run_with_progress
    from flossing_lab.runs.grid import grid
    from flossing_lab.runs.store import Store

    console = Console()
    configurations = grid(_document(options))
    runs = run_with_progress(configurations, options.output, console, workers=options.workers)
    console.print(rich_table(_table(runs), title=options.task))
    if options.output is not None:
        for run in runs:
            path = Store(options.output).path(run.configuration)
            console.print(f"Run: {path}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _document(options: argparse.Namespace) -> dict[str, Any]:
    """The options as a sweep's file would tell them."""

    def given(*names: str) -> dict[str, Any]:
        values = {name: getattr(options, name, None) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    return {
        "task": options.task,
        "seeds": list(range(options.seed, options.seed + options.seeds)),
        "floss": options.floss,
        "architecture": given(*(each.name for each in fields(Architecture))),
        "training": given(*(each.name for each in fields(Training))),
        "flossing": given("k", "time_steps"),
        **given("evaluate_every", "measured_exponents", "gradients"),
    }


def _table(runs: "Sequence[Run]") -> "Table":
    from flossing.report.model import Table
    from flossing.support.formatting import number_in_words, share_in_words
    from flossing_lab.runs.comparison import or_never
    from flossing_lab.runs.outcomes import SUCCESS, epochs_to_success

    regression = runs[0].configuration.task.kind == "regression"
    measured = runs[0].configuration.measured_exponents
    result = ("error",) if regression else ("accuracy", f"epochs to {share_in_words(SUCCESS)}")
    exponents = ("λ₁",) if measured == 1 else ("λ₁", f"λ_{measured}") if measured else ()

    def row(run: "Run") -> tuple[str | int, ...]:
        came = (
            (number_in_words(run.final.loss),)
            if run.final.accuracy is None
            else (f"{100 * run.final.accuracy:.1f} %", or_never(epochs_to_success(run), "{:.0f}"))
        )
        before, after = run.evaluations[0].exponents, run.final.exponents
        ends = [(before[i], after[i]) for i in ({0, measured - 1} if measured else ())]
        flossed = run.configuration.flossing is not None
        return (
            run.configuration.seed,
            *came,
            *(f"{start:.3f} → {end:.3f}" for start, end in ends),
            or_never(run.flossing_seconds, "{:.1f} s") if flossed else or_never(float("inf"), ""),
            f"{run.training_seconds:.1f} s",
        )

    return Table(
        ("Mean squared error" if regression else "Accuracy") + " after training, on data that is "
        "not trained on. Exponents right before and after training, in nats per step.",
        ("seed", *result, *exponents, "flossing", "training"),
        tuple(row(run) for run in runs),
    )
