"""What a run's numbers and seconds depend on beside its configuration."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch


def available_processors() -> int:
    """How many processors this process may use.

    Example:
        >>> available_processors() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version() -> str:
    """The version of this package, or that it is used without being installed."""
    try:
        return version("flossing")
    except PackageNotFoundError:
        return "unknown (not installed)"


def environment() -> dict[str, str | int | None]:
    """Versions and machine, ready for JSON.

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
