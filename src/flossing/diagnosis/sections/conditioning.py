"""How unequally does the long-term Jacobian carry errors back?"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.analysis.long_term_jacobian import (
    LongTermJacobian,
    geometric_horizons,
    long_term_jacobian,
)
from flossing.diagnosis.study import Study, affordable
from flossing.plots import plot_condition_number
from flossing.report.model import Figure, Section, Table, Value
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import counted, factor_in_words, number_in_words
from flossing.support.torch_typed import nested_numbers, numbers

HEADING = "Condition of the long-term Jacobian"

MOST_DIRECTIONS = 32
LONGEST_HORIZON = 1000
MOST_TRAJECTORIES = 4
MOST_ORIGINS = 4
# Of products of n·k² operations each; a few seconds.
_BUDGET = 6e8


def conditioning_section(study: Study) -> Section:
    """Measure singular values of products of Jacobians up to the horizon and a little beyond."""
    if study.state_size < 2:
        return Section(HEADING, meaning=("A state of one dimension has only one direction.",))
    k = min(study.state_size, max(2, min(MOST_DIRECTIONS, study.flossable)))
    longest = _longest_horizon(study)
    cost = longest * study.state_size * k**2
    part = study.part(
        steps=max(200, 4 * longest),
        trajectories=affordable(_BUDGET, cost, most=MOST_TRAJECTORIES),
        double=True,
    )
    horizons = sorted({*geometric_horizons(longest), min(study.horizon, longest), longest})
    origins = affordable(_BUDGET, cost * part.trajectories, most=MOST_ORIGINS)
    result = long_term_jacobian(**part.options, horizons=horizons, k=k, origins=origins)
    return Section(
        heading=HEADING,
        meaning=(_in_words(study, result),),
        figures=(_figure(result),),
        tables=(_table(result),),
        text=(
            "The product of the Jacobians of s steps carries errors back over them. Its singular "
            "values σ are the factors by which errors along different directions arrive; their "
            "ratio, the condition number κ = σ₁/σₖ, says how unequally. It grows about as "
            "exp((λ₁ − λₖ) s). Flossing brings the exponents together, and with them the "
            "singular values.",
            f"To bound the cost, {part.in_words} Products of up to {counted(longest, 'step')} from "
            f"{counted(len(result.origins), 'origin')} drawn at random, on the {k} leading of "
            f"{counted(study.state_size, 'direction')}; those that flossing could help, but no "
            f"more than {MOST_DIRECTIONS}.",
        ),
        numbers=_numbers(result),
    )


def _longest_horizon(study: Study) -> int:
    steps = len(study.inputs) - study.state_transient
    # A tenth aligns the directions, and origins should have some room.
    room = max(1, (steps - steps // 10) // 2)
    return min(2 * study.horizon, room, LONGEST_HORIZON)


def _median_logs(result: LongTermJacobian) -> Float[Tensor, "S k"]:
    return result.log_singular_values.flatten(1, 2).median(dim=1).values


def _at(result: LongTermJacobian, horizon: int) -> int:
    """Return the index of the last horizon that is not longer."""
    return int((result.horizons <= horizon).sum()) - 1


def _in_words(study: Study, result: LongTermJacobian) -> str:
    at = _at(result, study.horizon)
    steps = int(result.horizons[at])
    logs = _median_logs(result)[at]
    condition = float(result.log10_condition_quartiles[1, at])
    short = (
        f" The sequence or the cost leaves room for {counted(steps, 'step')} only; over the "
        f"horizon of {counted(study.horizon, 'step')} the exponents let a condition number of "
        f"{_power(_predicted(result, study.horizon))} expect."
        if steps < study.horizon
        else ""
    )
    precision = str(study.flossing_dtype).removeprefix("torch.")
    digits = -math.log(torch.finfo(study.flossing_dtype).eps)
    seen = int((logs.isfinite() & (logs[0] - logs < digits)).sum())
    loss = (
        f"the last of the {len(logs)} leading directions is lost entirely"
        if math.isinf(condition)
        else (
            f"errors along the last of the {len(logs)} leading directions arrive "
            f"{_power(condition)} times weaker than along the first"
        )
    )
    return (
        f"Over {counted(steps, 'step')} {loss}. Errors add up to one gradient in {precision}, in "
        f"which {seen} of these directions stand out from the rounding of the strongest.{short}"
    )


def _predicted(result: LongTermJacobian, horizon: int) -> float:
    slopes = result.predicted_log10_condition[-1] / float(result.horizons[-1])
    return float(slopes.mean()) * horizon


def _power(log10: float) -> str:
    return factor_in_words(log10 * math.log(10))


def _table(result: LongTermJacobian) -> Table:
    logs = _median_logs(result)
    rows: list[tuple[Value, ...]] = []
    for at in _rows(len(result.horizons)):
        lower, median, upper = numbers(result.log10_condition_quartiles[:, at])
        rows.append(
            (
                int(result.horizons[at]),
                median,
                f"{number_in_words(lower)} to {number_in_words(upper)}",
                float(result.predicted_log10_condition[at].mean()),
                factor_in_words(float(logs[at, 0])),
                factor_in_words(float(logs[at, -1])),
            )
        )
    return Table(
        caption=(
            "Condition number by horizon: median and quartiles over origins and trajectories, what "
            "the exponents predict, and the medians of the largest and the smallest singular value"
        ),
        columns=("Steps s", "log₁₀ κ", "Quartiles", "Predicted", "σ₁", f"σ, i = {logs.shape[1]}"),
        rows=tuple(rows),
    )


def _rows(count: int, most: int = 10) -> Sequence[int]:
    """Return indices from the first to the last, evenly, and not too many."""
    shown = min(count, most)
    return sorted({round(row * (count - 1) / max(1, shown - 1)) for row in range(shown)})


def _figure(result: LongTermJacobian) -> Figure:
    axes = plot_condition_number(result, new_axes(), label="measured")
    axes.legend(frameon=False, fontsize="small", loc="upper left")  # pyright: ignore[reportUnknownMemberType]
    last = float(result.log10_condition_quartiles[1, -1])
    return figure_from(
        axes,
        caption=(
            "Condition number of the long-term Jacobian by horizon, as a power of ten: the median "
            "over a band between the quartiles, and dashed what the exponents predict."
        ),
        description=(
            "The condition number against the horizon, on a logarithmic axis, up to "
            f"{_power(last)} after {counted(int(result.horizons[-1]), 'step')}."
        ),
    )


def _numbers(result: LongTermJacobian) -> dict[str, Any]:
    return {
        "horizons": nested_numbers(result.horizons),
        "origins": nested_numbers(result.origins),
        "directions": result.log_singular_values.shape[-1],
        "log10_condition_quartiles": nested_numbers(result.log10_condition_quartiles),
        "predicted_log10_condition": nested_numbers(result.predicted_log10_condition.mean(dim=1)),
        "median_log_singular_values": nested_numbers(_median_logs(result)),
    }
