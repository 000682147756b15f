"""Covariant Lyapunov vectors: the angles between them and their localisation."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.analysis.covariant_vectors import CovariantVectors, covariant_vectors
from flossing.diagnosis.sections.spectrum import selected_indices
from flossing.diagnosis.subject import Subject, affordable
from flossing.plots import plot_covariant_angles, plot_localisation
from flossing.report.model import Figure, Section, Table
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import format_number, format_share, plural
from flossing.support.torch_typed import numbers

HEADING = "Covariant Lyapunov vectors"

MOST_DIRECTIONS = 16
MOST_STEPS = 500
MOST_TRAJECTORIES = 2
POINTS = 200
NEAR_TANGENCY = 0.01
"""Angles below this, in radians, count as near tangencies."""
_BUDGET = 4e9


def covariant_vectors_section(subject: Subject) -> Section:
    """Report the smallest angles between covariant vectors, and how localised each vector is."""
    k = subject.leading(MOST_DIRECTIONS)
    cost = subject.state_size**2 * k
    steps = affordable(_BUDGET, cost, most=MOST_STEPS)
    excerpt = subject.excerpt(
        steps=max(200, steps),
        trajectories=affordable(_BUDGET, cost * steps, most=MOST_TRAJECTORIES),
        double=True,
    )
    every = max(1, excerpt.steps // POINTS)
    found = covariant_vectors(**excerpt.options, k=k, every=every)
    angles, ratios = found.smallest_angle.double(), _participation(found)
    quantiles = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    near = float((angles < NEAR_TANGENCY).double().mean())
    return Section(
        heading=HEADING,
        meaning=(f"{_angles_in_words(found, near)} {_localisation_in_words(found)}",),
        figures=(_angles_figure(found), _localisation_figure(found)),
        tables=(_table(found),),
        text=(
            "At each point of a trajectory, every exponent has a covariant vector, which the "
            "Jacobian maps to that of the next point. Where two of them nearly coincide (a "
            "tangency), perturbations of different growth rates can hardly be separated, and the "
            "response of the network to changes of its weights is not smooth. Vectors of nearly "
            "equal exponents rotate freely in the plane that they span, so that small angles "
            "between them carry little information.",
            f"To bound the cost, this section uses {excerpt.description}. The vectors of the {k} "
            f"leading of {plural(subject.state_size, 'direction')} are evaluated every "
            f"{plural(every, 'step') if every > 1 else 'step'}.",
        ),
        numbers={
            "directions": k,
            "points": len(found.steps),
            "exponents": numbers(found.exponents.double().mean(dim=0)),
            "smallest_angle_quantiles": numbers(angles.flatten().quantile(quantiles)),
            "quantiles": numbers(quantiles),
            "share_near_tangency": near,
            "inverse_participation_ratio": numbers(ratios),
        },
    )


def _participation(found: CovariantVectors) -> Float[Tensor, "k"]:
    """Return the mean inverse participation ratio Σ v⁴ of each vector."""
    return found.inverse_participation_ratio.double().flatten(0, 1).mean(dim=0)


def _angles_in_words(found: CovariantVectors, near: float) -> str:
    angles = found.smallest_angle.double()
    judgement = (
        f"it is below {NEAR_TANGENCY} rad (a near tangency) at {format_share(near)} of the points"
        if near
        else f"it is nowhere below {NEAR_TANGENCY} rad (a near tangency)"
    )
    return (
        f"The smallest angle between any two of the {found.vectors.shape[-1]} leading vectors has "
        f"a median of {_degrees(angles.median())} and a minimum of {_degrees(angles.min())} along "
        f"the trajectories; {judgement}."
    )


def _degrees(angle: Float[Tensor, ""]) -> str:
    return f"{format_number(math.degrees(float(angle)), 2)}°"


def _localisation_in_words(found: CovariantVectors) -> str:
    components = 1 / _participation(found)
    size = found.vectors.shape[-2]
    return (
        f"The first vector extends over about {format_number(float(components[0]), 2)} of the "
        f"{size} components of the state, the last of them over about "
        f"{format_number(float(components[-1]), 2)}."
    )


def _table(found: CovariantVectors) -> Table:
    ratios, exponents = _participation(found), found.exponents.double().mean(dim=0)
    return Table(
        caption=(
            "Selected vectors: exponents in nats per step over the analysed steps, mean inverse "
            "participation ratios, and their reciprocals, the effective numbers of state components"
        ),
        columns=("i", "λᵢ", "Inverse participation ratio", "Components"),
        rows=tuple(
            (
                index,
                float(exponents[index - 1]),
                float(ratios[index - 1]),
                format_number(1 / float(ratios[index - 1]), 2),
            )
            for index in selected_indices(len(ratios))
        ),
    )


def _angles_figure(found: CovariantVectors) -> Figure:
    smallest = format_number(float(found.smallest_angle.min()), 2)
    return figure_from(
        plot_covariant_angles(found, new_axes()),
        caption=(
            "Distribution of the smallest angle between any two of the vectors along the "
            "trajectories. A density that extends to zero indicates tangencies."
        ),
        description=f"A histogram of angles; the smallest is {smallest} radians.",
    )


def _localisation_figure(found: CovariantVectors) -> Figure:
    components = 1 / _participation(found)
    return figure_from(
        plot_localisation(found, new_axes()),
        caption=(
            "Inverse participation ratio of each vector: mean with a band from the 10th to the "
            "90th percentile. Dotted: a single component of the state, and all components equally."
        ),
        description=(
            "Inverse participation ratios against the index of the vector; they correspond to "
            f"between {format_number(float(components.min()), 2)} and "
            f"{format_number(float(components.max()), 2)} components of the state."
        ),
    )
