"""Where the inputs of flossing come from: what `floss` takes as batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import InvalidInputError

Batches = Tensor | PackedSequence | Iterable[Any] | Callable[[], Any]


def batch_source(batches: Batches) -> Callable[[], Any]:
    """Return a function that gives the next inputs, whatever form the batches come in."""
    if isinstance(batches, Tensor | PackedSequence):
        return lambda: batches
    if callable(batches):
        return batches
    if not isinstance(batches, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(
            "batches must be an iterable of inputs, a function that returns the next, or one "
            f"tensor, not a {type(batches).__name__}"
        )
    return _again_and_again(batches).__next__


def inputs_and_options(batch: Any) -> tuple[Any, dict[str, int]]:
    """Return the inputs of a batch, and the options of `lyapunov_spectrum` that it stands for.

    Raises:
        InvalidInputError: it is not one.
    """
    inputs = getattr(batch, "inputs", batch)
    if isinstance(inputs, int) and not isinstance(inputs, bool):
        return None, {"steps": inputs}
    if isinstance(inputs, Tensor | PackedSequence):
        return inputs, {}
    raise InvalidInputError(
        "each batch must be a tensor or PackedSequence of inputs, have one as its attribute "
        f"'inputs', or be a number of steps, not a {type(inputs).__name__}: from pairs, take the "
        "inputs, e.g. (inputs for inputs, targets in loader)"
    )


def _again_and_again(batches: Iterable[Any]) -> Iterator[Any]:
    used = 0
    while True:
        before = used
        for batch in batches:
            used += 1
            yield batch
        if used == before:
            raise InvalidInputError(
                f"the batches ran out after {used}: pass an iterable that can be gone through "
                "again, an endless one, or a function that returns the next batch"
            )
