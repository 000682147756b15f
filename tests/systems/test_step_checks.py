"""Steps whose numbers would look right and be wrong: refused, or named by a warning."""

import gc
import warnings

import pytest
import torch
from torch import nn

import flossing
from flossing import DerivativeMismatchWarning, UnsupportedSystemError

FLOAT64 = torch.float64
BACKENDS = ["torch", "compiled", "reference"]


class OnceDifferentiableTanh(torch.autograd.Function):
    """A kernel with a backward pass that has no derivative of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - torch.tanh(x) ** 2)


class InNumpy(torch.autograd.Function):
    """The same, whose backward pass leaves PyTorch."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        slope = torch.from_numpy(1 - torch.tanh(x.detach()).numpy() ** 2)
        return (gradient.detach() * slope).to(gradient)


def matrices():
    generator = torch.Generator().manual_seed(1)
    pair = 0.5 * torch.randn(2, 4, 4, dtype=FLOAT64, generator=generator)
    return pair[0].requires_grad_(), pair[1]


def sequence(batch=1, steps=50):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(steps, batch, 4, dtype=FLOAT64, generator=generator)


def zeros(batch=1):
    return torch.zeros(batch, 4, dtype=FLOAT64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", [OnceDifferentiableTanh, InNumpy])
def test_a_path_without_second_derivative(kernel, backend):
    weight, other = matrices()

    def step(x, state):
        # One path is differentiable twice, so a gradient would come back, of this path alone.
        return kernel.apply(state @ weight.T) + 0.5 * torch.tanh(state @ other.T) + x

    with pytest.raises(UnsupportedSystemError, match="cannot be differentiated"):
        flossing.flossing_loss(step, sequence(), zeros(), k=2, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_exponents_need_first_derivatives_only(backend):
    weight, other = matrices()

    def measured(squash):
        def step(x, state):
            return squash(state @ weight.T) + 0.5 * torch.tanh(state @ other.T) + x

        with torch.no_grad():
            return flossing.lyapunov_spectrum(step, sequence(), zeros(), backend=backend).exponents

    torch.testing.assert_close(measured(OnceDifferentiableTanh.apply), measured(torch.tanh))


def test_products_by_two_backward_passes_need_the_second():
    weight = torch.randn(100, 100, dtype=FLOAT64, generator=torch.Generator().manual_seed(0)) / 10

    def step(x, state):
        return OnceDifferentiableTanh.apply(state @ weight) + 0.5 * torch.tanh(state) + x

    inputs, state = torch.zeros(20, 1, 1, dtype=FLOAT64), torch.zeros(1, 100, dtype=FLOAT64)
    with torch.no_grad(), pytest.raises(UnsupportedSystemError, match="cannot be differentiated"):
        flossing.lyapunov_spectrum(step, inputs, state, k=2, backend="torch")


def branching(x):
    """The skew tent map, with a branch that asks the first row only."""
    return x / 0.3 if x[0, 0] < 0.3 else (1 - x) / 0.7


def test_the_skew_tent_map_row_by_row():
    start = torch.tensor([[0.2137]], dtype=FLOAT64)
    with torch.no_grad():
        right = flossing.lyapunov_spectrum(
            lambda x: torch.where(x < 0.3, x / 0.3, (1 - x) / 0.7), state=start, steps=2000
        )
    entropy = -0.3 * torch.tensor(0.3).log() - 0.7 * torch.tensor(0.7).log()
    assert abs(right.exponents.item() - entropy) < 3 * right.standard_error.item()


class Normalised(nn.Module):
    """Batch normalisation of the state."""

    def __init__(self):
        super().__init__()
        self.normalise = nn.BatchNorm1d(4)

    def forward(self, x, state):
        return torch.tanh(self.normalise(state) + x)


COUPLED = {
    "branch on one row": (lambda x, state: branching(state[:, :1]) * torch.ones(4) + 0 * x, 0.2137),
    "mean of the batch": (lambda x, state: torch.tanh(state - state.mean(0) + x), 0.0),
    "largest row": (lambda x, state: torch.tanh(state / (1 + state.abs().max()) + x), 0.0),
    "batch normalisation": (
        lambda x, state: torch.tanh(nn.functional.batch_norm(state, None, None, training=True) + x),
        0.0,
    ),
    "sorted rows": (lambda x, state: torch.tanh(state.sort(dim=0).values + x), 0.0),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", COUPLED)
def test_rows_that_depend_on_one_another(name, backend):
    step, start = COUPLED[name]
    batch = 1 if name == "branch on one row" else 3
    with torch.no_grad(), pytest.raises(UnsupportedSystemError, match="row"):
        flossing.lyapunov_spectrum(step, sequence(batch), zeros(batch) + start, backend=backend)


def test_batch_normalisation_is_left_as_it_was():
    module = Normalised().double()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    with torch.no_grad():
        found = flossing.lyapunov_spectrum(module, sequence(3), zeros(3))
        expected = flossing.lyapunov_spectrum(module.eval(), sequence(3), zeros(3))
    assert torch.equal(found.exponents, expected.exponents)
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Remembering(nn.Module):
    """A step that counts its calls in a buffer, changed in place, and feels the count."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=FLOAT64))

    def forward(self, x, state):
        self.calls += 1
        return torch.tanh(0.9 * state + x + self.calls)


def test_buffers_changed_in_place_are_restored_at_every_call():
    module = Remembering()
    with torch.no_grad():
        spectrum = flossing.lyapunov_spectrum(module, sequence(), zeros())
        fixed = flossing.lyapunov_spectrum(
            lambda x, state: torch.tanh(0.9 * state + x + 1), sequence(), zeros()
        )
    assert module.calls == 0
    torch.testing.assert_close(spectrum.exponents, fixed.exponents)


def detached(x, state):
    return torch.tanh(0.5 * state + 0.5 * state.detach() + x)


def fake_quantised(x, state):
    squashed = torch.tanh(state).float()
    return torch.fake_quantize_per_tensor_affine(squashed, 1 / 127, 0, -128, 127).double() + x


def rounded_straight_through(x, state):
    return state + (torch.round(8 * state) / 8 - state).detach() + 0.5 * torch.tanh(x)


def clipped_gradient(x, state):
    state = torch.tanh(state) + x
    return state if not state.requires_grad else Halved.apply(state)


class Halved(torch.autograd.Function):
    """The identity, with half of its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 0.5 * gradient


@pytest.mark.parametrize(
    "step", [detached, fake_quantised, rounded_straight_through, clipped_gradient]
)
def test_derivatives_that_are_not_those_of_the_values_are_named(step):
    with torch.no_grad(), pytest.warns(DerivativeMismatchWarning, match=step.__name__):
        flossing.lyapunov_spectrum(step, sequence(), zeros())
    # Once for each system: warnings are errors here.
    with torch.no_grad():
        flossing.lyapunov_spectrum(step, sequence(), zeros())


def test_a_system_is_compared_once_for_as_long_as_it_exists():
    def made():
        return lambda x, state: torch.tanh(0.5 * state + 0.5 * state.detach() + x)

    for _ in range(2):
        with torch.no_grad(), pytest.warns(DerivativeMismatchWarning):
            flossing.lyapunov_spectrum(made(), sequence(), zeros())
        gc.collect()


SMOOTH = {
    "rectified": lambda x, state: torch.relu(state - 0.1) + x,
    "steep": lambda x, state: torch.tanh(20 * state + x),
    "saturated": lambda x, state: torch.tanh(state + 20 + x),
    "tiny": lambda x, state: 1e-6 * torch.tanh(1e6 * state) + 1e-6 * x,
    "huge": lambda x, state: 1e6 * torch.tanh(1e-6 * state) + 1e6 * x,
    "linear": lambda x, state: 0.5 * state + x,
}


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
@pytest.mark.parametrize("name", SMOOTH)
def test_good_steps_are_not_accused(name, dtype):
    step = SMOOTH[name]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", DerivativeMismatchWarning)
        warnings.simplefilter("ignore", flossing.LostRankWarning)
        flossing.lyapunov_spectrum(
            lambda x, state: step(x, state), sequence().to(dtype), zeros().to(dtype)
        )
