"""Was the sequence long enough for the exponents to settle?"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.analysis.convergence import Convergence, convergence
from flossing.diagnosis.advice import average
from flossing.diagnosis.sections.spectrum import error_in_words, selected_indices
from flossing.diagnosis.study import Study
from flossing.plots import plot_convergence
from flossing.report.model import Figure, Section, Table, Value
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import counted, number_in_words
from flossing.support.torch_typed import nested_numbers

HEADING = "Was the sequence long enough?"

LARGE_DRIFT = 3.0
"""In standard errors: an exponent that moved further in the second half has not settled."""
_LONGEST_FACTOR = 1e4
_POINTS = 50


def convergence_section(study: Study) -> Section:
    """Look at how exponents settled, and at what a longer sequence would give."""
    course = convergence(study.spectrum, points=_POINTS)
    exponents, errors = average(study.spectrum)
    drift = drifts(course, exponents)
    return Section(
        heading=HEADING,
        meaning=(f"{_settled_in_words(drift)} {_errors_in_words(study, exponents, errors)}",),
        figures=(_figure(study, course),) if bool(errors.isfinite().any()) else (),
        tables=(_table(course, exponents, errors, drift),),
        text=(
            "Standard errors shrink like one over the square root of the steps and of the "
            "trajectories: four times as many halve them. The drift is how far an exponent, the "
            "mean over trajectories, moved from the first half of the counted steps to all of "
            f"them, in the standard errors it had then. Beyond {LARGE_DRIFT:.0f} the transient "
            "was too short, or the inputs change in nature along the sequence.",
        ),
        numbers=_numbers(course, errors, drift),
    )


def drifts(course: Convergence, exponents: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """Return how far exponents moved in the second half of a run, in standard errors of the first.

    Those of the whole run would not do: a change along the way makes them larger.

    Args:
        course: Of trajectories of equal length.
        exponents: At its end, averaged over trajectories.

    Returns:
        NaN where it cannot be told: too few intervals, or an exponent of −∞.
    """
    half = _halfway(course)
    own = course.standard_error[half].double().cpu()
    errors = own.square().sum(dim=0).sqrt() / len(own)
    moved = exponents - _mean_at(course, half)
    ratio = torch.where(moved == 0, 0.0, moved / errors)
    return ratio.masked_fill(~(errors.isfinite() & moved.isfinite()), torch.nan)


def _halfway(course: Convergence) -> int:
    steps = course.steps[:, 0]
    return int((steps - steps[-1] / 2).abs().argmin())


def _mean_at(course: Convergence, point: int) -> Float[Tensor, "k"]:
    return course.exponents[point].double().cpu().mean(dim=0)


def _settled_in_words(drift: Float[Tensor, "k"]) -> str:
    known = int(drift.isfinite().sum())
    if not known:
        return "The sequence is too short to tell whether exponents have settled."
    moved = int((drift.abs() > LARGE_DRIFT).sum())
    if not moved:
        return (
            f"The exponents have settled: in the second half of the steps none of the {known} "
            f"that can be judged moved by more than {LARGE_DRIFT:.0f} standard errors."
        )
    return (
        f"Not all exponents have settled: in the second half of the steps {moved} of {known} "
        f"moved by more than {LARGE_DRIFT:.0f} standard errors. Take a longer sequence, or leave "
        "out more of its beginning with --state-transient."
    )


def _errors_in_words(
    study: Study, exponents: Float[Tensor, "k"], errors: Float[Tensor, "k"]
) -> str:
    known = errors.isfinite()
    if not bool(known.any()):
        return "Their standard errors are unknown."
    largest, first = error_in_words(float(errors[known].max())), error_in_words(float(errors[0]))
    steps = int(study.spectrum.counted_steps.min())
    return (
        f"After {counted(steps, 'counted step')} in {_trajectories(study)} the largest standard "
        f"error is {largest} nats per step, that of λ₁ {first}; "
        f"{counted(4 * steps, 'step')} would halve them. "
        f"{_needed_in_words(study, exponents, errors)}"
    )


def _trajectories(study: Study) -> str:
    count = study.spectrum.exponents.shape[0]
    return f"each of {count} trajectories" if count > 1 else "one trajectory"


def _needed_in_words(
    study: Study, exponents: Float[Tensor, "k"], errors: Float[Tensor, "k"]
) -> str:
    """Say how many steps would tell on which side of a limit all directions are."""
    distances = (exponents.abs() - study.fates.bound).abs()
    uncertain = _uncertain(distances, errors)
    if not bool(uncertain.any()):
        return "That is enough to tell which directions carry gradients over the horizon."
    factor = float((2 * errors / distances)[uncertain].square().max())
    count = int(uncertain.sum())
    what = f"To tell whether {counted(count, 'direction')} close to a limit"
    what += (
        " carries gradients over the horizon"
        if count == 1
        else (" carry gradients over the horizon")
    )
    steps = int(study.spectrum.counted_steps.min())
    if factor > _LONGEST_FACTOR:
        return f"{what} would take too many steps to be worth it: they are at the limit itself."
    return f"{what} would take about {_rounded(factor * steps)} steps."


def _rounded(steps: float) -> int:
    return int(float(f"{steps:.2g}"))


def _uncertain(distances: Float[Tensor, "k"], errors: Float[Tensor, "k"]) -> Bool[Tensor, "k"]:
    return errors.isfinite() & (distances < 2 * errors)


def _table(
    course: Convergence,
    exponents: Float[Tensor, "k"],
    errors: Float[Tensor, "k"],
    drift: Float[Tensor, "k"],
) -> Table:
    halfway = _halfway(course)
    half = _mean_at(course, halfway)
    rows: list[tuple[Value, ...]] = [
        (
            index,
            float(half[index - 1]),
            float(exponents[index - 1]),
            error_in_words(float(errors[index - 1])),
            number_in_words(float(drift[index - 1]), 2),
        )
        for index in selected_indices(len(exponents))
    ]
    return Table(
        caption=(
            f"Exponents in nats per step after {counted(_steps_at(course, halfway), 'step')} and "
            f"after all {_steps_at(course, -1)} that count"
        ),
        columns=("i", "λᵢ, half", "λᵢ", "Standard error", "Drift"),
        rows=tuple(rows),
    )


def _steps_at(course: Convergence, point: int) -> int:
    return int(course.steps[point, 0])


def _figure(study: Study, course: Convergence) -> Figure:
    # The others decay too fast to matter, and would leave no height for these.
    shown = min(study.flossable, course.exponents.shape[-1])
    leading = replace(
        course,
        exponents=course.exponents[..., :shown],
        standard_error=course.standard_error[..., :shown],
    )
    return figure_from(
        plot_convergence(leading, new_axes()),
        caption=(
            "Exponents as they stood after ever more steps of the first trajectory, from the "
            "largest to the last that flossing could help, with confidence bands."
        ),
        description=(
            "Running exponents against the steps counted, on a logarithmic axis, with bands that "
            f"narrow towards {counted(_steps_at(course, -1), 'step')}."
        ),
    )


def _numbers(
    course: Convergence, errors: Float[Tensor, "k"], drift: Float[Tensor, "k"]
) -> dict[str, Any]:
    known = errors[errors.isfinite()]
    chosen = [index - 1 for index in selected_indices(len(errors))]
    return {
        "largest_standard_error": float(known.max()) if len(known) else math.inf,
        "drift": nested_numbers(drift),
        "steps": nested_numbers(course.steps[:, 0]),
        "running_indices": [index + 1 for index in chosen],
        "running_exponents": nested_numbers(course.exponents.double().mean(dim=1)[:, chosen]),
        "level": course.level,
        "half_widths": nested_numbers(_half_widths(course)[:, chosen]),
    }


def _half_widths(course: Convergence) -> Float[Tensor, "M k"]:
    widths = (course.upper - course.lower).double() / 2
    return widths.square().sum(dim=1).sqrt() / widths.shape[1]
