"""Batches, the abstract base class of tasks, and that of the parity tasks."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from flossing.errors import InvalidOptionError
from flossing.support.checks import require_integer

Kind: TypeAlias = Literal["binary", "categorical", "regression"]

LARGEST_TORCH_SEED = 2**64 - 1


class Batch(NamedTuple):
    """A batch of sequences with their targets, time first.

    Attributes:
        inputs: Inputs of the network, (T, B, D).
        targets: Targets. Floats (T, B, C) for binary tasks (0 or 1) and for regression;
            int64 class indices (T, B) for categorical tasks. Zero wherever `mask` is false.
        mask: (T, B), true where the target is defined and counts.
    """

    inputs: Float[Tensor, "T B D"]
    targets: Float[Tensor, "T B C"] | Int64[Tensor, "T B"]
    mask: Bool[Tensor, "T B"]


def mask_from(first_step: int, *, steps: int, batch_size: int) -> Bool[Tensor, "T B"]:
    """Return the mask of a task whose targets are defined from one step to the last.

    Args:
        first_step: Index of the first step with a target.
        steps: Length T of the sequences.
        batch_size: Number B of sequences.

    Returns:
        (T, B), true from `first_step` on.

    Example:
        >>> mask_from(2, steps=4, batch_size=1).flatten().tolist()
        [False, False, True, True]
    """
    mask = torch.zeros(steps, batch_size, dtype=torch.bool)
    mask[first_step:] = True
    return mask


class Task(ABC):
    """A supervised problem on sequences that generates its own data.

    Tasks are frozen dataclasses with keyword-only fields. To define a task, derive from this class
    and define `kind`, `steps`, `input_size`, `output_size` and `_draw`; `sample` and `batches` are
    inherited. All tensors are created on the CPU, so a seed produces the same data wherever the
    network is; floats have torch's default dtype.

    Attributes:
        kind: "binary" (one logit, targets 0 or 1), "categorical" (one logit for each class) or
            "regression" (one number).
        stationary: Whether the inputs have the same statistics at every step; false by default.
        steps: Length T of the sequences.

    Example:
        >>> from flossing.tasks import DelayedCopy
        >>> task = DelayedCopy(delay=3, steps=10)
        >>> task.kind, task.steps, task.input_size, task.output_size
        ('binary', 10, 1, 1)
    """

    kind: ClassVar[Kind]
    stationary: ClassVar[bool] = False
    steps: int

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Number D of input channels."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Number of outputs C of a readout: 1, or the number of classes of a categorical task."""

    @abstractmethod
    def _draw(self, batch_size: int, generator: torch.Generator | None) -> Batch:
        """Draw a batch; `sample` has checked `batch_size` and made the CPU the default device."""

    def sample(self, batch_size: int, *, generator: torch.Generator | None = None) -> Batch:
        """Draw a fresh random batch.

        Args:
            batch_size: Number B of sequences.
            generator: Random number generator on the CPU; None: torch's default one.

        Returns:
            The batch; see `Batch` for shapes and dtypes.

        Raises:
            InvalidOptionError: `batch_size` is not an `int` of at least 1.

        Example:
            >>> import torch
            >>> from flossing.tasks import AddingProblem
            >>> batch = AddingProblem(steps=50).sample(8, generator=torch.Generator())
            >>> batch.inputs.shape, batch.targets.shape, batch.mask.shape
            (torch.Size([50, 8, 2]), torch.Size([50, 8, 1]), torch.Size([50, 8]))
        """
        self._require_batch_size(batch_size)
        # The generator is on the CPU, and so must be what it fills, whatever the default device.
        with torch.device("cpu"):
            return self._draw(batch_size, generator)

    def batches(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Return an infinite iterator over fresh batches that depend on the seed alone.

        Torch's default random state is neither read nor changed.

        Args:
            batch_size: Number B of sequences in each batch.
            seed: Seed of the random numbers, from 0 to 2⁶⁴ − 1.

        Returns:
            The iterator.

        Raises:
            InvalidOptionError: `batch_size` is not an `int` of at least 1, or `seed` is not an
                `int` in its range; raised by this call, not by the first batch.

        Example:
            >>> from itertools import islice
            >>> from flossing.tasks import TemporalXor
            >>> task = TemporalXor(delay=4, steps=20)
            >>> [batch.inputs.shape[1] for batch in islice(task.batches(16, seed=0), 3)]
            [16, 16, 16]
        """
        self._require_batch_size(batch_size)
        require_integer("seed", seed, at_least=0, at_most=LARGEST_TORCH_SEED)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        return (self.sample(batch_size, generator=generator) for _ in itertools.count())

    def _require_batch_size(self, batch_size: int) -> None:
        require_integer("batch_size", batch_size, at_least=1)


@dataclass(frozen=True, kw_only=True)
class DelayedParity(Task):
    """Base class of the binary tasks: the parity of bits from a fixed number of steps ago.

    The inputs x^c_t ∈ {0, 1} are independent with probability ½ of a one, and

        y_t = XOR over channels c and lags ℓ of x^c_{t−ℓ},    t ≥ delay,

    where `delay` is the largest lag. Before that step the target is undefined (mask false).

    Attributes:
        delay: The largest lag, at least 1.
        steps: Length T of the sequences, more than `delay`.

    Raises:
        InvalidOptionError: A field is not an `int` in its range, or no step has a target.

    Example:
        >>> DelayedParity(delay=5, steps=8).lags
        (5,)
    """

    kind: ClassVar[Kind] = "binary"
    stationary: ClassVar[bool] = True

    delay: int = 40
    steps: int = 300

    def __post_init__(self) -> None:
        require_integer("delay", self.delay, at_least=1)
        require_integer("steps", self.steps, at_least=1)
        if self.steps <= self.delay:
            raise InvalidOptionError(
                f"steps is {self.steps} and delay is {self.delay}, so no step has a target; "
                f"expected steps > delay: pass steps={self.delay + 1} or more, or a shorter delay"
            )

    @property
    def lags(self) -> tuple[int, ...]:
        """The lags ℓ, in steps, of the bits that the target combines; the largest is `delay`."""
        return (self.delay,)

    @property
    def input_size(self) -> int:
        """Number D of input channels."""
        return 1

    @property
    def output_size(self) -> int:
        """One logit."""
        return 1

    def _draw(self, batch_size: int, generator: torch.Generator | None) -> Batch:
        shape = (self.steps, batch_size, self.input_size)
        bits = torch.randint(2, shape, generator=generator)
        ones = torch.zeros(self.steps - self.delay, batch_size, 1, dtype=torch.int64)
        for lag in self.lags:
            ones += bits[self.delay - lag : self.steps - lag].sum(-1, keepdim=True)
        targets = torch.zeros(self.steps, batch_size, 1)
        targets[self.delay :] = ones % 2
        mask = mask_from(self.delay, steps=self.steps, batch_size=batch_size)
        return Batch(bits.to(targets.dtype), targets, mask)
