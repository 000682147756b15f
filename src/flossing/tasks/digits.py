"""Handwritten digits, read pixel by pixel or row by row and classified after a hold."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flossing.errors import InvalidOptionError
from flossing.support.checks import require_choice, require_integer
from flossing.tasks.base import Batch, Kind, Task, mask_from

IMAGE_SIDE = 8
BRIGHTEST_PIXEL = 16
LARGEST_SPLIT_SEED = 2**32 - 1
# Within these limits, both parts of a stratified split of the 1797 images contain all ten classes.
SMALLEST_TEST_FRACTION = 0.01
LARGEST_TEST_FRACTION = 0.99


class _Split(NamedTuple):
    train_images: Float[Tensor, "train 8 8"]
    train_labels: Int64[Tensor, " train"]
    test_images: Float[Tensor, "test 8 8"]
    test_labels: Int64[Tensor, " test"]


@dataclass(frozen=True, kw_only=True)
class Digits(Task):
    """Classify a handwritten digit, shown a few pixels per step and then held in memory.

    scikit-learn's 1797 images of 8 × 8 pixels, scaled to [0, 1], are read from left to right and
    top to bottom: one pixel per step (64 steps, D = 1), or with `rows=True` one row per step (8
    steps, D = 8). `hold` uninformative steps follow. The target, the class 0 … 9, is defined at the
    last step only. So T = 64 + hold, or 8 + hold; without a hold the last step is that of the last
    pixels.

    The images are split once, stratified by class, into a training part, from which `sample` and
    `batches` draw without replacement within a batch, and a test part, which `test` returns.

    Batches: inputs (T, B, 1) or (T, B, 8), targets (T, B) class indices, mask true at the last step
    only.

    Source: the images are the test part of Alpaydin & Kaynak, "Optical recognition of handwritten
    digits", UCI Machine Learning Repository, 1998; reading images pixel by pixel is from Le, Jaitly
    & Hinton, arXiv 1504.00941, 2015; the hold filled with noise after Chang et al.,
    "AntisymmetricRNN", ICLR 2019.

    Attributes:
        hold: Number of steps after the image, at least 0.
        filler: Inputs during the hold: "blank" is zeros; "noise" is uniform on [0, 1), drawn
            afresh for every sequence.
        rows: Whether a step shows a row of eight pixels rather than one pixel.
        test_fraction: Share of the images that is reserved for `test`, from 0.01 to 0.99.
        split_seed: Seed of the split, from 0 to 2³² − 1.
        steps: Length T of the sequences; derived from `hold` and `rows`.

    Raises:
        InvalidOptionError: A field has the wrong type or lies outside its range.
        ImportError: scikit-learn is missing; raised when the images are first needed.

    Example:
        >>> task = Digits(hold=20, filler="noise")
        >>> batch = task.sample(32)
        >>> batch.inputs.shape, batch.targets.shape
        (torch.Size([84, 32, 1]), torch.Size([84, 32]))
        >>> task.test().inputs.shape
        torch.Size([84, 360, 1])
    """

    kind: ClassVar[Kind] = "categorical"

    hold: int = 0
    filler: Literal["blank", "noise"] = "blank"
    rows: bool = False
    test_fraction: float = 0.2
    split_seed: int = 0
    steps: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_integer("hold", self.hold, at_least=0)
        require_choice("filler", self.filler, ("blank", "noise"))
        require_choice("rows", self.rows, (True, False))
        _require_test_fraction(self.test_fraction)
        require_integer("split_seed", self.split_seed, at_least=0, at_most=LARGEST_SPLIT_SEED)
        object.__setattr__(self, "steps", IMAGE_SIDE**2 // self.input_size + self.hold)

    @property
    def input_size(self) -> int:
        """Number D of input channels: pixels per step."""
        return IMAGE_SIDE if self.rows else 1

    @property
    def output_size(self) -> int:
        """Number of classes."""
        return 10

    def test(self, *, generator: torch.Generator | None = None) -> Batch:
        """Return the whole test part as one batch, in a fixed order.

        Args:
            generator: Random number generator of the noise in the hold, on the CPU; None: torch's
                default one. Without noise nothing is drawn.

        Returns:
            The batch, with B the number of test images.

        Raises:
            ImportError: scikit-learn is missing.

        Example:
            >>> Digits(rows=True, test_fraction=0.5).test().inputs.shape
            torch.Size([8, 899, 8])
        """
        split = self._split()
        with torch.device("cpu"):
            return self._present(split.test_images, split.test_labels, generator)

    def _require_batch_size(self, batch_size: int) -> None:
        super()._require_batch_size(batch_size)
        available = len(self._split().train_labels)
        if batch_size > available:
            raise InvalidOptionError(
                f"batch_size is {batch_size}, but a batch is drawn without replacement from "
                f"{available} training images; expected at most as many: pass batch_size="
                f"{available} or less, or a smaller test_fraction than {self.test_fraction}"
            )

    def _draw(self, batch_size: int, generator: torch.Generator | None) -> Batch:
        split = self._split()
        order = torch.randperm(len(split.train_labels), generator=generator)
        chosen = order[:batch_size]
        return self._present(split.train_images[chosen], split.train_labels[chosen], generator)

    def _split(self) -> _Split:
        return _load(self.test_fraction, self.split_seed)

    def _present(
        self,
        images: Float[Tensor, "B 8 8"],
        labels: Int64[Tensor, " B"],
        generator: torch.Generator | None,
    ) -> Batch:
        batch_size = len(labels)
        shown = images.reshape(batch_size, -1, self.input_size).movedim(0, 1)
        held = torch.zeros(self.hold, batch_size, self.input_size)
        if self.filler == "noise":
            held.uniform_(generator=generator)
        targets = torch.zeros(self.steps, batch_size, dtype=torch.int64)
        targets[-1] = labels
        mask = mask_from(self.steps - 1, steps=self.steps, batch_size=batch_size)
        return Batch(torch.cat([shown.to(held.dtype), held]), targets, mask)


def _require_test_fraction(value: object) -> None:
    in_range = isinstance(value, float) and SMALLEST_TEST_FRACTION <= value <= LARGEST_TEST_FRACTION
    if not in_range:
        raise InvalidOptionError(
            f"test_fraction is {value!r} ({type(value).__name__}); expected a float from "
            f"{SMALLEST_TEST_FRACTION} to {LARGEST_TEST_FRACTION}, so that both parts of the split "
            "hold every class: pass, for example, test_fraction=0.2"
        )


@lru_cache(maxsize=8)
def _load(test_fraction: float, split_seed: int) -> _Split:
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs]
        from sklearn.model_selection import (  # pyright: ignore[reportMissingTypeStubs]
            train_test_split,  # pyright: ignore[reportUnknownVariableType]
        )
    except ImportError as error:
        raise ImportError(
            "Digits needs scikit-learn, which could not be imported; "
            'install it with: pip install "flossing[digits]"'
        ) from error
    pixels, classes = cast("tuple[Any, Any]", load_digits(return_X_y=True))
    train, test = cast(
        "list[list[int]]",
        train_test_split(
            range(len(classes)), test_size=test_fraction, random_state=split_seed, stratify=classes
        ),
    )
    images = torch.as_tensor(pixels, dtype=torch.float32, device="cpu") / BRIGHTEST_PIXEL
    images = images.reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
    labels = torch.as_tensor(classes, dtype=torch.int64, device="cpu")
    return _Split(images[train], labels[train], images[test], labels[test])
