"""How often the gates of a stock module no longer respond."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.analysis.linearisation import Linearisation
from flossing.stock import StockRecurrence

_CHUNK_STEPS = 256


@dataclass(frozen=True)
class Saturation:
    """How often the units of one gate do not respond to a change of what they receive.

    Attributes:
        share: (B,), of all units at all steps, those that are saturated.
        throughout: (B,), of all units, those that are saturated at every step; of ReLU units,
            the dead ones.
    """

    share: Float[Tensor, "B"]
    throughout: Float[Tensor, "B"]


def gate_saturation(
    run: Linearisation, start: int, relative_slope: float
) -> dict[tuple[int, str], Saturation]:
    """Return the saturation of every gate, by layer and gate; nothing for other systems.

    Args:
        run: the trajectory.
        start: first step that counts.
        relative_slope: a unit whose squashing function has a derivative below this share of its
            largest is saturated.
    """
    recurrence, skipped = run.problem.recurrence, run.problem.steps - run.steps
    if not isinstance(recurrence, StockRecurrence):
        return {}
    counts: dict[tuple[int, str], Tensor] = {}
    throughout: dict[tuple[int, str], Bool[Tensor, "B N"]] = {}
    for first in range(start, run.steps, _CHUNK_STEPS):
        last = min(first + _CHUNK_STEPS, run.steps)
        inputs = cast(Tensor, run.problem.inputs_from(skipped + first, skipped + last))
        with torch.no_grad():
            slopes = recurrence.slopes(inputs, run.states[first:last])
        for name, slope in slopes.items():
            saturated = slope < relative_slope
            counts[name] = counts.get(name, 0) + saturated.sum(dim=0)
            throughout[name] = throughout.get(name, True) & saturated.all(dim=0)
    steps = run.steps - start
    return {
        name: Saturation(count.double().mean(-1) / steps, throughout[name].double().mean(-1))
        for name, count in counts.items()
    }
