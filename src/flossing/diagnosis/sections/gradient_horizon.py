"""The gradient horizon: after how many steps gradients vanish or explode."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.analysis.gradient_horizon import GradientHorizon, GradientReach, gradient_horizon
from flossing.diagnosis.advice import CARRYING_FACTOR
from flossing.diagnosis.subject import Subject, affordable
from flossing.plots import plot_gradient_horizon
from flossing.report.model import Figure, Section, Table
from flossing.report.pictures import figure_from, new_axes
from flossing.support.formatting import format_factor, format_number, plural
from flossing.support.torch_typed import nested_numbers

HEADING = "Gradient horizon"

MOST_STEPS = 2000
MOST_TRAJECTORIES = 8
LARGEST_STATE = 256
"""Beyond this state size the best direction is left out: its cost grows with the cube."""
_LAGS = 100
_BUDGET = 2e10

_CODE = """\
def loss(output):  # the states of all steps; it must depend on the last one
    return criterion(network.readout(output[-1]), targets)

horizon = flossing.gradient_horizon(network.rnn, inputs, loss=loss)
horizon.error.vanishing_lag  # for each sequence, the steps after which errors vanish
flossing.plots.plot_gradient_horizon(horizon)"""


def gradient_horizon_section(subject: Subject) -> Section:
    """Report the lags at which gradients that are propagated back vanish or explode."""
    steps = _steps(subject)
    with_best = subject.state_size <= LARGEST_STATE
    cost = steps * subject.state_size ** (3 if with_best else 2)
    excerpt = subject.excerpt(
        steps=steps, trajectories=affordable(_BUDGET, cost, most=MOST_TRAJECTORIES), double=True
    )
    result = gradient_horizon(
        **excerpt.options,
        lags=measured_lags(excerpt.steps, subject.horizon),
        spectral_norm=with_best,
        threshold=1 / CARRYING_FACTOR,
    )
    random = cast(GradientReach, result.random)
    best = (
        " The best direction is chosen for each lag separately as the one along which the norm is "
        "largest: no gradient reaches further."
        if with_best
        else (
            f" The best direction is not measured for states of more than {LARGEST_STATE} "
            "dimensions, because its cost grows with the cube of their number."
        )
    )
    return Section(
        heading=HEADING,
        meaning=(_in_words(subject, result, random),),
        figures=(_figure(result),),
        tables=(_table(subject, result, random),),
        text=(
            "A gradient of unit norm at one state is propagated back by the transposed Jacobians. "
            "It has vanished at the lag from which its norm stays below "
            f"1/{CARRYING_FACTOR:.0f}, and exploded at the lag where its norm first exceeds "
            f"{CARRYING_FACTOR:.0f}.{best}",
            f"To bound the cost, this section uses {excerpt.description}.",
            "The direction of the error in training depends on the loss, which is not part of the "
            "checkpoint or of the inputs. With the loss, in Python:",
        ),
        example=_CODE,
        numbers={
            "lags": nested_numbers(result.lags),
            "threshold": result.threshold,
            "exponent": nested_numbers(result.exponent),
            "random": _reach_numbers(random),
            "best": None if result.worst is None else _reach_numbers(result.worst),
        },
    )


def measured_lags(steps: int, horizon: int) -> list[int]:
    """Return every lag up to 20, evenly spaced ones up to `steps`, and the horizon if measured.

    Example:
        >>> lags = measured_lags(1000, 55)
        >>> lags[:3], lags[19:24], lags[-1], 55 in lags
        ([0, 1, 2], [19, 20, 30, 40, 50], 1000, True)
    """
    spaced = {round(steps * lag / _LAGS) for lag in range(_LAGS + 1)}
    return sorted(lag for lag in spaced | set(range(21)) | {horizon} if lag <= steps)


def usable_lag(reach: GradientReach) -> Float[Tensor, "B"]:
    """Return the lag at which gradients vanish or explode, whichever is first; inf for neither."""
    return torch.minimum(reach.vanishing_lag, reach.exploding_lag)


def _steps(subject: Subject) -> int:
    """Return twice the horizon, or twice the steps to a thousandfold change if that is longer."""
    largest = abs(float(subject.exponents[0]))
    expected = math.log(CARRYING_FACTOR) / largest if largest > 0 else math.inf
    return int(min(MOST_STEPS, 2 * max(subject.horizon, expected)))


def _median(values: Float[Tensor, "B"]) -> float:
    return float(values.double().median())


def _in_words(subject: Subject, result: GradientHorizon, random: GradientReach) -> str:
    usable, last = _median(usable_lag(random)), int(result.lags[-1])
    requested = f"the {plural(subject.horizon, 'step')} requested"
    if math.isinf(usable):
        compared = (
            f"the usable horizon exceeds {requested}"
            if last >= subject.horizon
            else f"too few steps to judge {requested}"
        )
        outcome = (
            f"Gradients in random directions change by less than a factor of "
            f"{CARRYING_FACTOR:.0f} over {plural(last, 'step')}: {compared}."
        )
    else:
        happens = "explode" if _median(random.exploding_lag) <= usable else "vanish"
        compared = "shorter than" if usable < subject.horizon else "which covers"
        outcome = (
            f"The usable horizon is about {_steps_of(usable)}, {compared} {requested}: after "
            f"{_steps_of(usable)}, gradients in random directions {happens}."
        )
    if result.worst is None:
        return outcome
    vanished = _median(result.worst.vanishing_lag)
    if math.isinf(vanished):
        return f"{outcome} Along the best direction they do not vanish within the measured steps."
    return f"{outcome} Along the best direction they vanish after {_steps_of(vanished)}."


def _steps_of(lag: float) -> str:
    return plural(round(lag), "step")


def _table(subject: Subject, result: GradientHorizon, random: GradientReach) -> Table:
    at = int((result.lags <= subject.horizon).sum()) - 1
    kinds = [("random (mean)", random)]
    kinds += [("best", result.worst)] if result.worst is not None else []
    return Table(
        caption=(
            "Steps after which gradients vanish and explode (median over trajectories), growth "
            f"rate in nats per step, and norm after {plural(int(result.lags[at]), 'step')} "
            "relative to lag 0"
        ),
        columns=("Direction", "Vanish after", "Explode after", "Rate", "Norm"),
        rows=tuple(
            (
                name,
                _lag_in_words(reach.vanishing_lag, result),
                _lag_in_words(reach.exploding_lag, result),
                float(reach.slope.mean()),
                format_factor(float(reach.log_norm[at].mean())),
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
        # The worst case of exploding is the best case of vanishing, the name used on this page.
        if line.get_label() == "worst case":
            line.set_label("best direction")
    axes.legend(frameon=False, fontsize="small")
    best = "" if result.worst is None else "along the best direction of each lag, "
    return figure_from(
        axes,
        caption=(
            "Norm of gradients against the number of steps they were propagated back: in random "
            f"directions with quartiles, {best}and as predicted by the largest exponent. Dotted: "
            "thresholds beyond which gradients have vanished or exploded."
        ),
        description=(
            "Norms of gradients against the lag, on a logarithmic axis, over "
            f"{plural(int(result.lags[-1]), 'step')}; they change by about "
            f"{format_number(float(result.exponent.mean()))} nats per step."
        ),
    )


def _reach_numbers(reach: GradientReach) -> dict[str, Any]:
    return {
        "vanishing_lag": nested_numbers(reach.vanishing_lag),
        "exploding_lag": nested_numbers(reach.exploding_lag),
        "slope": nested_numbers(reach.slope),
        "mean_log_norm": nested_numbers(reach.log_norm.mean(dim=-1)),
    }
