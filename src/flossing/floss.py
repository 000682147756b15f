"""`floss`: push exponents to their target with an optimizer of one's own, before training."""

import math
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flossing.batches import Batches, batch_source, draw_piece, inputs_and_options
from flossing.errors import InvalidOptionError, SkippedStepWarning
from flossing.loss import layer_spectra, squared_deviations
from flossing.support.checks import require_integer
from flossing.systems.recurrence import System

OptimizerFactory = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class FlossHistory:
    """What happened in one run of flossing, with S steps done and L layers.

    Attributes:
        loss: (S,), mean squared deviation from the target before each step.
        exponents: (S, L, k), averaged over trajectories, before each step.
        gradient_norm: (S,), norm of the gradient before clipping.
        skipped: (S,), steps whose gradient was not finite, which changed nothing.
        converged: whether the loss fell below the tolerance.
    """

    loss: Float[Tensor, "S"]
    exponents: Float[Tensor, "S L k"]
    gradient_norm: Float[Tensor, "S"]
    skipped: Bool[Tensor, "S"]
    converged: bool


@dataclass(frozen=True)
class Objective:
    """What is flossed, and towards what.

    Attributes:
        system: the recurrent system.
        parameters: what the steps change.
        target: where the exponents should be.
        max_gradient_norm: gradients are clipped to this norm.
        state: initial state, or a function from inputs to it.
        piece: how many steps of each sequence are taken, from anywhere in it; `None` for all.
        spectrum_options: `k` and further options of `lyapunov_spectrum`.
        warned: the kinds of warnings that came up; each is passed on once.
    """

    system: System
    parameters: list[Tensor]
    target: float | Sequence[float] | Tensor
    max_gradient_norm: float | None
    state: Any
    piece: int | None
    spectrum_options: dict[str, Any]
    warned: set[type[Warning]] = field(default_factory=set[type[Warning]])


class _Step(NamedTuple):
    loss: float
    exponents: Float[Tensor, "L k"]
    gradient_norm: float
    skipped: bool


def floss(
    system: System,
    batches: Batches,
    *,
    k: int | None,
    steps: int,
    target: float | Sequence[float] | Tensor = 0.0,
    optimizer: torch.optim.Optimizer | OptimizerFactory | None = None,
    lr: float = 1e-3,
    parameters: Iterable[Tensor] | None = None,
    tolerance: float | None = None,
    max_gradient_norm: float | None = None,
    state: Any = None,
    piece: int | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[int, float], None] | None = None,
    **spectrum_options: Any,
) -> FlossHistory:
    r"""Push the first k Lyapunov exponents of a system to a target by gradient descent.

    Gradient flossing (Engelken, NeurIPS 2023): a phase of its own, with its own optimizer, that
    minimises `flossing_loss` on fresh inputs. The published setting is `steps=500` of Adam with
    `lr=1e-3` on a single trajectory of 55 steps, of which 16 are not counted.

    The parameters' `.grad` are left as they were.

    Args:
        system: see `lyapunov_spectrum`.
        batches: where inputs come from: an iterable, gone through again and again if it can be,
            a function without arguments that returns the next, or one tensor for all steps. Each
            item is what `lyapunov_spectrum` takes as inputs, has it as its attribute `inputs`, or
            is a number of steps for a map without inputs.
        k: how many exponents, from the largest; `None` for all. A stack of stock layers is
            flossed layer by layer, k of each.
        steps: at most so many gradient steps.
        target: see `flossing_loss`.
        optimizer: an optimizer over the parameters to change, or a function from the list of
            parameters to one; `None` for Adam.
        lr: step size of Adam.
        parameters: what to change; `None` for the parameters of the module that require
            gradients: in a stock module its input weights, recurrent weights and biases. A
            parameter that does not influence the state is never changed.
        tolerance: stop as soon as the loss is below it.
        max_gradient_norm: clip gradients to this norm.
        state: initial state in the system's own convention, or a function from inputs to it.
        piece: floss on so many steps of each sequence, drawn anew from anywhere in it, with the
            state that the system has there; `None` for whole sequences. Where inputs change their
            statistics along a sequence, all of it comes to count, at the cost of the piece.
        generator: for the first frames, fresh at every step, and the places of pieces; `None` for
            a fixed seed.
        callback: called with the step and the loss after every step.
        **spectrum_options: further options of `lyapunov_spectrum`.

    Returns:
        Loss, exponents and gradient norm at every step.

    Raises:
        InvalidInputError: the batches ran out, or are not inputs.
        InvalidOptionError: an option outside what it may be, or nothing to change; and whatever
            `lyapunov_spectrum` raises.

    Warns:
        SkippedStepWarning: a gradient was not finite; that step changed nothing. Each kind of
            warning comes once in a run.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(1, 16)
        >>> history = flossing.floss(rnn, lambda: torch.randn(40, 1, 1), k=8, steps=60, lr=0.01)
        >>> bool(history.loss[-1] < 0.5 * history.loss[0])
        True
    """
    objective = make_objective(
        system,
        k=k,
        target=target,
        optimizer=optimizer,
        parameters=parameters,
        max_gradient_norm=max_gradient_norm,
        state=state,
        piece=piece,
        spectrum_options=spectrum_options,
    )
    return floss_objective(
        objective,
        make_optimizer(optimizer, objective.parameters, lr),
        batch_source(batches),
        steps=require_integer("steps", steps, at_least=1),
        tolerance=tolerance,
        generator=generator or torch.Generator().manual_seed(0),
        callback=callback,
    )


