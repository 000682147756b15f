"""The adding problem: add the two marked numbers of a long sequence."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from flossing.support.checks import require_integer
from flossing.tasks.base import Batch, Kind, Task, mask_from


@dataclass(frozen=True, kw_only=True)
class AddingProblem(Task):
    """The adding problem: the sum of two numbers that are marked at random steps.

    Channel 0 holds independent uniform numbers u_t ∈ [0, 1). Channel 1 is zero except for two
    ones, at a step p drawn uniformly from the first half, 0 ≤ p < ⌊T/2⌋, and at a step q drawn
    uniformly from the second half, ⌊T/2⌋ ≤ q < T. The target is defined at the last step only,

        y_{T−1} = u_p + u_q.

    The constant answer 1 has a mean squared error of 1/6, the variance of the sum.

    Batches: inputs (T, B, 2), targets (T, B, 1), mask true at the last step only.

    Source: Hochreiter & Schmidhuber, "Long short-term memory", Neural Computation 9, 1997; in the
    form of Le, Jaitly & Hinton, "A simple way to initialize recurrent networks of rectified linear
    units", arXiv 1504.00941, 2015.

    Attributes:
        steps: Length T of the sequences, at least 2.

    Raises:
        InvalidOptionError: `steps` is not an `int` of at least 2.

    Example:
        >>> batch = AddingProblem(steps=30).sample(5)
        >>> numbers, marks = batch.inputs.unbind(-1)
        >>> bool((batch.targets[-1, :, 0] == (numbers * marks).sum(0)).all())
        True
    """

    kind: ClassVar[Kind] = "regression"

    steps: int = 200

    def __post_init__(self) -> None:
        require_integer("steps", self.steps, at_least=2)

    @property
    def input_size(self) -> int:
        """Two channels: the numbers and the marks."""
        return 2

    @property
    def output_size(self) -> int:
        """One number."""
        return 1

    def _draw(self, batch_size: int, generator: torch.Generator | None) -> Batch:
        half = self.steps // 2
        numbers = torch.rand(self.steps, batch_size, generator=generator)
        first = torch.randint(0, half, (1, batch_size), generator=generator)
        second = torch.randint(half, self.steps, (1, batch_size), generator=generator)
        marks = torch.zeros_like(numbers).scatter_(0, torch.cat([first, second]), 1.0)
        targets = torch.zeros(self.steps, batch_size, 1)
        targets[-1, :, 0] = (numbers * marks).sum(0)
        mask = mask_from(self.steps - 1, steps=self.steps, batch_size=batch_size)
        return Batch(torch.stack([numbers, marks], dim=-1), targets, mask)
