"""Steps that fail, or do what a step must not do: our error, with theirs as its cause."""

import numpy as np
import pytest
import torch
from torch import nn

import flossing
from flossing import UnsupportedSystemError

pytestmark = pytest.mark.usefixtures("own_checks_only")

INPUTS = torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(1))
STATE = torch.full((2, 3), 0.1)


def raises_value_error(x, h):
    raise ValueError("mine")


def raises_key_error(x, h):
    return {}["absent"]


def raises_own_kind(x, h):
    class OddError(Exception):
        pass

    raise OddError("odd")


def warns_and_divides(x, h):
    return h / (1 // 0)


def through_numpy(x, h):
    return torch.from_numpy(np.tanh(h.numpy() + x.numpy()))


FAILING = [
    raises_value_error,
    raises_key_error,
    raises_own_kind,
    warns_and_divides,
    through_numpy,
]


@pytest.mark.parametrize("step", FAILING)
@pytest.mark.parametrize("batched", [True, False])
def test_errors_of_a_step_are_the_cause_of_ours(step, batched):
    inputs, state = (INPUTS, STATE) if batched else (INPUTS[:, 0], STATE[0])
    with pytest.raises(UnsupportedSystemError, match=f"{step.__name__}.*failed with") as caught:
        flossing.lyapunov_spectrum(step, inputs, state)
    assert not isinstance(caught.value.__cause__, flossing.FlossingError)
    assert type(caught.value.__cause__).__name__ in str(caught.value)


def test_errors_late_in_a_trajectory_are_ours_too():
    calls = []

    def step(x, h):
        calls.append(1)
        if len(calls) > 10:
            raise LookupError("late")
        return torch.tanh(h + x)

    with pytest.raises(UnsupportedSystemError, match="LookupError: late"):
        flossing.lyapunov_spectrum(step, INPUTS, STATE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_not_the_fault_of_the_step_passes(error):
    def step(x, h):
        raise error

    with pytest.raises(error):
        flossing.lyapunov_spectrum(step, INPUTS, STATE)


def test_errors_of_the_backward_pass_are_ours():
    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h.tanh()

        @staticmethod
        def backward(ctx, gradient):
            raise ArithmeticError("no derivative")

    with pytest.raises(UnsupportedSystemError, match=r"backward pass.*ArithmeticError"):
        flossing.lyapunov_spectrum(lambda x, h: Forward.apply(h + x), INPUTS, STATE)


def adds_to_state(x, h):
    h += x
    return torch.tanh(h)


def writes_a_column(x, h):
    h[..., 0] = 0.5
    return torch.tanh(h + x)


def adds_to_inputs(x, h):
    x += 1.0
    return torch.tanh(h + x)


@pytest.mark.parametrize("step", [adds_to_state, writes_a_column, adds_to_inputs])
@pytest.mark.parametrize("batched", [True, False])
def test_steps_that_change_their_arguments_are_refused_and_change_nothing(step, batched):
    inputs, state = (INPUTS, STATE) if batched else (INPUTS[:, 0], STATE[0])
    inputs, state = inputs.clone(), state.clone()
    kept = inputs.clone(), state.clone()
    with pytest.raises(UnsupportedSystemError, match=r"in place.*h\.clone\(\)"):
        flossing.lyapunov_spectrum(step, inputs, state)
    assert torch.equal(inputs, kept[0])
    assert torch.equal(state, kept[1])


def test_the_advice_to_begin_with_a_copy_works():
    def step(x, h):
        h = h.clone()
        h += x
        return torch.tanh(h)

    found = flossing.lyapunov_spectrum(step, INPUTS, STATE).exponents
    expected = flossing.lyapunov_spectrum(lambda x, h: torch.tanh(h + x), INPUTS, STATE).exponents
    torch.testing.assert_close(found, expected)


def test_changes_of_what_the_backward_pass_needs_are_named():
    def step(x, h):
        h = torch.tanh(h + x)
        h += 1
        return h

    with pytest.raises(UnsupportedSystemError, match=r"inplace operation.*h = h \+ 1"):
        flossing.lyapunov_spectrum(step, INPUTS, STATE)


def test_a_counter_in_the_state_is_refused():
    def step(x, state):
        h, count = state
        return torch.tanh(h + count), count + 1

    with pytest.raises(UnsupportedSystemError, match=r"not a tensor, from 0 to 1"):
        flossing.lyapunov_spectrum(step, INPUTS, (STATE, 0))


def test_constants_in_the_state_are_kept():
    def step(x, state):
        h, gain = state
        return torch.tanh(gain * (h + x)), gain

    found = flossing.lyapunov_spectrum(step, INPUTS, (STATE, 0.5)).exponents
    expected = flossing.lyapunov_spectrum(lambda x, h: torch.tanh(0.5 * (h + x)), INPUTS, STATE)
    torch.testing.assert_close(found, expected.exponents)


def test_a_complex_result_is_refused():
    with pytest.raises(UnsupportedSystemError, match="complex state from a real one"):
        flossing.lyapunov_spectrum(lambda x, h: h * (1 + 1j), INPUTS, STATE)


class Rotation(nn.Module):
    """A linear recurrence with a complex parameter on a real view of its state."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([0.5 + 0.5j, 0.2j], dtype=torch.complex64))
        self.register_buffer("phase", torch.tensor([1j, 1j], dtype=torch.complex64))

    def forward(self, x, h):
        return torch.view_as_real(torch.view_as_complex(h) * self.factor * self.phase)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_complex_parameters_stay_complex(dtype):
    module = Rotation()
    state = torch.randn(1, 2, 2)
    frame = torch.eye(4, dtype=dtype).unsqueeze(0)
    found = flossing.lyapunov_spectrum(
        module, torch.zeros(40, 1, 1), state, dtype=dtype, frame=frame
    )
    moduli = module.factor.detach().abs().log()
    expected = torch.stack([moduli[0], moduli[0], moduli[1], moduli[1]]).to(dtype)
    torch.testing.assert_close(found.exponents[0].detach(), expected, atol=1e-5, rtol=1e-5)


def random_step(x, h):
    return torch.tanh(h + x) + torch.randn_like(h)


def test_a_refused_random_step_leaves_the_random_state():
    before = torch.get_rng_state()
    with pytest.raises(UnsupportedSystemError, match="random"):
        flossing.lyapunov_spectrum(random_step, INPUTS, STATE)
    assert torch.equal(torch.get_rng_state(), before)


def lorenz(state):
    x, y, z = state.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], dim=-1)


def test_a_right_hand_side_passed_as_a_step_is_told_how_to_become_one():
    start, dt = torch.tensor([1.0, 2.0, 20.0], dtype=torch.float64), 0.005
    with pytest.raises(flossing.NonFiniteError, match=r"step is state \+ dt \* f\(state\)"):
        flossing.lyapunov_spectrum(lorenz, state=start, steps=100)
    spectrum = flossing.lyapunov_spectrum(
        lambda state: state + dt * lorenz(state), state=start, steps=6000, dt=dt, k=1
    )
    assert spectrum.exponents.item() == pytest.approx(0.9, abs=0.15)


def test_the_divergence_of_a_layer_is_no_right_hand_side():
    rnn = nn.RNN(3, 4, nonlinearity="relu")
    nn.init.constant_(rnn.weight_hh_l0, 1e9)
    with pytest.raises(flossing.NonFiniteError) as caught:
        flossing.lyapunov_spectrum(rnn, INPUTS.abs())
    assert "dt" not in str(caught.value)
