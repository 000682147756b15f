"""`floss`: gradient descent on the flossing loss, before training."""

import math
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flossing.batches import Batches, batch_source, inputs_and_options, sample_window
from flossing.errors import InvalidOptionError, SkippedStepWarning
from flossing.loss import dead_band, layer_spectra, squared_deviations
from flossing.support.checks import generator_or_default, number_or_none, require_integer
from flossing.support.master_copies import MasterCopies, float32_gradients
from flossing.support.warning_filters import recorded_warnings
from flossing.systems.recurrence import System

OptimizerFactory = Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True, repr=False)
class FlossHistory:
    """The record of a flossing run of S steps on L layers.

    It prints as a summary; its numbers are in the attributes.

    Attributes:
        loss: (S,), the flossing loss before each step.
        exponents: (S, L, k), averaged over trajectories, before each step.
        gradient_norm: (S,), norm of the gradient before clipping.
        skipped: (S,), steps that were skipped because their gradient was not finite.
        converged: whether the loss fell below the tolerance.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[0.5]], requires_grad=True)
        >>> floss(
        ...     lambda state: state @ weight, lambda: 10, k=1, steps=100, tolerance=0.01, lr=0.01,
        ...     parameters=[weight], state=torch.ones(1, 1),
        ... )
        FlossHistory(steps=63, first_loss=0.48, last_loss=0.00975, converged=True, skipped=0)
    """

    loss: Float[Tensor, "S"]
    exponents: Float[Tensor, "S L k"]
    gradient_norm: Float[Tensor, "S"]
    skipped: Bool[Tensor, "S"]
    converged: bool

    def __repr__(self) -> str:
        """Return the number of steps, first and last loss, and how the run went."""
        first, last = (f"{float(self.loss[index]):.3g}" for index in (0, -1))
        return (
            f"{type(self).__name__}(steps={len(self.loss)}, first_loss={first}, last_loss={last}, "
            f"converged={self.converged}, skipped={int(self.skipped.sum())})"
        )


