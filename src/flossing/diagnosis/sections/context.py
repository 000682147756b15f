"""Dynamical context of the exponents: dimension, volumes, saturation and recurrent weights."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from flossing.analysis.context import DynamicalContext, dynamical_context
from flossing.diagnosis.subject import Subject, affordable
from flossing.plots import plot_weight_spectrum
from flossing.report.model import Figure, Section, Table, Value
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import format_factor, format_number, format_share, plural

HEADING = "Dynamical context"

MOST_STEPS = 500
MOST_TRAJECTORIES = 2
SAMPLED_JACOBIANS = 20
SATURATED_BELOW = 0.1
_BUDGET = 2e10


def context_section(subject: Subject) -> Section:
    """Report dimension, volume growth, saturation and the spectra of the recurrent weights."""
    exponents = subject.spectrum.exponents
    # The exponents sum to the growth rate of volumes: determinants only where the sum is unknown.
    summable = exponents.shape[-1] == subject.state_size and bool(exponents.isfinite().all())
    cost = MOST_STEPS * subject.state_size ** (2 if summable else 3)
    trajectories = affordable(_BUDGET, cost, most=MOST_TRAJECTORIES)
    steps = affordable(_BUDGET, cost * trajectories / MOST_STEPS, most=MOST_STEPS)
    excerpt = subject.excerpt(steps=steps, trajectories=trajectories)
    measured = dynamical_context(
        **excerpt.options,
        k=1,
        volume=not summable,
        sampled_jacobians=SAMPLED_JACOBIANS,
        saturated_below=SATURATED_BELOW,
    )
    # All exponents along all steps, in place of the single one along the excerpt.
    context = replace(measured, spectrum=subject.spectrum)
    rates = context.volume_growth_rate
    volume = float((exponents.sum(dim=-1) if rates is None else rates).double().mean())
    saturation = (
        "A unit counts as saturated while the slope of its activation function is below "
        f"{format_share(SATURATED_BELOW)} of its maximum."
    )
    return Section(
        heading=HEADING,
        meaning=(
            f"{_dynamics_in_words(subject, context)} {_volume_in_words(volume)} "
            f"{_saturation_in_words(context)}",
        ),
        figures=_figures(context),
        tables=(_quantities_table(context, volume), *_gates_tables(context)),
        text=(
            "The growth per step exp(λ₁) is neither the spectral radius ρ(W) nor the norm ‖W‖₂ of "
            "the recurrent weights W, because each step multiplies by the Jacobian Jₜ instead of "
            "W. In Jₜ, W is scaled by gates and by the slopes of the activation functions, which "
            "are below 1 where units saturate, and the directly retained state is added. Jₜ "
            "differs from step to step, and a vector that one step stretches most leaves that "
            "direction with the next. The only inequality that always holds is that λ₁ is at most "
            "the mean of ln ‖Jₜ‖₂.",
            *((saturation,) if context.saturation else ()),
            "Dimension and entropy rate are computed from all counted steps, the other quantities "
            f"from {excerpt.description}. Jacobians are evaluated at {SAMPLED_JACOBIANS} points of "
            "each trajectory.",
        ),
        numbers=context.as_dict() | {"volume_growth_rate": volume},
    )


def _dynamics_in_words(subject: Subject, context: DynamicalContext) -> str:
    largest, error = float(subject.exponents[0]), float(subject.standard_errors[0])
    if largest > 0 and largest > 2 * error:
        return (
            "The network is chaotic under these inputs: trajectories from nearby states diverge, "
            f"on an attractor of Kaplan–Yorke dimension {_dimension(context)} in a state space of "
            f"{subject.state_size} dimensions."
        )
    if largest < 0 and -largest > 2 * error:
        return (
            "The network is contracting under these inputs: trajectories from nearby states "
            "converge, so that the state is a function of past inputs alone."
        )
    reason = (
        "λ₁ is within two standard errors of zero"
        if math.isfinite(error)
        else "the standard error of λ₁ is unknown"
    )
    return (
        "Whether the network is chaotic or contracting under these inputs cannot be told from "
        f"these steps: {reason}."
    )


def _dimension(context: DynamicalContext) -> str:
    """Return the mean over trajectories with its standard error."""
    return _with_error(
        context.kaplan_yorke_dimension, context.spectrum.kaplan_yorke_dimension_error
    )


def _entropy_rate(context: DynamicalContext) -> str:
    return _with_error(context.entropy_rate, context.spectrum.entropy_rate_error)


def _with_error(values: Tensor, errors: Tensor) -> str:
    mean = float(values.double().mean())
    if math.isnan(mean):
        return format_number(mean)
    error = float(errors.double().square().sum().sqrt()) / len(errors)
    return f"{format_number(mean)} ± {format_number(error, digits=2)}"


def _volume_in_words(volume: float) -> str:
    if volume == -math.inf:
        return "Volumes in state space collapse to zero, because some Jacobians are singular."
    change = "shrink" if volume < 0 else "grow"
    factor = format_factor(abs(volume))
    return f"Volumes in state space {change} by a factor of {factor} per step."


def _saturation_in_words(context: DynamicalContext) -> str:
    shares = {name: float(each.share.mean()) for name, each in context.saturation.items()}
    if not shares:
        return "The weights and gates of a custom module are unknown and left out."
    layer, gate = max(shares, key=lambda name: shares[name])
    return (
        f"The most saturated gate is “{gate}” of layer {layer}: "
        f"{format_share(shares[layer, gate])} of its units on average."
    )


def _growth_per_step(context: DynamicalContext) -> float:
    return math.exp(float(context.spectrum.exponents[:, 0].double().mean()) * context.spectrum.dt)


def _quantities_table(context: DynamicalContext, volume: float) -> Table:
    quantities: tuple[tuple[str, Value], ...] = (
        ("growth per step exp(λ₁)", _growth_per_step(context)),
        ("spectral radius of Jₜ (mean)", float(context.jacobian_spectral_radius.mean())),
        ("spectral norm of Jₜ (mean)", float(context.jacobian_spectral_norm.mean())),
        ("Kaplan–Yorke dimension", _dimension(context)),
        ("entropy rate (nats per step)", _entropy_rate(context)),
        ("growth rate of volumes (nats per step)", volume),
    )
    return Table("Related quantities", ("Quantity", "Value"), quantities)


def _gates_tables(context: DynamicalContext) -> tuple[Table, ...]:
    names = list(dict.fromkeys([*context.weights, *context.saturation]))
    if not names:
        return ()
    stacked = len({layer for layer, _ in names}) > 1
    return (
        Table(
            caption=(
                "Recurrent weights W of each gate: spectral radius ρ, spectral norm, and departure "
                "from normality, from 0 (normal) to 1 (nilpotent); and the share of its units that "
                "are saturated, on average and at every step"
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
            format_share(float(saturation.share.mean())),
            format_share(float(saturation.throughout.mean())),
        )
    )
    return (f"{gate}, layer {layer}" if stacked else gate, *of_weights, *of_units)


def _figures(context: DynamicalContext) -> tuple[Figure, ...]:
    """Draw the eigenvalues of each layer by themselves: together they would hide one another."""
    layers = sorted({layer for layer, _ in context.weights})
    return tuple(_figure(context, layer, stacked=len(layers) > 1) for layer in layers)


def _figure(context: DynamicalContext, layer: int, *, stacked: bool) -> Figure:
    own = {name: weights for name, weights in context.weights.items() if name[0] == layer}
    whose = f"the recurrent weights of layer {layer}" if stacked else "the recurrent weights"
    radius = max(weights.spectral_radius for weights in own.values())
    axes = plot_weight_spectrum(replace(context, weights=own), new_axes(height=4.4))
    # Below the axes: the page has no room beside them.
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 3}
    axes.legend(fontsize="small", frameon=False, **place)  # pyright: ignore[reportUnknownMemberType]
    return figure_from(
        axes,
        caption=(
            f"Eigenvalues of {whose} of each gate in the complex plane, with the unit circle and "
            "the circle of radius exp(λ₁), the measured growth per step."
        ),
        description=(
            f"Eigenvalues of modulus up to {format_number(radius)} for "
            f"{plural(len(own), 'gate')}, with a circle of radius "
            f"{format_number(_growth_per_step(context))}."
        ),
    )
