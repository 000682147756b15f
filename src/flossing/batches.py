"""Where the inputs of flossing come from: what `floss` takes as batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import InvalidInputError
from flossing.systems.recurrence import System, driven_map, is_stock
from flossing.systems.trajectory import check_finite, trajectory


def draw_piece(
    system: System,
    inputs: Any,
    state: Any,
    *,
    steps: int,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Any]:
    """Return some steps of a sequence from a random place, and the state before the first of them.

    Args:
        system: see `lyapunov_spectrum`.
        inputs: the sequence, in the system's own convention: (T, B, D), (T, D), or (B, T, D) with
            `batch_first`.
        state: before the sequence, in the system's own convention; `None` for the system's own.
        steps: length of the piece.
        generator: of the place; each is as likely as any other.
        dtype: see `lyapunov_spectrum`.

    Returns:
        The piece and the state, without a graph.

    Raises:
        InvalidInputError: the sequence is too short, packed, or not there at all.
        NonFiniteError: the system diverges before the piece.

    Example:
        >>> rnn = torch.nn.RNN(1, 16)
        >>> piece, state = draw_piece(
        ...     rnn, torch.randn(90, 2, 1), None, steps=40, generator=torch.Generator()
        ... )
        >>> piece.shape, state.shape
        (torch.Size([40, 2, 1]), torch.Size([1, 2, 16]))
    """
    if not isinstance(inputs, Tensor):
        given = "packed sequences" if isinstance(inputs, PackedSequence) else "no inputs"
        raise InvalidInputError(
            f"pieces are taken from tensors of inputs, but there are {given}: pass tensors, or "
            "piece=None"
        )
    axis = _time_axis(system, inputs)
    length = inputs.shape[axis]
    if length < steps:
        raise InvalidInputError(
            f"piece is {steps} and the inputs have {length} steps: pass longer sequences, a "
            "shorter piece, or piece=None for whole sequences"
        )
    places = length - steps + 1
    start = int(torch.randint(places, (), generator=generator, device=generator.device))
    if start:
        state = state_after(system, inputs.narrow(axis, 0, start), state, dtype=dtype)
    return inputs.narrow(axis, start, steps), state


def state_after(
    system: System, inputs: Tensor, state: Any, *, dtype: torch.dtype | None = None
) -> Any:
    """Return the state after a sequence, in the system's own convention and without a graph.

    Args:
        system: see `lyapunov_spectrum`.
        inputs: what it is driven with.
        state: before the first step; `None` for the system's own.
        dtype: see `lyapunov_spectrum`.

    Raises:
        NonFiniteError: the system diverges.
    """
    problem = driven_map(system, inputs, state, steps=None, layer=None, dtype=dtype)
    states = trajectory(problem, problem.state, 0, problem.steps, "detach")
    check_finite(states, 0)
    return problem.recurrence.unpack(states[-1], batched=problem.batched)


def _time_axis(system: System, inputs: Tensor) -> int:
    batch_first = is_stock(system) and getattr(system, "batch_first", False) is True
    return 1 if batch_first and inputs.dim() == 3 else 0


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
