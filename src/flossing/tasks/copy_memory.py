"""Copy memory: remember a word of symbols through a long blank, repeat it on a signal."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch.nn.functional import one_hot

from flossing.support.checks import require_choice, require_integer
from flossing.tasks.base import Batch, Kind, Task, mask_from


@dataclass(frozen=True, kw_only=True)
class CopyMemory(Task):
    """The copy memory task: repeat a word of random symbols after a delay, on a go marker.

    With n = `length` and T = delay + 2·n, a sequence is

        steps                      input            target
        0 … n−1                    s_0 … s_{n−1}    blank
        n … n+delay−2              blank            blank
        n+delay−1                  go marker        blank
        n+delay … 2·n+delay−1      blank            s_0 … s_{n−1}

    so the go marker comes at step n+delay−1, one step before the first symbol is due, and each
    symbol is due n+delay steps after it was shown. The symbols are independent and uniform on
    1 … `symbols`. As targets they are the classes 1 … `symbols`, and blank is class 0. Inputs are
    one-hot: channel 0 is blank, channels 1 … `symbols` are the symbols and channel `symbols`+1 is
    the go marker.

    Batches: inputs (T, B, symbols+2), targets (T, B) class indices, and a mask that is true at the
    last n steps only, or with `recall_only=False` at every step. The literature's loss is the mean
    over all steps; nearly all of these are trivial blanks, so an accuracy is informative over the
    recall only.

    Source: Arjovsky, Shah & Bengio, "Unitary evolution recurrent neural networks", ICML 2016,
    arXiv 1511.06464; after Hochreiter & Schmidhuber, "Long short-term memory", Neural Computation
    9, 1997.

    Attributes:
        delay: Number of steps between the end of the word and the start of its recall, including
            that of the go marker; at least 1.
        length: Number n of symbols in the word, at least 1.
        symbols: Size of the alphabet, at least 2.
        recall_only: Whether only the last `length` steps count, or every step.
        steps: Length T of the sequences, delay + 2·length; derived from the other fields.

    Raises:
        InvalidOptionError: A field is not an `int` in its range, or `recall_only` is not a `bool`.

    Example:
        >>> task = CopyMemory(delay=3, length=2, symbols=4)
        >>> batch = task.sample(1)
        >>> batch.inputs.argmax(-1).flatten()[2:].tolist()
        [0, 0, 5, 0, 0]
        >>> bool((batch.targets[-2:] == batch.inputs.argmax(-1)[:2]).all())
        True
    """

    kind: ClassVar[Kind] = "categorical"

    delay: int = 100
    length: int = 10
    symbols: int = 8
    recall_only: bool = True
    steps: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_integer("delay", self.delay, at_least=1)
        require_integer("length", self.length, at_least=1)
        require_integer("symbols", self.symbols, at_least=2)
        require_choice("recall_only", self.recall_only, (True, False))
        object.__setattr__(self, "steps", self.delay + 2 * self.length)

    @property
    def input_size(self) -> int:
        """Number D of input channels: blank, the symbols, the go marker."""
        return self.symbols + 2

    @property
    def output_size(self) -> int:
        """Number of classes: blank and the symbols."""
        return self.symbols + 1

    def _draw(self, batch_size: int, generator: torch.Generator | None) -> Batch:
        recall = self.length + self.delay
        word = torch.randint(1, self.symbols + 1, (self.length, batch_size), generator=generator)
        shown = torch.zeros(self.steps, batch_size, dtype=torch.int64)
        shown[: self.length] = word
        shown[recall - 1] = self.symbols + 1
        targets = torch.zeros_like(shown)
        targets[recall:] = word
        first_step = recall if self.recall_only else 0
        mask = mask_from(first_step, steps=self.steps, batch_size=batch_size)
        inputs = one_hot(shown, self.input_size).to(torch.get_default_dtype())
        return Batch(inputs, targets, mask)
