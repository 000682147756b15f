"""How far flossing carries a vanilla network: tasks of growing delay, under three schedules."""

from dataclasses import dataclass, replace

from flossing.tasks import (
    AddingProblem,
    DelayedCopy,
    Digits,
    SpatialXor,
    Task,
    TemporalXor,
)
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.schedules import scheduled

ARMS = {"without": None, "published": "published", "default": "default"}
"""What tables call the schedules, and their names."""

SEEDS = 5

# Adam's step size falls at the end, which takes the noise of the gradients out of the answers.
COOLDOWN = 0.3
QUIET = 0.3
"""Scale of input weights for long memory.

Standard normal input weights drive units far into where they bend, and what the state keeps is
mixed with whatever comes in.
"""
BENT = 0.7
"""Scale of biases where products of inputs matter.

Small inputs to a unit at zero give no products, for tanh is odd; it bends most at ±0.66.
"""

INTEGRATOR = Architecture(cell="relu", size=128, initialisation="identity", input_gain=100.0)
"""Adds up from the start, inputs with weights of standard deviation 0.1."""

# Sequences of three times the delay, in the published set-up; a network that has answered
# 99.5 % three evaluations in a row is done.
DELAYED = Training(
    epochs=3000, batch_size=16, max_gradient_norm=0.03, cooldown=COOLDOWN, patience=3
)
DIGITS = Training(epochs=1200, batch_size=64, max_gradient_norm=1.0, cooldown=COOLDOWN)
ADDING = Training(epochs=3000, batch_size=16, max_gradient_norm=1.0, cooldown=COOLDOWN)


def _with_small_steps(training: Training, learning_rate: float, epochs: int) -> Training:
    return replace(training, learning_rate=learning_rate, epochs=epochs)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A task, and the network that is to learn it under each of the schedules.

    Attributes:
        name: what tables call it.
        task: what is learned.
        architecture: what learns it.
        training: how.
        goal: what the default schedule is to reach with it: so many seeds solved; of digits, at
            most so many points of accuracy fewer than where they are asked at once; of a
            regression, at most that mean squared error. `None` for nothing.
        exponents: how many are flossed; `None` for as many as the schedules do.
    """

    name: str
    task: Task
    architecture: Architecture
    training: Training
    goal: float | None
    exponents: int | None = None

    def configurations(self, *, seeds: int = SEEDS) -> dict[str, list[Configuration]]:
        """Every schedule's runs, one a seed.

        Args:
            seeds: how many.
        """
        common = Configuration(
            task=self.task, architecture=self.architecture, training=self.training
        )
        flossings = {
            arm: None if schedule is None else self._flossing(schedule, common)
            for arm, schedule in ARMS.items()
        }
        return {
            arm: [replace(common, flossing=flossing, seed=seed) for seed in range(seeds)]
            for arm, flossing in flossings.items()
        }

    def _flossing(self, schedule: str, common: Configuration) -> Flossing:
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


def _digits(filler: str, hold: int, goal: float | None, training: Training = DIGITS) -> Row:
    held = "blank steps" if filler == "blank" else "steps of noise"
    return Row(
        name=f"digits, asked after {hold} {held}, N=128",
        task=Digits(hold=hold, filler="noise" if filler == "noise" else "blank"),
        architecture=Architecture(size=128, input_gain=QUIET),
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


def _summing(steps: int, training: Training = ADDING) -> Row:
    return Row(
        name=f"adding problem, {steps} steps, ReLU, N=128",
        task=AddingProblem(steps=steps),
        architecture=INTEGRATOR,
        training=training,
        goal=None,
        exponents=1,
    )


AT_ONCE = _digits("blank", 0, None)
"""What later questions about digits are measured against."""

_FAR = _with_small_steps(DELAYED, 3e-4, 3000)

ROWS = (
    _delayed("temporal XOR", TemporalXor, 40, 80, 5.0),
    _delayed("temporal XOR", TemporalXor, 70, 80, 4.0),
    _delayed("temporal XOR", TemporalXor, 100, 128, 4.0),
    _delayed("temporal XOR", TemporalXor, 200, 256, 4.0, _FAR, input_gain=QUIET, bias_scale=BENT),
    _delayed("delayed copy", DelayedCopy, 40, 80, 5.0),
    _delayed("delayed copy", DelayedCopy, 70, 80, 4.0),
    _delayed("delayed copy", DelayedCopy, 200, 256, 4.0, _FAR),
    _delayed("spatial XOR", SpatialXor, 40, 80, 4.0),
    AT_ONCE,
    _digits("blank", 60, 5.0),
    _digits("blank", 200, 5.0, _with_small_steps(DIGITS, 2e-4, 2400)),
    _digits("blank", 500, 5.0, _with_small_steps(DIGITS, 2e-4, 3000)),
    _digits("noise", 60, 10.0, _with_small_steps(DIGITS, 3e-4, 1200)),
    _digits("noise", 200, 10.0, _with_small_steps(DIGITS, 2e-4, 2400)),
    _adding(50),
    _adding(100),
    _adding(200),
    _adding(1000, 0.01, _with_small_steps(ADDING, 1e-4, 3000)),
    _summing(100),
    _summing(200, _with_small_steps(ADDING, 3e-4, 3000)),
    _summing(400, _with_small_steps(ADDING, 3e-4, 3000)),
)
"""The tasks, by kind and delay.

A change of recurrent weights turns what a state keeps at every step anew, so that after long holds
the step size of short ones turns answers at random: it is smaller there, in every arm.
"""
