"""Versions and hardware that the results and timings of a run depend on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch


def available_processors() -> int:
    """Return the number of processors available to this process.

    Example:
        >>> available_processors() >= 1
        True
    """
    # Containers and job schedulers restrict a process to some of the machine's processors.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version() -> str:
    """Return the version of this package, or that it is not installed."""
    try:
        return version("flossing")
    except PackageNotFoundError:
        return "unknown (not installed)"


def environment() -> dict[str, str | int | None]:
    """Return the versions and the machine, as values that JSON can hold.

    Example:
        >>> environment()["torch"] == torch.__version__
        True
    """
    return {
        "flossing": installed_version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "processors_available": available_processors(),
        "processors": os.cpu_count(),
    }
