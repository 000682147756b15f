"""Warnings that are recorded or ignored for a while, in the main thread only.

`warnings.catch_warnings` replaces the filters and the output of the whole process and puts back
what it found. Of two threads that are inside at once, the one that leaves last may put back what
the other had set: then every later warning of the process vanishes. In other threads than the main
one these functions do nothing, and warnings pass as they come.
"""

import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def recorded_warnings(
    category: type[Warning] = Warning,
) -> Generator[list[warnings.WarningMessage]]:
    """Record warnings instead of showing them, all of a category; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", category)
        yield caught


@contextmanager
def ignored_warnings(category: type[Warning] = Warning) -> Generator[None]:
    """Ignore warnings of a category; outside the main thread they pass."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
