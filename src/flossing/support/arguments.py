"""Types of arguments that more than one command takes."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    # argparse keeps the types of what its parsers hand out to itself.
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
    Group: TypeAlias = "argparse._ArgumentGroup"  # pyright: ignore[reportPrivateUsage]
    Place: TypeAlias = "argparse._MutuallyExclusiveGroup"  # pyright: ignore[reportPrivateUsage]


def whole_number(at_least: int) -> Callable[[str], int]:
    """Return what reads a whole number of at least so much.

    Args:
        at_least: The smallest number allowed.

    Example:
        >>> whole_number(1)("20")
        20
    """

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = at_least - 1
        if number < at_least:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number of at least {at_least}"
            )
        return number

    return read


def positive_number(text: str) -> float:
    """Return a positive, finite number.

    Args:
        text: What came.

    Example:
        >>> positive_number("1e-3")
        0.001
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def folder_path(text: str) -> Path:
    """Return a folder that is there or can be made, as far as can be told beforehand.

    Args:
        text: What came.

    Example:
        >>> folder_path("runs").name
        'runs'
    """
    path = Path(text)
    blocking = [each for each in (path, *path.parents) if each.exists() and not each.is_dir()]
    if blocking:
        raise argparse.ArgumentTypeError(f"{text!r} is no folder: {blocking[0]} is a file")
    return path


def writable_path(*suffixes: str) -> Callable[[str], Path]:
    """Return what reads a path that a file can be written to, as far as can be told beforehand.

    Args:
        *suffixes: One of these must end it; none: any may.

    Example:
        >>> writable_path(".html")("report.html").name
        'report.html'
    """

    def read(text: str) -> Path:
        path = Path(text)
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is a folder; name a file in it")
        blocking = [parent for parent in path.parents if parent.exists() and not parent.is_dir()]
        if blocking:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {blocking[0]} is a file")
        if suffixes and path.suffix.lower() not in suffixes:
            ends = suffixes[0] if len(suffixes) == 1 else f"one of {', '.join(suffixes)}"
            raise argparse.ArgumentTypeError(f"{text!r} should end in {ends}")
        return path

    return read


def add_place(parser: argparse.ArgumentParser) -> "Place":
    """Add the options that say where a sweep runs.

    Args:
        parser: of a command that runs sweeps.

    Returns:
        Their group, of which a user gives one.
    """
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="NUMBER",
        help="processes, of one thread each (default: one a processor)",
    )
    place.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="use the workers of this Dask scheduler, which see the same folder: tcp://host:port",
    )
    return place


def make_folders(*paths: Path | None) -> None:
    """Make the folders that files will be written to.

    Args:
        *paths: Of the files; `None` where there is none.
    """
    for path in paths:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
