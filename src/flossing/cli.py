"""The command `flossing`. Commands of other packages are found by their entry points."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from flossing.diagnosis.command import add_command as add_analyze
from flossing.errors import FlossingError
from flossing.support.environment import installed_version

if TYPE_CHECKING:
    from flossing.support.arguments import Commands

COMMANDS = "flossing.commands"
"""The group of entry points. Each names a command and a function that adds it to the parser."""


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
        sys.stderr.write(
            f'flossing: {error}; pip install "flossing[cli]" installs what the commands need\n'
        )
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
    add_analyze(commands)
    for command in sorted(entry_points(group=COMMANDS), key=lambda each: each.name):
        _add(command, commands)
    return parser


def _add(command: EntryPoint, commands: "Commands") -> None:
    """Add a command; one that cannot be imported takes any arguments and then says why."""
    try:
        command.load()(commands)
    except ImportError as error:
        missing = error

        def fail(_: argparse.Namespace) -> int:
            raise missing from None

        stub = commands.add_parser(
            command.name, help=f"unavailable: {missing}", prefix_chars="\0", add_help=False
        )
        stub.add_argument("arguments", nargs="*")
        stub.set_defaults(run=fail)
