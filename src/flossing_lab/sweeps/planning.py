"""Groups of configurations to run together, and their order."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.store import Group, Store, interrupted_groups

MayRunTogether: TypeAlias = Callable[[Configuration, Configuration], bool]

MOST_TOGETHER = 32
"""Largest group: more networks in one model need more memory and save no more time."""


def plan(
    configurations: Sequence[Configuration],
    store: Store,
    *,
    workers: int,
    may_run_together: MayRunTogether,
) -> list[Group]:
    """Return the groups to run, the longest first.

    Interrupted groups stay as they are. Other configurations that may run together are split so
    that every worker has something to do.

    Args:
        configurations: that are not finished, each once.
        store: where the runs are kept.
        workers: number of groups that run at a time.
        may_run_together: an equivalence relation.
    """
    groups = interrupted_groups(store, configurations)
    begun = {each.digest for group in groups for each in group.configurations}
    share = _cost_of(configurations) / max(workers, 1)
    classes: list[list[Configuration]] = []
    for each in configurations:
        if each.digest not in begun:
            own = next((members for members in classes if may_run_together(members[0], each)), None)
            if own is None:
                classes.append([each])
            else:
                own.append(each)
    groups += [Group(store, part) for members in classes for part in _split(members, share)]
    # A long group that is begun last would keep one worker busy while the others have nothing.
    return sorted(groups, key=lambda group: -_cost_of(group.configurations))


def expected_cost(configuration: Configuration) -> float:
    """Return a rough number of multiplications of a run, to compare long and short runs."""
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


def _cost_of(configurations: Sequence[Configuration]) -> float:
    return sum(map(expected_cost, configurations))


def _split(members: Sequence[Configuration], share: float) -> list[tuple[Configuration, ...]]:
    """Split into parts of about equal size, none of which costs more than a worker's share."""
    wanted = math.ceil(_cost_of(members) / share - 1e-9)
    parts = min(len(members), max(wanted, math.ceil(len(members) / MOST_TOGETHER), 1))
    ends = [math.ceil(len(members) * part / parts) for part in range(parts + 1)]
    return [tuple(members[start:end]) for start, end in itertools.pairwise(ends)]
