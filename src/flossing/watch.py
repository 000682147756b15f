"""Exponents measured periodically during a training loop, under a time budget."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from flossing.errors import (
    InvalidOptionError,
    NonFiniteError,
    NumericalWarning,
    UnsupportedSystemError,
)
from flossing.measurement.plan import Options
from flossing.spectrum import measure
from flossing.support.checks import require_integer
from flossing.support.eval_mode import in_eval_mode
from flossing.support.pytree import flatten
from flossing.support.torch_typed import numbers
from flossing.systems.recurrence import DrivenMap, System, computing_dtype, driven_map
from flossing.systems.stock import is_stock
from flossing.systems.wrapped import advice_on_model, require_no_transform, unwrapped

Inputs = Tensor | PackedSequence | None


def watch(
    system: System,
    *,
    k: int = 8,
    every: int = 100,
    share: float | None = 0.02,
    steps: int = 200,
    trajectories: int = 1,
    layer: int | None = None,
    condition_horizon: int = 100,
    horizon_factor: float = 1000.0,
    prefix: str = "flossing/",
    clock: Callable[[], float] = time.perf_counter,
) -> "Watcher":
    r"""Measure exponents periodically during training, under a time budget, for a logger.

    Call the watcher once per training step with the step's inputs. It returns a dictionary of
    numbers if a measurement is due and affordable, and an empty one otherwise. Alternatively,
    attach it to the module, to measure under the inputs of its own forward calls.

    A measurement is made at the first call and then at every `every`-th, postponed while it would
    raise the time spent on measuring above `share` of the time since the first call, assuming that
    it takes as long as the previous one. Only the duration of the first is not known beforehand;
    it may include the loading of compiled loops.

    With λ_1 ≥ … ≥ λ_k in nats per step, averaged over the trajectories measured, each dictionary
    contains, after the prefix,

    - `exponent_1` … `exponent_k`: λ_i; −inf where the frame lost rank;
    - `condition_rate`: λ_1 − λ_k, the growth rate of the log condition number of the long-term
      Jacobian within the measured subspace (Engelken 2023), and `condition_log10`: its value after
      `condition_horizon` steps, log10 exp((λ_1 − λ_k) · horizon);
    - `horizon`: ln(factor) / |λ_1|, the number of steps over which the largest component of a
      gradient changes by no more than the factor: beyond, all of the gradient vanishes (λ_1 < 0) or
      it explodes (λ_1 > 0). `horizon_all`: ln(factor) / max |λ_i|, the same for all k directions.
      Exponents are averages: gradients of single sequences may last shorter or longer;
    - `seconds`: the duration of the measurement, and `share`: the time of all measurements as a
      share of the time since the first call.

    Parameters, `.grad`, the global random state, and train or eval mode are left unchanged.
    The module is measured in eval mode, since dropout makes the map random. If the inputs or states
    are not finite, because training has diverged, λ_1 … λ_k and the numbers derived from them are
    NaN, with a `NumericalWarning`, and training continues. An invalid call raises.

    Args:
        system: see `flossing.lyapunov_spectrum`: the recurrent module itself, not a model that
            contains it.
        k: number of exponents; all n if there are fewer.
        every: calls between measurements.
        share: largest share of wall-clock time spent on measuring, between 0 and 1; `None` for no
            limit.
        steps: maximum number of steps measured, from the start of the sequences; for a map without
            inputs, the number of steps.
        trajectories: maximum number of trajectories of a batch that are measured, the longest ones.
        layer: see `flossing.lyapunov_spectrum`.
        condition_horizon: number of steps for `condition_log10`.
        horizon_factor: factor by which a gradient may shrink or grow within the horizon.
        prefix: put before every name.
        clock: returns the time in seconds.

    Returns:
        A `Watcher`.

    Raises:
        InvalidOptionError: invalid option value.

    Example:
        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(2, 16)
        >>> watcher = flossing.watch(rnn, k=2, every=100)
        >>> numbers = [watcher(torch.randn(50, 4, 2)) for step in range(3)]
        >>> [len(each) for each in numbers]
        [8, 0, 0]
        >>> sorted(numbers[0])[:3]
        ['flossing/condition_log10', 'flossing/condition_rate', 'flossing/exponent_1']
    """
    if share is not None and not 0 < share < 1:
        raise InvalidOptionError(
            f"share={share!r} must lie between 0 and 1: it is the share of the wall-clock time for "
            "measuring; pass None for no limit"
        )
    if not (math.isfinite(horizon_factor) and horizon_factor > 1):
        raise InvalidOptionError(
            f"horizon_factor={horizon_factor!r} must be a number above 1, the factor by which a "
            "gradient may change: pass, for example, horizon_factor=1000"
        )
    # As an `int`: a list times a NumPy integer would be a product, not a longer list.
    k, every, steps, trajectories, condition_horizon = (
        require_integer(name, value, at_least=1)
        for name, value in (
            ("k", k),
            ("every", every),
            ("steps", steps),
            ("trajectories", trajectories),
            ("condition_horizon", condition_horizon),
        )
    )
    return Watcher(
        _Measurement(system, k, steps, trajectories, layer, condition_horizon, horizon_factor),
        _Budget(every, share, clock),
        prefix,
    )


class Watcher:
    """A periodic measurement of exponents; created by `flossing.watch`.

    Attributes:
        latest: the numbers of the latest measurement; empty before the first.
    """

    def __init__(self, measurement: "_Measurement", budget: "_Budget", prefix: str) -> None:
        self.latest: dict[str, float] = {}
        self._measurement = measurement
        self._budget = budget
        self._prefix = prefix

    def __call__(self, inputs: Inputs = None, state: Any = None) -> dict[str, float]:
        """Return numbers if a measurement is due and affordable, else an empty dictionary.

        Args:
            inputs: the inputs of this training step, as the system takes them; `None` for a map
                without inputs.
            state: its initial state; zero if `None` (stock modules only).

        Returns:
            The numbers by name; see `flossing.watch`.

        Raises:
            FlossingError: see `flossing.lyapunov_spectrum`; values that are not finite do not
                raise.

        Warns:
            NumericalWarning: inputs or states are not finite; also see `lyapunov_spectrum`.
        """
        if not self._budget.due():
            return {}
        require_no_transform()
        _synchronise(inputs, state)
        started = self._budget.clock()
        found = self._measurement.measured(inputs, state)
        found |= self._budget.stop(started)
        self.latest = {self._prefix + name: number for name, number in found.items()}
        return dict(self.latest)

    def __repr__(self) -> str:
        """Return the numbers of the latest measurement."""
        numbers = ", ".join(f"{name}: {number:.4g}" for name, number in self.latest.items())
        return f"{type(self).__name__}({numbers or 'no measurement yet'})"

    def attach(self, log: Callable[[dict[str, float]], object]) -> RemovableHandle:
        """Measure at the module's own forward calls in train mode, and log the numbers.

        Args:
            log: called with every dictionary that is not empty.

        Returns:
            A handle whose `remove()` detaches the watcher; also usable as a context manager.

        Raises:
            UnsupportedSystemError: the system is not an `nn.RNN`, `nn.GRU` or `nn.LSTM`, whose
                forward takes a whole sequence.

        Example:
            >>> import torch, flossing
            >>> rnn, log = torch.nn.GRU(2, 16), []
            >>> with flossing.watch(rnn, every=2, share=None).attach(log.append):
            ...     for step in range(4):
            ...         _ = rnn(torch.randn(50, 4, 2))
            >>> len(log)
            2
        """
        system = unwrapped(self._measurement.system)
        if not (is_stock(system) and isinstance(system, nn.RNNBase)):
            raise UnsupportedSystemError(
                "a watcher can be attached to an nn.RNN, nn.GRU or nn.LSTM, whose forward takes "
                f"a whole sequence, not a {type(system).__name__}: call it with the inputs instead"
                f"{advice_on_model(system)}"
            )

        def hook(
            module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], _: Any
        ) -> None:
            if not module.training:
                return
            # The names of PyTorch's own signature, forward(input, hx=None).
            given = dict(zip(("input", "hx"), arguments, strict=False)) | keywords
            found = self(given["input"], given.get("hx"))
            if found:
                log(found)

        return system.register_forward_hook(hook, with_kwargs=True)


class _Budget:
    """Decides when to measure: at every `every`-th call, within a share of the time."""

    def __init__(self, every: int, share: float | None, clock: Callable[[], float]) -> None:
        self._every, self._share, self.clock = every, share, clock
        self._calls = 0
        self._due_at = 0
        self._begin: float | None = None
        self._spent = 0.0
        self._latest = 0.0

    def due(self) -> bool:
        """Count a call, and return whether a measurement is due and affordable at it."""
        now = self.clock()
        if self._begin is None:
            self._begin = now
        call, self._calls = self._calls, self._calls + 1
        if call < self._due_at or not self._affordable(now - self._begin):
            return False
        self._due_at = call + self._every
        return True

    def stop(self, started: float) -> dict[str, float]:
        """Add the time of a measurement, and return it with the share spent so far."""
        now = self.clock()
        self._latest = now - started
        self._spent += self._latest
        passed = now - cast(float, self._begin)
        return {"seconds": self._latest, "share": self._spent / passed if passed > 0 else 0.0}

    def _affordable(self, passed: float) -> bool:
        if self._share is None or self._latest == 0.0:
            return True
        # As if a measurement as long as the latest had been made: it counts as time spent and as
        # time passed.
        return self._spent + self._latest <= self._share * (passed + self._latest)


@dataclass(frozen=True)
class _Measurement:
    """The measurement itself; for the fields see `watch`."""

    system: System
    k: int
    steps: int
    trajectories: int
    layer: int | None
    condition_horizon: int
    horizon_factor: float

    def measured(self, inputs: Inputs, state: Any) -> dict[str, float]:
        """Return the exponents and the numbers derived from them; NaN if not finite."""
        if not _finite(inputs, state):
            return self._unknown("the inputs or the initial state are infinite or NaN")
        try:
            with torch.inference_mode(False), torch.no_grad(), in_eval_mode(self.system):
                exponents = self._exponents(inputs, state)
        except NonFiniteError as error:
            return self._unknown(str(error))
        return self._summary(exponents)

    def _exponents(self, inputs: Inputs, state: Any) -> list[float]:
        problem = driven_map(
            self.system,
            inputs,
            state,
            steps=self.steps if inputs is None else None,
            layer=self.layer,
            # Under autocast the inputs of a module may have another precision than its weights.
            dtype=computing_dtype(self.system, inputs, state),
        )
        options = Options(k=min(self.k, problem.tangent_size), state_gradient="detach")
        result = measure(_cut(problem, self.steps, self.trajectories), options)
        return numbers(result.exponents.mean(dim=0))

    def _summary(self, exponents: list[float]) -> dict[str, float]:
        largest, smallest = exponents[0], exponents[-1]
        # −inf − (−inf) is NaN, but a frame that lost rank has an infinite condition number.
        rate = math.inf if smallest == -math.inf else largest - smallest
        summary = {f"exponent_{index}": each for index, each in enumerate(exponents, start=1)}
        return summary | {
            "condition_rate": rate,
            "condition_log10": rate * self.condition_horizon / math.log(10),
            "horizon": self._horizon(abs(largest)),
            "horizon_all": self._horizon(max(map(abs, exponents))),
        }

    def _horizon(self, rate: float) -> float:
        return math.log(self.horizon_factor) / rate if rate else math.inf

    def _unknown(self, reason: str) -> dict[str, float]:
        warnings.warn(f"exponents are NaN: {reason}", NumericalWarning, stacklevel=4)
        return self._summary([math.nan] * self.k)


def _cut(problem: DrivenMap, steps: int, trajectories: int) -> DrivenMap:
    """Return the first steps of the longest trajectories."""
    rows = sorted(range(len(problem.lengths)), key=lambda row: -problem.lengths[row])[:trajectories]
    lengths = tuple(min(problem.lengths[row], steps) for row in rows)
    inputs = problem.inputs_from(0, lengths[0])
    return replace(
        problem,
        inputs=None if inputs is None else inputs[:, rows],
        state=problem.state[rows],
        steps=lengths[0],
        lengths=lengths,
    )


def _tensors(inputs: Inputs, state: Any) -> list[Tensor]:
    data = inputs.data if isinstance(inputs, PackedSequence) else inputs
    return flatten((data, state))[0]


def _finite(inputs: Inputs, state: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(inputs, state))


def _synchronise(inputs: Inputs, state: Any) -> None:
    """Wait for the work queued on the device, so that it does not count as measuring."""
    for tensor in _tensors(inputs, state)[:1]:
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
