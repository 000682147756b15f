"""Dimension, volume, saturation and recurrent weights: what helps to read the exponents."""

import math
from dataclasses import replace
from typing import Any

from flossing.analysis.context import DynamicalContext, dynamical_context
from flossing.diagnosis.advice import average
from flossing.diagnosis.study import Study, affordable
from flossing.plots import plot_weight_spectrum
from flossing.report.model import Figure, Section, Table, Value
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import counted, factor_in_words, number_in_words, share_in_words

HEADING = "Dynamical context"

MOST_STEPS = 500
MOST_TRAJECTORIES = 2
SAMPLED_JACOBIANS = 20
SATURATED_BELOW = 0.1
_BUDGET = 2e10


def context_section(study: Study) -> Section:
    """Put the exponents beside dimension, volume, saturation and the spectra of the weights."""
    whole = study.spectrum.exponents.shape[-1] == study.state_size
    # The exponents add up to the volume's growth: determinants only where they cannot tell.
    known = whole and bool(study.spectrum.exponents.isfinite().all())
    cost = MOST_STEPS * study.state_size ** (2 if known else 3)
    trajectories = affordable(_BUDGET, cost, most=MOST_TRAJECTORIES)
    steps = affordable(_BUDGET, cost * trajectories / MOST_STEPS, most=MOST_STEPS)
    part = study.part(steps=steps, trajectories=trajectories)
    measured = dynamical_context(
        **part.options,
        k=1,
        volume=not known,
        sampled_jacobians=SAMPLED_JACOBIANS,
        saturated_below=SATURATED_BELOW,
    )
    # The exponents of the whole study rather than the one along this part.
    context = replace(measured, spectrum=study.spectrum)
    volume = volume_growth_rate(context)
    return Section(
        heading=HEADING,
        meaning=_in_words(study, context, volume),
        figures=_figures(context),
        tables=(_quantities_table(context, volume), *_gates_tables(context)),
        text=(
            *_why_they_differ(context),
            "Dimension and entropy rate are those of all counted steps. For the rest, "
            f"{part.in_words} Of the Jacobians along each trajectory {SAMPLED_JACOBIANS} are "
            "looked at.",
        ),
        numbers=_numbers(context, volume),
    )


def volume_growth_rate(context: DynamicalContext) -> float:
    """Return the growth rate of volumes in nats per step, averaged over trajectories.

    Args:
        context: With determinants, or with all exponents, whose sum it is.
    """
    rates = context.volume_growth_rate
    if rates is None:
        rates = context.spectrum.exponents.sum(dim=-1)
    return float(rates.double().mean())


def _largest(context: DynamicalContext) -> float:
    return float(context.spectrum.exponents[:, 0].double().mean())


def _in_words(study: Study, context: DynamicalContext, volume: float) -> tuple[str, ...]:
    exponents, errors = average(study.spectrum)
    largest, error = float(exponents[0]), float(errors[0])
    if largest > 0 and largest > 2 * error:
        kind = (
            "The network is chaotic under these inputs: trajectories from nearby states part, on "
            f"an attractor of about {_dimension(context)} dimensions within the "
            f"{study.state_size} of the state."
        )
    elif largest < 0 and -largest > 2 * error:
        kind = (
            "The network is contracting under these inputs: trajectories from different nearby "
            "states come together, so that the state is a function of past inputs alone."
        )
    else:
        kind = (
            "The network is at the edge: whether trajectories from nearby states part or come "
            "together cannot be told from these steps."
        )
    return (f"{kind} {_volume_in_words(volume)}{_saturation_in_words(context)}",)


def _dimension(context: DynamicalContext) -> str:
    return number_in_words(float(context.kaplan_yorke_dimension.double().mean()))


def _volume_in_words(volume: float) -> str:
    if volume == -math.inf:
        return "Volumes collapse: some Jacobians are singular."
    change = "shrink" if volume < 0 else "grow"
    return f"Volumes of states {change} by a factor of {factor_in_words(abs(volume))} a step."


def _saturation_in_words(context: DynamicalContext) -> str:
    if not context.saturation:
        return (
            " Weights and gates of a module of one's own are not known by name, and left out here."
        )
    most = max(context.saturation, key=lambda name: float(context.saturation[name].share.mean()))
    share = float(context.saturation[most].share.mean())
    return f" The most saturated gate is {_gate(most)}, {share_in_words(share)} of the time."


