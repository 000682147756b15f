"""What each part of the default schedule is good for."""

from collections.abc import Mapping
from dataclasses import dataclass

from flossing.experiments.ablation import ROW, ablation
from flossing.experiments.configuration import Configuration
from flossing.experiments.figures.study import Results, SizeName, Study
from flossing.report.horizon import ablation_table
from flossing.report.model import Table


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        seeds: how many networks of each variant.
    """

    seeds: int


SIZES: Mapping[SizeName, Size] = {"quick": Size(seeds=3), "full": Size(seeds=10)}


def configurations(size: Size) -> list[Configuration]:
    """Return the runs of every variant.

    Example:
        >>> len(configurations(SIZES["quick"])) == 17 * 3
        True
    """
    return [each for arm in ablation(seeds=size.seeds).values() for each in arm]


def tables(results: Results) -> tuple[Table, ...]:
    """Return a line a variant.

    Args:
        results: of any of them.
    """
    runs = {each.configuration.digest: each for each in results.runs}
    return (ablation_table(ablation(seeds=max(each.seeds for each in SIZES.values())), runs),)


STUDY = Study(
    name="schedule",
    title=f"What each part of the default schedule is good for: {ROW.name}",
    sizes=SIZES,
    configurations=configurations,
    tables=tables,
    in_parts=True,
)
