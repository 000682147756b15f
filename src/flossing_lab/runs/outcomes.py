"""What came of runs: how many succeeded, how soon, and at what cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from flossing.support.formatting import number_in_words
from flossing.tasks import Digits
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.records import AnyRun, Evaluation, condensed

SUCCESS = 0.95
"""The accuracy from which a task counts as learned."""


def first_success(run: AnyRun, *, accuracy: float = SUCCESS) -> Evaluation | None:
    """Return the first evaluation at or above an accuracy, or `None` if there is none.

    Args:
        run: of a task with an accuracy.
        accuracy: from 0 to 1.
    """
    reached = (
        each for each in run.evaluations if each.accuracy is not None and each.accuracy >= accuracy
    )
    return next(reached, None)


def epochs_to_success(run: AnyRun, *, accuracy: float = SUCCESS) -> float:
    """Return after how many epochs an accuracy was first met; infinite if it never was.

    Args:
        run: of a task with an accuracy.
        accuracy: from 0 to 1.
    """
    success = first_success(run, accuracy=accuracy)
    return math.inf if success is None else float(success.epoch)


def seconds_to_success(run: AnyRun, *, accuracy: float = SUCCESS) -> float:
    """Return how many seconds of flossing and training it took to meet an accuracy first.

    Of the seconds of training, the share of the epochs until then; of those of flossing, the
    share of the flossing steps. An episode at that very epoch is counted.

    Args:
        run: of a task with an accuracy.
        accuracy: from 0 to 1.

    Returns:
        Seconds; infinite if it never was.
    """
    success = first_success(run, accuracy=accuracy)
    return math.inf if success is None else seconds_until(run, success)


def seconds_until(run: AnyRun, evaluation: Evaluation) -> float:
    """Return how many seconds of flossing and training had passed at an evaluation.

    Of the seconds of training, the share of the epochs until then; of those of flossing, the
    share of the flossing steps.

    Args:
        run: any run.
        evaluation: one of its own.
    """
    short = condensed(run)
    steps, epochs = short.flossing_steps[-1], short.epochs
    before = short.flossing_steps[run.evaluations.index(evaluation)]
    flossing = run.flossing_seconds * before / steps if steps else 0.0
    training = run.training_seconds * evaluation.epoch / epochs if epochs else 0.0
    return flossing + training


def last_within(run: AnyRun, seconds: float) -> Evaluation:
    """Return the last evaluation after at most so many seconds of flossing and training.

    Args:
        run: any run.
        seconds: wall-clock; where it is too short for anything, the first evaluation is returned.
    """
    reached = [each for each in run.evaluations if seconds_until(run, each) <= seconds]
    return reached[-1] if reached else run.evaluations[0]


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but the seed.

    A median over seeds takes those that never succeeded as infinite: an arm where most fail has
    no median time to success, however fast the others were.

    Attributes:
        runs: at least one.
        accuracy: from which on a run has succeeded.
    """

    runs: tuple[AnyRun, ...]
    accuracy: float = SUCCESS

    @property
    def configuration(self) -> Configuration:
        """What all have in common, with the seed 0."""
        return replace(self.runs[0].configuration, seed=0)

    @property
    def regression(self) -> bool:
        """Whether there is an error rather than an accuracy."""
        return self.configuration.task.kind == "regression"

    @property
    def successes(self) -> int:
        """How many of the runs have an accuracy after training of at least `accuracy`."""
        final = [each.final.accuracy for each in self.runs]
        return sum(each is not None and each >= self.accuracy for each in final)

    @property
    def success_rate(self) -> float:
        """The share of the runs whose accuracy after training is at least `accuracy`."""
        return self.successes / len(self.runs)

    @property
    def median_epochs(self) -> float:
        """Median of the epochs to the first success."""
        return median(epochs_to_success(each, accuracy=self.accuracy) for each in self.runs)

    @property
    def median_seconds(self) -> float:
        """Median of the seconds of flossing and training to the first success."""
        return median(seconds_to_success(each, accuracy=self.accuracy) for each in self.runs)

    @property
    def median_accuracy(self) -> float:
        """Median of the accuracies after training; NaN for a regression."""
        final = [each.final.accuracy for each in self.runs]
        return median(math.nan if each is None else each for each in final)

    @property
    def losses(self) -> list[float]:
        """The losses after training; one that is not a number is as bad as any, so infinite."""
        final = [each.final.loss for each in self.runs]
        return [math.inf if math.isnan(each) else each for each in final]

    @property
    def median_loss(self) -> float:
        """Median of the losses after training; of a regression the mean squared error."""
        return median(self.losses)

    @property
    def seconds(self) -> float:
        """Median of the seconds of flossing and training."""
        return median(each.flossing_seconds + each.training_seconds for each in self.runs)

    @property
    def flossing_seconds(self) -> float:
        """Median of the seconds of flossing."""
        return median(each.flossing_seconds for each in self.runs)

    @property
    def training_seconds(self) -> float:
        """Median of the seconds of training."""
        return median(each.training_seconds for each in self.runs)


def arms(runs: Sequence[AnyRun], *, accuracy: float = SUCCESS) -> list[Arm]:
    """Return the runs by what they have in common but for the seed, in the order of the first.

    Args:
        runs: in any order; within an arm they come by seed.
        accuracy: from which on a run has succeeded.
    """
    found: dict[str, list[AnyRun]] = {}
    for run in runs:
        found.setdefault(replace(run.configuration, seed=0).digest, []).append(run)
    return [
        Arm(tuple(sorted(each, key=lambda run: run.configuration.seed)), accuracy)
        for each in found.values()
    ]


def arm_of(configurations: Iterable[Configuration], runs: Mapping[str, AnyRun]) -> Arm | None:
    """Return those of the configurations that were run, or `None` if none was.

    Args:
        configurations: that differ in the seed.
        runs: what was run, by the digest of its configuration.
    """
    found = tuple(runs[each.digest] for each in configurations if each.digest in runs)
    return Arm(found) if found else None


def cost(arm: Arm, without: Arm) -> float:
    """Return the seconds of flossing and training over those of training without flossing.

    A step of training is the same with flossing and without, so it is timed within the flossed run
    itself: seconds of runs that shared a machine with other work differently do not compare.

    Args:
        arm: what was flossed.
        without: what was not; only how many steps it took counts.
    """
    steps = median(condensed(each).epochs for each in without.runs)
    return median(seconds_of(each) / (_seconds_a_step(each) * steps) for each in arm.runs)


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
    return accuracy if isinstance(arm.configuration.task, Digits) else f"{solved(arm)} ({accuracy})"


def solved(arm: Arm) -> str:
    """Return how many of the runs of an arm solved the task: "4/5"."""
    return f"{arm.successes}/{len(arm.runs)}"


def seconds_of(run: AnyRun) -> float:
    """Return the seconds of flossing and training of a run, without evaluations."""
    return run.flossing_seconds + run.training_seconds


def _seconds_a_step(run: AnyRun) -> float:
    return run.training_seconds / max(1, condensed(run).epochs)