def _gate(name: tuple[int, str]) -> str:
    layer, gate = name
    return f"“{gate}” of layer {layer}"


def _why_they_differ(context: DynamicalContext) -> tuple[str, ...]:
    return (
        "Why the growth per step, exp(λ₁), is neither the spectral radius ρ(W) nor the norm ‖W‖₂ "
        "of recurrent weights: a step multiplies not by W but by the Jacobian, in which gates and "
        "the slopes of squashing functions, below 1 where units saturate, scale W and add what is "
        "carried over directly; it is another one at every step; and a vector that one step "
        "stretches most leaves that direction with the next. Only one inequality always holds: λ₁ "
        "is at most the mean of ln ‖Jₜ‖₂.",
        *(
            (
                "A unit counts as saturated while the slope of its squashing function is below "
                f"{share_in_words(SATURATED_BELOW)} of the largest, so that it hardly responds.",
            )
            if context.saturation
            else ()
        ),
    )


def _quantities_table(context: DynamicalContext, volume: float) -> Table:
    quantities: list[tuple[Value, ...]] = [
        ("growth per step, exp(λ₁)", math.exp(_largest(context))),
        ("spectral radius of Jₜ, mean", float(context.jacobian_spectral_radius.mean())),
        ("norm of Jₜ, mean", float(context.jacobian_spectral_norm.mean())),
        ("Kaplan–Yorke dimension", _dimension(context)),
        ("entropy rate (nats per step)", float(context.entropy_rate.double().mean())),
        ("growth of volumes (nats per step)", volume),
    ]
    return Table("Beside the exponents", ("Quantity", "Value"), tuple(quantities))


def _gates_tables(context: DynamicalContext) -> tuple[Table, ...]:
    names = list(dict.fromkeys([*context.weights, *context.saturation]))
    if not names:
        return ()
    stacked = len({layer for layer, _ in names}) > 1
    return (
        Table(
            caption=(
                "Recurrent weights W to each gate, from 0 for normal to 1 for nilpotent in the "
                "column departure; and how much of the time, and how many all the time, units are "
                "saturated"
            ),
            columns=("Gate", "ρ(W)", "‖W‖₂", "Departure", "Saturated", "Always"),
            rows=tuple(_gate_row(context, name, stacked) for name in names),
        ),
    )


def _gate_row(context: DynamicalContext, name: tuple[int, str], stacked: bool) -> tuple[Value, ...]:
    weights, saturation = context.weights.get(name), context.saturation.get(name)
    layer, gate = name
    of_weights = (
        ("–", "–", "–")
        if weights is None
        else (weights.spectral_radius, weights.spectral_norm, weights.departure_from_normality)
    )
    of_units = (
        ("–", "–")
        if saturation is None
        else (
            share_in_words(float(saturation.share.mean())),
            share_in_words(float(saturation.throughout.mean())),
        )
    )
    return (f"{gate}, layer {layer}" if stacked else gate, *of_weights, *of_units)


def _figures(context: DynamicalContext) -> tuple[Figure, ...]:
    """Draw the eigenvalues of each layer's weights: those of all together would be a thicket."""
    layers = sorted({layer for layer, _ in context.weights})
    return tuple(_figure(context, layer, stacked=len(layers) > 1) for layer in layers)


def _figure(context: DynamicalContext, layer: int, *, stacked: bool) -> Figure:
    own = {name: weights for name, weights in context.weights.items() if name[0] == layer}
    whose = f"the recurrent weights of layer {layer}" if stacked else "the recurrent weights"
    radius = max(weights.spectral_radius for weights in own.values())
    axes = plot_weight_spectrum(replace(context, weights=own), new_axes(height=4.4))
    # Below the axes: beside them there is no room on a page.
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 3}
    axes.legend(fontsize="small", frameon=False, **place)  # pyright: ignore[reportUnknownMemberType]
    return figure_from(
        axes,
        caption=(
            f"Eigenvalues of {whose}, gate by gate, in the complex plane, with the unit circle and "
            "that of radius exp(λ₁), the growth per step that was measured."
        ),
        description=(
            f"A cloud of eigenvalues of modulus up to {number_in_words(radius)} for each of "
            f"{counted(len(own), 'gate')}, beside a circle of radius "
            f"{number_in_words(math.exp(_largest(context)))}."
        ),
    )


def _numbers(context: DynamicalContext, volume: float) -> dict[str, Any]:
    return context.as_dict() | {"volume_growth_rate": volume}
