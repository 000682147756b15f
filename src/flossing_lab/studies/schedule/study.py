"""Ablation of the default schedule, and of the networks it is used with."""

from collections.abc import Mapping, Sequence

from flossing.report.model import Table
from flossing.support.formatting import format_number
from flossing_lab.runs.comparison import NEVER, or_never
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.outcomes import Arm, solved
from flossing_lab.studies.schedule.variants import ROW, ablation, adders, networks, places
from flossing_lab.studies.study import Results, SizeName, Study

SEEDS: Mapping[SizeName, int] = {"quick": 3, "full": 10}


def configurations(seeds: int) -> list[Configuration]:
    """Return the runs of all variants."""
    groups = (group(seeds=seeds) for group in (ablation, networks, places, adders))
    variants = [arm for group in groups for arm in group.values()]
    # By digest, because the default schedule is in two of the tables.
    return list({each.digest: each for arm in variants for each in arm}.values())


def tables(results: Results) -> tuple[Table, ...]:
    """Return a table for each group of variants."""
    seeds = max(SEEDS.values())
    return (
        variant_table(f"{ROW.name[0].upper()}{ROW.name[1:]}", ablation(seeds=seeds), results),
        variant_table(
            "Default schedule with other input weights and biases", networks(seeds=seeds), results
        ),
        variant_table("Digits", places(seeds=seeds), results),
        variant_table("Adding problem over 100 steps, N=128", adders(seeds=seeds), results),
    )


def variant_table(
    subject: str, variants: Mapping[str, Sequence[Configuration]], results: Results
) -> Table:
    """Return a table with a row for every variant that was run."""
    return Table(
        f"{subject}. Solved: number of seeds with an accuracy of at least 95 % on fresh data after "
        f"training. Epochs: median over seeds, where a run that does not get there counts as "
        f"infinite ({NEVER}). Median and worst accuracy, or mean squared error, after training. "
        "Flossing and training: total seconds, median.",
        ("variant", "solved", "epochs to 95 %", "median", "worst", "flossing", "training"),
        tuple(
            (
                name,
                NEVER if arm.regression else solved(arm),
                or_never(arm.median_epochs, "{:.0f}"),
                *_median_and_worst(arm),
                f"{arm.flossing_seconds:.0f}",
                f"{arm.training_seconds:.0f}",
            )
            for name, arm in results.named_arms(variants).items()
        ),
    )


def _median_and_worst(arm: Arm) -> tuple[str, str]:
    if arm.regression:
        return format_number(arm.median_loss), format_number(max(arm.losses))
    least = min(each.final.accuracy or 0.0 for each in arm.runs)
    return f"{100 * arm.median_accuracy:.1f} %", f"{100 * least:.1f} %"


STUDY = Study(
    name="schedule",
    title="Ablation of the default schedule",
    extents={name: f"{seeds} networks for each variant" for name, seeds in SEEDS.items()},
    configurations={name: configurations(seeds) for name, seeds in SEEDS.items()},
    tables=tables,
    partial=True,
)
