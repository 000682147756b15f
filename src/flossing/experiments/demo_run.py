"""A run of the demo: what its table and its figure show of it."""

from dataclasses import dataclass

from flossing.experiments.configuration import Configuration
from flossing.experiments.records import Run
from flossing.tasks import Digits, TemporalXor


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """A run with the exponent that is reported beside the largest.

    Attributes:
        run: with all exponents and gradients measured.
        k: how many exponents are flossed in the arm that is flossed.
    """

    run: Run
    k: int

    @property
    def name(self) -> str:
        """What the table and the figure call its task."""
        return short_name(self.run.configuration)

    @property
    def flossed(self) -> bool:
        """Whether it is flossed before training."""
        return self.run.configuration.flossing is not None

    @property
    def arm(self) -> str:
        """Which of the two runs that are compared this is."""
        return arm(self.run.configuration)

    @property
    def exponents(self) -> tuple[float, ...]:
        """All Lyapunov exponents right before training."""
        return self.run.evaluations[0].exponents

    @property
    def gradient_norm(self) -> float:
        """‖∂L/∂h_0‖ right before training; NaN where it was not measured."""
        norm = self.run.evaluations[0].gradient_norm
        return float("nan") if norm is None else norm

    @property
    def accuracy(self) -> float:
        """After training, from 0 to 1; NaN for a regression."""
        accuracy = self.run.final.accuracy
        return float("nan") if accuracy is None else accuracy


def short_name(configuration: Configuration) -> str:
    """Return a task's name that fits a table.

    Example:
        >>> from flossing.experiments.configuration import Architecture
        >>> short_name(Configuration(task=TemporalXor(), architecture=Architecture()))
        'XOR, d=40'
    """
    task = configuration.task
    if isinstance(task, Digits):
        return f"digits, s={task.hold}"
    if isinstance(task, TemporalXor):
        return f"XOR, d={task.delay}"
    return type(task).__name__


def arm(configuration: Configuration) -> str:
    """Return which of the two runs that are compared a configuration is."""
    return "without flossing" if configuration.flossing is None else "flossed before training"


def label(configuration: Configuration) -> str:
    """Return what progress bars call a run."""
    return f"{short_name(configuration)}, {arm(configuration)}"
