"""A trajectory with its tangent map, without gradients: the common first step of all analyses."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import InvalidInputError
from flossing.support.autocast import without_autocast
from flossing.support.checks import require_integer
from flossing.support.eval_mode import in_eval_mode
from flossing.systems.recurrence import DrivenMap, System, driven_map
from flossing.systems.tangent import TangentMap
from flossing.systems.trajectory import check_finite, trajectory


@dataclass(frozen=True)
class Linearisation:
    """The states of B trajectories and their tangent map.

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
        """T, without the transient."""
        return len(self.states) - 1

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

    Arguments are those of `flossing.lyapunov_spectrum`; sequences must have equal lengths.
    `exponents` is the number of tangent vectors that will be multiplied at a time, `None` for n:
    it decides whether explicit Jacobians of a custom cell pay.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: invalid inputs, sequences of different lengths, or no steps left after
            the transient.
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
        check_finite(states, start)
        tangent = problem.recurrence.tangent(
            problem.inputs_from(start, stop), states[:-1], exponents or problem.tangent_size
        )
    return Linearisation(problem, states, tangent)


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
    """Validate a system whose trajectories all have the same number of steps and some transient.

    Raises:
        FlossingError: as `linearise`, except for a trajectory that diverges.
    """
    problem = driven_map(system, inputs, state, steps=steps, layer=layer, dtype=dtype)
    require_integer("state_transient", state_transient, at_least=0)
    if min(problem.lengths) != problem.steps:
        raise InvalidInputError(
            f"the sequences have different lengths, from {min(problem.lengths)} to "
            f"{problem.steps} steps: analyse sequences of one length at a time"
        )
    if state_transient >= problem.steps:
        raise InvalidInputError(
            f"the trajectory has {problem.steps} steps, which leaves none after "
            f"state_transient={state_transient}: pass a longer sequence or a smaller transient"
        )
    return problem
