"""Batches of inputs for flossing, and windows sampled from them."""

from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import InvalidInputError
from flossing.support.autocast import without_autocast
from flossing.support.eval_mode import in_eval_mode
from flossing.systems.recurrence import System, driven_map, is_stock
from flossing.systems.trajectory import check_finite, trajectory
from flossing.systems.wrapped import unwrapped

Batches = Tensor | PackedSequence | Iterable[Any] | Callable[[], Any]


def batch_source(batches: Batches) -> Callable[[], Any]:
    """Return a function that returns the next batch, for every form of batches."""
    if isinstance(batches, Tensor | PackedSequence):
        return lambda: batches
    if callable(batches):
        return batches
    if not isinstance(batches, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(
            "batches must be an iterable of inputs, a function that returns the next batch, or one "
            f"tensor, not a {type(batches).__name__}"
        )
    return _cycled(batches).__next__


def _cycled(batches: Iterable[Any]) -> Iterator[Any]:
    # itertools.cycle would keep every batch in memory, and repeat those of a shuffling loader.
    used = 0
    while True:
        before = used
        for batch in batches:
            used += 1
            yield batch
        if used == before:
            raise InvalidInputError(
                f"the batches ran out after {used}: pass an iterable that can be iterated more "
                "than once, an endless one, or a function that returns the next batch"
            )


def inputs_and_options(batch: Any) -> tuple[Any, dict[str, int]]:
    """Return the inputs of a batch, and the options of `lyapunov_spectrum` that it implies.

    Raises:
        InvalidInputError: the batch has no inputs.
    """
    inputs = getattr(batch, "inputs", batch)
    if isinstance(inputs, Tensor | PackedSequence):
        return inputs, {}
    if isinstance(inputs, int | Integral) and not isinstance(inputs, bool):
        return None, {"steps": int(inputs)}
    raise InvalidInputError(
        "each batch must be a tensor or PackedSequence of inputs, have one as its attribute "
        f"'inputs', or be a number of steps, not a {type(inputs).__name__}: from pairs, take the "
        "inputs, e.g. (inputs for inputs, targets in loader); convert arrays with "
        "torch.from_numpy(...)"
    )


def sample_window(
    system: System,
    inputs: Any,
    state: Any,
    *,
    steps: int,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Any]:
    """Sample a random window of a sequence, and return it with the state before its first step.

    Args:
        system: see `lyapunov_spectrum`.
        inputs: the sequence, in the system's own convention: (T, B, D), (T, D), or (B, T, D) with
            `batch_first`.
        state: the state before the sequence, in the system's own convention; `None` for zero.
        steps: length of the window.
        generator: draws its start; all starts are equally likely.
        dtype: see `lyapunov_spectrum`.

    Returns:
        The window and the state, without a graph.

    Raises:
        InvalidInputError: the sequence is too short, packed, or missing.
        NonFiniteError: the trajectory diverges before the window.

    Example:
        >>> rnn = torch.nn.RNN(1, 16)
        >>> window, state = sample_window(
        ...     rnn, torch.randn(90, 2, 1), None, steps=40, generator=torch.Generator()
        ... )
        >>> window.shape, state.shape
        (torch.Size([40, 2, 1]), torch.Size([1, 2, 16]))
    """
    if not isinstance(inputs, Tensor):
        given = "packed sequences" if isinstance(inputs, PackedSequence) else "no inputs"
        raise InvalidInputError(
            f"windows are sampled from tensors of inputs, but there are {given}: pass tensors, or "
            "piece=None"
        )
    system = unwrapped(system)
    batch_first = is_stock(system) and getattr(system, "batch_first", False) is True
    time = 1 if batch_first and inputs.dim() == 3 else 0
    length = inputs.shape[time]
    if length < steps:
        raise InvalidInputError(
            f"piece is {steps} and the inputs have {length} steps: pass longer sequences, a "
            "shorter piece, or piece=None for whole sequences"
        )
    starts = length - steps + 1
    start = int(torch.randint(starts, (), generator=generator, device=generator.device))
    if start:
        # The state that the system itself reaches there: a state of zero in the middle of a
        # sequence would have other exponents.
        with without_autocast(), in_eval_mode(system):
            problem = driven_map(
                system, inputs.narrow(time, 0, start), state, steps=None, layer=None, dtype=dtype
            )
            states = trajectory(problem, problem.state, 0, problem.steps, "detach")
        check_finite(problem, states, 0)
        state = problem.recurrence.unpack(states[-1], batched=problem.batched)
    return inputs.narrow(time, start, steps), state
