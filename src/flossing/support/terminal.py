"""What the commands print, in one place: consoles, and text from files shown escaped."""

import argparse
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flossing.support.formatting import printable

if TYPE_CHECKING:
    from rich.console import Console


def console_for(options: argparse.Namespace) -> "Console":
    """Return the console of a command, silent with `--quiet`.

    Text is printed as it is, without markup, and with what a terminal would obey shown escaped.

    Raises:
        ImportError: rich is missing.
    """
    from rich.console import Console

    class PlainConsole(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **how)

    return PlainConsole(quiet=options.quiet, markup=False, highlight=False)


@contextmanager
def warnings_as_sentences() -> Generator[None]:
    """Show warnings without the line of source code that they came from, on standard error."""

    def sentence(message: Warning | str, *where: object, **line: object) -> str:
        del where, line
        return f"flossing: warning: {one_line(message)}\n"

    before, warnings.formatwarning = warnings.formatwarning, sentence
    try:
        yield
    finally:
        warnings.formatwarning = before


def one_line(message: object) -> str:
    r"""Return a message as one line that a terminal can show.

    Example:
        >>> one_line(ValueError("first\n  second \x1b[2J"))
        'first second \\x1b[2J'
    """
    return printable(" ".join(str(message).split()))