def floss_objective(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    next_batch: Callable[[], Any],
    *,
    steps: int,
    tolerance: float | None,
    generator: torch.Generator,
    callback: Callable[[int, float], None] | None = None,
) -> FlossHistory:
    """Take steps on an objective until they are done or the loss is below the tolerance."""
    done: list[_Step] = []
    converged = False
    with _each_warning_once(objective.warned):
        while len(done) < steps and not converged:
            step, converged = _step(objective, optimizer, next_batch(), tolerance, generator)
            done.append(step)
            if callback is not None:
                callback(len(done), step.loss)
    return FlossHistory(
        loss=torch.tensor([step.loss for step in done]),
        exponents=torch.stack([step.exponents for step in done]),
        gradient_norm=torch.tensor([step.gradient_norm for step in done]),
        skipped=torch.tensor([step.skipped for step in done]),
        converged=converged,
    )


def make_objective(
    system: System,
    *,
    k: int | None,
    target: float | Sequence[float] | Tensor,
    optimizer: object,
    parameters: Iterable[Tensor] | None,
    max_gradient_norm: float | None,
    state: Any,
    piece: int | None,
    spectrum_options: dict[str, Any],
) -> Objective:
    """Check what is to be flossed.

    Raises:
        InvalidOptionError: nothing to change, or a clipping norm or piece that is not positive.
    """
    if max_gradient_norm is not None and not max_gradient_norm > 0:
        raise InvalidOptionError(
            f"max_gradient_norm must be positive, or None for no clipping, not {max_gradient_norm}"
        )
    return Objective(
        system=system,
        parameters=_chosen_parameters(system, optimizer, parameters),
        target=target,
        max_gradient_norm=max_gradient_norm,
        state=state,
        piece=None if piece is None else require_integer("piece", piece, at_least=1),
        spectrum_options={"k": k, **spectrum_options},
    )


