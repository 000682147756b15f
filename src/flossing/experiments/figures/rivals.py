"""Flossing beside its rivals: the table of networks and tasks."""

from dataclasses import dataclass

from flossing.experiments.configuration import Configuration
from flossing.experiments.figures.study import Results, Study
from flossing.experiments.rivals import CONTESTS, SEEDS, Contest
from flossing.report.horizon import rivals_table
from flossing.report.model import Table


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        contests: which tasks.
        seeds: how many networks of each kind.
    """

    contests: tuple[Contest, ...] = CONTESTS
    seeds: int = SEEDS


def configurations(size: Size) -> list[Configuration]:
    """Return the runs: every rival in every contest.

    Example:
        >>> len(configurations(Size())) == 5 * 9 * 5
        True
    """
    return [
        each
        for contest in size.contests
        for rival in contest.configurations(seeds=size.seeds).values()
        for each in rival
    ]


def tables(results: Results) -> tuple[Table, ...]:
    """Return the table of the rivals that were run.

    Args:
        results: of any of the contests.
    """
    runs = {each.configuration.digest: each for each in results.runs}
    return (rivals_table(CONTESTS, runs, seeds=SEEDS),)


STUDY = Study(
    name="rivals",
    title="Flossing beside its rivals",
    sizes={"quick": Size(contests=CONTESTS[:2]), "full": Size()},
    configurations=configurations,
    tables=tables,
    in_parts=True,
)
