"""The command `flossing`: one file a command."""

import argparse
import sys
from collections.abc import Sequence

from flossing.cli import analyze, demo, report, reproduce, sweep, train
from flossing.errors import FlossingError
from flossing.experiments.environment import installed_version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the command's name; `None` for those of this process.

    Returns:
        The exit code. Bad options end the process with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except ImportError as error:
        sys.stderr.write(f'flossing: {error}\nall extras: pip install "flossing[cli]"\n')
    except KeyboardInterrupt:
        sys.stderr.write("flossing: interrupted\n")
        return 130
    except (FlossingError, OSError) as error:
        words = " ".join([str(error), *getattr(error, "__notes__", [])])
        sys.stderr.write(f"flossing: {' '.join(words.split())}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flossing",
        description="Lyapunov exponents of recurrent PyTorch networks: measured, differentiated, "
        "pushed to zero.",
    )
    parser.add_argument("--version", action="version", version=f"flossing {installed_version()}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    demo.add_command(commands)
    analyze.add_command(commands)
    train.add_command(commands)
    sweep.add_command(commands)
    report.add_command(commands)
    reproduce.add_command(commands)
    return parser
