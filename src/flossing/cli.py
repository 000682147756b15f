"""The command `flossing`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flossing.experiments.environment import installed_version

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the command's name; `None` for those of this process.

    Returns:
        The exit code. Bad options end the process with 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return _demo(options)
    except ImportError as error:
        sys.stderr.write(f'flossing: {error}\nall extras: pip install "flossing[cli]"\n')
    except KeyboardInterrupt:
        sys.stderr.write("flossing: interrupted\n")
        return 130
    except OSError as error:
        sys.stderr.write(f"flossing: {error}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flossing",
        description="Lyapunov exponents of recurrent PyTorch networks: measured, differentiated, "
        "pushed to zero.",
    )
    parser.add_argument("--version", action="version", version=f"flossing {installed_version()}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="train with and without flossing; show a table and draw a figure",
        description=DEMO,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--output",
        type=_figure_path,
        default=Path("flossing-demo.png"),
        metavar="PATH",
        help="the figure: .png, .pdf or .svg (default: %(default)s)",
    )
    demo.add_argument(
        "--records",
        type=_writable_path,
        metavar="PATH",
        help="write all numbers, with seed, configuration and environment, as JSON",
    )
    demo.add_argument(
        "--seed",
        type=_seed,
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
    return parser


def _demo(options: argparse.Namespace) -> int:
    # Imported here, for they need the extra `cli`, and --help does not.
    from rich.console import Console

    from flossing.experiments.demo import TASK_NAMES, Demo, run_demo

    for path in (options.output, options.records):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    demo = Demo(
        tasks=TASK_NAMES if options.task == "all" else (options.task,),
        seed=options.seed,
        quick=options.quick,
        output=options.output,
        records=options.records,
    )
    run_demo(demo, Console())
    return 0


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if seed < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return seed


def _figure_path(text: str) -> Path:
    path = _writable_path(text)
    if path.suffix.lower() not in FIGURE_SUFFIXES:
        raise argparse.ArgumentTypeError(
            f"{text!r} should end in one of {', '.join(FIGURE_SUFFIXES)}"
        )
    return path


def _writable_path(text: str) -> Path:
    """A path that a file can be written to, as far as can be told before minutes of training."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file in it")
    blocking = [parent for parent in path.parents if parent.exists() and not parent.is_dir()]
    if blocking:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {blocking[0]} is a file")
    return path
