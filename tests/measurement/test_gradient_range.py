"""Directions that shrink to the end of the range of the precision: values, gradients, warnings."""

import math
import warnings

import pytest
import torch
from torch import nn

import flossing

BACKENDS = ["torch", "compiled"]
SUBNORMAL = [
    (torch.float32, 1e-40),
    (torch.float32, 1e-44),
    (torch.float64, 1e-310),
    (torch.float64, 1e-320),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "factor"), SUBNORMAL)
def test_subnormal_jacobians_have_their_growth(backend, dtype, factor):
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q.to(dtype)
    jacobians = (factor * turn).repeat(6, 1, 1)[:, None]
    spectrum = flossing.log_growth_rates(jacobians, backend=backend)
    # Entries of few digits: the last of them in single precision are multiples of 1e-45.
    digits = max(1e-5, 5 * torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps / factor)
    torch.testing.assert_close(
        spectrum.exponents.double(),
        torch.full((1, 3), math.log(factor), dtype=torch.float64),
        rtol=0,
        atol=digits,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_subnormal_frame_that_lost_rank_is_noticed(backend, dtype):
    factor = 1e-40 if dtype == torch.float32 else 1e-310
    jacobians = torch.full((6, 1, 2, 2), factor, dtype=dtype)
    with pytest.warns(flossing.LostRankWarning, match="1 of 2"):
        spectrum = flossing.log_growth_rates(jacobians, backend=backend, frame_transient=1)
    assert spectrum.exponents[0, 0].item() == pytest.approx(math.log(2 * factor), abs=1e-4)
    assert math.isinf(spectrum.exponents[0, 1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "factor"), SUBNORMAL)
@pytest.mark.parametrize("tiny_trajectory", [0, 1])
def test_tiny_and_ordinary_trajectories_together(backend, dtype, factor, tiny_trajectory):
    jacobians = torch.randn(8, 2, 3, 3, dtype=dtype)
    jacobians[:, tiny_trajectory] = factor * torch.eye(3, dtype=dtype)
    jacobians.requires_grad_()
    other = 1 - tiny_trajectory
    alone = jacobians[:, [other]].detach().requires_grad_()
    options = {"backend": backend, "reorthonormalize": 1, "frame_transient": 0}
    frame = torch.eye(3, dtype=dtype).expand(2, 3, 3)
    both = flossing.log_growth_rates(jacobians, frame=frame, **options)
    expected = flossing.log_growth_rates(alone, frame=frame[:1], **options)
    torch.testing.assert_close(both.exponents[other], expected.exponents[0])
    with pytest.warns(flossing.LostGradientWarning, match="number 1, 2, 3 of 3"):
        (gradient,) = torch.autograd.grad(both.exponents.square().sum(), jacobians)
    (wanted,) = torch.autograd.grad(expected.exponents.square().sum(), alone)
    torch.testing.assert_close(gradient[:, other], wanted[:, 0])
    assert bool((gradient[:, tiny_trajectory] == 0).all())


def saturated_network(dtype, size, saturated):
    """Units that do not depend on one another; the last of them are saturated."""
    rnn = nn.RNN(1, size, dtype=dtype, bias=False)
    drive = 45.0 if dtype == torch.float32 else 355.3
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(0.5 * torch.eye(size))
        rnn.weight_ih_l0.zero_()
        rnn.weight_ih_l0[size - saturated :] = drive
    return rnn


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_units_at_the_end_of_the_range(backend, dtype):
    rnn = saturated_network(dtype, 2, 2)
    loss = flossing.flossing_loss(rnn, torch.ones(20, 1, 1, dtype=dtype), k=2, backend=backend)
    assert math.isfinite(loss.item())
    with pytest.warns(flossing.LostGradientWarning, match=f"1, 2 of 2 exceeds .*{dtype}"):
        loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in rnn.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_a_wider_precision_the_gradient_is_there(backend):
    rnn = saturated_network(torch.float32, 2, 2)
    inputs = torch.ones(20, 1, 1)
    spectrum = flossing.lyapunov_spectrum(rnn, inputs, backend=backend, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(spectrum.exponents.sum(), rnn.weight_ih_l0)
    # log(4 · 0.5) − 2 (45 + 0.5 h) with h = 1.
    torch.testing.assert_close(gradient, torch.full((2, 1), -2.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_defective_jacobians_whose_adjoint_overflows(backend, dtype):
    # The gradient is a product of such numbers as 1e8, one for every dimension but the first.
    size = 6 if dtype == torch.float32 else 40
    jordan = 1e-8 * torch.eye(size, dtype=dtype) + torch.diag(torch.ones(size - 1, dtype=dtype), 1)
    jacobians = jordan.repeat(200, 1, 1)[:, None].requires_grad_()
    spectrum = flossing.log_growth_rates(jacobians, 1, backend=backend)
    assert bool(spectrum.exponents.isfinite().all())
    with pytest.warns(flossing.LostGradientWarning, match="number 1 of 1"):
        (gradient,) = torch.autograd.grad(spectrum.exponents.sum(), jacobians)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("checkpoint_interval", [None, 4])
def test_the_exponents_before_keep_their_gradients(backend, checkpoint_interval):
    # Of an upper triangle with a falling diagonal each exponent is the mean of a row's logarithms.
    # The last direction shrinks at one step only, within the digits, so that no rank is lost.
    jacobians = torch.diag(torch.tensor([1.0, 1e-5, 1e-5]) * 1e-20).repeat(12, 1, 1)[:, None]
    jacobians[:, 0, 0, 0] = 1e-20
    jacobians[6] *= 1e-19
    frame = torch.eye(3)[None]
    jacobians.requires_grad_()
    options = {"frame": frame, "backend": backend, "checkpoint_interval": checkpoint_interval}
    spectrum = flossing.log_growth_rates(jacobians, reorthonormalize=1, **options)
    with pytest.warns(flossing.LostGradientWarning, match="number 2, 3 of 3"):
        (gradient,) = torch.autograd.grad(spectrum.log_growth.sum() / 1e6, jacobians)
    found = gradient[:, 0, 0, 0] * jacobians[:, 0, 0, 0].detach()
    torch.testing.assert_close(found, torch.full((12,), 1e-6), rtol=1e-4, atol=0)
    assert bool(gradient.isfinite().all())


def test_a_loss_that_is_not_finite_is_no_exponents_fault():
    jacobians = torch.randn(8, 1, 3, 3, requires_grad=True)
    spectrum = flossing.log_growth_rates(jacobians, backend="torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (gradient,) = torch.autograd.grad((spectrum.exponents * math.nan).sum(), jacobians)
    assert not bool(gradient.isfinite().all())
