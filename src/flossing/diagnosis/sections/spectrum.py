"""The Lyapunov spectrum: along how many directions gradients vanish, explode or are carried."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math

from flossing.diagnosis.advice import CARRYING_FACTOR, DirectionCounts
from flossing.diagnosis.subject import Subject
from flossing.plots import GREY, plot_spectrum
from flossing.report.model import Figure, Section, Table
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import format_factor, format_number, plural
from flossing.support.torch_typed import nested_numbers, numbers

HEADING = "Lyapunov spectrum"


def spectrum_section(subject: Subject) -> Section:
    """Report the Lyapunov spectrum, and what it does to gradients over the horizon."""
    spectrum, counts = subject.spectrum, subject.counts
    exponents, errors = numbers(subject.exponents), numbers(subject.standard_errors)
    return Section(
        heading=HEADING,
        meaning=(f"{_counts_in_words(subject)} {_rate_in_words(exponents[0])}".strip(),),
        figures=(_figure(subject, exponents),),
        tables=(_counts_table(counts), _exponents_table(exponents, errors, subject.horizon)),
        text=(
            "The Lyapunov exponent λᵢ is the average rate, in nats per step, at which small "
            "perturbations of the state grow along the i-th direction under these inputs. A "
            "gradient that is propagated back over s steps changes along this direction by a "
            "factor of about exp(λᵢ s): it keeps its size if λᵢ is zero, vanishes if λᵢ is "
            "negative and explodes if λᵢ is positive. Standard errors are estimated from the "
            "fluctuations along each trajectory; trajectories are treated as independent.",
        ),
        numbers={
            "exponents": exponents,
            "standard_errors": errors,
            "exponents_by_trajectory": nested_numbers(spectrum.exponents.double()),
            "counted_steps": nested_numbers(spectrum.counted_steps),
            "state_size": subject.state_size,
            "horizon": subject.horizon,
            "bound": counts.bound,
            "explode": counts.explode,
            "carry": counts.carry,
            "vanish": counts.vanish,
            "lost": counts.lost,
            "uncertain": counts.uncertain,
        },
    )


def outcome_in_words(subject: Subject) -> str:
    """Describe what happens to gradients over the horizon along the leading direction."""
    largest, error = float(subject.exponents[0]), float(subject.standard_errors[0])
    counts, horizon = subject.counts, subject.horizon
    change, log_factor = "change", largest * horizon
    if counts.explode:
        outcome, change = "Gradients explode", "grow"
    elif not counts.carry:
        outcome, change, log_factor = "Gradients vanish", "shrink", -log_factor
    elif counts.carry < subject.state_size:
        outcome = "Some directions carry gradients"
    else:
        outcome = "All directions carry gradients"
    doubt = (
        " This exponent lies within two standard errors of the threshold; more steps or "
        "trajectories would reduce the uncertainty."
        if abs(abs(largest) - counts.bound) < 2 * error
        else ""
    )
    return (
        f"{outcome} over the horizon of {plural(horizon, 'step')}: along the leading direction, "
        f"with λ₁ = {format_number(largest)} ± {error_in_words(error)} nats per step, they "
        f"{change} by a factor of {format_factor(log_factor)}.{doubt}"
    )


def error_in_words(error: float) -> str:
    """Return a standard error as text; an infinite one is unknown.

    Example:
        >>> error_in_words(0.0123), error_in_words(math.inf)
        ('0.012', 'unknown')
    """
    return format_number(error, 2) if math.isfinite(error) else "unknown"


def selected_indices(count: int) -> list[int]:
    """Return the indices 1, 2, 3, 5, 10, 20, 30, 50, … up to `count`, which is always included.

    Example:
        >>> selected_indices(64)
        [1, 2, 3, 5, 10, 20, 30, 50, 64]
    """
    scales = [10**power for power in range(len(str(count)))]
    indices = {index * scale for index in (1, 2, 3, 5) for scale in scales}
    return sorted(index for index in indices | {count} if index <= count)


def _counts_in_words(subject: Subject) -> str:
    counts, measured = subject.counts, len(subject.exponents)
    directions = (
        plural(measured, "direction")
        if measured == subject.state_size
        else f"the leading {plural(measured, 'direction')} (of {subject.state_size})"
    )
    doubt = (
        f" For {counts.uncertain} of them, the exponent lies within two standard errors of a "
        "threshold."
        if counts.uncertain
        else ""
    )
    return (
        f"Over {plural(counts.horizon, 'step')}, gradients explode along {counts.explode} of "
        f"{directions}, are carried along {counts.carry} and vanish along "
        f"{counts.vanish + counts.lost}.{doubt}"
    )


def _rate_in_words(largest: float) -> str:
    if largest == 0 or not math.isfinite(largest):
        return ""
    steps = max(1, round(math.log(CARRYING_FACTOR) / abs(largest)))
    return (
        f"Along the leading direction, gradients {'grow' if largest > 0 else 'shrink'} by a factor "
        f"of {CARRYING_FACTOR:.0f} in {plural(steps, 'step')}."
    )


def _counts_table(counts: DirectionCounts) -> Table:
    bound = format_number(counts.bound)
    return Table(
        caption=(
            f"Number of directions by the change of gradients over "
            f"{plural(counts.horizon, 'step')}; exponents λ in nats per step"
        ),
        columns=("Gradients", "Exponent", "Directions"),
        rows=(
            ("explode: grow 1000-fold or more", f"λ ≥ {bound}", counts.explode),
            ("are carried: change less than 1000-fold", f"|λ| < {bound}", counts.carry),
            ("vanish: shrink 1000-fold or more", f"λ ≤ −{bound}", counts.vanish),
            ("vanish completely, within the precision", "λ = −∞", counts.lost),
        ),
    )


def _exponents_table(exponents: list[float], errors: list[float], horizon: int) -> Table:
    return Table(
        caption=(
            "Selected exponents in nats per step, the factor by which gradients change over "
            f"{plural(horizon, 'step')}, and the number of steps in which they change 1000-fold"
        ),
        columns=("i", "λᵢ", "Standard error", "Factor", "Steps"),
        rows=tuple(
            (
                index,
                exponents[index - 1],
                error_in_words(errors[index - 1]),
                format_factor(exponents[index - 1] * horizon),
                _steps_to_thousandfold(exponents[index - 1]),
            )
            for index in selected_indices(len(exponents))
        ),
    )


def _steps_to_thousandfold(exponent: float) -> str:
    if exponent == 0:
        return "∞"
    return format_number(math.log(CARRYING_FACTOR) / abs(exponent), 3)


def _figure(subject: Subject, exponents: list[float]) -> Figure:
    axes = plot_spectrum(subject.spectrum, new_axes())
    for height in (-subject.counts.bound, subject.counts.bound):
        axes.axhline(height, color=GREY, linestyle="--", linewidth=0.8, zorder=1)
    finite = [value for value in exponents if math.isfinite(value)]
    values = (
        f"They fall from {format_number(finite[0])} to {format_number(finite[-1])} nats per "
        f"step over {len(finite)} directions."
        if finite
        else "None is finite."
    )
    return figure_from(
        axes,
        caption=(
            "Lyapunov exponents: mean over trajectories with error bars of one standard error, "
            "and single trajectories as thin lines. Directions with exponents between the dashed "
            f"lines carry gradients over {plural(subject.horizon, 'step')}."
        ),
        description=f"Lyapunov exponents against their index. {values}",
    )
