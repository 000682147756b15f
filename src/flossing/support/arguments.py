"""Argument types that several commands share."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    # The types of what argparse's parsers return are private, and not generic at run time.
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
    Group: TypeAlias = "argparse._ArgumentGroup"  # pyright: ignore[reportPrivateUsage]


def whole_number(at_least: int) -> Callable[[str], int]:
    """Return an argument type: a whole number of at least `at_least`.

    Example:
        >>> whole_number(1)("20")
        20
    """

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            # Below the limit, for one error message.
            number = at_least - 1
        if number < at_least:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number of at least {at_least}"
            )
        return number

    return read


def positive_number(text: str) -> float:
    """Return a positive, finite number.

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
    """Return the path of a folder that exists, or can be made if permissions allow.

    Example:
        >>> folder_path("runs").name
        'runs'
    """
    path = Path(text)
    blocking = [each for each in (path, *path.parents) if each.exists() and not each.is_dir()]
    if blocking:
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder: {blocking[0]} is a file")
    return path


def writable_path(*suffixes: str) -> Callable[[str], Path]:
    """Return an argument type: the path of a file that can be written if permissions allow.

    Args:
        *suffixes: Those allowed; any if none is given.

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


def try_outputs(*paths: Path | None) -> None:
    """Make the folders of files and try to write there, so that no work is done in vain.

    Args:
        *paths: What will be written; `None` for an output that was not asked for. What exists is
            left as it is.

    Raises:
        OSError: one cannot be written.
    """
    for path in paths:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            path.open("ab").close()
            if new:
                path.unlink()
