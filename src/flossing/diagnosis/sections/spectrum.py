"""Do gradients vanish or explode, over what horizon, and along how many directions?"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from typing import TYPE_CHECKING

from flossing.diagnosis.advice import CARRYING_FACTOR, Fates, average
from flossing.diagnosis.study import Study
from flossing.plots import GREY, plot_spectrum
from flossing.report.model import Figure, Section, Table
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import counted, factor_in_words, number_in_words
from flossing.support.torch_typed import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spectrum_section(study: Study) -> Section:
    """Measure the Lyapunov spectrum, and say what it does to gradients over the horizon."""
    spectrum = study.spectrum
    exponents, errors = average(spectrum)
    values, deviations = numbers(exponents), numbers(errors)
    return Section(
        heading="Lyapunov spectrum",
        meaning=(f"{_counts_in_words(study)} {_reach_in_words(values[0])}".strip(),),
        figures=(_figure(study, values),),
        tables=(_fates_table(study.fates), _exponents_table(values, deviations, study.horizon)),
        text=(
            "The exponent λᵢ is the average rate, in nats per step, at which the i-th direction of "
            "small changes of the state grows under these inputs. A gradient that travels back "
            "over s steps changes along it by about the factor exp(λᵢ s): zero keeps it, a "
            "negative exponent makes it vanish, a positive one makes it explode. Standard errors "
            "come from the fluctuations along the trajectories, which are taken as independent.",
        ),
        numbers={
            "exponents": values,
            "standard_errors": deviations,
            "exponents_by_trajectory": spectrum.exponents.double().tolist(),
            "counted_steps": spectrum.counted_steps.tolist(),
            "state_size": study.state_size,
            "horizon": study.horizon,
            "bound": study.fates.bound,
            "explode": study.fates.explode,
            "carry": study.fates.carry,
            "vanish": study.fates.vanish,
            "lost": study.fates.lost,
            "uncertain": study.fates.uncertain,
        },
    )


def outcome_in_words(study: Study) -> str:
    """Say what becomes of gradients over the horizon along the leading direction."""
    exponents, errors = average(study.spectrum)
    largest, error, horizon = float(exponents[0]), float(errors[0]), study.horizon
    fates = study.fates
    if fates.explode:
        outcome, change = "Gradients explode", f"grow by a factor of {_over(largest, horizon)}"
    elif not fates.carry:
        outcome, change = "Gradients vanish", f"shrink by a factor of {_over(-largest, horizon)}"
    else:
        outcome = "Gradients are carried"
        if fates.carry < study.state_size:
            outcome = f"Some {outcome.lower()}"
        change = f"change by a factor of {_over(largest, horizon)}"
    doubt = (
        " That is within two standard errors of the limit; more steps or trajectories tell better."
        if abs(abs(largest) - fates.bound) < 2 * error
        else ""
    )
    return (
        f"{outcome} over the horizon of {counted(horizon, 'step')}: along the leading direction, "
        f"with λ₁ = {number_in_words(largest)} ± {error_in_words(error)} nats per step, they "
        f"{change}.{doubt}"
    )


def error_in_words(error: float) -> str:
    """Return a standard error; infinite, it stands for one that could not be told.

    Example:
        >>> error_in_words(0.0123), error_in_words(math.inf)
        ('0.012', 'unknown')
    """
    return number_in_words(error, 2) if math.isfinite(error) else "unknown"


def _over(exponent: float, horizon: int) -> str:
    return factor_in_words(exponent * horizon)


def _counts_in_words(study: Study) -> str:
    fates, measured = study.fates, study.spectrum.exponents.shape[-1]
    whole = measured == study.state_size
    of = f"{measured}" if whole else f"the leading {measured} of {study.state_size}"
    doubt = (
        f" Too close to a limit for their error bars to tell on which side: {fates.uncertain}."
        if fates.uncertain
        else ""
    )
    return (
        f"Of {of} directions, {fates.explode} explode, {fates.carry} carry gradients over "
        f"{counted(fates.horizon, 'step')}, and {fates.vanish + fates.lost} vanish.{doubt}"
    )


def _reach_in_words(largest: float) -> str:
    """Say how far gradients reach along the leading direction."""
    if largest == 0 or not math.isfinite(largest):
        return ""
    steps = max(1, round(math.log(CARRYING_FACTOR) / abs(largest)))
    change = "grow" if largest > 0 else "shrink"
    return (
        f"Along the leading direction it takes {counted(steps, 'step')} for gradients to {change} "
        "a thousandfold."
    )


def _fates_table(fates: Fates) -> Table:
    bound = number_in_words(fates.bound)
    return Table(
        caption=f"What becomes of gradients over {counted(fates.horizon, 'step')}",
        columns=("Directions", "Exponent", "Number"),
        rows=(
            ("explode: more than a thousandfold", f"λ ≥ {bound}", fates.explode),
            ("carry: within a thousandfold", f"|λ| < {bound}", fates.carry),
            ("vanish: to less than a thousandth", f"λ ≤ −{bound}", fates.vanish),
            ("vanish entirely, or beyond the precision", "λ = −∞", fates.lost),
        ),
    )


def _exponents_table(exponents: list[float], errors: list[float], horizon: int) -> Table:
    return Table(
        caption=(
            "Selected exponents in nats per step, the factors by which gradients change over "
            f"{counted(horizon, 'step')}, and the steps in which they change a thousandfold"
        ),
        columns=("i", "λᵢ", "Standard error", "Factor", "Steps"),
        rows=tuple(
            (
                index,
                exponents[index - 1],
                error_in_words(errors[index - 1]),
                factor_in_words(exponents[index - 1] * horizon),
                _thousandfold(exponents[index - 1]),
            )
            for index in selected_indices(len(exponents))
        ),
    )


def selected_indices(count: int) -> list[int]:
    """Return the indices 1, 2, 3, 5, 10, 20, 30, 50, … up to the last.

    Args:
        count: The last one.

    Example:
        >>> selected_indices(64)
        [1, 2, 3, 5, 10, 20, 30, 50, 64]
    """
    chosen = {count}
    scale = 1
    while scale <= count:
        chosen |= {index * scale for index in (1, 2, 3, 5) if index * scale <= count}
        scale *= 10
    return sorted(chosen)


def _thousandfold(exponent: float) -> str:
    if exponent == 0:
        return "∞"
    return number_in_words(math.log(CARRYING_FACTOR) / abs(exponent), 3)


def _figure(study: Study, exponents: list[float]) -> Figure:
    axes = plot_spectrum(study.spectrum, new_axes())
    _draw_band(axes, study.fates)
    finite = [value for value in exponents if math.isfinite(value)]
    falls = (
        f"They fall from {number_in_words(finite[0])} to {number_in_words(finite[-1])} nats per "
        f"step over {len(finite)} directions."
        if finite
        else "None is finite."
    )
    return figure_from(
        axes,
        caption=(
            "Lyapunov exponents, the mean over trajectories with error bars of one standard error, "
            "and each trajectory as a thin line. The dashed lines enclose the exponents whose "
            f"directions carry gradients over {study.horizon} steps."
        ),
        description=f"Lyapunov exponents against their index. {falls}",
    )


def _draw_band(axes: "Axes", fates: Fates) -> None:
    for height in (-fates.bound, fates.bound):
        axes.axhline(height, color=GREY, linestyle="--", linewidth=0.8, zorder=1)
