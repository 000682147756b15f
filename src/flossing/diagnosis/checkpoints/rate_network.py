"""Rate networks: a matrix of recurrent weights, and what it takes to know the equation."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flossing.errors import InvalidCheckpointError, InvalidOptionError
from flossing.support.checks import require_choice, require_positive
from flossing.support.formatting import plural
from flossing.support.tensor_files import UNNAMED, require_values

Product: TypeAlias = Literal["Wx", "xW"]
Variable: TypeAlias = Literal["rate", "current"]

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "linear": torch.clone,
}
NONE = "none"
"""In place of an array's name: the network has none, whatever the file contains."""


@dataclass(frozen=True, kw_only=True)
class RateNetwork:
    r"""Description of a rate network, of which a file has only the arrays.

    With W, U and b for recurrent weights, input weights and bias, φ for the nonlinearity and a for
    the leak, a step is

    - r ← (1 − a) r + a φ(W r + U u + b) for `variable="rate"`,
    - x ← (1 − a) x + a (W φ(x) + U u + b) for `variable="current"`.

    Attributes:
        product: "Wx" if rows of W are the receiving units, (N, N) with U (N, D); "xW" if columns
            are, as in TensorFlow and JAX, with U (D, N).
        leak: a = dt / τ; 1 for a network in discrete time.
        nonlinearity: one of "tanh", "relu", "sigmoid", "softplus", "linear".
        variable: the state; needed if the leak is not 1.
        recurrent: name of W; may be left out if the file has a single array.
        inputs: name of U; `None` for a network that runs on its own.
        bias: name of b; `None` for zero.
        mask: name of a matrix by which W is multiplied, entry by entry; "none" for none.
        input_mask: the same for U.
        signs: name of the signs of the units (Dale's law), a vector or a diagonal matrix: weights
            are then the absolute values of W times the sign of the sending unit; "none" for none.
        absolute_inputs: with signs, "yes" if the absolute values of U count, as in PsychRNN, or
            "no".

    Raises:
        InvalidOptionError: a value is missing or invalid.
    """

    product: Product | None = None
    leak: float | None = None
    nonlinearity: str | None = None
    variable: Variable | None = None
    recurrent: str | None = None
    inputs: str | None = None
    bias: str | None = None
    mask: str | None = None
    input_mask: str | None = None
    signs: str | None = None
    absolute_inputs: str | None = None

    def __post_init__(self) -> None:
        # None of these can be told from the weights, and the exponents depend on all of them.
        require_choice("product of a rate network", self.product, ("Wx", "xW"))
        require_choice("nonlinearity of a rate network", self.nonlinearity, tuple(NONLINEARITIES))
        leak = require_positive("leak of a rate network (dt / tau)", self.leak, at_most=1.0)
        choices = ("rate", "current", *((None,) if leak == 1 else ()))
        require_choice("variable of a rate network", self.variable, choices)
        require_choice("absolute_inputs", self.absolute_inputs, ("yes", "no", None))


def rate_network_of(settings: Mapping[str, Any]) -> RateNetwork:
    """Return a rate network with the given fields.

    Raises:
        InvalidOptionError: There is no such field, or a value is missing or invalid.

    Example:
        >>> rate_network_of({"product": "Wx", "leak": "1", "nonlinearity": "tanh"}).leak
        1.0
    """
    known = [field.name for field in fields(RateNetwork)]
    for name in settings:
        require_choice("a setting of a rate network", name, known)
    values = dict(settings)
    if isinstance(leak := values.get("leak"), str | int) and not isinstance(leak, bool):
        # What is no number is refused as the text that it is.
        with suppress(ValueError):
            values["leak"] = float(leak)
    return RateNetwork(**values)


