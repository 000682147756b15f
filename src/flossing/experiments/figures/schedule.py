"""What each part of the default schedule is good for."""

from collections.abc import Mapping
from dataclasses import dataclass

from flossing.experiments.ablation import ROW, ablation, adders, networks, places
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
        >>> len(configurations(SIZES["quick"])) == (17 + 3 + 4 + 2 + 8 + 6) * 3
        True
    """
    groups = (ablation, networks, places, adders)
    variants = [arm for group in groups for arm in group(seeds=size.seeds).values()]
    # The default schedule is in two of the tables.
    return list({each.digest: each for arm in variants for each in arm}.values())


def tables(results: Results) -> tuple[Table, ...]:
    """Return a line a variant: schedules, networks, digits and adding.

    Args:
        results: of any of them.
    """
    runs = {each.configuration.digest: each for each in results.runs}
    seeds = max(each.seeds for each in SIZES.values())
    return (
        ablation_table(ablation(seeds=seeds), runs, about=ROW.name),
        ablation_table(networks(seeds=seeds), runs, about="default schedule"),
        ablation_table(places(seeds=seeds), runs, about="digits"),
        ablation_table(adders(seeds=seeds), runs, about="adding problem over 100 steps, N=128"),
    )


STUDY = Study(
    name="schedule",
    title="What each part of the default schedule is good for",
    sizes=SIZES,
    extents={name: f"{size.seeds} networks each" for name, size in SIZES.items()},
    configurations=configurations,
    tables=tables,
    in_parts=True,
)
