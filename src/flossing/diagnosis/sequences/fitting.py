"""Sequences fitted to a network: noise of its input size, lengths, features and precision."""

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import InvalidInputError
from flossing.support.checks import require_integer
from flossing.tasks.base import LARGEST_TORCH_SEED


def normal_noise(
    steps: int, trajectories: int, features: int, *, seed: int = 0
) -> Float[Tensor, "T B D"]:
    """Draw independent standard normal inputs.

    Args:
        steps: T.
        trajectories: B.
        features: D.
        seed: From 0 to 2⁶⁴ − 1; the global random state is left alone.

    Raises:
        InvalidOptionError: An argument is not an `int` in its range.

    Example:
        >>> normal_noise(100, 4, 2).shape
        torch.Size([100, 4, 2])
    """
    require_integer("steps", steps, at_least=1)
    require_integer("trajectories", trajectories, at_least=1)
    require_integer("features", features, at_least=1)
    require_integer("seed", seed, at_least=0, at_most=LARGEST_TORCH_SEED)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, trajectories, features, generator=generator)


def shortened(
    inputs: Float[Tensor, "T B D"], *, steps: int | None = None, trajectories: int | None = None
) -> Float[Tensor, "T2 B2 D"]:
    """Return the first steps of the first trajectories.

    Args:
        inputs: Sequences.
        steps: Maximum number of steps; `None` for all.
        trajectories: Maximum number of trajectories; `None` for all.

    Raises:
        InvalidOptionError: A maximum is not an `int` of at least 1.

    Example:
        >>> shortened(torch.zeros(100, 4, 2), steps=50, trajectories=8).shape
        torch.Size([50, 4, 2])
    """
    for name, limit in (("steps", steps), ("trajectories", trajectories)):
        if limit is not None:
            require_integer(name, limit, at_least=1)
    return inputs[:steps, :trajectories]


def fit_to(
    inputs: Float[Tensor, "T B D"], *, features: int | None, dtype: torch.dtype
) -> Float[Tensor, "T B D"]:
    """Return inputs in the precision of a network.

    Args:
        inputs: Sequences.
        features: Number of features that the network takes; `None` if unknown.
        dtype: Precision of the network.

    Raises:
        InvalidInputError: The number of features differs, or inputs are infinite or NaN in the
            precision of the network.

    Example:
        >>> fit_to(torch.zeros(10, 1, 3), features=2, dtype=torch.float32)
        Traceback (most recent call last):
        ...
        flossing.errors.InvalidInputError: the inputs have 3 features, but the network takes 2: \
select the right columns, or check the order of the axes (shape (steps, trajectories, features) = \
(10, 1, 3))
    """
    if features is not None and inputs.shape[-1] != features:
        raise InvalidInputError(
            f"the inputs have {inputs.shape[-1]} features, but the network takes {features}: "
            "select the right columns, or check the order of the axes (shape (steps, trajectories, "
            f"features) = {tuple(inputs.shape)})"
        )
    fitted = inputs.to(dtype)
    finite = torch.isfinite(fitted).flatten(1).all(dim=1)
    if not bool(finite.all()):
        step = int(finite.to(torch.int8).argmin())
        raise InvalidInputError(
            f"the inputs are infinite or NaN in {dtype} at step {step} of {len(inputs)} (counted "
            "from 0): clean or rescale them"
        )
    return fitted
