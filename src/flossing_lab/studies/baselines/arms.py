"""Flossing beside what else is done against vanishing and exploding gradients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from flossing.tasks import AddingProblem, CopyMemory, DelayedCopy, Digits, Task, TemporalXor
from flossing_lab.runs.configuration import Architecture, Configuration, Form, Training
from flossing_lab.runs.outcomes import last_within
from flossing_lab.runs.records import AnyRun
from flossing_lab.runs.schedules import scheduled
from flossing_lab.studies.horizon.tasks import ADDING, DELAYED, DIGITS, QUIET

FLOSSING = "flossing"
"""The one whose seconds the others have, too."""

FLOSSED_QUIETLY = "flossing, small inputs"
FLOSSED = (FLOSSING, FLOSSED_QUIETLY)
"""Those that the others are compared with.

Input weights of the published network are some ten times those of modReLU, LSTM and long expressive
memory; small ones are given to what starts orthogonal, too.
"""

SEEDS = 5
PENALTY = 1.0


def _with(configuration: Configuration, **architecture: Any) -> Configuration:
    return replace(configuration, architecture=replace(configuration.architecture, **architecture))


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A task that all rivals have to learn.

    Attributes:
        name: what tables call it.
        task: what is learned.
        size: number N of hidden units.
        form: of the vanilla networks.
        training: how; the same for all.
    """

    name: str
    task: Task
    size: int
    form: Form
    training: Training

    def rivals(self) -> dict[str, Configuration]:
        """Every rival's configuration, with the seed 0, by what tables call it.

        Gradients are clipped for all of them; "clipping" has nothing else.
        """
        size = self.size
        vanilla = Architecture(size=size, form=self.form)
        relu = Architecture(cell="relu", size=size, initialisation="identity")
        modrelu = Architecture(
            cell="modrelu", size=size, initialisation="orthogonal", orthogonal=True
        )
        chrono = Architecture(
            cell="lstm", size=size, initialisation="chrono", longest_memory=self.task.steps
        )
        memory = Architecture(cell="lem", size=size, initialisation="stock")
        common = Configuration(task=self.task, architecture=vanilla, training=self.training)
        orthogonal = _with(common, initialisation="orthogonal")
        penalised = replace(self.training, norm_penalty=PENALTY)
        flossed = replace(common, flossing=scheduled("default", common))
        return {
            "clipping": common,
            FLOSSING: flossed,
            FLOSSED_QUIETLY: _with(flossed, input_gain=QUIET),
            "orthogonal initialisation": orthogonal,
            "orthogonal initialisation, small inputs": _with(orthogonal, input_gain=QUIET),
            "orthogonal parametrisation": _with(orthogonal, orthogonal=True),
            "modReLU, orthogonal": replace(common, architecture=modrelu),
            "ReLU from the identity": replace(common, architecture=relu),
            "chrono LSTM": replace(common, architecture=chrono),
            "long expressive memory": replace(common, architecture=memory),
            "penalty Ω": replace(common, training=penalised),
        }

    def configurations(self, *, seeds: int = SEEDS) -> dict[str, list[Configuration]]:
        """Every rival's runs, one a seed.

        Args:
            seeds: how many.
        """
        return {
            name: [replace(each, seed=seed) for seed in range(seeds)]
            for name, each in self.rivals().items()
        }


CONTESTS = (
    Contest(
        name="temporal XOR, d=40",
        task=TemporalXor(delay=40, steps=120),
        size=80,
        form="rate",
        training=DELAYED,
    ),
    Contest(
        name="delayed copy, d=40",
        task=DelayedCopy(delay=40, steps=120),
        size=80,
        form="rate",
        training=DELAYED,
    ),
    Contest(
        name="copy memory, 100 steps",
        task=CopyMemory(delay=100, length=10),
        size=128,
        form="state",
        training=replace(DELAYED, max_gradient_norm=1.0),
    ),
    Contest(
        name="adding, 200 steps",
        task=AddingProblem(steps=200),
        size=128,
        form="state",
        training=ADDING,
    ),
    Contest(
        name="digits, held for 60 steps",
        task=Digits(hold=60),
        size=128,
        form="state",
        training=DIGITS,
    ),
)


def at_equal_seconds(runs: Sequence[AnyRun], seconds: float) -> tuple[float | None, float]:
    """Return the medians, over seeds, of accuracy and loss after so much flossing and training.

    Args:
        runs: of one rival.
        seconds: wall-clock; a run that was done before counts as it ended.
    """
    reached = [last_within(run, seconds) for run in runs]
    accuracies = [each.accuracy for each in reached if each.accuracy is not None]
    return (
        median(accuracies) if accuracies else None,
        median(each.loss for each in reached),
    )
