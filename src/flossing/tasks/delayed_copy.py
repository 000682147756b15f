"""Delayed copy: repeat the input of some steps ago."""

from dataclasses import dataclass

from flossing.tasks.base import DelayedParity


@dataclass(frozen=True, kw_only=True)
class DelayedCopy(DelayedParity):
    """Repeat a stream of random bits after a delay.

    The inputs x_t ∈ {0, 1} are independent with probability ½ of a one, and

        y_t = x_{t−delay},    t ≥ delay.

    Batches: inputs (T, B, 1), targets (T, B, 1) of 0 and 1, mask true from step `delay` on.

    Source: Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of
    Jacobians", NeurIPS 2023, arXiv 2312.17306.

    Attributes:
        delay: Number of steps between a bit and its repetition, at least 1.
        steps: Length T of the sequences, more than `delay`.

    Raises:
        InvalidOptionError: A field is not an `int` in its range, or no step has a target.

    Example:
        >>> batch = DelayedCopy(delay=2, steps=6).sample(4)
        >>> bool((batch.targets[2:] == batch.inputs[:-2]).all())
        True
        >>> batch.mask[:, 0].tolist()
        [False, False, True, True, True, True]
    """
