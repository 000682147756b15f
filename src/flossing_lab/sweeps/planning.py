"""Which configurations are run together, and in which order."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.store import Group, Store, interrupted_groups

MayRunTogether: TypeAlias = Callable[[Configuration, Configuration], bool]

MOST_TOGETHER = 32
"""More networks in one model save no more time, and need more memory."""


def plan(
    configurations: Sequence[Configuration],
    store: Store,
    *,
    workers: int,
    may_run_together: MayRunTogether,
) -> list[Group]:
    """Return the groups to run, the longest first.

    What was interrupted goes on in the groups in which it was begun. What may run together is
    split so that every worker has something to do.

    Args:
        configurations: what is still to be run, each once.
        store: where the runs go.
        workers: how many groups run at a time.
        may_run_together: an equivalence relation.

    Example:
        >>> from pathlib import Path
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import DelayedCopy
        >>> seeds = [
        ...     Configuration(task=DelayedCopy(), architecture=Architecture(), seed=seed)
        ...     for seed in range(5)
        ... ]
        >>> together = lambda a, b: True
        >>> groups = plan(seeds, Store(Path("runs")), workers=2, may_run_together=together)
        >>> [len(group.configurations) for group in groups]
        [3, 2]
    """
    begun = interrupted_groups(store, configurations)
    taken = {each.digest for group in begun for each in group.configurations}
    fresh = [each for each in configurations if each.digest not in taken]
    share = sum(map(expected_cost, configurations)) / max(workers, 1)
    groups = begun + [
        Group(store, part)
        for members in _classes(fresh, may_run_together)
        for part in _split(members, share)
    ]
    # Begun last, a long group would occupy one worker alone at the end.
    return sorted(groups, key=lambda group: -sum(map(expected_cost, group.configurations)))


def expected_cost(configuration: Configuration) -> float:
    """Return about how many multiplications a run needs: enough to tell a long one from a short.

    Args:
        configuration: of the run.

    Example:
        >>> from dataclasses import replace
        >>> from flossing_lab.runs.configuration import Architecture
        >>> from flossing.tasks import DelayedCopy
        >>> short = Configuration(task=DelayedCopy(), architecture=Architecture())
        >>> wide = replace(short, architecture=Architecture(size=160))
        >>> expected_cost(wide) == 4 * expected_cost(short)
        True
    """
    task, size = configuration.task, configuration.architecture.size
    training, flossing = configuration.training, configuration.flossing
    cost = (training.epochs + 1) * training.batch_size * task.steps * size**2
    if flossing is not None:
        k = size if flossing.k is None else flossing.k
        schedule = flossing.schedule
        times = schedule.get("times", 2)
        every = schedule.get("every", 100)
        episodes = training.epochs // every if every else 0
        steps = schedule.get("before", 500) + schedule.get("steps", 500) * (
            episodes if times is None else min(times, episodes)
        )
        cost += steps * flossing.sequences * flossing.time_steps * size**2 * k
    return float(cost)


def _classes(
    configurations: Sequence[Configuration], may_run_together: MayRunTogether
) -> list[list[Configuration]]:
    classes: list[list[Configuration]] = []
    for configuration in configurations:
        for members in classes:
            if may_run_together(members[0], configuration):
                members.append(configuration)
                break
        else:
            classes.append([configuration])
    return classes


def _split(members: Sequence[Configuration], share: float) -> list[tuple[Configuration, ...]]:
    """Split into parts of about equal numbers, none of which costs more than a worker's share."""
    wanted = math.ceil(sum(map(expected_cost, members)) / share - 1e-9)
    parts = min(len(members), max(wanted, math.ceil(len(members) / MOST_TOGETHER), 1))
    ends = [math.ceil(len(members) * part / parts) for part in range(parts + 1)]
    return [tuple(members[start:end]) for start, end in itertools.pairwise(ends)]
