"""Benchmarks of flossing against other remedies for vanishing and exploding gradients."""

from dataclasses import dataclass, replace
from typing import Any

from flossing.tasks import AddingProblem, CopyMemory, DelayedCopy, Digits, Task, TemporalXor
from flossing_lab.runs.configuration import Architecture, Configuration, Form, Training
from flossing_lab.runs.schedules import scheduled
from flossing_lab.studies.horizon.tasks import ADDING, DELAYED, DIGITS, SMALL_INPUTS

FLOSSING = "flossing"
"""The method whose time every other method is given."""

FLOSSING_SMALL_INPUTS = "flossing, small inputs"
FLOSSED = (FLOSSING, FLOSSING_SMALL_INPUTS)
"""The methods that are compared with the baselines.

The input weights of the published network are about ten times those of modReLU, LSTM and long
expressive memory; orthogonal networks are run with small ones too.
"""

SEEDS = 5
PENALTY = 1.0


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task on which flossing and the baselines are trained.

    Attributes:
        name: in tables.
        task: the task.
        size: number N of hidden units.
        form: of the vanilla networks.
        training: the same for all methods.
    """

    name: str
    task: Task
    size: int
    form: Form
    training: Training

    def methods(self) -> dict[str, Configuration]:
        """Return the configuration of every method by name, with seed 0.

        Gradients are clipped in all of them; "clipping" does nothing else.
        """
        vanilla = Configuration(
            task=self.task,
            architecture=Architecture(size=self.size, form=self.form),
            training=self.training,
        )

        def changed(base: Configuration = vanilla, **options: Any) -> Configuration:
            return replace(base, architecture=replace(base.architecture, **options))

        def network(cell: Any, initialisation: Any, **options: Any) -> Configuration:
            architecture = Architecture(
                cell=cell, size=self.size, initialisation=initialisation, **options
            )
            return replace(vanilla, architecture=architecture)

        flossed = replace(vanilla, flossing=scheduled("default", vanilla))
        orthogonal = changed(initialisation="orthogonal")
        return {
            "clipping": vanilla,
            FLOSSING: flossed,
            FLOSSING_SMALL_INPUTS: changed(flossed, input_gain=SMALL_INPUTS),
            "orthogonal initialisation": orthogonal,
            "orthogonal initialisation, small inputs": changed(orthogonal, input_gain=SMALL_INPUTS),
            "orthogonal parametrisation": changed(orthogonal, orthogonal=True),
            "modReLU, orthogonal": network("modrelu", "orthogonal", orthogonal=True),
            "ReLU from the identity": network("relu", "identity"),
            "chrono LSTM": network("lstm", "chrono", longest_memory=self.task.steps),
            "long expressive memory": network("lem", "stock"),
            "penalty Ω": replace(vanilla, training=replace(self.training, norm_penalty=PENALTY)),
        }

    def configurations(self, *, seeds: int = SEEDS) -> dict[str, list[Configuration]]:
        """Return the runs of every method, one for each seed."""
        return {
            name: [replace(each, seed=seed) for seed in range(seeds)]
            for name, each in self.methods().items()
        }


BENCHMARKS = (
    Benchmark(
        name="temporal XOR, d=40",
        task=TemporalXor(delay=40, steps=120),
        size=80,
        form="rate",
        training=DELAYED,
    ),
    Benchmark(
        name="delayed copy, d=40",
        task=DelayedCopy(delay=40, steps=120),
        size=80,
        form="rate",
        training=DELAYED,
    ),
    Benchmark(
        name="copy memory, 100 steps",
        task=CopyMemory(delay=100, length=10),
        size=128,
        form="state",
        training=replace(DELAYED, max_gradient_norm=1.0),
    ),
    Benchmark(
        name="adding, 200 steps",
        task=AddingProblem(steps=200),
        size=128,
        form="state",
        training=ADDING,
    ),
    Benchmark(
        name="digits, held for 60 steps",
        task=Digits(hold=60),
        size=128,
        form="state",
        training=DIGITS,
    ),
)
