"""Spiking networks: the surrogate gradient counts as the derivative of a spike."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

import flossing

# Surrogate gradients are not the derivatives of spikes, and users are told so.
pytestmark = pytest.mark.filterwarnings("ignore::flossing.DerivativeMismatchWarning")

UNITS = 5
FEATURES = 3
STEPS = 20
BATCH = 2
EXPONENTS = 3
SHARPNESS = 2.0

Derivative = Callable[[Tensor], Tensor]

both_precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-9)], ids=["single", "double"]
)
early_or_late_reset = pytest.mark.parametrize("reset_delay", [True, False], ids=["late", "early"])


# --- An own cell: recurrent leaky integrate-and-fire units ---


class Spike(torch.autograd.Function):
    """A step forward, the derivative of a fast sigmoid backward."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradient / (1 + SHARPNESS * distance.abs()) ** 2


class SpikingState(NamedTuple):
    membrane: Tensor
    spikes: Tensor


class RecurrentSpikingCell(nn.Module):
    """Leaky integration of inputs and spikes; a spike takes the threshold off."""

    def __init__(self):
        super().__init__()
        self.input_weight = nn.Parameter(torch.randn(UNITS, FEATURES))
        self.recurrent_weight = nn.Parameter(torch.randn(UNITS, UNITS) / math.sqrt(UNITS))
        self.leak = nn.Parameter(0.6 + 0.3 * torch.rand(UNITS))
        self.threshold = nn.Parameter(torch.tensor(0.7))

    def forward(self, inputs: Tensor, state: SpikingState) -> SpikingState:
        current = inputs @ self.input_weight.T + state.spikes @ self.recurrent_weight.T
        membrane = self.leak * state.membrane + current - self.threshold * state.spikes
        return SpikingState(membrane, Spike.apply(membrane - self.threshold))


# --- The naive reference: derivatives by hand, autograd through every QR ---


def fast_sigmoid_derivative(distance: Tensor) -> Tensor:
    return 1 / (1 + SHARPNESS * distance.abs()) ** 2


def fast_sigmoid(distance: Tensor) -> Tensor:
    return distance / (1 + SHARPNESS * distance.abs())


def arctangent_derivative(distance: Tensor) -> Tensor:
    return 1 / (1 + (math.pi * distance) ** 2)


def arctangent(distance: Tensor) -> Tensor:
    return torch.atan(math.pi * distance) / math.pi


def true_derivative(distance: Tensor) -> Tensor:
    return torch.zeros_like(distance)


def straight_through(distance: Tensor, smooth: Derivative) -> Tensor:
    """Return exact spikes whose gradient is that of a smooth function."""
    softened = smooth(distance)
    return (distance > 0).to(distance.dtype) + (softened - softened.detach())


def naive_exponents(jacobians: list[Tensor], frame: Tensor) -> Tensor:
    growth: list[Tensor] = []
    for jacobian in jacobians:
        frame, triangular = torch.linalg.qr(jacobian @ frame)
        growth.append(triangular.diagonal(dim1=-2, dim2=-1).abs().log())
    means = torch.stack(growth).mean(0)
    return means.gather(-1, means.detach().argsort(dim=-1, descending=True))


def own_cell_jacobians(
    cell: RecurrentSpikingCell, inputs: Tensor, state: SpikingState, derivative: Derivative
) -> list[Tensor]:
    """Return the Jacobians of every step, of the state as (membrane, spikes)."""
    membrane, spikes = state
    jacobians: list[Tensor] = []
    feedback = cell.recurrent_weight - cell.threshold * torch.eye(UNITS, dtype=inputs.dtype)
    to_membrane = torch.cat([torch.diag(cell.leak), feedback], dim=1)
    for x in inputs:
        membrane = cell.leak * membrane + x @ cell.input_weight.T + spikes @ feedback.T
        distance = membrane - cell.threshold
        to_spikes = derivative(distance).unsqueeze(-1) * to_membrane
        jacobians.append(torch.cat([to_membrane.expand_as(to_spikes), to_spikes], dim=1))
        spikes = straight_through(distance, fast_sigmoid)
    return jacobians


def orthonormal_frame(size: int, exponents: int, dtype: torch.dtype) -> Tensor:
    return torch.linalg.qr(torch.randn(BATCH, size, exponents, dtype=dtype)).Q


