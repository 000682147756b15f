"""Numbers and arrays of NumPy, and tensors of no dimension, as arguments."""

import numpy as np
import pytest
import torch
from torch import nn

import flossing
from flossing import FlossingError, InvalidInputError, InvalidOptionError, InvalidStateError
from flossing.batches import inputs_and_options
from flossing.support.checks import require_integer, require_positive

INPUTS = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0))
STATE = torch.full((2, 3), 0.5)

INTEGERS = {"NumPy": np.int64, "array": np.array, "unsigned": np.uint8, "tensor": torch.tensor}
NUMBERS = {"NumPy": np.float64, "single": np.float32, "array": np.array, "tensor": torch.tensor}

pytestmark = pytest.mark.usefixtures("own_checks_only")


@pytest.fixture
def rnn():
    torch.manual_seed(0)
    return nn.RNN(3, 6)


def measured(rnn, **options):
    with torch.no_grad():
        return flossing.lyapunov_spectrum(rnn, INPUTS, **({"k": 2} | options)).exponents


def flossed(rnn, of):
    history = flossing.floss(rnn, INPUTS, k=of(2), steps=of(2), piece=of(20))
    return torch.as_tensor(history.loss)


def scheduled(rnn, of):
    flosser = flossing.Flosser(
        rnn, k=of(2), before=of(1), every=of(2), steps=of(1), times=of(1), training_lr=1e-3
    )
    return torch.as_tensor(flosser.step(of(2), INPUTS).loss)


WHOLE = {
    "k": lambda rnn, of: measured(rnn, k=of(2)),
    "transients": lambda rnn, of: measured(rnn, state_transient=of(3), frame_transient=of(2)),
    "reorthonormalize": lambda rnn, of: measured(rnn, reorthonormalize=of(4)),
    "gradients": lambda rnn, of: flossing.lyapunov_spectrum(
        rnn, INPUTS, k=2, state_gradient=of(3), checkpoint_interval=of(9)
    ).exponents.detach(),
    "steps": lambda rnn, of: (
        flossing.lyapunov_spectrum(
            lambda s: torch.tanh(1.5 * s), state=STATE, steps=of(20)
        ).exponents
    ),
    "floss": flossed,
    "Flosser": scheduled,
    "Jacobian": lambda rnn, of: (
        flossing.long_term_jacobian(
            rnn,
            INPUTS,
            k=of(2),
            horizons=[of(5), of(9)],
            origins=of(2),
            state_transient=of(1),
            frame_transient=of(1),
        ).log_singular_values
    ),
    "gradient horizon": lambda rnn, of: (
        flossing.gradient_horizon(
            rnn, INPUTS, lags=[of(2), of(4)], directions=of(2)
        ).random.log_norm
    ),
    "covariant vectors": lambda rnn, of: (
        flossing.covariant_vectors(
            rnn, INPUTS, k=of(2), every=of(2), chunk=of(5), frame_transient=of(2)
        ).exponents
    ),
    "context": lambda rnn, of: (
        flossing.dynamical_context(rnn, INPUTS, sampled_jacobians=of(2)).volume_growth_rate
    ),
    "Jacobians": lambda rnn, of: (
        flossing.log_growth_rates(
            torch.eye(3).repeat(9, 1, 1), of(2), frame_transient=of(1), reorthonormalize=of(1)
        ).exponents
    ),
    "watch": lambda rnn, of: torch.tensor(
        [
            value
            for name, value in flossing.watch(rnn, k=of(2), every=of(1))(INPUTS).items()
            if "exponent" in name
        ]
    ),
}
REAL = {
    "dt": lambda rnn, of: measured(rnn, dt=of(0.5)),
    "rounding_tolerance": lambda rnn, of: measured(rnn, rounding_tolerance=of(2**-12)),
    "tolerance": lambda rnn, of: measured(rnn, tolerance=of(2.0)),
    "target": lambda rnn, of: flossing.flossing_loss(rnn, INPUTS, k=2, target=of(0.5)).detach(),
    "lr": lambda rnn, of: torch.as_tensor(
        flossing.floss(rnn, INPUTS, k=2, steps=2, lr=of(2**-10)).loss
    ),
}


