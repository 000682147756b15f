"""The adjoint of a trajectory's states: δ_t = g_t + J_{t+1}ᵀ δ_{t+1}."""

from typing import Any

from flossing.scan.compiled.machine import compiled
from flossing.scan.compiled.tangents import pull, share


@compiled
def adjoint_of_states(tangent: Any, covectors: Any, carried: Any, start: int, window: int) -> None:
    """Add to the gradient of every state what reaches it through later ones.

    Args:
        tangent: the tangent map of every step, for one vector a trajectory.
        covectors: ∂L/∂h_t of the states after every step, as far as L depends on them directly
            [T, B, n]; afterwards in full.
        carried: zeros [B, n]; afterwards the gradient of the state before the first step.
        start: the number of the first step.
        window: nothing passes from before to after every `window`-th step; 0 for no such cut.
    """
    steps, trajectories, size = covectors.shape
    whole = share(0, 1, trajectories, 1)
    for step in range(steps - 1, -1, -1):
        for trajectory in range(trajectories):
            for unit in range(size):
                carried[trajectory, unit] += covectors[step, trajectory, unit]
                covectors[step, trajectory, unit] = carried[trajectory, unit]
        pull(tangent, step, whole, carried)
        number = start + step
        if window > 0 and number > 0 and number % window == 0:
            for trajectory in range(trajectories):
                for unit in range(size):
                    carried[trajectory, unit] = 0
