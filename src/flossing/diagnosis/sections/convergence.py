"""Convergence of the exponents along the sequence, and their standard errors."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.analysis.convergence import Convergence, convergence
from flossing.diagnosis.sections.spectrum import error_in_words, selected_indices
from flossing.diagnosis.subject import Subject
from flossing.plots import plot_convergence
from flossing.report.model import Figure, Section, Table, Value
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import format_number, format_share, plural
from flossing.support.torch_typed import nested_numbers

HEADING = "Convergence of the exponents"

LARGE_DRIFT = 3.0
"""An exponent that moves by more standard errors than this has not converged."""
_LONGEST_FACTOR = 1e4
"""Extensions of the sequence by more than this factor are not proposed."""
_POINTS = 50


def convergence_section(subject: Subject) -> Section:
    """Report how the exponents converged, and which sequence length would resolve more."""
    course = convergence(subject.spectrum, points=_POINTS)
    errors = subject.standard_errors
    known = errors[errors.isfinite()]
    drift = drifts(course, subject.exponents)
    indices = selected_indices(len(errors))
    chosen = [index - 1 for index in indices]
    return Section(
        heading=HEADING,
        meaning=(f"{_drift_in_words(drift)} {_errors_in_words(subject)}",),
        figures=(_figure(subject, course),) if len(known) else (),
        tables=(_table(subject, course, drift),),
        text=(
            "Standard errors decrease with the inverse square root of the number of steps and of "
            "trajectories. The drift of an exponent (mean over trajectories) is its change from "
            "the first half of the counted steps to all of them, divided by its standard error "
            f"after the first half. A drift beyond ±{LARGE_DRIFT:.0f} indicates that the transient "
            "was too short, or that the statistics of the inputs change along the sequence.",
        ),
        numbers={
            "largest_standard_error": float(known.max()) if len(known) else math.inf,
            "drift": nested_numbers(drift),
            "steps": nested_numbers(course.steps[:, 0]),
            "running_indices": indices,
            "running_exponents": nested_numbers(course.exponents.double().mean(dim=1)[:, chosen]),
            "level": course.level,
            "half_widths": nested_numbers(_half_widths(course)[:, chosen]),
        },
    )


def drifts(course: Convergence, exponents: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """Return how far exponents moved in the second half, in standard errors of the first half.

    The standard errors of the whole sequence would not do: a drift increases them.

    Args:
        course: Of trajectories of equal length.
        exponents: At its end, averaged over trajectories.

    Returns:
        NaN where it is unknown: too few intervals, or an exponent of −∞.
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


def _half_widths(course: Convergence) -> Float[Tensor, "M k"]:
    widths = (course.upper - course.lower).double() / 2
    return widths.square().sum(dim=1).sqrt() / widths.shape[1]


def _drift_in_words(drift: Float[Tensor, "k"]) -> str:
    known = int(drift.isfinite().sum())
    if not known:
        return "The sequence is too short to judge the convergence of the exponents."
    moved = int((drift.abs() > LARGE_DRIFT).sum())
    if not moved:
        return (
            f"The exponents have converged: none of the {known} with a known drift moved by more "
            f"than {LARGE_DRIFT:.0f} standard errors in the second half of the counted steps."
        )
    return (
        f"Not all exponents have converged: {moved} of {known} moved by more than "
        f"{LARGE_DRIFT:.0f} standard errors in the second half of the counted steps. Use a longer "
        "sequence, or discard more of its beginning with --state-transient."
    )


def _errors_in_words(subject: Subject) -> str:
    errors = subject.standard_errors
    known = errors[errors.isfinite()]
    if not len(known):
        return "Their standard errors are unknown."
    largest, first = error_in_words(float(known.max())), error_in_words(float(errors[0]))
    steps, count = int(subject.spectrum.counted_steps.min()), subject.inputs.shape[1]
    trajectories = f"each of {count} trajectories" if count > 1 else "one trajectory"
    return (
        f"After {plural(steps, 'counted step')} in {trajectories}, the largest standard error is "
        f"{largest} nats per step, and that of λ₁ is {first}; {plural(4 * steps, 'step')} would "
        f"halve them. {_needed_in_words(subject, steps)}"
    )


def _needed_in_words(subject: Subject, steps: int) -> str:
    """Estimate how many steps would resolve which directions carry gradients."""
    errors = subject.standard_errors
    distances = (subject.exponents.abs() - subject.counts.bound).abs()
    uncertain = errors.isfinite() & (distances < 2 * errors)
    count = int(uncertain.sum())
    if not count:
        return "This is enough to tell which directions carry gradients over the horizon."
    # Errors shrink with the square root of the steps, and are to be half of the distance.
    factor = float((2 * errors / distances)[uncertain].square().max())
    carry = f"carr{'ies' if count == 1 else 'y'} gradients over the horizon"
    what = f"To tell whether {plural(count, 'direction')} close to a threshold {carry}"
    if factor > _LONGEST_FACTOR:
        return f"{what} would take more than {_LONGEST_FACTOR:.0f} times as many steps."
    return f"{what} would take about {float(f'{factor * steps:.2g}'):.0f} steps."


def _table(subject: Subject, course: Convergence, drift: Float[Tensor, "k"]) -> Table:
    exponents, errors = subject.exponents, subject.standard_errors
    halfway = _halfway(course)
    half = _mean_at(course, halfway)
    rows: list[tuple[Value, ...]] = [
        (
            index,
            float(half[index - 1]),
            float(exponents[index - 1]),
            error_in_words(float(errors[index - 1])),
            format_number(float(drift[index - 1]), 2),
        )
        for index in selected_indices(len(exponents))
    ]
    return Table(
        caption=(
            "Exponents in nats per step after the first "
            f"{plural(_steps_at(course, halfway), 'counted step')} and after all "
            f"{_steps_at(course, -1)}, and their drift in standard errors"
        ),
        columns=("i", "λᵢ, first half", "λᵢ, all", "Standard error", "Drift"),
        rows=tuple(rows),
    )


def _steps_at(course: Convergence, point: int) -> int:
    return int(course.steps[point, 0])


def _figure(subject: Subject, course: Convergence) -> Figure:
    # The others decay too fast to matter, and would compress the scale of these.
    shown = min(subject.flossable, course.exponents.shape[-1])
    leading = replace(
        course,
        exponents=course.exponents[..., :shown],
        standard_error=course.standard_error[..., :shown],
    )
    return figure_from(
        plot_convergence(leading, new_axes()),
        caption=(
            "Running estimates of exponents of the first trajectory with "
            f"{format_share(course.level)} confidence bands, from the largest to the last that "
            "flossing can act on."
        ),
        description=(
            "Running exponents against the number of counted steps, on a logarithmic axis, with "
            f"confidence bands up to {plural(_steps_at(course, -1), 'step')}."
        ),
    )
