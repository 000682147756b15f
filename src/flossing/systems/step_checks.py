"""What has to hold of a step that is known only by calling it, checked by calling it.

The tangent maps of such a step (see `flossing.systems.cell_tangent`) evaluate it on the states of
many steps in one batch, and take J v from the derivative of its backward pass. Both give numbers
that look right for a step whose rows feel one another, or whose backward pass has no derivative of
its own. So each is compared with something that cannot have the same flaw. See
docs/mathematics.md, Tangent maps of the layers.
"""

import warnings
from dataclasses import dataclass
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
    gradient_of,
    jacobian_vector,
    vector_jacobian,
)

# One row in a thousand may differ: a threshold unit whose input is within rounding of its threshold
# fires in a batch of one size and not in one of another.
_SHARE_OF_ROWS = 1e-3

# What the companions of a row differ by, as a share of its entries.
_PERTURBATION = 0.1

# States along the trajectory at which derivatives are compared with finite differences.
_PLACES = 16

# What a difference may be off by in roundings of the values: an amplitude below tells nothing.
_ROUNDINGS = 100

# Multiple of the distance between differences over two widths that their error may reach.
_OWN_ERRORS = 4


def require_independent_rows(
    step: RowStep,
    inputs: Float[Tensor, "T B *features"] | None,
    states: Float[Tensor, "T B n"],
    images: Float[Tensor, "T B n"],
) -> None:
    """Compare the states after steps, taken one after another, with all steps at once.

    Duplicated rows would not do: a branch on the first row, or a batch mean, treats them alike.
    Where all states are equal, at a fixed point, this has nothing to compare: see `companions`.

    Raises:
        UnsupportedSystemError: a row's result depends on the rows beside it.
    """
    steps, batch, size = states.shape
    window = max(1, ROW_ELEMENTS // (batch * size))
    differing = 0
    with torch.no_grad():
        for start in range(0, steps, window):
            part = slice(start, start + window)
            # In reverse order, for a single step would be in a batch of the same rows.
            row_inputs = None if inputs is None else inputs[part].flatten(0, 1).flip(0)
            found = step(row_inputs, states[part].flatten(0, 1).flip(0)).flip(0)
            differing += int(_rows_differ(found, images[part].flatten(0, 1)).sum())
    if differing > max(1, _SHARE_OF_ROWS * steps * batch):
        raise UnsupportedSystemError(
            f"{differing} of {steps * batch} steps have another result when they are "
            "computed in one batch than one after another: the rows of a batch depend on one "
            "another (a Python `if` on one row, a batch mean, batch normalisation in train mode), "
            "or the step remembers earlier calls; write it so that every row is on its own "
            "(torch.where, .eval()), and keep all memory in the state"
        )


def companions(rows: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Return states near the given ones, with the same signs, that no row should feel.

    A batch mean shows beside other states only, and those of a trajectory may be equal.
    """
    size = rows.abs().mean()
    scale = torch.where(rows != 0, rows.abs(), torch.where(size > 0, size, torch.ones_like(size)))
    (noise,) = _random_rows(1, rows)
    return rows + _PERTURBATION * scale * torch.tanh(noise)


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
    covectors, vectors = _random_rows(2, rows)
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
            "autograd function marked once_differentiable, a fused kernel, or a part in a lower "
            "precision does this; write it in differentiable operations, in the precision of the "
            "state. Without gradients (torch.no_grad()) "
            "exponents can be measured with backend='reference'"
        )


def warn_of_other_derivatives(
    step: RowStep,
    inputs: Float[Tensor, "T B *features"] | None,
    states: Float[Tensor, "T B n"],
    system: Any,
) -> None:
    """Compare a step's derivatives with central differences along a trajectory.

    Once for each system: those of its values, and where gradients are enabled, those of its
    backward pass, which the gradients of exponents follow.
    """
    twice = torch.is_grad_enabled()
    # Not every callable can be a key: a bound method is another object at every access.
    owner = getattr(system, "__self__", system)
    try:
        if twice in _compared.setdefault(owner, set()):
            return
        _compared[owner] |= {False, twice}
    except TypeError:
        pass
    places = _Places.along(step, inputs, states)
    # Truncation and rounding of the differences themselves come to some 1e-9, or 1e-3 in float32.
    limit = 1e-4 if states.dtype == torch.float64 else 3e-2
    name = getattr(system, "__name__", type(system).__name__)
    ignore = (
        "If this is intended, ignore it: "
        "warnings.simplefilter('ignore', flossing.DerivativeMismatchWarning)"
    )
    if (mismatch := places.mismatch()) > limit:
        warnings.warn(
            f"the derivatives of {name} by automatic differentiation differ from finite "
            f"differences, by {100 * mismatch:.2g} % in the median over random directions: it has "
            "a surrogate gradient, a detached or quantised path, or an operation without a "
            f"derivative. Exponents follow automatic differentiation. {ignore}",
            DerivativeMismatchWarning,
            stacklevel=2,
        )
    # Of a surrogate gradient the second derivatives follow the surrogate, too.
    elif twice and (mismatch := places.second_mismatch()) > limit:
        warnings.warn(
            f"the derivatives of the backward pass of {name} by automatic differentiation differ "
            f"from finite differences, by {100 * mismatch:.2g} % in the median over random "
            "directions: exponents are right, their gradients are not. A custom autograd function "
            "saves results of its forward pass that have no graph, such as a slope: let it save "
            f"its inputs, and compute from these in its backward pass. {ignore}",
            DerivativeMismatchWarning,
            stacklevel=2,
        )


# Systems that have been compared with finite differences, as long as they exist; with True among
# the values for the backward pass, too.
_compared: "WeakKeyDictionary[Any, set[bool]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class _Places:
    """States along a trajectory where derivatives are compared with central differences.

    (f(h + εv) − f(h − εv)) / 2ε differs from J v by ε² f‴/6 and by rounding, eps f/ε. The width
    ε = eps^⅓ balances them, in units of the states' own size.
    """

    step: RowStep
    inputs: Float[Tensor, "R *features"] | None
    states: Float[Tensor, "R n"]
    width: Float[Tensor, ""]

    @classmethod
    def along(
        cls, step: RowStep, inputs: Float[Tensor, "T B *features"] | None, states: Tensor
    ) -> "_Places":
        """Choose some steps of a trajectory, with all of their rows."""
        chosen = torch.linspace(0, len(states) - 1, _PLACES).round().long()
        places = states[chosen].detach().flatten(0, 1)
        size = places.square().mean().sqrt()
        width = torch.finfo(places.dtype).eps ** (1 / 3)
        return cls(
            step,
            None if inputs is None else inputs[chosen].detach().flatten(0, 1),
            places,
            width * torch.where(size > 0, size, torch.ones_like(size)),
        )

    def mismatch(self) -> float:
        """Return by how much ⟨Jᵀ g, v⟩ is off: the median over random g and v, as a share."""
        covectors, vectors = _random_rows(2, self.states)
        with torch.no_grad():
            above, below = (
                self.step(self.inputs, self.states + sign * self.width * vectors)
                for sign in (1, -1)
            )
        slopes = (above - below) / (2 * self.width)
        pulled = vector_jacobian(self.step, self.inputs, self.states, covectors)
        difference = ((covectors * slopes).sum(-1) - (pulled * vectors).sum(-1)).abs()
        # Of random directions ⟨g, J v⟩ is about ‖g‖ ‖J v‖ / √n.
        scale = torch.maximum(
            _length(covectors) * _length(slopes), _length(pulled) * _length(vectors)
        )
        return self._median(difference, scale, _length(covectors) * _length(above))

    def second_mismatch(self) -> float:
        """Return by how much the derivative of ⟨g, J v⟩ along a third direction is off."""
        covectors, vectors, directions = _random_rows(3, self.states)

        def pulled(multiple: int) -> Tensor:
            moved = self.states + multiple * self.width * directions
            return vector_jacobian(self.step, self.inputs, moved, covectors)

        slopes, wider = ((pulled(m) - pulled(-m)) / (2 * m * self.width) for m in (1, 2))
        with torch.enable_grad():
            states = self.states.detach().requires_grad_()
            pushed = jacobian_vector(self.step, self.inputs, states, vectors)
            gradient = gradient_of(pushed, states, covectors, create_graph=False)
        # Of a linear step there is none.
        gradient = torch.zeros_like(states) if gradient is None else gradient
        expected, rough = (slopes * vectors).sum(-1), (wider * vectors).sum(-1)
        # What is left beyond the error of the differences, by their own account: bends within
        # their reach, as of a steep function, and slopes of a few roundings tell nothing.
        own_error = _OWN_ERRORS * (rough - expected).abs()
        difference = ((gradient * directions).sum(-1) - expected).abs() - own_error
        scale = torch.maximum(
            _length(slopes) * _length(vectors), _length(gradient) * _length(directions)
        )
        # A step takes states to states of the same size: its slopes are rounded as numbers of
        # about one are, those of a saturated unit, 1 − tanh², too.
        values = (_length(pulled(0)) + _length(covectors)) * _length(vectors)
        return self._median(difference, scale, values)

    def _median(
        self, difference: Float[Tensor, "R"], scale: Float[Tensor, "R"], values: Float[Tensor, "R"]
    ) -> float:
        rounding = _ROUNDINGS * torch.finfo(scale.dtype).eps * values / self.width
        mismatch = difference / ((scale + rounding) / self.states.shape[-1] ** 0.5)
        # Places beside the domain of a map have nothing to compare; the median passes over kinks.
        return float(torch.nanmedian(torch.where(mismatch.isfinite(), mismatch, torch.nan)))


def _rows_differ(images: Float[Tensor, "R n"], expected: Float[Tensor, "R n"]) -> Bool[Tensor, "R"]:
    # Half of the digits: products round differently in batches of different sizes.
    tolerance = torch.finfo(images.dtype).eps ** 0.5
    close = torch.isclose(images, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    return ~close.all(dim=-1)


def _length(rows: Float[Tensor, "R n"]) -> Float[Tensor, "R"]:
    return vector_norm(rows, dim=-1)


def _random_rows(count: int, like: Float[Tensor, "R n"]) -> tuple[Float[Tensor, "R n"], ...]:
    """Return tensors of normal numbers, the same at every call and on every device."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count, *like.shape, generator=generator, dtype=torch.float64)
    return tuple(rows.to(like))
