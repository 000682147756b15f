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


COUPLED_AT_REST = {
    "mean of the batch": lambda x, state: torch.tanh(state - state.mean(0) + x),
    "largest row": lambda x, state: torch.tanh(state * (1 + state.abs().max()) + state.amax(0) + x),
    "batch normalisation": lambda x, state: torch.tanh(
        nn.functional.batch_norm(state, None, None, training=True) + x
    ),
    "attention over the batch": lambda x, state: torch.softmax(state @ state.T, -1) @ state + x,
    "batch of one channel": lambda x, state: (
        torch.instance_norm(state.T.unsqueeze(0), None, None, None, None, True, 0.0, 1e-5, False)[
            0
        ].T
    ),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", COUPLED_AT_REST)
def test_rows_that_depend_on_one_another_at_a_fixed_point(name, batch):
    step = COUPLED_AT_REST[name]
    # All states are equal, so that the steps of the trajectory do not tell.
    inputs = torch.zeros(20, batch, 4, dtype=FLOAT64)
    # Batch normalisation itself fails on a single row.
    with torch.no_grad(), pytest.raises(UnsupportedSystemError, match=r"row|more than 1 value"):
        flossing.lyapunov_spectrum(step, inputs, zeros(batch))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_branch_on_one_row_in_short_trajectories(steps):
    start = torch.tensor([[0.2], [0.9], [0.8], [0.5]], dtype=FLOAT64)
    with torch.no_grad(), pytest.raises(UnsupportedSystemError, match="row"):
        flossing.lyapunov_spectrum(branching, state=start, steps=steps, frame_transient=0)


def test_a_branch_on_one_row_of_a_batch_that_fills_a_segment():
    # So many Jacobians are held for one step only.
    start = torch.rand(1100, 64, dtype=FLOAT64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), pytest.raises(UnsupportedSystemError, match="row"):
        flossing.lyapunov_spectrum(branching, state=start, steps=3, k=1)


APART = {
    "group normalisation": nn.GroupNorm(2, 4),
    "layer normalisation": nn.LayerNorm(4),
    "instance normalisation": lambda z: nn.InstanceNorm1d(2)(z.unflatten(1, (2, 2))).flatten(1),
    "batch normalisation in eval mode": nn.BatchNorm1d(4).eval(),
    "largest entry": lambda z: z - z.amax(-1, keepdim=True),
    "sorted entries": lambda z: z.sort(dim=-1).values,
    "attention within a row": lambda z: torch.softmax(z.unsqueeze(-1) * z.unsqueeze(-2), -1).sum(1),
}


@pytest.mark.filterwarnings("ignore::flossing.LostRankWarning")
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("name", APART)
def test_what_acts_within_a_row_is_accepted(name, batch):
    matrix, _ = matrices()

    def step(x, state):
        return torch.tanh(APART[name]((state @ matrix.T + x).float()).double())

    for module in APART.values():
        if isinstance(module, nn.Module):
            module.float()
    inputs = sequence(batch)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DerivativeMismatchWarning)
        both = flossing.lyapunov_spectrum(step, inputs, zeros(batch), k=1).exponents
        alone = [
            flossing.lyapunov_spectrum(step, inputs[:, row : row + 1], zeros(), k=1).exponents
            for row in range(batch)
        ]
    torch.testing.assert_close(both, torch.cat(alone), rtol=0.1, atol=0.1)


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


class SavedSlope(torch.autograd.Function):
    """A backward pass that is right, from a slope without a graph."""

    @staticmethod
    def forward(ctx, x):
        result = torch.tanh(x)
        ctx.save_for_backward(1 - result**2)
        return result

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


class SavedInput(SavedSlope):
    """The same, as the warning advises."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_backward_pass_that_forgets_what_it_depends_on_is_named(share, backend, dtype):
    weight, other = (each.to(dtype) for each in matrices())
    inputs, state = sequence().to(dtype), zeros().to(dtype)

    def made(squash):
        return lambda x, h: share * squash(h @ weight.T) + (1 - share) * torch.tanh(h @ other) + x

    forgetful = made(SavedSlope.apply)
    with torch.no_grad():
        # Exponents do not need it.
        flossing.lyapunov_spectrum(forgetful, inputs, state, backend=backend)
    with pytest.warns(DerivativeMismatchWarning, match="gradients are not.*let it save its inputs"):
        flossing.flossing_loss(forgetful, inputs, state, k=2, backend=backend)
    # Once for each system: warnings are errors here.
    flossing.flossing_loss(forgetful, inputs, state, k=2, backend=backend)
    loss = flossing.flossing_loss(made(SavedInput.apply), inputs, state, k=2, backend=backend)
    expected = flossing.flossing_loss(made(torch.tanh), inputs, state, k=2, backend=backend)
    torch.testing.assert_close(loss, expected)


def test_a_system_is_compared_once_for_as_long_as_it_exists():
    def made():
        return lambda x, state: torch.tanh(0.5 * state + 0.5 * state.detach() + x)

    for _ in range(2):
        with torch.no_grad(), pytest.warns(DerivativeMismatchWarning):
            flossing.lyapunov_spectrum(made(), sequence(), zeros())
        gc.collect()


SMOOTH = {
    "kinked": lambda x, state: torch.nn.functional.hardtanh(0.5 * state + x),
    "steeper": lambda x, state: torch.tanh(200 * state + x),
    "quadratic": lambda x, state: 0.2 * state**2 + 0.1 * x,
    "sinusoidal": lambda x, state: torch.sin(10 * state) + x,
    "threshold": lambda x, state: 0.5 * torch.tanh(state) + (x > 0),
    "rectified": lambda x, state: torch.relu(state - 0.1) + x,
    "steep": lambda x, state: torch.tanh(20 * state + x),
    "saturated": lambda x, state: torch.tanh(state + 20 + x),
    "tiny": lambda x, state: 1e-6 * torch.tanh(1e6 * state) + 1e-6 * x,
    "huge": lambda x, state: 1e6 * torch.tanh(1e-6 * state) + 1e6 * x,
    "linear": lambda x, state: 0.5 * state + x,
}


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
@pytest.mark.parametrize("name", SMOOTH)
def test_good_steps_are_not_accused(name, dtype, gradients):
    step, gain = SMOOTH[name], torch.ones((), dtype=dtype, requires_grad=gradients)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DerivativeMismatchWarning)
        warnings.simplefilter("ignore", flossing.LostRankWarning)
        warnings.simplefilter("ignore", flossing.ExplodingGradientWarning)
        flossing.lyapunov_spectrum(
            lambda x, state: step(x, gain * state), sequence().to(dtype), zeros().to(dtype)
        )
