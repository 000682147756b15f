"""`flossing demo`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flossing.support.arguments import make_folders, whole_number, writable_path

if TYPE_CHECKING:
    from flossing.support.arguments import Commands

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")

DEMO = """\
Train two networks on tasks with a long memory, each without flossing and with
flossing before training:

  digits  a vanilla RNN reads a handwritten digit pixel by pixel and names it
          after 60 blank steps
  xor     the temporal XOR of the bits 20 and 40 steps back (d = 40), in the
          set-up of Engelken, "Gradient Flossing", NeurIPS 2023

Shows a table (accuracy, Lyapunov exponents, gradient norm at the first step,
seconds of flossing and of training) and draws a figure: the spectra, the
gradient norm against the lag, and the learning curves. Two to three minutes on
two free processor cores.
"""

EXAMPLES = """\
examples:
  flossing demo
  flossing demo --task xor --seed 1 --output xor.pdf --records xor.json
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser.

    Args:
        commands: What the parser keeps its commands in.
    """
    demo = commands.add_parser(
        "demo",
        help="train with and without flossing; show a table and draw a figure",
        description=DEMO,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--output",
        type=writable_path(*FIGURE_SUFFIXES),
        default=Path("flossing-demo.png"),
        metavar="PATH",
        help="the figure: .png, .pdf or .svg (default: %(default)s)",
    )
    demo.add_argument(
        "--records",
        type=writable_path(),
        metavar="PATH",
        help="write all numbers, with seed, configuration and environment, as JSON",
    )
    demo.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="NUMBER",
        help="what all randomness follows from, a whole number from 0 (default: %(default)s)",
    )
    demo.add_argument(
        "--task",
        choices=("digits", "xor", "all"),
        default="all",
        help="which task (default: %(default)s)",
    )
    demo.add_argument(
        "--quick",
        action="store_true",
        help="a tiny size that takes seconds and shows no effect, to try out the command",
    )
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    # Imported here, for they need the extra `cli`, and --help does not.
    from rich.console import Console

    from flossing_lab.demo.demo import TASK_NAMES, Demo, run_demo

    make_folders(options.output, options.records)
    demo = Demo(
        tasks=TASK_NAMES if options.task == "all" else (options.task,),
        seed=options.seed,
        quick=options.quick,
        output=options.output,
        records=options.records,
    )
    run_demo(demo, Console())
    return 0
