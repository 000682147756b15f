"""`flossing demo`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flossing.support.arguments import try_outputs, whole_number, writable_path
from flossing.support.terminal import console_for

if TYPE_CHECKING:
    from flossing.support.arguments import Commands

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")

DEMO = """\
Train networks on two tasks that require long memory, without flossing and with
flossing before training:

  digits  classify a handwritten digit that is read pixel by pixel, 60 blank
          steps after its last pixel
  xor     temporal XOR of the bits 20 and 40 steps back (d = 40), in the set-up
          of Engelken, "Gradient Flossing", NeurIPS 2023

Prints a table (accuracy, Lyapunov exponents, norm of the gradient at the first
step, seconds of flossing and of training) and draws the spectra, the gradient
norm against the lag, and the learning curves. Takes two to three minutes on two
idle processor cores.
"""

EXAMPLES = """\
examples:
  flossing demo
  flossing demo --task xor --seed 1 --output xor.pdf --records xor.json
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser."""
    demo = commands.add_parser(
        "demo",
        help="train on two tasks with and without flossing; draw a figure",
        description=DEMO,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--output",
        type=writable_path(*FIGURE_SUFFIXES),
        default=Path("flossing-demo.png"),
        metavar="PATH",
        help="file of the figure: .png, .pdf or .svg (default: %(default)s)",
    )
    demo.add_argument(
        "--json",
        "--records",
        dest="records",
        type=writable_path(),
        metavar="PATH",
        help="also write all results, configurations and the environment as JSON",
    )
    demo.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="NUMBER",
        help="random seed, at least 0 (default: %(default)s)",
    )
    demo.add_argument(
        "--task",
        choices=("digits", "xor", "all"),
        default="all",
        help="task to run (default: %(default)s)",
    )
    demo.add_argument(
        "--quick",
        action="store_true",
        help="tiny networks, to try out the command in seconds; shows no effect",
    )
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    # Imported here, because --help works without the extra `cli`.
    from flossing_lab.demo.demo import TASK_NAMES, Demo, run_demo

    try_outputs(options.output, options.records)
    demo = Demo(
        tasks=TASK_NAMES if options.task == "all" else (options.task,),
        seed=options.seed,
        quick=options.quick,
        output=options.output,
        records=options.records,
    )
    run_demo(demo, console_for(options))
    return 0
