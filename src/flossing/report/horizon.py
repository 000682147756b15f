"""Tables of the two studies: how far flossing carries, and how it does beside its rivals."""

from collections.abc import Mapping, Sequence
from statistics import median

from flossing.experiments.condensed import AnyRun, condensed
from flossing.experiments.configuration import Configuration
from flossing.experiments.horizon import ARMS, Row
from flossing.experiments.outcomes import Arm, arm_of
from flossing.experiments.rivals import FLOSSING, Contest, at_equal_seconds
from flossing.report.comparison import NEVER, or_never
from flossing.report.model import Table
from flossing.tasks import Digits
from flossing.wording import number_in_words


def horizon_table(rows: Sequence[Row], runs: Mapping[str, AnyRun], *, seeds: int) -> Table:
    """Return a line a task: what came of each schedule, and what it cost.

    Args:
        rows: the tasks.
        runs: what was run, by the digest of its configuration; others are left out.
        seeds: how many of each.
    """
    lines: list[tuple[str, ...]] = []
    for row in rows:
        arms = {
            name: arm_of(configurations, runs)
            for name, configurations in row.configurations(seeds=seeds).items()
        }
        outcomes = [outcome(arms[name]) for name in ARMS]
        costs = [_cost(arms[name], arms["without"]) for name in ARMS if name != "without"]
        lines.append((row.name, *outcomes, *costs))
    return Table(
        "Solved: at least 95 % on fresh data after training, of so many seeds; in brackets the "
        "median of the accuracies. Digits: median accuracy on the test part. Adding: median of "
        "the mean squared errors. Cost: seconds of flossing and training over those of as many "
        "steps of training as there are without flossing, timed in the same run; median.",
        ("task", *ARMS, *(f"cost, {name}" for name in ARMS if name != "without")),
        tuple(lines),
    )


def rivals_table(contests: Sequence[Contest], runs: Mapping[str, AnyRun], *, seeds: int) -> Table:
    """Return a line for every rival in every contest.

    Args:
        contests: the tasks.
        runs: what was run, by the digest of its configuration; others are left out.
        seeds: how many of each.
    """
    lines: list[tuple[str, ...]] = []
    for contest in contests:
        arms = {
            name: arm_of(configurations, runs)
            for name, configurations in contest.configurations(seeds=seeds).items()
        }
        flossed = arms[FLOSSING]
        allowed = flossed.seconds if flossed else None
        lines += [
            (contest.name, name, *_standing(arm, allowed))
            for name, arm in arms.items()
            if arm is not None
        ]
    return Table(
        "Solved, epochs and seconds to 95 %, accuracy (adding: mean squared error): medians over "
        f"seeds, where one that never gets there counts as infinite ({NEVER}). At equal "
        "wall-clock: after the seconds that the flossed networks took in all. Seconds: of flossing "
        "and training, without evaluations, for one of the networks that are trained together.",
        (
            "task",
            "network",
            "solved",
            "epochs to 95 %",
            "seconds to 95 %",
            "at the end",
            "at equal wall-clock",
            "seconds an epoch",
        ),
        tuple(lines),
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
                NEVER if arm.regression else _solved(arm),
                or_never(arm.median_epochs, "{:.0f}"),
                *_median_and_worst(arm),
                f"{arm.flossing_seconds:.0f}",
                f"{arm.training_seconds:.0f}",
            )
            for name, arm in arms.items()
            if arm is not None
        ),
    )


def cost(arm: Arm, without: Arm) -> float:
    """Return the seconds of flossing and training over those of training without flossing.

    A step of training is the same with flossing and without, so it is timed within the flossed run
    itself: seconds of runs that shared a machine with other work differently do not compare.

    Args:
        arm: what was flossed.
        without: what was not; only how many steps it took counts.
    """
    steps = median(condensed(each).epochs for each in without.runs)
    return median(_seconds(each) / (_seconds_a_step(each) * steps) for each in arm.runs)


def outcome(arm: Arm | None) -> str:
    """Return in a few words what came of an arm.

    Args:
        arm: `None` if it was not run.
    """
    if arm is None:
        return "not run"
    if arm.regression:
        return number_in_words(arm.median_loss)
    accuracy = f"{100 * arm.median_accuracy:.1f} %"
    return (
        accuracy if isinstance(arm.configuration.task, Digits) else f"{_solved(arm)} ({accuracy})"
    )


def _solved(arm: Arm) -> str:
    return f"{arm.successes}/{len(arm.runs)}"


def _cost(arm: Arm | None, without: Arm | None) -> str:
    return NEVER if arm is None or without is None else f"{cost(arm, without):.2f}"


def _median_and_worst(arm: Arm) -> tuple[str, str]:
    if arm.regression:
        return number_in_words(arm.median_loss), number_in_words(max(arm.losses))
    least = min(each.final.accuracy or 0.0 for each in arm.runs)
    return f"{100 * arm.median_accuracy:.1f} %", f"{100 * least:.1f} %"


def _standing(arm: Arm, allowed: float | None) -> tuple[str, ...]:
    if arm.regression:
        last, solved = number_in_words(arm.median_loss), NEVER
    else:
        last, solved = f"{100 * arm.median_accuracy:.1f} %", _solved(arm)
    equal = NEVER
    if allowed is not None:
        accuracy, loss = at_equal_seconds(arm.runs, allowed)
        equal = number_in_words(loss) if accuracy is None else f"{100 * accuracy:.1f} %"
    return (
        solved,
        or_never(arm.median_epochs, "{:.0f}"),
        or_never(arm.median_seconds, "{:.0f}"),
        last,
        equal,
        f"{median(map(_seconds_an_epoch, arm.runs)):.3f}",
    )


def _seconds_a_step(run: AnyRun) -> float:
    return run.training_seconds / max(1, condensed(run).epochs)


def _seconds(run: AnyRun) -> float:
    return run.flossing_seconds + run.training_seconds


def _seconds_an_epoch(run: AnyRun) -> float:
    return _seconds(run) / max(1, condensed(run).epochs)