class RateCell(nn.Module):
    """A step of a rate network, (x_t, state) -> state, with rows of weights for receiving units."""

    def __init__(
        self,
        recurrent: Float[Tensor, "N N"],
        inputs: Float[Tensor, "N D"] | None,
        bias: Float[Tensor, "N"],
        told: RateNetwork,
    ) -> None:
        super().__init__()
        self.recurrent = nn.Parameter(recurrent)
        self.inputs = None if inputs is None else nn.Parameter(inputs)
        self.bias = nn.Parameter(bias)
        # Without input weights one feature is read, and does nothing.
        self.input_size = 1 if inputs is None else inputs.shape[1]
        self._phi = NONLINEARITIES[told.nonlinearity or "tanh"]
        self._leak = float(told.leak or 1.0)
        self._current = told.variable == "current"

    def forward(self, x: Float[Tensor, "B D"], state: Float[Tensor, "B N"]) -> Tensor:
        """Return the next state."""
        drive = self.bias if self.inputs is None else x @ self.inputs.T + self.bias
        if self._current:
            target = self._phi(state) @ self.recurrent.T + drive
        else:
            target = self._phi(state @ self.recurrent.T + drive)
        return (1 - self._leak) * state + self._leak * target

    def initial_state(self, trajectories: int) -> Float[Tensor, "B N"]:
        """Return standard normal states: zero may be a fixed point, and a kink of the ReLU."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(trajectories, len(self.bias), generator=generator).to(self.bias)


def build_rate_network(
    tensors: Mapping[str, Tensor], told: RateNetwork
) -> tuple[RateCell, str, tuple[str, ...]]:
    """Build the network of the described arrays.

    Returns:
        The network, its summary, and the names of the arrays that it does not use.

    Raises:
        InvalidOptionError: an array is missing, or one that may be a mask or signs is not named.
        InvalidCheckpointError: an array has the wrong shape or values.
    """
    arrays = _Arrays(tensors)
    recurrent = arrays.take("recurrent", told.recurrent or arrays.only())
    assert recurrent is not None
    size = len(recurrent)
    _require_shape("recurrent", recurrent, (size, size))
    inputs = arrays.take("inputs", told.inputs)
    if inputs is not None:
        features = inputs.numel() // size
        shape = (size, features) if told.product == "Wx" else (features, size)
        _require_shape("inputs", inputs, shape, f" for product={told.product}")
    bias = arrays.take("bias", told.bias)
    masked = arrays.masked("mask", told.mask, recurrent)
    signs = arrays.signs(told.signs, size)
    if inputs is not None:
        inputs = arrays.masked("input_mask", told.input_mask, inputs)
        if signs is not None and bool((inputs < 0).any()):
            if told.absolute_inputs is None:
                raise InvalidOptionError(
                    "the rate network has signs, and some of its input weights are negative: pass "
                    "absolute_inputs=yes if their absolute values count, as in PsychRNN, or =no"
                )
            inputs = inputs.abs() if told.absolute_inputs == "yes" else inputs
    if signs is not None:
        # Of the sending unit: a column for "Wx", a row for "xW".
        masked = masked.abs() * (signs if told.product == "Wx" else signs.unsqueeze(1))
    bias = recurrent.new_zeros(size) if bias is None else bias.reshape(-1)
    _require_shape("bias", bias, (size,))
    if told.product == "xW":
        masked, inputs = masked.T, None if inputs is None else inputs.T
    dtype = torch.float32 if masked.dtype == bias.dtype == torch.float32 else torch.float64
    cell = RateCell(
        masked.to(dtype).contiguous(),
        None if inputs is None else inputs.to(dtype).contiguous(),
        bias.to(dtype),
        told,
    )
    driven = "no inputs" if inputs is None else plural(cell.input_size, "input")
    summary = (
        f"rate network: {driven}, {plural(size, 'unit')}, {told.nonlinearity}, leak {told.leak:g}, "
        f"state is the {told.variable or 'rate'}, {str(dtype).removeprefix('torch.')}"
    )
    return cell, summary, tuple(name for name in tensors if name not in arrays.taken)


class _Arrays:
    """The arrays of a file, and which of them have been taken."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.taken: set[str] = set()

    def only(self) -> str:
        if len(self._tensors) == 1:
            return next(iter(self._tensors))
        raise InvalidOptionError(
            f"a rate network needs the name of its recurrent weights: pass recurrent=NAME, one of "
            f"{self._listed()}"
        )

    def take(self, role: str, name: str | None) -> Tensor | None:
        if name is None or name == NONE:
            return None
        if name not in self._tensors:
            raise InvalidOptionError(
                f"{role}={name}, but the file has no array {name!r}: choose from {self._listed()}"
            )
        tensor = self._tensors[name]
        require_values(name or "the array", tensor)
        if tensor.is_complex() or not bool(torch.isfinite(tensor).all()):
            raise InvalidCheckpointError(
                f"{name or 'the array'} ({role}) has complex, infinite or NaN entries; expected "
                "real numbers"
            )
        self.taken.add(name)
        return tensor if tensor.is_floating_point() else tensor.double()

    def masked(self, role: str, name: str | None, weights: Tensor) -> Tensor:
        if name is None:
            self._require_named(role, lambda each: _is_mask(each, weights))
        mask = self.take(role, name)
        if mask is None:
            return weights
        _require_shape(role, mask, tuple(weights.shape))
        return weights * mask

    def signs(self, name: str | None, size: int) -> Tensor | None:
        if name is None:
            self._require_named("signs", lambda each: _is_signs(each, size))
        signs = self.take("signs", name)
        if signs is None:
            return None
        signs = signs.diagonal() if tuple(signs.shape) == (size, size) else signs.reshape(-1)
        _require_shape("signs", signs, (size,))
        return signs

    def _require_named(self, role: str, could_be: Callable[[Tensor], bool]) -> None:
        found = [
            name
            for name, each in self._tensors.items()
            if name not in self.taken
            and each.layout is torch.strided
            and not each.is_meta
            and could_be(each)
        ]
        if found:
            raise InvalidOptionError(
                f"{', '.join(found[:4])} could be the {role} of the rate network: pass "
                f"{role}={found[0]}, or {role}={NONE} if it does not change the weights"
            )

    def _listed(self) -> str:
        return ", ".join(repr(name) for name in self._tensors if name != UNNAMED) or "none"


def _is_mask(tensor: Tensor, weights: Tensor) -> bool:
    """Whether a tensor has the shape of weights, and zeros and ones, but is no identity matrix."""
    if tensor.shape != weights.shape or _is_signs(tensor, len(weights)):
        return False
    return bool(((tensor == 0) | (tensor == 1)).all()) and bool((tensor == 0).any())


def _is_signs(tensor: Tensor, size: int) -> bool:
    """Whether a tensor has a sign for each unit, as a vector or a diagonal matrix."""
    if tuple(tensor.shape) not in ((size, size), (size,), (1, size), (size, 1)):
        return False
    if tuple(tensor.shape) == (size, size):
        if not torch.equal(tensor, tensor.diagonal().diag()):
            return False
        tensor = tensor.diagonal()
    return bool((tensor.abs() == 1).all())


def _require_shape(role: str, tensor: Tensor, shape: tuple[int, ...], why: str = "") -> None:
    if tuple(tensor.shape) != shape or 0 in shape:
        raise InvalidCheckpointError(
            f"the {role} of the rate network has the shape {tuple(tensor.shape)}; expected {shape}"
            f"{why}: check the name, and product"
        )
