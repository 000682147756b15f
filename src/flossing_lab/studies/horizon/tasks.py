"""Tasks of growing delay for a vanilla network, each under three schedules of flossing."""

from dataclasses import dataclass, replace
from typing import Literal

from flossing.tasks import AddingProblem, DelayedCopy, Digits, SpatialXor, Task, TemporalXor
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.schedules import scheduled

ARMS = {"without": "none", "published": "published", "default": "default"}
"""Schedules by their names in tables."""

SEEDS = 5

COOLDOWN = 0.3
"""Share of the training in which the step size falls to zero, which averages out gradient noise."""

SMALL_INPUTS = 0.3
"""Scale of input weights for long memory.

Standard normal input weights drive units into saturation, where new inputs distort what the state
has stored.
"""

BIAS_SCALE = 0.7
"""Scale of biases where products of inputs are needed.

Around zero tanh has no even terms, so a unit driven by small inputs computes no products; |tanh''|
is largest at ±0.66.
"""

INTEGRATOR = Architecture(cell="relu", size=128, initialisation="identity", input_gain=100.0)
"""A network that sums its inputs from the start; its input weights have a deviation of 0.1."""

# The published set-up. Training ends after three evaluations in a row at 99.5 %.
DELAYED = Training(
    epochs=3000, batch_size=16, max_gradient_norm=0.03, cooldown=COOLDOWN, patience=3
)
DIGITS = Training(epochs=1200, batch_size=64, max_gradient_norm=1.0, cooldown=COOLDOWN)
ADDING = Training(epochs=3000, batch_size=16, max_gradient_norm=1.0, cooldown=COOLDOWN)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A task and the network that is trained on it: a row of the table.

    Attributes:
        name: in tables.
        task: the task.
        architecture: of the network.
        training: the same for all schedules.
        goal: required of the default schedule: a number of solved seeds; for digits, the largest
            loss of accuracy, in percentage points, against digits without a hold; for a regression,
            the largest mean squared error. `None` for no goal.
        exponents: number of flossed exponents; `None` for that of each schedule.
    """

    name: str
    task: Task
    architecture: Architecture
    training: Training
    goal: float | None = None
    exponents: int | None = None

    def configurations(self, *, seeds: int = SEEDS) -> dict[str, list[Configuration]]:
        """Return the runs of every schedule, one for each seed."""
        common = Configuration(
            task=self.task, architecture=self.architecture, training=self.training
        )
        flossings = {arm: self._flossing(schedule, common) for arm, schedule in ARMS.items()}
        return {
            arm: [replace(common, flossing=flossing, seed=seed) for seed in range(seeds)]
            for arm, flossing in flossings.items()
        }

    def _flossing(self, schedule: str, common: Configuration) -> Flossing | None:
        if schedule == "none":
            return None
        flossing = scheduled(schedule, common)
        return replace(flossing, k=self.exponents or flossing.k)


def _delayed(
    name: str,
    task: type[DelayedCopy | TemporalXor | SpatialXor],
    delay: int,
    size: int,
    goal: float,
    training: Training = DELAYED,
    **architecture: float,
) -> Row:
    return Row(
        name=f"{name} d={delay}, N={size}",
        task=task(delay=delay, steps=3 * delay),
        architecture=replace(Architecture(size=size, form="rate"), **architecture),
        training=training,
        goal=goal,
    )


def _digits(
    filler: Literal["blank", "noise"],
    hold: int,
    goal: float | None = None,
    training: Training = DIGITS,
) -> Row:
    held = "blank steps" if filler == "blank" else "steps of noise"
    return Row(
        name=f"digits, asked after {hold} {held}, N=128",
        task=Digits(hold=hold, filler=filler),
        architecture=Architecture(size=128, input_gain=SMALL_INPUTS),
        training=training,
        goal=goal,
    )


def _adding(steps: int, goal: float | None = None, training: Training = ADDING) -> Row:
    return Row(
        name=f"adding problem, {steps} steps, N=128",
        task=AddingProblem(steps=steps),
        architecture=Architecture(size=128),
        training=training,
        goal=goal,
    )


def _integrating(steps: int, training: Training = ADDING) -> Row:
    return Row(
        name=f"adding problem, {steps} steps, ReLU, N=128",
        task=AddingProblem(steps=steps),
        architecture=INTEGRATOR,
        training=training,
        exponents=1,
    )


AT_ONCE = _digits("blank", 0)
"""Digits without a hold, the reference for those with one."""

_DELAYED_SLOWLY = replace(DELAYED, learning_rate=3e-4)
_ADDING_SLOWLY = replace(ADDING, learning_rate=3e-4)

ROWS = (
    _delayed("temporal XOR", TemporalXor, 40, 80, 5.0),
    _delayed("temporal XOR", TemporalXor, 70, 80, 4.0),
    _delayed("temporal XOR", TemporalXor, 100, 128, 4.0),
    _delayed(
        "temporal XOR",
        TemporalXor,
        200,
        256,
        4.0,
        _DELAYED_SLOWLY,
        input_gain=SMALL_INPUTS,
        bias_scale=BIAS_SCALE,
    ),
    _delayed("delayed copy", DelayedCopy, 40, 80, 5.0),
    _delayed("delayed copy", DelayedCopy, 70, 80, 4.0),
    _delayed("delayed copy", DelayedCopy, 200, 256, 4.0, _DELAYED_SLOWLY),
    _delayed("spatial XOR", SpatialXor, 40, 80, 4.0),
    AT_ONCE,
    _digits("blank", 60, 5.0),
    _digits("blank", 200, 5.0, replace(DIGITS, learning_rate=2e-4, epochs=2400)),
    _digits("blank", 500, 5.0, replace(DIGITS, learning_rate=2e-4, epochs=3000)),
    _digits("noise", 60, 10.0, replace(DIGITS, learning_rate=3e-4)),
    _digits("noise", 200, 10.0, replace(DIGITS, learning_rate=2e-4, epochs=2400)),
    _adding(50),
    _adding(100),
    _adding(200),
    _adding(1000, 0.01, replace(ADDING, learning_rate=1e-4)),
    _integrating(100),
    _integrating(200, _ADDING_SLOWLY),
    _integrating(400, _ADDING_SLOWLY),
)
"""The tasks, by kind and delay.

A change of the recurrent weights acts on the state at every step, so its effect on the answer grows
with the hold: long holds are trained with smaller steps, under every schedule.
"""
