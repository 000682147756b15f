"""How far back do gradients reach, beside the horizon that is asked for?"""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.analysis.gradient_horizon import GradientHorizon, GradientReach, gradient_horizon
from flossing.diagnosis.advice import CARRYING_FACTOR, average
from flossing.diagnosis.study import Study, affordable
from flossing.plots import plot_gradient_horizon
from flossing.report.model import Figure, Section, Table
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import counted, factor_in_words, number_in_words
from flossing.support.torch_typed import nested_numbers

HEADING = "How far gradients reach"

MOST_STEPS = 2000
MOST_TRAJECTORIES = 8
LARGEST_STATE = 256
"""With more dimensions the best direction is not looked for: its cost grows with their cube."""
_LAGS = 100
_BUDGET = 2e10

_CODE = """\
def loss(output):  # the states of all steps, of which the last must count
    return criterion(network.readout(output[-1]), targets)

horizon = flossing.gradient_horizon(network.rnn, inputs, loss=loss)
horizon.error.vanishing_lag  # by sequence: the steps after which errors vanish
flossing.plots.plot_gradient_horizon(horizon)"""


def reach_section(study: Study) -> Section:
    """Carry gradients back from a state, and see after how many steps they vanish or explode."""
    steps = _steps(study)
    with_best = study.state_size <= LARGEST_STATE
    cost = steps * study.state_size ** (3 if with_best else 2)
    part = study.part(
        steps=steps, trajectories=affordable(_BUDGET, cost, most=MOST_TRAJECTORIES), double=True
    )
    result = gradient_horizon(
        **part.options,
        lags=measured_lags(part.steps, study.horizon),
        spectral_norm=with_best,
        threshold=1 / CARRYING_FACTOR,
    )
    random = cast(GradientReach, result.random)
    best = (
        ""
        if with_best
        else (
            f" The best direction is not looked for: with more than {LARGEST_STATE} dimensions it "
            "is too costly."
        )
    )
    return Section(
        heading=HEADING,
        meaning=(_in_words(study, result, random),),
        figures=(_figure(result),),
        tables=(_table(study, result, random),),
        text=(
            "A gradient of unit length at a state is carried back by the transposed Jacobians. It "
            f"counts as vanished once it stays below 1/{CARRYING_FACTOR:.0f} of its length, and as "
            f"exploded where it exceeds {CARRYING_FACTOR:.0f} times its length. The best direction "
            "is, for every lag by itself, the one that carries most: nothing reaches further.",
            f"To bound the cost, {part.in_words}{best}",
            "Which direction the error of a task takes depends on its loss, which neither a "
            "checkpoint nor the name of a task contains. With the loss, from Python:",
        ),
        code=_CODE,
        numbers=_numbers(result, random),
    )


def measured_lags(steps: int, horizon: int) -> list[int]:
    """Return lags from 0 to the last step: the first ones all, then evenly, and the horizon.

    Args:
        steps: How many there are.
        horizon: One more lag, if there are so many steps.

    Example:
        >>> lags = measured_lags(1000, 55)
        >>> lags[:3], lags[19:24], lags[-1], 55 in lags
        ([0, 1, 2], [19, 20, 30, 40, 50], 1000, True)
    """
    spaced = {round(steps * lag / _LAGS) for lag in range(_LAGS + 1)}
    wanted = spaced | set(range(21)) | {horizon}
    return sorted(lag for lag in wanted if lag <= steps)


def _steps(study: Study) -> int:
    """Return twice the longer of the horizon and where the largest exponent lets gradients end."""
    largest = abs(float(average(study.spectrum)[0][0]))
    expected = math.log(CARRYING_FACTOR) / largest if largest > 0 else math.inf
    return int(min(MOST_STEPS, 2 * max(study.horizon, expected)))


def usable_lag(reach: GradientReach) -> Float[Tensor, "B"]:
    """Return the lag at which gradients have exploded or from which on they have vanished.

    Args:
        reach: Of one kind of direction.

    Returns:
        Steps for each trajectory; infinite where neither happens.
    """
    return torch.minimum(reach.vanishing_lag, reach.exploding_lag)


