"""Singular values and condition number of the long-term Jacobian."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from flossing.analysis.long_term_jacobian import (
    LongTermJacobian,
    geometric_horizons,
    long_term_jacobian,
)
from flossing.diagnosis.advice import resolvable_gap
from flossing.diagnosis.subject import Subject, affordable
from flossing.plots import plot_condition_number
from flossing.report.model import Figure, Section, Table, Value
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import format_factor, format_number, plural
from flossing.support.torch_typed import nested_numbers, numbers

HEADING = "Condition number of the long-term Jacobian"

MOST_DIRECTIONS = 32
LONGEST_HORIZON = 1000
MOST_TRAJECTORIES = 4
MOST_ORIGINS = 4
# In products of n·k² operations, each step of each origin: a few seconds.
_BUDGET = 6e8


def long_term_jacobian_section(subject: Subject) -> Section:
    """Report singular values of products of Jacobians, up to twice the horizon."""
    k = subject.leading(MOST_DIRECTIONS)
    longest = _longest_horizon(subject)
    cost = longest * subject.state_size * k**2
    excerpt = subject.excerpt(
        steps=max(200, 4 * longest),
        trajectories=affordable(_BUDGET, cost, most=MOST_TRAJECTORIES),
        double=True,
    )
    result = long_term_jacobian(
        **excerpt.options,
        horizons=sorted({*geometric_horizons(longest), min(subject.horizon, longest), longest}),
        k=k,
        origins=affordable(_BUDGET, cost * excerpt.trajectories, most=MOST_ORIGINS),
    )
    return Section(
        heading=HEADING,
        meaning=(_in_words(subject, result),),
        figures=(_figure(result),),
        tables=(_table(result),),
        text=(
            "The product of the Jacobians of s consecutive steps propagates errors back over s "
            "steps. Its singular values σ are the factors by which errors along different "
            "directions are scaled; the condition number κ = σ₁/σₖ is the ratio of the largest to "
            "the smallest factor. It grows approximately as exp((λ₁ − λₖ) s). Flossing brings the "
            "exponents closer together, and with them the singular values.",
            f"To bound the cost, this section uses {excerpt.description}. Products of up to "
            f"{plural(longest, 'step')} begin at {plural(len(result.origins), 'random origin')} "
            f"and act on the {k} leading of {plural(subject.state_size, 'direction')}: as many as "
            f"flossing can act on, but at most {MOST_DIRECTIONS}.",
        ),
        numbers={
            "horizons": nested_numbers(result.horizons),
            "origins": nested_numbers(result.origins),
            "directions": k,
            "log10_condition_quartiles": nested_numbers(result.log10_condition_quartiles),
            "predicted_log10_condition": nested_numbers(
                result.predicted_log10_condition.mean(dim=1)
            ),
            "median_log_singular_values": nested_numbers(_median_logs(result)),
        },
    )


def _longest_horizon(subject: Subject) -> int:
    steps = len(subject.inputs) - subject.state_transient
    # A tenth of the steps aligns the directions; half of the rest is left for different origins.
    room = max(1, (steps - steps // 10) // 2)
    return min(2 * subject.horizon, room, LONGEST_HORIZON)


def _median_logs(result: LongTermJacobian) -> Float[Tensor, "S k"]:
    return result.log_singular_values.flatten(1, 2).median(dim=1).values


def _in_words(subject: Subject, result: LongTermJacobian) -> str:
    last = int((result.horizons <= subject.horizon).sum()) - 1
    steps = int(result.horizons[last])
    logs = _median_logs(result)[last]
    log10_condition = float(result.log10_condition_quartiles[1, last])
    loss = (
        f"the last of the {len(logs)} leading directions is lost completely: its singular value is "
        "zero"
        if math.isinf(log10_condition)
        else (
            f"the median condition number is {_power(log10_condition)}: errors along the last of "
            f"the {len(logs)} leading directions arrive weaker by this factor than along the first"
        )
    )
    precision = str(subject.flossing_dtype).removeprefix("torch.")
    digits = 2 * resolvable_gap(subject.flossing_dtype)
    resolved = int((logs.isfinite() & (logs[0] - logs < digits)).sum())
    short = ""
    if steps < subject.horizon:
        slope = float((result.predicted_log10_condition[-1] / result.horizons[-1]).mean())
        short = (
            f" The length of the sequence or the cost limits the products to "
            f"{plural(steps, 'step')}; over the horizon of {plural(subject.horizon, 'step')} the "
            f"exponents predict a condition number of {_power(slope * subject.horizon)}."
        )
    return (
        f"Over {plural(steps, 'step')}, {loss}. In {precision}, the contributions of {resolved} "
        f"of these directions to a gradient exceed the rounding error of the largest.{short}"
    )


def _power(log10: float) -> str:
    return format_factor(log10 * math.log(10))


def _table(result: LongTermJacobian) -> Table:
    logs = _median_logs(result)
    rows: list[tuple[Value, ...]] = []
    for at in _evenly_spaced(len(result.horizons)):
        lower, median, upper = numbers(result.log10_condition_quartiles[:, at])
        rows.append(
            (
                int(result.horizons[at]),
                median,
                f"{format_number(lower)} to {format_number(upper)}",
                float(result.predicted_log10_condition[at].mean()),
                format_factor(float(logs[at, 0])),
                format_factor(float(logs[at, -1])),
            )
        )
    return Table(
        caption=(
            "Condition number κ after s steps: log₁₀ of its median and quartiles over origins and "
            "trajectories, and as predicted by the exponents; medians of the largest and the "
            "smallest singular value"
        ),
        columns=("Steps s", "log₁₀ κ", "Quartiles", "Predicted", "σ₁", f"σₖ, k = {logs.shape[1]}"),
        rows=tuple(rows),
    )


def _evenly_spaced(count: int, most: int = 10) -> Sequence[int]:
    shown = min(count, most)
    return sorted({round(row * (count - 1) / max(1, shown - 1)) for row in range(shown)})


def _figure(result: LongTermJacobian) -> Figure:
    axes = plot_condition_number(result, new_axes(), label="measured")
    for line in axes.lines:
        if line.get_linestyle() == "--":
            line.set_label("predicted by the exponents")
    axes.legend(frameon=False, fontsize="small", loc="upper left")  # pyright: ignore[reportUnknownMemberType]
    last = float(result.log10_condition_quartiles[1, -1])
    return figure_from(
        axes,
        caption=(
            "Condition number of the long-term Jacobian against the number of steps: median with "
            "a band between the quartiles, and the prediction from the exponents (dashed)."
        ),
        description=(
            "The condition number against the number of steps, on a logarithmic axis. It reaches "
            f"{_power(last)} after {plural(int(result.horizons[-1]), 'step')}."
        ),
    )
