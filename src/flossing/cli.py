"""The command line interface `flossing`; further commands are discovered as entry points."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from flossing.diagnosis.command import add_command as add_analyze
from flossing.errors import FlossingError
from flossing.support.environment import installed_version
from flossing.support.formatting import printable
from flossing.support.terminal import one_line, warnings_as_sentences

if TYPE_CHECKING:
    from flossing.support.arguments import Commands

COMMANDS = "flossing.commands"
"""Group of entry points: the name of a command, and the function that adds it to the parser.

The commands of `flossing_lab` are registered here, so that the library never imports it.
"""
_FAILURE = 1
# Placeholders of arguments that a shell completes to files and folders.
_FILES = ("CHECKPOINT", "FILE", "FOLDER", "PATH")
# What a shell reports for a process that SIGINT ended: 128 + 2.
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line interface.

    Args:
        arguments: what follows `flossing`; `None` for the arguments of this process.

    Returns:
        The exit code. Invalid options exit with code 2 (`SystemExit`).
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings_as_sentences():
            return options.run(options)
    except ImportError as error:
        cause, message = error, f'{error}; pip install "flossing[cli]" installs what commands need'
    except KeyboardInterrupt:
        sys.stderr.write("flossing: interrupted\n")
        return _INTERRUPTED
    except (FlossingError, OSError) as error:
        cause, message = error, " ".join([str(error), *getattr(error, "__notes__", [])])
    sys.stderr.write(f"flossing: {one_line(message)}\n")
    if options.verbose:
        sys.stderr.write(printable("".join(traceback.format_exception(cause))))
    return _FAILURE


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
        _add_command(command, commands)
    _add_completion(parser, commands)
    for each in commands.choices.values():
        # A stub takes no options.
        if "-" in each.prefix_chars:
            _add_amounts(each)
    return parser


def _add_completion(parser: argparse.ArgumentParser, commands: "Commands") -> None:
    """Add the command that prints the script with which a shell completes commands and options."""

    def complete(options: argparse.Namespace) -> int:
        # It is optional, and not there to be type-checked.
        shtab: Any = import_module("shtab")
        for command in commands.choices.values():
            for action in command._actions:  # pyright: ignore[reportPrivateUsage]
                if action.metavar in _FILES:
                    cast(Any, action).complete = shtab.FILE
        sys.stdout.write(shtab.complete(parser, shell=options.shell))
        return 0

    completion = commands.add_parser(
        "completion",
        help="print a script for completion in a shell",
        description="Print a script for completion. For bash: "
        'eval "$(flossing completion bash)" in ~/.bashrc.',
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.set_defaults(run=complete)


def _add_amounts(command: argparse.ArgumentParser) -> None:
    """Add the options for how much a command says, which all commands have."""
    amount = command.add_mutually_exclusive_group()
    amount.add_argument(
        "-q", "--quiet", action="store_true", help="print nothing but warnings and errors"
    )
    amount.add_argument(
        "-v", "--verbose", action="store_true", help="show where an error came from"
    )


def _add_command(command: EntryPoint, commands: "Commands") -> None:
    """Add a command, or a stub that accepts any arguments and reports why it cannot be imported."""
    try:
        command.load()(commands)
    except ImportError as error:
        missing = error  # `error` is unbound after this block.

        def fail(_: argparse.Namespace) -> int:
            raise missing from None

        # No argument starts with NUL, so options of the missing command are taken as positional
        # arguments, and --help too: the user learns what is missing, not that an option is unknown.
        stub = commands.add_parser(
            command.name, help=f"unavailable: {missing}", prefix_chars="\0", add_help=False
        )
        stub.add_argument("arguments", nargs="*")
        stub.set_defaults(run=fail, quiet=False, verbose=False)
