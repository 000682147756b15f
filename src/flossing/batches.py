"""Batches of inputs for flossing, and windows sampled from them."""

from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

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
) -> tuple[Any, Any]:
    """Sample a random window of each sequence, and return them with the states before them.

    The sequences of a tensor share the place of their windows. Packed sequences have a place each,
    within their own length; one that is shorter than the window is returned whole.

    Args:
        system: see `lyapunov_spectrum`.
        inputs: the sequences, in the system's own convention: (T, B, D), (T, D), or (B, T, D) with
            `batch_first`; or packed.
        state: the state before the sequences, in the system's own convention; `None` for zero.
        steps: length of the windows.
        generator: draws their starts; all starts are equally likely.
        dtype: see `lyapunov_spectrum`.

    Returns:
        The windows, packed if the sequences are, and the state, without a graph.

    Raises:
        InvalidInputError: all sequences are too short, or there are none.
        NonFiniteError: a trajectory diverges before its window.

    Example:
        >>> rnn = torch.nn.RNN(1, 16)
        >>> window, state = sample_window(
        ...     rnn, torch.randn(90, 2, 1), None, steps=40, generator=torch.Generator()
        ... )
        >>> window.shape, state.shape
        (torch.Size([40, 2, 1]), torch.Size([1, 2, 16]))
    """
    if isinstance(inputs, PackedSequence):
        sequences, time = unpack_sequence(inputs), 0
    elif isinstance(inputs, Tensor):
        module = unwrapped(system)
        batch_first = is_stock(module) and getattr(module, "batch_first", False) is True
        sequences, time = [inputs], 1 if batch_first and inputs.dim() == 3 else 0
    else:
        raise InvalidInputError(
            "windows are sampled from inputs, but there are none: pass inputs, or piece=None"
        )
    longest = max(sequence.shape[time] for sequence in sequences)
    if longest < steps:
        raise InvalidInputError(
            f"piece is {steps} and the longest sequence has {longest} steps: pass longer "
            "sequences, a shorter piece, or piece=None for whole sequences"
        )
    starts: list[int] = []
    windows: list[Tensor] = []
    for sequence in sequences:
        length = min(steps, sequence.shape[time])
        places = sequence.shape[time] - length + 1
        start = int(torch.randint(places, (), generator=generator, device=generator.device))
        starts.append(start)
        windows.append(sequence.narrow(time, start, length))
    if any(starts):
        state = _states_before(system, inputs, state, starts, dtype)
    packed = isinstance(inputs, PackedSequence)
    return pack_sequence(windows, enforce_sorted=False) if packed else windows[0], state


def _states_before(
    system: System, inputs: Any, state: Any, starts: list[int], dtype: torch.dtype | None
) -> Any:
    """Return the states before these steps, one for each trajectory or one for all.

    They are those that the system itself reaches there: a state of zero in the middle of a sequence
    would have other exponents.
    """
    system = unwrapped(system)
    with without_autocast(), in_eval_mode(system):
        problem = driven_map(system, inputs, state, steps=None, layer=None, dtype=dtype)
        states = trajectory(problem, problem.state, 0, max(starts), "detach")
    places = torch.tensor(starts, device=states.device)
    rows = torch.arange(states.shape[1], device=states.device)
    # Only what lies before the windows has to be finite: a trajectory goes on beyond its end.
    beyond = torch.arange(len(states), device=states.device).unsqueeze(1) > places
    check_finite(problem, states.masked_fill(beyond.unsqueeze(-1), 0), 0)
    return problem.recurrence.unpack(states[places, rows], batched=problem.batched)
