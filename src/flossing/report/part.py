"""A part of what drives a network, for analyses whose cost grows with every step."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Part:
    """The first steps after the state transient, of the first trajectories.

    Attributes:
        steps: How many steps are analysed.
        all_steps: How many there are.
        trajectories: How many trajectories are analysed.
        all_trajectories: How many there are.
        options: The arguments for an analysis of this part.
    """

    steps: int
    all_steps: int
    trajectories: int
    all_trajectories: int
    options: dict[str, Any]

    @property
    def in_words(self) -> str:
        """What was analysed, and what was left out to keep the cost bounded.

        Example:
            >>> part = Part(steps=9, all_steps=90, trajectories=1, all_trajectories=4, options={})
            >>> print(part.in_words)
            this is about the first 9 of 90 steps after the state transient, and
            1 of 4 trajectories.
        """
        steps = (
            f"all {self.steps} steps"
            if self.steps == self.all_steps
            else f"the first {self.steps} of {self.all_steps} steps"
        )
        whole = {1: "the one trajectory", 2: "both trajectories"}
        trajectories = (
            whole.get(self.trajectories, f"all {self.trajectories} trajectories")
            if self.trajectories == self.all_trajectories
            else f"{self.trajectories} of {self.all_trajectories} trajectories"
        )
        return f"this is about {steps} after the state transient, and {trajectories}."


def affordable(budget: int | float, cost: int | float, *, most: int) -> int:
    """Return how many items of equal cost a budget allows: at least one.

    Args:
        budget: In any unit.
        cost: Of one item, in the same.
        most: How many there should be at most.

    Example:
        >>> affordable(100, 30, most=8), affordable(100, 1, most=8), affordable(100, 500, most=8)
        (3, 8, 1)
    """
    return max(1, min(most, int(budget / cost)))
