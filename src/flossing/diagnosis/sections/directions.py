"""Along which directions do perturbations grow, and how distinct and how spread are they?"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.analysis.covariant_vectors import CovariantVectors, covariant_vectors
from flossing.diagnosis.sections.spectrum import selected_indices
from flossing.diagnosis.study import Study, affordable
from flossing.plots import plot_covariant_angles, plot_localisation
from flossing.report.model import Figure, Section, Table
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import counted, number_in_words, share_in_words
from flossing.support.torch_typed import numbers

HEADING = "Covariant Lyapunov vectors"

MOST_DIRECTIONS = 16
MOST_STEPS = 500
MOST_TRAJECTORIES = 2
POINTS = 200
NEAR_TANGENCY = 0.01
"""Angles below it, in radians, count as near a tangency."""
_BUDGET = 4e9


def directions_section(study: Study) -> Section:
    """Find covariant vectors, their smallest angles and how many units take part in each."""
    if study.state_size < 2:
        return Section(HEADING, meaning=("A state of one dimension has only one direction.",))
    k = min(study.state_size, max(2, min(MOST_DIRECTIONS, study.flossable)))
    cost = study.state_size**2 * k
    steps = affordable(_BUDGET, cost, most=MOST_STEPS)
    part = study.part(
        steps=max(200, steps),
        trajectories=affordable(_BUDGET, cost * steps, most=MOST_TRAJECTORIES),
        double=True,
    )
    every = max(1, part.steps // POINTS)
    found = covariant_vectors(**part.options, k=k, every=every)
    return Section(
        heading=HEADING,
        meaning=(f"{_angles_in_words(found)} {_spread_in_words(found)}",),
        figures=(_angles_figure(found), _localisation_figure(found)),
        tables=(_table(found),),
        text=(
            "At every point of the trajectory each exponent has a direction of its own, which the "
            "Jacobians carry along. Where two of them nearly coincide, a tangency, perturbations "
            "that grow differently cannot be told apart, and the response of the network to "
            "changes of its weights is not smooth. Vectors of nearly equal exponents turn freely "
            "in their common plane, so small angles between them say little.",
            f"To bound the cost, {part.in_words} The {k} leading of "
            f"{counted(study.state_size, 'direction')}, looked at every {counted(every, 'step')}.",
        ),
        numbers=_numbers(found),
    )


def _angles_in_words(found: CovariantVectors) -> str:
    angles = found.smallest_angle.double()
    near = float((angles < NEAR_TANGENCY).double().mean())
    judgement = (
        f"at {share_in_words(near)} of the points some two are less than "
        f"{NEAR_TANGENCY} rad apart, near a tangency"
        if near
        else "none is near a tangency"
    )
    return (
        f"The smallest angle between any two of the {found.vectors.shape[-1]} leading directions "
        f"is {_degrees(angles.min())}, and {_degrees(angles.median())} at a typical point: "
        f"{judgement}."
    )


def _degrees(angle: Float[Tensor, ""]) -> str:
    return f"{number_in_words(math.degrees(float(angle)), 2)}°"


def units_taking_part(found: CovariantVectors) -> Float[Tensor, "k"]:
    """Return over how many entries of the state each vector is spread, 1/Σ v⁴ on average.

    Args:
        found: At any number of points.
    """
    return 1 / found.inverse_participation_ratio.double().flatten(0, 1).mean(dim=0)


def _spread_in_words(found: CovariantVectors) -> str:
    units = units_taking_part(found)
    size = found.vectors.shape[-2]
    return (
        f"The leading direction is spread over about {number_in_words(float(units[0]), 2)} of the "
        f"{size} entries of the state, the last of these over "
        f"{number_in_words(float(units[-1]), 2)}."
    )


def _table(found: CovariantVectors) -> Table:
    units, exponents = units_taking_part(found), found.exponents.double().mean(dim=0)
    ratios = found.inverse_participation_ratio.double().flatten(0, 1).mean(dim=0)
    return Table(
        caption=(
            "Selected vectors: exponents in nats per step along this part of the trajectory, "
            "inverse participation ratios, and over how many entries of the state they are spread"
        ),
        columns=("i", "λᵢ", "Participation ratio, inverse", "Entries"),
        rows=tuple(
            (
                index,
                float(exponents[index - 1]),
                float(ratios[index - 1]),
                number_in_words(float(units[index - 1]), 2),
            )
            for index in selected_indices(len(units))
        ),
    )


def _angles_figure(found: CovariantVectors) -> Figure:
    smallest = number_in_words(float(found.smallest_angle.min()), 2)
    return figure_from(
        plot_covariant_angles(found, new_axes()),
        caption=(
            "How the smallest angle between any two of the directions is distributed along the "
            "trajectories. Weight down to zero means tangencies."
        ),
        description=f"A histogram of angles from {smallest} radians on.",
    )


def _localisation_figure(found: CovariantVectors) -> Figure:
    units = units_taking_part(found)
    return figure_from(
        plot_localisation(found, new_axes()),
        caption=(
            "How localised each vector is: the mean over a band from the 10th to the 90th "
            "percentile, between a single entry of the state and all of them evenly."
        ),
        description=(
            "Inverse participation ratios against the index of the vector, between those of "
            f"{number_in_words(float(units.max()), 2)} and of "
            f"{number_in_words(float(units.min()), 2)} entries."
        ),
    )


def _numbers(found: CovariantVectors) -> dict[str, Any]:
    angles = found.smallest_angle.double()
    shares = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    return {
        "directions": found.vectors.shape[-1],
        "points": len(found.steps),
        "exponents": numbers(found.exponents.double().mean(dim=0)),
        "smallest_angle_quantiles": numbers(angles.flatten().quantile(shares)),
        "quantiles": numbers(shares),
        "share_near_tangency": float((angles < NEAR_TANGENCY).double().mean()),
        "inverse_participation_ratio": numbers(
            found.inverse_participation_ratio.double().flatten(0, 1).mean(dim=0)
        ),
    }
