"""A trajectory with its tangent map, without gradients: the common first step of all analyses."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import InvalidInputError
from flossing.support.autocast import without_autocast
from flossing.support.checks import require_integer
from flossing.support.eval_mode import in_eval_mode
from flossing.systems.recurrence import DrivenMap, System, driven_map
from flossing.systems.tangent import TangentMap
from flossing.systems.trajectory import check_finite, check_step, trajectory


@dataclass(frozen=True)
class Linearisation:
    """The states of B trajectories and their tangent map.

    After the end of a shorter trajectory its Jacobian is the identity, and its states are those of
    the padding.

    Attributes:
        problem: the validated map with its inputs; its steps include the transient.
        states: the flat states before the first step and after each one, [T+1, B, S].
        tangent: the Jacobians J_t of the T steps, as linear maps.
    """

    problem: DrivenMap
    states: Float[Tensor, "T_plus_1 B S"]
    tangent: TangentMap

    @property
    def steps(self) -> int:
        """T, without the transient, of the longest trajectory."""
        return len(self.states) - 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of steps of each trajectory, without the transient."""
        transient = self.problem.steps - self.steps
        return tuple(length - transient for length in self.problem.lengths)

    def running(self, start: int, stop: int) -> Bool[Tensor, "T B"]:
        """Return which trajectories have the steps of a range, counted from 0."""
        steps = torch.arange(start, stop, device=self.states.device).unsqueeze(-1)
        return steps < torch.tensor(self.lengths, device=self.states.device)

    @property
    def batch(self) -> int:
        """B."""
        return self.states.shape[1]

    @property
    def size(self) -> int:
        """n, the number of tangent dimensions."""
        return self.problem.tangent_size

    def jacobian(self, step: int) -> Float[Tensor, "B n n"]:
        """Return J of one step, counted from 0."""
        identity = torch.eye(self.size, dtype=self.states.dtype, device=self.states.device)
        with torch.no_grad():
            return self.tangent.push(step, identity.expand(self.batch, -1, -1))


def linearise(
    system: System,
    inputs: Tensor | PackedSequence | None = None,
    state: Any = None,
    *,
    steps: int | None = None,
    layer: int | None = None,
    dtype: torch.dtype | None = None,
    state_transient: int = 0,
    exponents: int | None = None,
) -> Linearisation:
    """Run a system and linearise it at every step after a transient.

    Arguments are those of `flossing.lyapunov_spectrum`. `exponents` is the number of tangent
    vectors that will be multiplied at a time, `None` for n: it decides whether explicit Jacobians
    of a custom cell pay.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: invalid inputs, or no steps left after the transient.
        InvalidStateError: an invalid initial state.
        InvalidOptionError: an option has an invalid value.
        NonFiniteError: the trajectory diverges.
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        without_autocast(),
        in_eval_mode(system),
    ):
        problem = analysed_map(
            system,
            inputs,
            state,
            steps=steps,
            layer=layer,
            dtype=dtype,
            state_transient=state_transient,
        )
        start, stop = state_transient, problem.steps
        states = trajectory(problem, problem.state, 0, stop, "detach")[start:]
        check_finite(problem, zero_after_end(states, problem), start)
        tangent = problem.recurrence.tangent(
            problem.inputs_from(start, stop), states[:-1], exponents or problem.tangent_size
        )
        check_step(problem, slice(start, stop), states[:-1], states[1:], tangent)
    if min(problem.lengths) < stop:
        tangent = _IdentityAfter(tangent, tuple(length - start for length in problem.lengths))
    return Linearisation(problem, states, tangent)


def zero_after_end(states: Float[Tensor, "T B S"], problem: DrivenMap) -> Float[Tensor, "T B S"]:
    """Return the last states of a run, with zeros after the end of each shorter trajectory."""
    if min(problem.lengths) == problem.steps:
        return states
    done = torch.arange(problem.steps - len(states), problem.steps, device=states.device) + 1
    running = done.unsqueeze(-1) <= torch.tensor(problem.lengths, device=states.device)
    return torch.where(running.unsqueeze(-1), states, 0.0)


@dataclass(frozen=True)
class _IdentityAfter:
    """A tangent map that leaves vectors as they are after the end of their trajectory."""

    tangent: TangentMap
    lengths: tuple[int, ...]

    def push(self, t: int, vectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        return torch.where(self._running(t, vectors), self.tangent.push(t, vectors), vectors)

    def pull(self, t: int, covectors: Float[Tensor, "B n k"]) -> Float[Tensor, "B n k"]:
        return torch.where(self._running(t, covectors), self.tangent.pull(t, covectors), covectors)

    def push_all(self, vectors: Float[Tensor, "T B n k"]) -> Float[Tensor, "T B n k"]:
        return torch.stack([self.push(t, frame) for t, frame in enumerate(vectors)])

    def _running(self, t: int, like: Tensor) -> Bool[Tensor, "B 1 1"]:
        return (torch.tensor(self.lengths, device=like.device) > t)[:, None, None]


def analysed_map(
    system: System,
    inputs: Tensor | PackedSequence | None,
    state: Any,
    *,
    steps: int | None,
    layer: int | None,
    dtype: torch.dtype | None,
    state_transient: int,
) -> DrivenMap:
    """Validate a system whose trajectories all have steps left after the transient.

    Raises:
        FlossingError: as `linearise`, except for a trajectory that diverges.
    """
    problem = driven_map(system, inputs, state, steps=steps, layer=layer, dtype=dtype)
    state_transient = require_integer("state_transient", state_transient, at_least=0)
    shortest = min(problem.lengths)
    if state_transient >= shortest:
        which = "the trajectory" if len(problem.lengths) == 1 else "the shortest trajectory"
        raise InvalidInputError(
            f"{which} has {shortest} steps, which leaves none after "
            f"state_transient={state_transient}: pass a longer sequence or a smaller transient"
        )
    return problem
