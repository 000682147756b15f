"""What has to hold of a step that is known only by calling it, checked by calling it.

The tangent maps of such a step (see `flossing.systems.cell_tangent`) evaluate it on the states of
many steps in one batch, and take J v from the derivative of its backward pass. Both give numbers
that look right for a step whose rows feel one another, or whose backward pass has no derivative of
its own. So each is compared with something that cannot have the same flaw. See
docs/mathematics.md, Tangent maps of the layers.
"""

import warnings
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flossing.errors import DerivativeMismatchWarning, UnsupportedSystemError
from flossing.support.torch_typed import vector_norm
from flossing.systems.cell_tangent import (
    ROW_ELEMENTS,
    RowStep,
    jacobian_vector,
    vector_jacobian,
)

# One row in a thousand may differ: a threshold unit whose input is within rounding of its threshold
# fires in a batch of one size and not in one of another.
_SHARE_OF_ROWS = 1e-3

# States along the trajectory at which derivatives are compared with finite differences.
_PLACES = 16

# What a difference may be off by in roundings of the values: an amplitude below tells nothing.
_ROUNDINGS = 100


def require_independent_rows(
    step: RowStep,
    inputs: Float[Tensor, "T B *features"] | None,
    states: Float[Tensor, "T B n"],
    images: Float[Tensor, "T B n"],
) -> None:
    """Compare the states after steps, taken one after another, with all steps at once.

    Duplicated rows would not do: a branch on the first row, or a batch mean, treats them alike.

    Raises:
        UnsupportedSystemError: a row's result depends on the rows beside it.
    """
    steps, batch, size = states.shape
    window = max(1, ROW_ELEMENTS // (batch * size))
    differing = 0
    with torch.no_grad():
        for start in range(0, steps, window):
            part = slice(start, start + window)
            row_inputs = None if inputs is None else inputs[part].flatten(0, 1)
            found = step(row_inputs, states[part].flatten(0, 1))
            differing += int(_rows_differ(found, images[part].flatten(0, 1)).sum())
    if differing > max(1, _SHARE_OF_ROWS * steps * batch):
        raise UnsupportedSystemError(
            f"{differing} of {steps * batch} steps have another result when they are "
            "computed in one batch than one after another: the rows of a batch depend on one "
            "another (a Python `if` on one row, a batch mean, batch normalisation in train mode), "
            "or the step remembers earlier calls; write it so that every row is on its own "
            "(torch.where, .eval()), and keep all memory in the state"
        )


def require_second_derivatives(
    step: RowStep, inputs: Float[Tensor, "T B *features"] | None, states: Float[Tensor, "T B n"]
) -> None:
    """Compare ⟨g, J v⟩ with ⟨Jᵀ g, v⟩ at random g and v, at the first, middle and last step.

    Jᵀ g takes the step's backward pass, J v the derivative of that pass. A backward pass without a
    derivative (`once_differentiable`, a fused kernel) drops out of the second, silently if there
    are other paths; rounding alone makes no difference larger than some units of the last place.

    Raises:
        UnsupportedSystemError: they differ.
    """
    chosen = sorted({0, len(states) // 2, len(states) - 1})
    rows = states[chosen].flatten(0, 1)
    row_inputs = None if inputs is None else inputs[chosen].flatten(0, 1)
    covectors, vectors = _random_pair(rows)
    with torch.enable_grad():
        pushed = jacobian_vector(step, row_inputs, rows.detach(), vectors).detach()
    pulled = vector_jacobian(step, row_inputs, rows, covectors)
    first, second = (covectors * pushed).sum(-1), (pulled * vectors).sum(-1)
    scale = _length(covectors) * _length(pushed) + _length(pulled) * _length(vectors)
    defect = float(((first - second).abs() / scale.clamp(min=torch.finfo(rows.dtype).tiny)).amax())
    # A correct step is off by 1e-15 or 1e-7, a dropped path by a sizeable part of one.
    if not defect <= torch.finfo(rows.dtype).eps ** 0.5:
        raise UnsupportedSystemError(
            "the backward pass of the step cannot be differentiated: of random vectors, "
            f"⟨g, J v⟩ and ⟨Jᵀ g, v⟩ differ by {100 * defect:.2g} % of their scale. A custom "
            "autograd function marked once_differentiable, or a fused kernel, makes a part of it; "
            "write that part in differentiable operations. Without gradients (torch.no_grad()) "
            "exponents can be measured with backend='reference'"
        )


def warn_of_other_derivatives(
    step: RowStep,
    inputs: Float[Tensor, "T B *features"] | None,
    states: Float[Tensor, "T B n"],
    system: Any,
) -> None:
    """Compare ⟨Jᵀ g, v⟩ with central differences along a trajectory, once for each system."""
    # Not every callable can be a key: a bound method is another object at every access.
    owner = getattr(system, "__self__", system)
    try:
        if owner in _compared:
            return
        _compared[owner] = None
    except TypeError:
        pass
    mismatch = _derivative_mismatch(step, inputs, states)
    # Truncation and rounding of the differences themselves come to some 1e-9, or 1e-3 in float32.
    if mismatch > (1e-4 if states.dtype == torch.float64 else 3e-2):
        name = getattr(system, "__name__", type(system).__name__)
        warnings.warn(
            f"the derivatives of {name} by automatic differentiation differ from finite "
            f"differences, by {100 * mismatch:.2g} % in the median over random directions: it has "
            "a surrogate gradient, a detached or quantised path, or an operation without a "
            "derivative. Exponents follow automatic differentiation. If this is intended, ignore "
            "it: warnings.simplefilter('ignore', flossing.DerivativeMismatchWarning)",
            DerivativeMismatchWarning,
            stacklevel=2,
        )


# Systems that have been compared with finite differences, as long as they exist.
_compared: "WeakKeyDictionary[Any, None]" = WeakKeyDictionary()


def _derivative_mismatch(
    step: RowStep, inputs: Float[Tensor, "T B *features"] | None, states: Float[Tensor, "T B n"]
) -> float:
    """Return the median relative difference over random directions and places."""
    # (f(h + εv) − f(h − εv)) / 2ε differs from J v by ε² f‴/6 and by rounding, eps f/ε. The width
    # ε = eps^⅓ balances them, in units of the states' own size.
    chosen = torch.linspace(0, len(states) - 1, _PLACES).round().long()
    places = states[chosen].detach().flatten(0, 1)
    row_inputs = None if inputs is None else inputs[chosen].detach().flatten(0, 1)
    covectors, vectors = _random_pair(places)
    numbers = torch.finfo(places.dtype)
    size = places.square().mean().sqrt()
    width = numbers.eps ** (1 / 3) * torch.where(size > 0, size, torch.ones_like(size))
    with torch.no_grad():
        above, below = (step(row_inputs, places + sign * width * vectors) for sign in (1, -1))
    slopes = (above - below) / (2 * width)
    pulled = vector_jacobian(step, row_inputs, places, covectors)
    expected, found = (covectors * slopes).sum(-1), (pulled * vectors).sum(-1)
    # Of random directions ⟨g, J v⟩ is about ‖g‖ ‖J v‖ / √n.
    scale = torch.maximum(_length(covectors) * _length(slopes), _length(pulled) * _length(vectors))
    rounding = _ROUNDINGS * numbers.eps * _length(covectors) * _length(above) / width
    mismatch = (expected - found).abs() / ((scale + rounding) / places.shape[-1] ** 0.5)
    # Places beside the domain of a map have nothing to compare; the median passes over kinks.
    return float(torch.nanmedian(torch.where(mismatch.isfinite(), mismatch, torch.nan)))


def _rows_differ(images: Float[Tensor, "R n"], expected: Float[Tensor, "R n"]) -> Bool[Tensor, "R"]:
    # Half of the digits: products round differently in batches of different sizes.
    tolerance = torch.finfo(images.dtype).eps ** 0.5
    close = torch.isclose(images, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    return ~close.all(dim=-1)


def _length(rows: Float[Tensor, "R n"]) -> Float[Tensor, "R"]:
    return vector_norm(rows, dim=-1)


def _random_pair(like: Float[Tensor, "R n"]) -> tuple[Float[Tensor, "R n"], Float[Tensor, "R n"]]:
    """Return two tensors of normal numbers, the same at every call and on every device."""
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *like.shape, generator=generator, dtype=torch.float64).to(like)
    return pair[0], pair[1]