@pytest.mark.parametrize("of", INTEGERS.values(), ids=INTEGERS)
@pytest.mark.parametrize("call", WHOLE.values(), ids=WHOLE)
def test_integers_of_numpy_and_pytorch(rnn, call, of):
    twin = nn.RNN(3, 6)
    twin.load_state_dict(rnn.state_dict())
    torch.testing.assert_close(call(rnn, of), call(twin, int), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("of", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("call", REAL.values(), ids=REAL)
def test_real_numbers_of_numpy_and_pytorch(rnn, call, of):
    twin = nn.RNN(3, 6)
    twin.load_state_dict(rnn.state_dict())
    torch.testing.assert_close(call(rnn, of), call(twin, float), rtol=0, atol=0)


@pytest.mark.parametrize("value", [True, np.True_, np.array(True), torch.tensor(True)])
def test_booleans_are_no_numbers(rnn, value):
    with pytest.raises(InvalidOptionError, match="expected an int"):
        require_integer("k", value, at_least=1)
    with pytest.raises(InvalidOptionError, match="expected a positive number"):
        require_positive("leak", value)
    with pytest.raises(InvalidOptionError, match="dt must be a positive duration"):
        measured(rnn, dt=value)


@pytest.mark.parametrize(
    "value",
    [
        "1",
        1j,
        [1.0],
        np.array([1.0]),
        torch.tensor([1.0]),
        torch.tensor(1.0, requires_grad=True),
        torch.tensor(1.0, device="meta"),
        10**400,
        None,
    ],
)
def test_what_is_no_number(value):
    with pytest.raises(InvalidOptionError, match="expected a positive number"):
        require_positive("leak", value)


@pytest.mark.parametrize("target", [[np.array(0.1), np.array(0.2)], "zero", {}])
def test_what_is_no_target(rnn, target):
    with pytest.raises(InvalidOptionError, match="target must be"):
        flossing.flossing_loss(rnn, INPUTS, k=2, target=target)


ARRAYS = {
    "inputs": (InvalidInputError, lambda rnn, x: flossing.lyapunov_spectrum(rnn, x)),
    "loss": (InvalidInputError, lambda rnn, x: flossing.flossing_loss(rnn, x, k=2)),
    "floss": (InvalidInputError, lambda rnn, x: flossing.floss(rnn, x, k=2, steps=1)),
    "batches": (InvalidInputError, lambda rnn, x: flossing.floss(rnn, [x], k=2, steps=1)),
    "Jacobian": (InvalidInputError, lambda rnn, x: flossing.long_term_jacobian(rnn, x)),
    "gradients": (InvalidInputError, lambda rnn, x: flossing.gradient_horizon(rnn, x)),
    "vectors": (InvalidInputError, lambda rnn, x: flossing.covariant_vectors(rnn, x)),
    "context": (InvalidInputError, lambda rnn, x: flossing.dynamical_context(rnn, x)),
    "watch": (InvalidInputError, lambda rnn, x: flossing.watch(rnn, k=2)(x)),
    "Jacobians": (InvalidInputError, lambda rnn, x: flossing.log_growth_rates(x)),
    "frame": (
        InvalidStateError,
        lambda rnn, x: flossing.lyapunov_spectrum(rnn, torch.as_tensor(x), frame=x),
    ),
}


@pytest.mark.parametrize(("error", "call"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_refused_with_the_remedy(rnn, error, call):
    with pytest.raises(error, match=r"torch\.from_numpy"):
        call(rnn, INPUTS.numpy())


def test_arrays_as_states_are_refused(rnn):
    for system, state in ((rnn, STATE.numpy()), (nn.LSTM(3, 6), (STATE.numpy(),) * 2)):
        with pytest.raises(FlossingError, match="state"):
            flossing.lyapunov_spectrum(system, INPUTS, state)


def test_a_number_of_steps_as_a_batch():
    assert inputs_and_options(np.int64(5)) == (None, {"steps": 5})
