"""Growth near the smallest numbers: exponents are right, gradients finite, or named as left out."""

import pytest
import torch
from torch import nn

import flossing
from flossing import LostGradientWarning

BACKENDS = ["torch", "compiled"]


def saturated(currents, dtype):
    """A network of two units far in saturation, which hardly feel each other."""
    rnn = nn.RNN(1, 2).double()
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.zero_()
        rnn.weight_ih_l0[:, 0] = torch.tensor(currents)
        rnn.weight_hh_l0.copy_(torch.tensor([[0.9, 0.2], [-0.1, 0.8]]))
    return rnn.to(dtype), torch.ones(12, 1, 1, dtype=dtype)


def gradients(rnn, inputs, backend, k):
    # The same first vector, whatever k.
    frame = torch.eye(2, dtype=inputs.dtype)[None, :, :k]
    spectrum = flossing.lyapunov_spectrum(
        rnn, inputs, frame=frame, backend=backend, reorthonormalize=1
    )
    return torch.autograd.grad(spectrum.exponents[:, 0].sum(), list(rnn.parameters()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "currents"), [(torch.float32, (39.0, 42.0)), (torch.float64, (346.0, 353.0))]
)
def test_the_gradients_of_other_exponents_are_right(dtype, currents, backend):
    rnn, inputs = saturated(currents, dtype)
    found = gradients(rnn, inputs, backend, k=2)
    # The first exponent does not know of the second, whose own gradient would overflow.
    # A scale that double precision resolves.
    shifted, _ = saturated(
        tuple(current - currents[0] + 39.0 for current in currents), torch.float64
    )
    expected = gradients(shifted, inputs.double(), "torch", k=1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "current", "named"),
    [(torch.float32, 38.0, False), (torch.float32, 46.0, True), (torch.float64, 355.0, True)],
)
def test_gradients_are_finite_or_named_as_left_out(dtype, current, named, backend):
    rnn = nn.RNN(1, 2).to(dtype)
    with torch.no_grad():
        rnn.weight_ih_l0.fill_(1.0)
    loss = flossing.flossing_loss(
        rnn, torch.full((10, 1, 1), current, dtype=dtype), k=1, backend=backend
    )
    assert bool(loss.isfinite())
    if named:
        with pytest.warns(LostGradientWarning, match="number 1 of 1"):
            loss.backward()
    else:
        loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in rnn.parameters())


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float64, 1e-320),
        (torch.float64, 1e-300),
        (torch.float32, 1e-42),
        (torch.float32, 1e-30),
    ],
)
def test_subnormal_jacobians(dtype, size, backend):
    jacobians = (size * torch.eye(3, dtype=dtype)).expand(20, 1, 3, 3)
    with torch.no_grad():
        exponents = flossing.log_growth_rates(jacobians, backend=backend).exponents
    expected = jacobians[0, 0, 0, 0].double().log().to(dtype).expand(1, 3)
    torch.testing.assert_close(exponents, expected, rtol=1e-3, atol=0.0)
