"""`closed_loop`: a driven network that receives its own readout as the next input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import UnsupportedSystemError
from flossing.support.checks import require_integer
from flossing.support.pytree import describe, flatten
from flossing.systems.custom import (
    CallableRecurrence,
    callable_recurrence,
    probe,
    state_of,
)
from flossing.systems.module_precision import computing_in
from flossing.systems.recurrence import System, computing_dtype, driven_map
from flossing.systems.separate_states import is_neuron, takes_separate_states
from flossing.systems.stock import (
    StockCell,
    StockLayer,
    StockRecurrence,
    is_stock,
    stock_recurrence,
)
from flossing.systems.trajectory import trajectory
from flossing.systems.wrapped import unwrapped

Readout = Callable[[Any], Tensor]


def closed_loop(system: System, readout: Readout) -> "ClosedLoop":
    r"""Feed the readout of a driven system back as its next input, giving an autonomous map.

    With h_t = f(h_{t-1}, x_t) and x_{t+1} = r(h_t), the map is h ↦ f(h, r(h)), and its Jacobian

    .. math:: J = \frac{\partial f}{\partial h} + \frac{\partial f}{\partial x}
        \frac{\partial r}{\partial h}

    includes the path through the feedback. A trained network thus has two spectra:

    - *Driven*: `lyapunov_spectrum(system, inputs)` holds the inputs fixed and gives the
      conditional exponents (Pecora & Carroll 1990). They tell whether the network forgets its
      initial state and follows its input: λ₁ < 0 means generalised synchronisation (Kocarev &
      Parlitz 1996), the echo state property along these inputs (Jaeger 2001; Manjunath & Jaeger
      2013). Backpropagation through time under given inputs (teacher forcing) multiplies these
      Jacobians.
    - *Free*: `lyapunov_spectrum(closed_loop(system, readout), state=..., steps=...)` lets an error
      in the output return as an error in the input. This is the spectrum of the network as a
      generator, to be compared with that of the system that it was trained to imitate (Jaeger &
      Haas 2004; Pathak, Lu, Hunt, Girvan & Ott 2017); λ₁ > 0 if it generates chaos. A network
      that reproduces a chaotic attractor has a negative driven λ₁ and a positive free λ₁.

    Args:
        system: a driven system as in `lyapunov_spectrum`: `nn.RNN`, `nn.GRU`, `nn.LSTM`, one of
            their cells, or a callable `(x_t, state) -> state` or `-> (out, state)`.
        readout: maps outputs to the next inputs. For stock modules from (B, hidden_size), the
            output of the last layer (projected, if it has a projection), to (B, input_size). For
            callables from the state, in the callable's own structure, to x_t.

    Returns:
        A module that maps a state, in the system's own convention, to the next one. It is a valid
        `system` for `lyapunov_spectrum`, `flossing_loss` and the analyses, and has the parameters
        of system and readout if these are modules.

    Raises:
        UnsupportedSystemError: the system or the readout is not callable, or the system has no
            single forward map.

    Example:
        A scalar network with twice its own state as input, at its fixed point 0: tangent vectors
        grow by w + 2 u per step instead of w.

        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = rnn.weight_hh_l0.fill_(0.5), rnn.weight_ih_l0.fill_(0.2)
        >>> loop = flossing.closed_loop(rnn, lambda output: 2 * output)
        >>> with torch.no_grad():
        ...     driven = flossing.lyapunov_spectrum(rnn, torch.zeros(20, 1, 1))
        ...     free = flossing.lyapunov_spectrum(loop, steps=20)
        >>> driven.exponents.exp(), free.exponents.exp()
        (tensor([[0.5000]]), tensor([[0.9000]]))
    """
    for name, part in (("system", system), ("readout", readout)):
        if not callable(part):
            raise UnsupportedSystemError(
                f"the {name} must be a module or a callable, not a {type(part).__name__}"
            )
    return ClosedLoop(system, readout)


class ClosedLoop(nn.Module):
    """An autonomous map made of a driven system and its readout; see `flossing.closed_loop`.

    Attributes:
        system: the driven system.
        readout: maps outputs or states to the next inputs.
    """

    system: System
    readout: Readout

    def __init__(self, system: System, readout: Readout) -> None:
        super().__init__()
        self.system = unwrapped(system)
        self.readout = readout

    def forward(self, state: Any) -> Any:
        """Return the state after one step, in the system's own convention."""
        return self._advance(self.feedback(state), state)

    def feedback(self, state: Any) -> Tensor:
        """Return the next input that follows from a state."""
        if not is_stock(self.system):
            return _read(self.readout, state)
        flat = self._flat(state, computing_dtype(self, None, state))
        rows = flat.feedback(flat.state)
        return rows if flat.batched else rows.squeeze(0)

    def warm_up(self, inputs: Tensor | PackedSequence, state: Any = None) -> Any:
        """Run the driven system along given inputs (teacher forcing) and return its last state.

        The loop can continue from there by itself: `lyapunov_spectrum(loop,
        state=loop.warm_up(past), steps=...)`. Differentiable if gradients are enabled.

        Args:
            inputs: as in `lyapunov_spectrum`; in a `PackedSequence` each sequence has its own end.
            state: initial state in the system's own convention; zero if `None` (stock modules).

        Returns:
            The state after the last input, in the system's own convention.
        """
        problem = driven_map(self.system, inputs, state, steps=None, layer=None, dtype=None)
        states = trajectory(problem, problem.state, 0, problem.steps, "full")
        last = states[list(problem.lengths), list(range(len(problem.state)))]
        return problem.recurrence.unpack(last, batched=problem.batched)

    def generate(self, state: Any = None, *, steps: int) -> Tensor:
        """Run freely and return the generated inputs.

        Driven by them, the system passes through the same states: `lyapunov_spectrum(system,
        loop.generate(state, steps=T), state)` gives its conditional exponents along this orbit.

        Args:
            state: initial state in the system's own convention; zero if `None` (stock modules).
            steps: number of steps T.

        Returns:
            x_1, …, x_T in the layout of the system: (T, B, D), (B, T, D) if it is `batch_first`,
            (T, D) without a batch.

        Raises:
            InvalidOptionError: `steps` is not a positive integer.
        """
        generated: list[Tensor] = []
        for _ in range(require_integer("steps", steps, at_least=1)):
            generated.append(self.feedback(state))
            state = self._advance(generated[-1], state)
        batch_first = getattr(self.system, "batch_first", False) is True and is_stock(self.system)
        return torch.stack(generated, dim=1 if batch_first and generated[0].dim() == 2 else 0)

    def as_recurrence(
        self, state: Any, dtype: torch.dtype
    ) -> tuple[CallableRecurrence, Float[Tensor, "B n"], bool]:
        """Return the map, the flat initial state, and whether the state has a batch dimension."""
        if is_stock(self.system):
            flat = self._flat(state, dtype)
            closed = flat.recurrence(self)
            probe(closed, self, None, flat.state)
            return closed, flat.state, flat.batched
        leaves, _ = flatten(state)
        batched = bool(leaves) and leaves[0].dim() >= 2
        recurrence, rows = callable_recurrence(self, None, state, batched=batched, dtype=dtype)
        return recurrence, rows, batched

    def _advance(self, inputs: Tensor, state: Any) -> Any:
        if not is_stock(self.system):
            separate = takes_separate_states(self.system, state, driven=True)
            result = self.system(inputs, *(state if separate else (state,)))
            return state_of(result, state, neuron=is_neuron(self.system))
        flat = self._flat(state, computing_dtype(self, None, state))
        rows = inputs if flat.batched else inputs.unsqueeze(0)
        return flat.driven.unpack(flat.driven.step(rows, flat.state), batched=flat.batched)

    def _flat(self, state: Any, dtype: torch.dtype) -> "_FlatLoop":
        module = cast(StockLayer | StockCell, self.system)
        driven = stock_recurrence(module, None, dtype)
        dimensions = 3 if driven.stacked_states else 2
        leaves, _ = flatten(state)
        batched = bool(leaves) and leaves[0].dim() == dimensions
        batch = leaves[0].shape[-2] if batched else 1
        rows = driven.pack(state, batch, driven.layers[0].weight_hh).to(dtype)
        return _FlatLoop(
            driven, computing_in(self.readout, dtype), module.input_size, rows, batched
        )