def make_optimizer(
    optimizer: torch.optim.Optimizer | OptimizerFactory | None,
    parameters: list[Tensor],
    lr: float,
) -> torch.optim.Optimizer:
    """Return the caller's optimizer, or the one that its function makes, or Adam."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer
    if optimizer is not None:
        return optimizer(parameters)
    if not (math.isfinite(lr) and lr > 0):
        raise InvalidOptionError(f"lr must be a positive step size, not {lr!r}")
    return torch.optim.Adam(parameters, lr=lr)


@contextmanager
def _each_warning_once(warned: set[type[Warning]]) -> Generator[None]:
    """Pass on the first warning of each category; a run has as many occasions as steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    first = {each.category: each for each in reversed(caught) if each.category not in warned}
    warned.update(first)
    for warning in first.values():
        warnings.warn(warning.message, stacklevel=5)


def _chosen_parameters(
    system: System, optimizer: object, parameters: Iterable[Tensor] | None
) -> list[Tensor]:
    if isinstance(optimizer, torch.optim.Optimizer):
        if parameters is not None:
            raise InvalidOptionError(
                "pass either an optimizer, which has its parameters already, or parameters"
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
    elif parameters is None and isinstance(system, nn.Module):
        parameters = system.parameters()
    chosen = [parameter for parameter in parameters or [] if parameter.requires_grad]
    if not chosen:
        raise InvalidOptionError(
            f"there is nothing to floss: this {type(system).__name__} has no parameters that "
            "require gradients; pass parameters=[...]"
        )
    return chosen


def _step(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    tolerance: float | None,
    generator: torch.Generator,
) -> tuple[_Step, bool]:
    inputs, options = inputs_and_options(batch)
    state = objective.state(inputs) if callable(objective.state) else objective.state
    if objective.piece is not None:
        inputs, state = draw_piece(
            objective.system,
            inputs,
            state,
            steps=objective.piece,
            generator=generator,
            dtype=objective.spectrum_options.get("dtype"),
        )
    with torch.enable_grad():
        spectra = layer_spectra(
            objective.system,
            inputs,
            state,
            generator=generator,
            **options,
            **objective.spectrum_options,
        )
        loss = squared_deviations(spectra, objective.target).mean()
    exponents = torch.stack([spectrum.exponents.detach().mean(dim=0) for spectrum in spectra])
    value = float(loss.detach())
    if tolerance is not None and value < tolerance:
        return _Step(value, exponents, 0.0, skipped=False), True
    gradients = _gradients(loss, objective.parameters)
    norm = float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))
    if not math.isfinite(norm):
        _warn_of_skipped_step(exponents, norm, objective)
        return _Step(value, exponents, norm, skipped=True), False
    _apply(optimizer, objective.parameters, _clipped(gradients, norm, objective.max_gradient_norm))
    return _Step(value, exponents, norm, skipped=False), False


def _gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    gradients: list[Tensor | None] = []
    if loss.requires_grad:
        gradients.extend(torch.autograd.grad(loss, parameters, allow_unused=True))
    if all(gradient is None for gradient in gradients):
        raise InvalidOptionError(
            "the exponents do not depend on any of the parameters: pass those of the recurrent "
            "system itself"
        )
    return gradients


def _clipped(
    gradients: list[Tensor | None], norm: float, max_norm: float | None
) -> list[Tensor | None]:
    if max_norm is None or norm <= max_norm:
        return gradients
    return [None if gradient is None else gradient * (max_norm / norm) for gradient in gradients]


def _apply(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], gradients: list[Tensor | None]
) -> None:
    before = [parameter.grad for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient


def _warn_of_skipped_step(exponents: Tensor, norm: float, objective: Objective) -> None:
    gradient = objective.spectrum_options.get("state_gradient", "full")
    advice = (
        "gradients through the states of a chaotic trajectory explode: use "
        "state_gradient='detach' or a window of a few steps"
        if gradient == "full"
        else "use a smaller k, fewer steps in the window, or dtype=torch.float64"
    )
    warnings.warn(
        f"a flossing step was skipped and changed nothing: its gradient has the norm {norm}, with "
        f"exponents from {float(exponents.amax()):.3g} to {float(exponents.amin()):.3g} nats per "
        f"step; {advice}",
        SkippedStepWarning,
        stacklevel=6,
    )
