"""Which trajectories of a batch diverge, and at which step: looked for only once one has."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.errors import NonFiniteError
from flossing.systems.tangent import TangentMap

# Rows that a message names before it only counts.
_NAMED = 8


def first_steps(finite: Bool[Tensor, "T B"], start: int) -> dict[int, int]:
    """Return the first step that is not finite of each row that has one.

    >>> first_steps(torch.tensor([[True, True], [True, False], [True, False]]), 10)
    {1: 11}
    """
    # The first minimum of 0s and 1s.
    first = finite.to(torch.int8).argmin(dim=0)
    return {
        row: start + int(first[row])
        for row, whole in enumerate(finite.all(dim=0))
        if not bool(whole)
    }


def in_words(diverged: dict[int, int], batch: int) -> str:
    """Return which rows diverged, and when.

    >>> in_words({3: 41, 5: 77}, 8)
    '2 of 8 trajectories diverged: rows 3 (step 41), 5 (step 77)'
    >>> in_words({0: 9}, 1)
    'the trajectory diverged at step 9'
    """
    if batch == 1:
        return f"the trajectory diverged at step {diverged[0]}"
    named = [f"{row} (step {step})" for row, step in sorted(diverged.items())]
    rest = [f"and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
    listed = ", ".join(named[:_NAMED] + rest)
    return f"{len(named)} of {batch} trajectories diverged: row{'s'[: len(named) - 1]} {listed}"


def diverging_frame(
    error: NonFiniteError, tangent: TangentMap, frame: Float[Tensor, "B n k"], start: int, stop: int
) -> NonFiniteError:
    """Return the error of a scan, with the rows whose tangent vectors are not finite.

    Args:
        error: what the scan raised.
        tangent: the tangent map of the steps from `start` to `stop`.
        frame: the frame before the first of them.
        start: the first step, counted from the start of the whole run.
        stop: the step after the last one.
    """
    finite: list[Tensor] = []
    with torch.no_grad():
        for step in range(stop - start):
            frame = tangent.push(step, frame)
            finite.append(frame.isfinite().flatten(1).all(dim=1))
            # Scaled, so that vectors only leave the range where a Jacobian takes them out of it.
            size = frame.abs().amax(dim=(1, 2), keepdim=True)
            frame = torch.where(size > 0, frame / size, frame)
    # Steps count from 1: after a step its image is not finite.
    diverged = first_steps(torch.stack(finite), start + 1)
    if not diverged:
        return error
    return NonFiniteError(f"{error}; {in_words(diverged, len(frame))}", diverged)
