"""A trajectory with its tangent map, without gradients: what every analysis starts from."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import InvalidInputError
from flossing.support.checks import require_integer
from flossing.systems.recurrence import DrivenMap, System, driven_map
from flossing.systems.tangent import TangentMap
from flossing.systems.trajectory import check_finite, trajectory


@dataclass(frozen=True)
class Linearisation:
    """The states of B trajectories and how tangent vectors move along them.

    Attributes:
        problem: the map with its inputs, checked; its steps include the transient.
        states: the flat states before the first step and after each one, [T+1, B, S].
        tangent: the Jacobians J_t of the T steps, by what they do to vectors.
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

    Args:
        system: see `flossing.lyapunov_spectrum`.
        inputs: see there; sequences must be equally long.
        state: see there.
        steps: see there.
        layer: see there.
        dtype: see there.
        state_transient: so many first steps only bring the state to where the analysis starts.
        exponents: how many tangent vectors will go through the Jacobians at a time; `None` for n.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: bad inputs, sequences of different lengths, or none left after the
            transient.
        InvalidStateError: a bad initial state.
        InvalidOptionError: an option outside what it may be.
        NonFiniteError: the trajectory diverges.
    """
    with torch.inference_mode(False), torch.no_grad():
        problem = analysed_map(
            system,
            inputs,
            state,
            steps=steps,
            layer=layer,
            dtype=dtype,
            state_transient=state_transient,
        )
        with torch.autocast(problem.state.device.type, enabled=False):
            return _linearise(problem, state_transient, exponents or problem.tangent_size)


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
    """Check a system that is to be analysed after a transient, the same steps in each trajectory.

    Raises:
        FlossingError: what `linearise` raises, except for a trajectory that diverges.
    """
    problem = driven_map(system, inputs, state, steps=steps, layer=layer, dtype=dtype)
    require_integer("state_transient", state_transient, at_least=0)
    if min(problem.lengths) != problem.steps:
        raise InvalidInputError(
            f"the sequences have different lengths, from {min(problem.lengths)} to "
            f"{problem.steps} steps: analyse those of one length at a time"
        )
    if state_transient >= problem.steps:
        raise InvalidInputError(
            f"the trajectory has {problem.steps} steps, which leaves none after "
            f"state_transient={state_transient}: pass a longer sequence or a smaller transient"
        )
    return problem


def _linearise(problem: DrivenMap, start: int, exponents: int) -> Linearisation:
    stop = problem.steps
    states = trajectory(problem, problem.state, 0, stop, "detach")[start:]
    check_finite(states, start)
    tangent = problem.recurrence.tangent(problem.inputs_from(start, stop), states[:-1], exponents)
    return Linearisation(problem, states, tangent)