@dataclass(frozen=True)
class _FlatLoop:
    """A loop through a stock module on rows of flat states, with its initial state."""

    driven: StockRecurrence
    readout: Readout
    input_size: int
    state: Float[Tensor, "B n"]
    batched: bool

    def feedback(self, state: Float[Tensor, "R n"]) -> Float[Tensor, "R D"]:
        """Return the next inputs."""
        rows = _read(self.readout, self.driven.output(state)).to(state.dtype)
        if rows.shape != (len(state), self.input_size):
            raise UnsupportedSystemError(
                f"the readout must return the next inputs, (rows, input_size) = ({len(state)}, "
                f"{self.input_size}) for {len(state)} rows of outputs, but returned "
                f"{tuple(rows.shape)}"
            )
        return rows

    def step(self, state: Float[Tensor, "R n"]) -> Float[Tensor, "R n"]:
        """Return the states after one step."""
        return self.driven.step(self.feedback(state), state)

    def recurrence(self, system: ClosedLoop) -> CallableRecurrence:
        """Return the autonomous map, whose states unpack into those of the module."""
        return CallableRecurrence(
            function=self.step,
            system=system,
            driven=False,
            batched=True,
            shapes=(torch.Size([self.driven.state_size]),),
            rebuild=lambda leaves: leaves[0],
            convention=self.driven.unpack,
        )


def _read(readout: Readout, seen: Any) -> Tensor:
    try:
        fed = cast(Callable[[Any], object], readout)(seen)
    except (TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise UnsupportedSystemError(
            f"the readout fails on {describe(seen)}: {error}. It must map the output of the last "
            "layer, or the state of a callable, to the next input"
        ) from error
    if not isinstance(fed, Tensor):
        raise UnsupportedSystemError(
            f"the readout must return the next input, a tensor, not a {type(fed).__name__}"
        )
    return fed
