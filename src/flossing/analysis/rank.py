"""How many singular values of a gradient matter."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class GradientRank:
    """The singular values σ of the gradient of one matrix, and how many of them matter.

    The ranks lie between 1, for an outer product of two vectors, and the number of singular values,
    where all are equal; those of a gradient of zero are 0.

    Attributes:
        singular_values: (r,), in descending order.
    """

    singular_values: Float[Tensor, "r"]

    @property
    def participation_ratio(self) -> float:
        """(Σσ²)² / Σσ⁴, the number of equal σ² that would be as spread out."""
        squares = self._relative.square()
        # The largest is 1, unless all are 0.
        return float(squares.sum().square() / squares.square().sum().clamp(min=1.0))

    @property
    def stable_rank(self) -> float:
        """Σσ² / max σ² = ‖G‖_F² / ‖G‖₂² (Rudelson & Vershynin 2007)."""
        return float(self._relative.square().sum())

    @property
    def entropy_rank(self) -> float:
        """exp(−Σ p log p) with p = σ / Σσ (Roy & Vetterli 2007)."""
        total = self._relative.sum()
        if not total:
            return 0.0
        shares = self._relative / total
        return float(torch.xlogy(shares, shares).sum().neg().exp())

    @property
    def _relative(self) -> Float[Tensor, "r"]:
        # Squares of small gradients underflow; the ranks do not depend on the scale.
        values = self.singular_values.double()
        return values / torch.where(values[0] > 0, values[0], 1.0)


@dataclass(frozen=True)
class EffectiveRank:
    """The gradients of weight matrices for one loss.

    Attributes:
        matrices: of each matrix, by the name of the parameter.
        gates: of GRUs and LSTMs, the rows of each gate on their own, by the name of the parameter
            and that of the gate: "reset", "update", "new"; "input", "forget", "cell", "output".
        loss: the loss.
    """

    matrices: Mapping[str, GradientRank]
    gates: Mapping[str, Mapping[str, GradientRank]]
    loss: float