def _median(values: Float[Tensor, "B"]) -> float:
    return float(values.double().median())


def _in_words(study: Study, result: GradientHorizon, reach: GradientReach) -> str:
    usable, last = _median(usable_lag(reach)), int(result.lags[-1])
    exploded = _median(reach.exploding_lag) <= usable
    asked = f"{counted(study.horizon, 'step')} asked for"
    if math.isinf(usable):
        enough = last >= study.horizon
        outcome = (
            f"Gradients in random directions stay within a thousandfold over {_steps_of(last)}: "
            + (
                f"the usable horizon is longer than the {asked}."
                if enough
                else f"too few to tell about the {asked}."
            )
        )
    else:
        happens = "explode" if exploded else "vanish"
        compared = "short of" if usable < study.horizon else "which is enough for"
        outcome = (
            f"The usable horizon is about {_steps_of(usable)}, {compared} the {asked}: gradients "
            f"in random directions {happens} after so many."
        )
    return f"{outcome}{_best_in_words(result)}"


def _best_in_words(result: GradientHorizon) -> str:
    if result.worst is None:
        return ""
    vanished = _median(result.worst.vanishing_lag)
    if math.isinf(vanished):
        return " Along the best direction they do not vanish within the steps measured."
    return f" Along the best direction they vanish after {_steps_of(vanished)}."


def _steps_of(lag: int | float) -> str:
    return counted(round(lag), "step")


def _table(study: Study, result: GradientHorizon, random: GradientReach) -> Table:
    at = int((result.lags <= study.horizon).sum()) - 1
    kinds = [("random, the mean", random)]
    kinds += [("best", result.worst)] if result.worst is not None else []
    return Table(
        caption=(
            "When gradients vanish and explode, the median over trajectories, and their norm after "
            f"{_steps_of(int(result.lags[at]))}, relative to lag 0"
        ),
        columns=("Direction", "Vanish after", "Explode after", "Nats per step", "Norm"),
        rows=tuple(
            (
                name,
                _lag_in_words(reach.vanishing_lag, result),
                _lag_in_words(reach.exploding_lag, result),
                float(reach.slope.mean()),
                factor_in_words(float(reach.log_norm[at].mean())),
            )
            for name, reach in kinds
        ),
    )


def _lag_in_words(lags: Float[Tensor, "B"], result: GradientHorizon) -> str:
    median = _median(lags)
    return f"> {int(result.lags[-1])}" if math.isinf(median) else str(round(median))


def _figure(result: GradientHorizon) -> Figure:
    axes = plot_gradient_horizon(result, new_axes())
    for line in axes.lines:
        # The worst case of exploding is the best of vanishing, which is what matters here.
        if line.get_label() == "worst case":
            line.set_label("best direction")
    axes.legend(frameon=False, fontsize="small")
    fall = float(result.exponent.mean())
    return figure_from(
        axes,
        caption=(
            "Norm of a gradient by how many steps it was carried back: in random directions with "
            "quartiles, along the best direction for each lag, and as the "
            "largest exponent says. Dotted: where it counts as vanished or exploded."
        ),
        description=(
            "Norms of gradients against the lag, on a logarithmic axis, over "
            f"{_steps_of(int(result.lags[-1]))}; they change by about {number_in_words(fall)} "
            "nats per step."
        ),
    )


def _numbers(result: GradientHorizon, random: GradientReach) -> dict[str, Any]:
    return {
        "lags": nested_numbers(result.lags),
        "threshold": result.threshold,
        "exponent": nested_numbers(result.exponent),
        "random": _reach_numbers(random),
        "best": None if result.worst is None else _reach_numbers(result.worst),
    }


def _reach_numbers(reach: GradientReach) -> dict[str, Any]:
    return {
        "vanishing_lag": nested_numbers(reach.vanishing_lag),
        "exploding_lag": nested_numbers(reach.exploding_lag),
        "slope": nested_numbers(reach.slope),
        "mean_log_norm": nested_numbers(reach.log_norm.mean(dim=-1)),
    }