def flat_gradient(exponents: Tensor, tensors: list[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(exponents.square().mean(), tensors, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def assert_same(found: Tensor, expected: Tensor, tensors: list[Tensor], tolerance: float) -> None:
    """Compare exponents and the gradients of their mean square."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    right = flat_gradient(expected, tensors)
    error = flat_gradient(found, tensors) - right
    assert right.norm() > 0
    assert error.norm() <= tolerance * right.norm()


class OwnCase(NamedTuple):
    cell: RecurrentSpikingCell
    inputs: Tensor
    state: SpikingState
    frame: Tensor


def own_case(dtype: torch.dtype) -> OwnCase:
    cell = RecurrentSpikingCell().to(dtype)
    inputs = torch.randn(STEPS, BATCH, FEATURES, dtype=dtype)
    membrane = torch.rand(BATCH, UNITS, dtype=dtype)
    state = SpikingState(membrane, (membrane > cell.threshold).to(dtype))
    return OwnCase(cell, inputs, state, orthonormal_frame(2 * UNITS, EXPONENTS, dtype))


@both_precisions
def test_own_cell_agrees_with_jacobians_written_by_hand(dtype: torch.dtype, tolerance: float):
    cell, inputs, state, frame = own_case(dtype)
    inputs.requires_grad_()
    found = flossing.lyapunov_spectrum(cell, inputs, state, frame=frame).exponents
    expected = naive_exponents(
        own_cell_jacobians(cell, inputs, state, fast_sigmoid_derivative), frame
    )
    assert found.dtype == dtype
    assert_same(found, expected, [*cell.parameters(), inputs], tolerance)


def test_own_cell_spikes_and_sometimes_does_not():
    cell, inputs, state, _ = own_case(torch.float64)
    spikes: list[Tensor] = []
    for x in inputs:
        state = cell(x, state)
        spikes.append(state.spikes)
    rate = torch.stack(spikes).mean()
    assert 0.1 < rate < 0.9


def test_the_true_derivative_of_a_spike_would_give_other_exponents():
    cell, inputs, state, frame = own_case(torch.float64)
    found = flossing.lyapunov_spectrum(cell, inputs, state, frame=frame).exponents.detach()
    jacobians = own_cell_jacobians(cell, inputs, state, true_derivative)
    without_surrogate = naive_exponents(jacobians, frame).detach()
    assert bool(((found - without_surrogate).abs() > 0.02).all())


def test_own_cell_without_gradients_gives_the_same():
    cell, inputs, state, frame = own_case(torch.float64)
    with torch.no_grad():
        alone = flossing.lyapunov_spectrum(cell, inputs, state, frame=frame).exponents
    jacobians = own_cell_jacobians(cell, inputs, state, fast_sigmoid_derivative)
    expected = naive_exponents(jacobians, frame).detach()
    torch.testing.assert_close(alone, expected, rtol=1e-9, atol=1e-9)


def test_the_last_state_of_the_own_cell_is_a_named_tuple_of_spikes():
    cell, inputs, state, frame = own_case(torch.float64)
    last = flossing.lyapunov_spectrum(cell, inputs, state, frame=frame).final_state
    assert isinstance(last, SpikingState)
    assert bool(((last.spikes == 0) | (last.spikes == 1)).all())


def test_exponents_beyond_the_rank_of_the_own_cell_are_minus_infinity():
    """Spikes are a function of the new membrane, so the rank is the number of units."""
    cell, inputs, state, _ = own_case(torch.float64)
    with pytest.warns(flossing.LostRankWarning):
        exponents = flossing.lyapunov_spectrum(cell, inputs, state).exponents
    assert bool(torch.isfinite(exponents[:, :UNITS]).all())
    assert bool(torch.isneginf(exponents[:, UNITS:]).all())


@both_precisions
def test_flossing_the_own_cell_lowers_the_loss(dtype: torch.dtype, tolerance: float):
    cell, inputs, state, frame = own_case(dtype)
    before = cell.recurrent_weight.detach().clone()
    history = flossing.floss(cell, inputs, k=EXPONENTS, steps=10, lr=0.01, state=state, frame=frame)
    assert not bool(history.skipped.any())
    assert history.loss[-1] < 0.8 * history.loss[0]
    assert not torch.allclose(cell.recurrent_weight, before, rtol=tolerance)


# --- Cells of snnTorch ---


class Surrogate(NamedTuple):
    """A surrogate as snnTorch takes it, with its derivative and antiderivative by hand.

    Those of snnTorch return spikes, and so get their gradients, in single precision always.
    """

    function: Callable[[Tensor], Tensor] | None
    derivative: Derivative
    smooth: Derivative
    single_only: bool

    def tolerance(self, dtype: torch.dtype) -> float:
        if dtype == torch.float32:
            return 1e-3
        return 1e-6 if self.single_only else 1e-9


SURROGATES = {
    "default": Surrogate(None, arctangent_derivative, arctangent, single_only=True),
    "fast-sigmoid": Surrogate(
        surrogate.fast_sigmoid(slope=SHARPNESS),
        fast_sigmoid_derivative,
        fast_sigmoid,
        single_only=True,
    ),
    "own": Surrogate(Spike.apply, fast_sigmoid_derivative, fast_sigmoid, single_only=False),
}

every_surrogate = pytest.mark.parametrize("name", SURROGATES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


class RecurrentLeaky(nn.Module):
    """`snntorch.RLeaky`, which takes its two states one by one, as a cell."""

    def __init__(self, cell: snntorch.RLeaky):
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.cell(inputs, *state)


def leaky(surrogate_name: str, dtype: torch.dtype, *, reset_delay: bool) -> snntorch.Leaky:
    return snntorch.Leaky(
        beta=0.5 + 0.4 * torch.rand(UNITS),
        threshold=0.8,
        spike_grad=SURROGATES[surrogate_name].function,
        learn_beta=True,
        learn_threshold=True,
        reset_delay=reset_delay,
    ).to(dtype)


def recurrent_leaky(
    surrogate_name: str, dtype: torch.dtype, *, reset_delay: bool
) -> snntorch.RLeaky:
    return snntorch.RLeaky(
        beta=0.5 + 0.4 * torch.rand(UNITS),
        linear_features=UNITS,
        threshold=0.8,
        spike_grad=SURROGATES[surrogate_name].function,
        learn_beta=True,
        learn_threshold=True,
        reset_delay=reset_delay,
    ).to(dtype)


def currents(dtype: torch.dtype) -> Tensor:
    return torch.randn(STEPS, BATCH, UNITS, dtype=dtype)


def leaky_jacobians(
    cell: snntorch.Leaky, inputs: Tensor, membrane: Tensor, chosen: Surrogate
) -> list[Tensor]:
    """Return the Jacobians of the membrane; only the early reset is differentiated."""
    jacobians: list[Tensor] = []
    for x in inputs:
        reset = (membrane > cell.threshold).to(inputs.dtype)
        membrane = cell.beta * membrane + x - reset * cell.threshold
        slope = torch.ones_like(membrane)
        if not cell.reset_delay:
            distance = membrane - cell.threshold
            slope = 1 - cell.threshold * chosen.derivative(distance)
            spikes = straight_through(distance, chosen.smooth)
            membrane = membrane - (spikes - reset) * cell.threshold
        jacobians.append(torch.diag_embed(slope * cell.beta))
    return jacobians


def recurrent_leaky_jacobians(
    cell: snntorch.RLeaky, inputs: Tensor, state: tuple[Tensor, Tensor], chosen: Surrogate
) -> list[Tensor]:
    """Return the Jacobians of the state as (spikes, membrane)."""
    spikes, membrane = state
    weight, bias = cell.recurrent.weight, cell.recurrent.bias
    to_membrane = torch.cat([weight, torch.diag(cell.beta)], dim=1)
    jacobians: list[Tensor] = []
    for x in inputs:
        reset = (membrane > cell.threshold).to(inputs.dtype)
        membrane = cell.beta * membrane + x + spikes @ weight.T + bias - reset * cell.threshold
        distance = membrane - cell.threshold
        slope = chosen.derivative(distance)
        spikes = straight_through(distance, chosen.smooth)
        kept = torch.ones_like(slope)
        if not cell.reset_delay:
            kept = 1 - cell.threshold * slope
            membrane = membrane - (spikes - reset) * cell.threshold
        jacobians.append(torch.cat([slope, kept], dim=1).unsqueeze(-1) * to_membrane.repeat(2, 1))
    return jacobians


@every_dtype
@early_or_late_reset
@every_surrogate
def test_leaky_agrees_with_jacobians_written_by_hand(
    name: str, reset_delay: bool, dtype: torch.dtype
):
    cell = leaky(name, dtype, reset_delay=reset_delay)
    inputs, membrane = currents(dtype), torch.rand(BATCH, UNITS, dtype=dtype)
    frame = orthonormal_frame(UNITS, EXPONENTS, dtype)
    found = flossing.lyapunov_spectrum(cell, inputs, membrane, frame=frame).exponents
    chosen = SURROGATES[name]
    expected = naive_exponents(leaky_jacobians(cell, inputs, membrane, chosen), frame)
    assert_same(found, expected, list(cell.parameters()), chosen.tolerance(dtype))


@every_dtype
@early_or_late_reset
@every_surrogate
def test_recurrent_leaky_agrees_with_jacobians_written_by_hand(
    name: str, reset_delay: bool, dtype: torch.dtype
):
    cell = recurrent_leaky(name, dtype, reset_delay=reset_delay)
    inputs = currents(dtype)
    state = (torch.zeros(BATCH, UNITS, dtype=dtype), torch.rand(BATCH, UNITS, dtype=dtype))
    frame = orthonormal_frame(2 * UNITS, EXPONENTS, dtype)
    wrapped = RecurrentLeaky(cell)
    found = flossing.lyapunov_spectrum(wrapped, inputs, state, frame=frame).exponents
    chosen = SURROGATES[name]
    expected = naive_exponents(recurrent_leaky_jacobians(cell, inputs, state, chosen), frame)
    assert_same(found, expected, list(cell.parameters()), chosen.tolerance(dtype))


def test_leaky_with_the_late_reset_has_the_logarithm_of_its_leak():
    cell = leaky("default", torch.float64, reset_delay=True)
    membrane = torch.rand(BATCH, UNITS, dtype=torch.float64)
    inputs = torch.randn(400, BATCH, UNITS, dtype=torch.float64)
    frame = torch.eye(UNITS, dtype=torch.float64).expand(BATCH, UNITS, UNITS)
    found = flossing.lyapunov_spectrum(cell, inputs, membrane, frame=frame).exponents
    expected = cell.beta.log().sort(descending=True).values
    torch.testing.assert_close(found, expected.expand(BATCH, UNITS), rtol=1e-10, atol=1e-10)


def test_the_true_derivative_of_a_spike_would_give_leaky_other_exponents():
    cell = leaky("default", torch.float64, reset_delay=False)
    inputs = currents(torch.float64)
    membrane = torch.rand(BATCH, UNITS, dtype=torch.float64)
    frame = orthonormal_frame(UNITS, EXPONENTS, torch.float64)
    found = flossing.lyapunov_spectrum(cell, inputs, membrane, frame=frame).exponents
    hard = SURROGATES["default"]._replace(derivative=true_derivative)
    without_surrogate = naive_exponents(leaky_jacobians(cell, inputs, membrane, hard), frame)
    assert bool(((found - without_surrogate).abs() > 0.05).all())


def test_a_single_precision_module_is_measured_in_double_precision():
    cell = leaky("own", torch.float32, reset_delay=False)
    inputs, membrane = currents(torch.float32), torch.rand(BATCH, UNITS)
    frame = orthonormal_frame(UNITS, EXPONENTS, torch.float64)
    found = flossing.lyapunov_spectrum(
        cell, inputs, membrane, frame=frame, dtype=torch.float64
    ).exponents
    assert found.dtype == torch.float64
    assert cell.beta.dtype == torch.float32
    jacobians = leaky_jacobians(
        cell.double(), inputs.double(), membrane.double(), SURROGATES["own"]
    )
    torch.testing.assert_close(found, naive_exponents(jacobians, frame), rtol=1e-9, atol=1e-9)


def test_exponents_beyond_the_rank_of_recurrent_leaky_are_minus_infinity():
    """Spikes are a function of the new membrane, so the rank is the number of units."""
    cell = RecurrentLeaky(recurrent_leaky("own", torch.float64, reset_delay=True))
    state = (torch.zeros(BATCH, UNITS).double(), torch.rand(BATCH, UNITS).double())
    with pytest.warns(flossing.LostRankWarning):
        exponents = flossing.lyapunov_spectrum(cell, currents(torch.float64), state).exponents
    assert bool(torch.isfinite(exponents[:, :UNITS]).all())
    assert bool(torch.isneginf(exponents[:, UNITS:]).all())


@pytest.mark.parametrize(("reset_delay", "dtype"), [(True, torch.float32), (False, torch.float64)])
def test_flossing_leaky_lowers_the_loss(reset_delay: bool, dtype: torch.dtype):
    cell = leaky("default", dtype, reset_delay=reset_delay)
    before = cell.beta.detach().clone()
    history = flossing.floss(
        cell,
        currents(dtype),
        k=EXPONENTS,
        steps=10,
        lr=0.01,
        state=torch.rand(BATCH, UNITS, dtype=dtype),
        frame=orthonormal_frame(UNITS, EXPONENTS, dtype),
    )
    assert not bool(history.skipped.any())
    assert history.loss[-1] < 0.9 * history.loss[0]
    assert not torch.equal(cell.beta, before)


@pytest.mark.parametrize(("wrapped", "reset_delay"), [("module", True), ("function", False)])
def test_flossing_recurrent_leaky_lowers_the_loss(wrapped: str, reset_delay: bool):
    cell = recurrent_leaky("default", torch.float32, reset_delay=reset_delay)
    before = cell.recurrent.weight.detach().clone()
    system = RecurrentLeaky(cell) if wrapped == "module" else lambda x, state: cell(x, *state)
    history = flossing.floss(
        system,
        currents(torch.float32),
        k=EXPONENTS,
        steps=10,
        lr=0.01,
        parameters=None if wrapped == "module" else cell.parameters(),
        state=(torch.zeros(BATCH, UNITS), torch.rand(BATCH, UNITS)),
        frame=orthonormal_frame(2 * UNITS, EXPONENTS, torch.float32),
    )
    assert not bool(history.skipped.any())
    assert history.loss[-1] < 0.9 * history.loss[0]
    assert not torch.equal(cell.recurrent.weight, before)
