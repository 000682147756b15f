"""What each part of the default schedule is good for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flossing.report.model import Table
from flossing.support.formatting import number_in_words
from flossing_lab.runs.comparison import NEVER, or_never
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, arm_of, solved
from flossing_lab.runs.records import AnyRun
from flossing_lab.studies.schedule.variants import ROW, ablation, adders, networks, places
from flossing_lab.studies.study import Results, SizeName, Study


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


def ablation_table(
    variants: Mapping[str, Sequence[Configuration]], runs: Mapping[str, AnyRun], *, about: str
) -> Table:
    """Return a line for every variant that was run.

    Args:
        variants: configurations that differ in the seed, by what the table calls them.
        runs: what was run, by the digest of its configuration; others are left out.
        about: what the task is called.
    """
    arms = {name: arm_of(configurations, runs) for name, configurations in variants.items()}
    return Table(
        f"{about[0].upper()}{about[1:]}. Solved: at least 95 % on fresh data after training; "
        "medians over seeds, where one that never gets there counts as infinite "
        f"({NEVER}); of accuracies, or mean squared errors, after training the median and the "
        "worst. Seconds: of flossing and of training in all.",
        ("what", "solved", "epochs to 95 %", "median", "worst", "flossing", "training"),
        tuple(
            (
                name,
                NEVER if arm.regression else solved(arm),
                or_never(arm.median_epochs, "{:.0f}"),
                *_median_and_worst(arm),
                f"{arm.flossing_seconds:.0f}",
                f"{arm.training_seconds:.0f}",
            )
            for name, arm in arms.items()
            if arm is not None
        ),
    )


def _median_and_worst(arm: Arm) -> tuple[str, str]:
    if arm.regression:
        return number_in_words(arm.median_loss), number_in_words(max(arm.losses))
    least = min(each.final.accuracy or 0.0 for each in arm.runs)
    return f"{100 * arm.median_accuracy:.1f} %", f"{100 * least:.1f} %"
