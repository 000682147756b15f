"""Options that several commands of the laboratory share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from flossing.support.arguments import whole_number, writable_path
from flossing.support.strict_json import json_text

if TYPE_CHECKING:
    from rich.console import Console

    from flossing.support.arguments import Group

    ExclusiveGroup: TypeAlias = "argparse._MutuallyExclusiveGroup"  # pyright: ignore[reportPrivateUsage]


def add_json_option(parser: "argparse.ArgumentParser | Group") -> None:
    """Add the option for the numbers of a command."""
    parser.add_argument(
        "--json",
        type=writable_path(),
        metavar="PATH",
        help='also write the numbers as JSON, with the strings "inf", "-inf" and "nan" for numbers '
        "that are not finite",
    )


def write_json(console: "Console", path: Path | None, document: object) -> None:
    """Write numbers to a file, and print its path; nothing without a path."""
    if path is not None:
        path.write_text(json_text(document), encoding="utf-8")
        console.print(f"Numbers: {path}", soft_wrap=True)


def add_worker_options(parser: argparse.ArgumentParser) -> "ExclusiveGroup":
    """Add the options for where runs are computed, and return their mutually exclusive group."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="NUMBER",
        help="number of processes, of one thread each (default: one per processor)",
    )
    group.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="use the workers of this Dask scheduler, which see the same folder: tcp://host:port",
    )
    return group
