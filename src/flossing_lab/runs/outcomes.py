"""Outcomes of runs: how many succeeded, how soon, and at what cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from flossing.support.formatting import format_number
from flossing.tasks import Digits
from flossing_lab.runs.configuration import Configuration
from flossing_lab.runs.records import AnyRun, Evaluation, condensed

SUCCESS = 0.95
"""Accuracy from which a task counts as learned."""


def first_success(run: AnyRun, *, accuracy: float = SUCCESS) -> Evaluation | None:
    """Return the first evaluation at or above an accuracy, or `None` if there is none."""
    reached = (
        each for each in run.evaluations if each.accuracy is not None and each.accuracy >= accuracy
    )
    return next(reached, None)


def epochs_to_success(run: AnyRun, *, accuracy: float = SUCCESS) -> float:
    """Return the number of epochs until an accuracy was first reached; infinite if it never was."""
    success = first_success(run, accuracy=accuracy)
    return math.inf if success is None else float(success.epoch)


def seconds_to_success(run: AnyRun, *, accuracy: float = SUCCESS) -> float:
    """Return the seconds of flossing and training until an accuracy was first reached.

    Infinite if it never was. An episode right after the epoch of the evaluation is counted.
    """
    success = first_success(run, accuracy=accuracy)
    return math.inf if success is None else seconds_until(run, success)


def seconds_until(run: AnyRun, evaluation: Evaluation) -> float:
    """Return the seconds of flossing and training before one of a run's own evaluations.

    The seconds of training are divided equally among the epochs, those of flossing among the
    flossing steps.
    """
    short = condensed(run)
    steps, epochs = short.flossing_steps[-1], short.epochs
    before = short.flossing_steps[run.evaluations.index(evaluation)]
    flossing = run.flossing_seconds * before / steps if steps else 0.0
    training = run.training_seconds * evaluation.epoch / epochs if epochs else 0.0
    return flossing + training


def last_within(run: AnyRun, seconds: float) -> Evaluation:
    """Return the last evaluation within a number of seconds of flossing and training.

    The first evaluation, where even that took longer.
    """
    reached = [each for each in run.evaluations if seconds_until(run, each) <= seconds]
    return reached[-1] if reached else run.evaluations[0]


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in the seed.

    In a median of times to success, a run that never succeeds counts as infinite.

    Attributes:
        runs: at least one.
        accuracy: accuracy from which a run has succeeded.
    """

    runs: tuple[AnyRun, ...]
    accuracy: float = SUCCESS

    @property
    def configuration(self) -> Configuration:
        """The configuration of all, with seed 0."""
        return replace(self.runs[0].configuration, seed=0)

    @property
    def regression(self) -> bool:
        """Whether the task has an error rather than an accuracy."""
        return self.configuration.task.kind == "regression"

    @property
    def successes(self) -> int:
        """Number of runs with an accuracy after training of at least `accuracy`."""
        final = [each.final.accuracy for each in self.runs]
        return sum(each is not None and each >= self.accuracy for each in final)

    @property
    def success_rate(self) -> float:
        """Share of the runs with an accuracy after training of at least `accuracy`."""
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
        """Losses after training; NaN counts as infinite."""
        final = [each.final.loss for each in self.runs]
        return [math.inf if math.isnan(each) else each for each in final]

    @property
    def median_loss(self) -> float:
        """Median of the losses after training, which for a regression are mean squared errors."""
        return median(self.losses)

    @property
    def seconds(self) -> float:
        """Median of the seconds of flossing and training."""
        return median(map(seconds_of, self.runs))

    @property
    def flossing_seconds(self) -> float:
        """Median of the seconds of flossing."""
        return median(each.flossing_seconds for each in self.runs)

    @property
    def training_seconds(self) -> float:
        """Median of the seconds of training."""
        return median(each.training_seconds for each in self.runs)


def arms(runs: Sequence[AnyRun], *, accuracy: float = SUCCESS) -> list[Arm]:
    """Return the runs grouped into arms, in the order of their first runs; in an arm, by seed."""
    found: dict[str, list[AnyRun]] = {}
    for run in runs:
        found.setdefault(replace(run.configuration, seed=0).digest, []).append(run)
    return [
        Arm(tuple(sorted(each, key=lambda run: run.configuration.seed)), accuracy)
        for each in found.values()
    ]


def arm_of(configurations: Iterable[Configuration], runs: Mapping[str, AnyRun]) -> Arm | None:
    """Return the runs of configurations that differ in the seed, or `None` if there are none.

    Args:
        configurations: of the arm.
        runs: by the digest of their configuration.
    """
    found = tuple(runs[each.digest] for each in configurations if each.digest in runs)
    return Arm(found) if found else None


def cost(arm: Arm, without: Arm) -> float:
    """Return the seconds of flossing and training relative to training without flossing.

    A training step is the same with flossing and without, so its duration is taken from the
    flossed run: seconds of runs that shared a machine with other work do not compare.

    Args:
        arm: flossed runs.
        without: runs without flossing, of which only the number of epochs is used.
    """
    epochs = median(condensed(each).epochs for each in without.runs)

    def relative(run: AnyRun) -> float:
        seconds_an_epoch = run.training_seconds / max(1, condensed(run).epochs)
        return seconds_of(run) / (seconds_an_epoch * epochs)

    return median(map(relative, arm.runs))


def outcome(arm: Arm | None) -> str:
    """Return the outcome of an arm in a few words; `None` stands for an arm that was not run."""
    if arm is None:
        return "not run"
    if arm.regression:
        return format_number(arm.median_loss)
    accuracy = f"{100 * arm.median_accuracy:.1f} %"
    return accuracy if isinstance(arm.configuration.task, Digits) else f"{solved(arm)} ({accuracy})"


def solved(arm: Arm) -> str:
    """Return how many of the runs of an arm solved the task: "4/5"."""
    return f"{arm.successes}/{len(arm.runs)}"


def seconds_of(run: AnyRun) -> float:
    """Return the seconds of flossing and training of a run, without evaluations."""
    return run.flossing_seconds + run.training_seconds
