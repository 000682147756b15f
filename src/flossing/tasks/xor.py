"""Delayed XOR, of one input channel at several times or of several channels at one time."""

from dataclasses import dataclass

from flossing.errors import InvalidOptionError
from flossing.support.checks import require_integer
from flossing.tasks.base import DelayedParity


@dataclass(frozen=True, kw_only=True)
class TemporalXor(DelayedParity):
    """XOR of bits of one channel, at evenly spaced times in the past.

    The inputs x_t ∈ {0, 1} are independent with probability ½ of a one, and with n = 2^depth

        y_t = x_{t − delay/n} ⊕ x_{t − 2·delay/n} ⊕ … ⊕ x_{t − delay},    t ≥ delay,

    so that at depth 1, y_t = x_{t−delay/2} ⊕ x_{t−delay}. `delay` is the largest lag, the paper's
    d; in the paper's released code the delay is the spacing of the two bits, half of that.

    Batches: inputs (T, B, 1), targets (T, B, 1) of 0 and 1, mask true from step `delay` on.

    Source: Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of
    Jacobians", NeurIPS 2023, arXiv 2312.17306.

    Attributes:
        delay: The largest lag, at least 1 and a multiple of 2^depth.
        steps: Length T of the sequences, more than `delay`.
        depth: Depth of the tree of two-way XORs, at least 1.

    Raises:
        InvalidOptionError: A field is not an `int` in its range, `delay` is not a multiple of
            2^depth, or no step has a target.

    Example:
        >>> TemporalXor(delay=40, depth=2).lags
        (10, 20, 30, 40)
        >>> batch = TemporalXor(delay=4, steps=6).sample(1)
        >>> x, y = batch.inputs.int(), batch.targets.int()
        >>> bool((y[4:] == x[2:-2] ^ x[:-4]).all())
        True
    """

    depth: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("depth", self.depth, at_least=1)
        # By shifts: 2**depth of a mistakenly huge depth would not fit in memory.
        if self.delay >> self.depth << self.depth != self.delay:
            raise InvalidOptionError(
                f"delay is {self.delay} and depth is {self.depth}, so the lags are not whole "
                f"steps; expected a delay divisible by 2**{self.depth}: pass a multiple of it, "
                "or a smaller depth"
            )

    @property
    def lags(self) -> tuple[int, ...]:
        """The 2^depth lags, evenly spaced up to `delay`."""
        spacing = self.delay >> self.depth
        return tuple(range(spacing, self.delay + 1, spacing))


@dataclass(frozen=True, kw_only=True)
class SpatialXor(DelayedParity):
    """XOR of simultaneous bits on several channels, after a delay.

    The inputs x^c_t ∈ {0, 1} are independent with probability ½ of a one, and

        y_t = x¹_{t−delay} ⊕ x²_{t−delay} ⊕ … ⊕ x^channels_{t−delay},    t ≥ delay.

    Batches: inputs (T, B, channels), targets (T, B, 1) of 0 and 1, mask true from step `delay` on.

    Source: Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of
    Jacobians", NeurIPS 2023, arXiv 2312.17306 (three channels).

    Attributes:
        delay: Number of steps between the bits and their XOR, at least 1.
        steps: Length T of the sequences, more than `delay`.
        channels: Number D of input channels, at least 2.

    Raises:
        InvalidOptionError: A field is not an `int` in its range, or no step has a target.

    Example:
        >>> batch = SpatialXor(delay=4, steps=10, channels=2).sample(1)
        >>> x, y = batch.inputs.int(), batch.targets[..., 0].int()
        >>> bool((y[4:] == x[:-4, :, 0] ^ x[:-4, :, 1]).all())
        True
    """

    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("channels", self.channels, at_least=2)

    @property
    def input_size(self) -> int:
        """Number D of input channels."""
        return self.channels