def floss(
    system: System,
    batches: Batches,
    *,
    k: int | None,
    steps: int,
    target: float | Sequence[float] | Tensor = 0.0,
    horizon: float | None = None,
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

    Gradient flossing (Engelken, NeurIPS 2023): a separate phase before training, with its own
    optimizer, that minimises `flossing_loss` on fresh inputs. The published setting is `steps=500`
    of Adam with `lr=1e-3` on a single trajectory of 55 steps, of which 16 are not counted.

    The `.grad` of the parameters is left unchanged, as is train or eval mode: the system is
    measured in eval mode.

    Parameters in half precision (float16, bfloat16) have copies in float32. The optimizer steps on
    these, and the parameters are their rounded values, so that small steps add up.

    Args:
        system: see `lyapunov_spectrum`.
        batches: source of inputs: an iterable, which is iterated repeatedly if it can be; a
            function without arguments that returns the next batch; or one tensor for all steps.
            Each batch is a tensor or `PackedSequence` of inputs as `lyapunov_spectrum` takes them,
            an object with such inputs as its attribute `inputs`, or the number of steps of a map
            without inputs.
        k: number of exponents, from the largest; `None` for all. A stack of stock layers is
            flossed layer by layer, k of each.
        steps: maximum number of gradient steps.
        target: see `flossing_loss`.
        horizon: see `flossing_loss`. A step that finds all exponents within the dead band changes
            nothing.
        optimizer: an optimizer over the parameters to change, or a function from the list of
            parameters (of their float32 copies, for those in half precision) to one; `None` for
            Adam. An optimizer that holds parameters in half precision itself steps in that
            precision: small steps are lost, and Adam's with its default `eps` fail in float16.
        lr: step size of Adam.
        parameters: the parameters to change; `None` for those of the module that require
            gradients: in a stock module its input weights, recurrent weights and biases. A
            parameter that does not influence the state is never changed.
        tolerance: stop as soon as the loss is below this.
        max_gradient_norm: clip gradients to this norm.
        state: initial state in the system's own convention, or a function from inputs to it.
        piece: length of a window of steps, sampled anew at every gradient step from each sequence,
            which starts from the state that the system reaches there; `None` for whole sequences.
            Where the statistics of the inputs change along a sequence, all of it comes to count,
            at the cost of a window. Packed sequences have a window each, within their own length;
            those shorter than a window count whole.
        generator: random generator of the first frames, which are fresh at every step, and of the
            windows; `None` for a fixed seed.
        callback: called with the number of the step and the loss after every step.
        **spectrum_options: further options of `lyapunov_spectrum`.

    Returns:
        Loss, exponents and gradient norm at every step.

    Raises:
        InvalidInputError: the batches ran out, or are not inputs.
        InvalidOptionError: invalid option value, or no parameters to change; also whatever
            `lyapunov_spectrum` raises.
        NonFiniteError: a step made a parameter in half precision infinite or NaN, and was undone;
            or the trajectory diverges.

    Warns:
        SkippedStepWarning: a gradient was not finite, and the step was skipped. Each kind of
            warning is issued once per run.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(1, 16)
        >>> history = flossing.floss(rnn, lambda: torch.randn(40, 1, 1), k=8, steps=60, lr=0.01)
        >>> bool(history.loss[-1] < 0.5 * history.loss[0])
        True
    """
    descent = FlossingDescent(
        system,
        k=k,
        target=target,
        horizon=horizon,
        optimizer=optimizer,
        lr=lr,
        parameters=parameters,
        max_gradient_norm=max_gradient_norm,
        state=state,
        piece=piece,
        generator=generator,
        spectrum_options=spectrum_options,
    )
    steps = require_integer("steps", steps, at_least=1)
    return descent.run(batches, steps=steps, tolerance=tolerance, callback=callback)


class _Step(NamedTuple):
    loss: float
    exponents: Float[Tensor, "L k"]
    gradient_norm: float = 0.0
    skipped: bool = False
    converged: bool = False


class FlossingDescent:
    """Gradient descent on the flossing loss of a system; for the arguments see `floss`.

    `floss` runs it once. A `Flosser` keeps it for all of its episodes, which share the optimizer,
    the generator and the kinds of warnings that were issued.

    Attributes:
        optimizer: the optimizer of the parameters.
        generator: the generator of first frames and windows.
        masters: float32 copies of the parameters in half precision.
    """

    def __init__(
        self,
        system: System,
        *,
        k: int | None,
        target: float | Sequence[float] | Tensor,
        horizon: float | None,
        optimizer: torch.optim.Optimizer | OptimizerFactory | None,
        lr: float,
        parameters: Iterable[Tensor] | None,
        max_gradient_norm: float | None,
        state: Any,
        piece: int | None,
        generator: torch.Generator | None,
        spectrum_options: dict[str, Any],
    ) -> None:
        if max_gradient_norm is not None and not max_gradient_norm > 0:
            raise InvalidOptionError(
                "max_gradient_norm must be positive, or None for no clipping, not "
                f"{max_gradient_norm!r}"
            )
        self._system = system
        self._parameters = _chosen_parameters(system, optimizer, parameters)
        self.masters = MasterCopies(self._parameters)
        self._target = target
        self._band = dead_band(horizon)
        self._max_gradient_norm = max_gradient_norm
        self._state = state
        self._window = None if piece is None else require_integer("piece", piece, at_least=1)
        self._spectrum_options: dict[str, Any] = {"k": k, **spectrum_options}
        self._warned: set[type[Warning]] = set()
        self.optimizer = _make_optimizer(optimizer, self.masters.stepped, lr)
        self.masters.leave_out(_optimized(self.optimizer))
        self.generator = generator_or_default(generator)

    def run(
        self,
        batches: Batches,
        *,
        steps: int,
        tolerance: float | None,
        callback: Callable[[int, float], None] | None,
    ) -> FlossHistory:
        """Take steps until their number is reached or the loss is below the tolerance."""
        next_batch = batch_source(batches)
        done: list[_Step] = []
        with _each_warning_once(self._warned):
            while len(done) < steps and not (done and done[-1].converged):
                done.append(self._step(next_batch(), tolerance))
                if callback is not None:
                    callback(len(done), done[-1].loss)
        return FlossHistory(
            loss=torch.tensor([step.loss for step in done]),
            exponents=torch.stack([step.exponents for step in done]),
            gradient_norm=torch.tensor([step.gradient_norm for step in done]),
            skipped=torch.tensor([step.skipped for step in done]),
            converged=done[-1].converged,
        )

    def _step(self, batch: Any, tolerance: float | None) -> _Step:
        inputs, batch_options = inputs_and_options(batch)
        # A function gives the state before the whole sequence, from which the window's follows.
        state = self._state(inputs) if callable(self._state) else self._state
        if self._window is not None:
            inputs, state = sample_window(
                self._system,
                inputs,
                state,
                steps=self._window,
                generator=self.generator,
                dtype=self._spectrum_options.get("dtype"),
            )
        with torch.enable_grad():
            spectra = layer_spectra(
                self._system,
                inputs,
                state,
                generator=self.generator,
                **batch_options,
                **self._spectrum_options,
            )
            loss = squared_deviations(spectra, self._target, self._band).mean()
        exponents = torch.stack([spectrum.exponents.detach().mean(dim=0) for spectrum in spectra])
        value = float(loss.detach())
        if tolerance is not None and value < tolerance:
            return _Step(value, exponents, converged=True)
        gradients = _gradients(loss, self._parameters)
        norm = float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))
        # One step along a NaN would leave no parameter finite, and no later step could mend it.
        if not math.isfinite(norm):
            self._warn_of_skipped_step(exponents, norm)
            return _Step(value, exponents, norm, skipped=True)
        self._apply(gradients, norm)
        return _Step(value, exponents, norm)

    def _apply(self, gradients: list[Tensor | None], norm: float) -> None:
        if self._max_gradient_norm is not None and norm > self._max_gradient_norm:
            scale = self._max_gradient_norm / norm
            gradients = [None if each is None else each * scale for each in gradients]
        with self.masters.kept_in_step() as stepped:
            # Optimizers read `.grad`, which belongs to the caller's training: lent and given back.
            before = [each.grad for each in stepped]
            try:
                for each, gradient in zip(stepped, gradients, strict=True):
                    each.grad = None if gradient is None else gradient.to(each.dtype)
                self.optimizer.step()
            finally:
                for each, gradient in zip(stepped, before, strict=True):
                    each.grad = gradient

    def _warn_of_skipped_step(self, exponents: Tensor, norm: float) -> None:
        advice = (
            "gradients through the states of a chaotic trajectory explode: use "
            "state_gradient='detach' or a window of a few steps"
            if self._spectrum_options.get("state_gradient", "full") == "full"
            else "use a smaller k, fewer steps in the window, or dtype=torch.float64"
        )
        warnings.warn(
            f"a flossing step was skipped and changed nothing: its gradient has the norm {norm}, "
            f"with exponents from {float(exponents.amax()):.3g} to {float(exponents.amin()):.3g} "
            f"nats per step; {advice}",
            SkippedStepWarning,
            stacklevel=2,  # Issued again by `_each_warning_once`, for the caller of `floss`.
        )


@contextmanager
def _each_warning_once(warned: set[type[Warning]]) -> Generator[None]:
    """Pass on the first warning of each category that is not in `warned`, and add it there.

    The same warning may come up at each of hundreds of steps.
    """
    with recorded_warnings() as caught:
        yield
    first = {each.category: each for each in reversed(caught) if each.category not in warned}
    warned.update(first)
    for warning in first.values():
        # This function, contextlib, `FlossingDescent.run`, `floss` or `Flosser`, and its caller.
        warnings.warn(warning.message, stacklevel=5)


def _chosen_parameters(
    system: System, optimizer: object, parameters: Iterable[Tensor] | None
) -> list[Tensor]:
    if isinstance(optimizer, torch.optim.Optimizer):
        if parameters is not None:
            raise InvalidOptionError(
                "pass either an optimizer, which already has its parameters, or parameters"
            )
        parameters = _optimized(optimizer)
    elif parameters is None and isinstance(system, nn.Module):
        parameters = system.parameters()
    chosen = [parameter for parameter in parameters or [] if parameter.requires_grad]
    if not chosen:
        raise InvalidOptionError(
            f"there is nothing to floss: this {type(system).__name__} has no parameters that "
            "require gradients; pass parameters=[...]"
        )
    return chosen


def _make_optimizer(
    optimizer: torch.optim.Optimizer | OptimizerFactory | None,
    parameters: list[Tensor],
    lr: float,
) -> torch.optim.Optimizer:
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer
    if optimizer is not None:
        return optimizer(parameters)
    step_size = number_or_none(lr)
    if step_size is None or not 0 < step_size < math.inf:
        raise InvalidOptionError(f"lr must be a positive step size, not {lr!r}")
    return torch.optim.Adam(parameters, lr=step_size)


def _optimized(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    # Not `backward`, which would add to `.grad`.
    gradients = float32_gradients(loss, parameters)
    if all(gradient is None for gradient in gradients):
        raise InvalidOptionError(
            "the exponents do not depend on any of the parameters: pass those of the recurrent "
            "system itself"
        )
    # `None`, not zero, where the exponents do not depend on a parameter: weight decay would change
    # one with a gradient of zero. Of a custom cell, autograd itself returns zeros where it passes
    # the slope of a ReLU.
    return [each if each is not None and bool(each.any()) else None for each in gradients]
