"""Options that several commands of the laboratory share."""

import argparse
from typing import TYPE_CHECKING, TypeAlias

from flossing.support.arguments import whole_number

if TYPE_CHECKING:
    ExclusiveGroup: TypeAlias = "argparse._MutuallyExclusiveGroup"  # pyright: ignore[reportPrivateUsage]


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
