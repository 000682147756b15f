"""Flossing parameters in half precision steps on float32 copies of them."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import flossing

HALVES = [torch.float16, torch.bfloat16]


def network(dtype, size=8, kind=nn.RNN):
    rnn, generator = kind(1, size), torch.Generator().manual_seed(0)
    for parameter in rnn.parameters():
        nn.init.normal_(parameter, std=0.35, generator=generator)
    return rnn.to(dtype)


def inputs_in(dtype):
    return torch.randn(40, 2, 1, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_floss_descends_as_in_float32(dtype, kind):
    half, inputs = network(dtype, kind=kind), inputs_in(dtype)
    single = copy.deepcopy(half).float()
    options = {"k": 4, "steps": 12, "lr": 3e-3}
    found = flossing.floss(half, inputs, **options)
    expected = flossing.floss(single, inputs.float(), **options)
    assert not found.skipped.any()
    assert all(parameter.dtype == dtype for parameter in half.parameters())
    digits = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.loss, expected.loss, rtol=0.1, atol=digits)
    for mine, other in zip(half.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.float(), other, rtol=10 * digits, atol=10 * digits)


@pytest.mark.parametrize("dtype", HALVES)
def test_small_steps_add_up(dtype):
    # Each step is a twentieth of the distance of two neighbouring numbers of about one.
    step = torch.finfo(dtype).eps / 20

    def descend(parameters):
        return torch.optim.SGD(parameters, lr=step)

    def flossed(weight, epochs):
        flosser = flossing.Flosser(
            lambda state: state @ weight.float().T,
            k=3,
            before=0,
            every=1,
            tolerance=None,
            target=-1.0,
            parameters=[weight],
            state=torch.ones(1, 3),
            optimizer=descend,
            max_gradient_norm=1.0,
        )
        for epoch in range(1, epochs + 1):
            flosser.step(epoch, lambda: 10)
        return weight.detach().float()

    first = torch.tensor([[1.0, 0.25, 0.5], [0.0, 0.75, 0.5], [0.0, 0.25, 0.5]])

    def moved(dtype, epochs):
        return flossed(first.to(dtype, copy=True).requires_grad_(), epochs) - first

    assert not moved(dtype, 2)[0, 0]
    found, expected = moved(dtype, 200), moved(torch.float32, 200)
    assert float(expected.norm()) > 100 * step
    torch.testing.assert_close(found, expected, rtol=0, atol=20 * step)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_training_changes_is_taken_over(dtype):
    rnn, inputs = network(dtype), inputs_in(dtype)
    flosser = flossing.Flosser(rnn, k=3, before=3, every=1, tolerance=None)
    flosser.before_training(inputs)
    with torch.no_grad():
        rnn.weight_hh_l0[0].copy_(torch.full((8,), 0.25))
    kept = [each[1:].clone() for each in flosser.state_dict()["masters"][1:2]]
    flosser.step(1, inputs)
    (weight,) = flosser.state_dict()["masters"][1:2]
    # A step of Adam is at most some multiples of its step size, 1e-3.
    torch.testing.assert_close(weight[0], torch.full((8,), 0.25), rtol=0, atol=5e-3)
    torch.testing.assert_close(weight[1:], kept[0], rtol=0, atol=5e-3)
    assert torch.equal(weight.to(dtype), rnn.weight_hh_l0)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_resumed_run_is_the_same_run(dtype):
    inputs = inputs_in(dtype)
    options = {"k": 3, "before": 4, "every": 1, "tolerance": None, "training_lr": 1e-4}

    def run(flosser, epochs):
        flosser.before_training(inputs)
        for epoch in epochs:
            flosser.step(epoch, inputs)

    straight = network(dtype)
    run(flossing.Flosser(straight, **options), range(1, 9))
    broken = network(dtype)
    flosser = flossing.Flosser(broken, **options)
    run(flosser, range(1, 5))
    saved = copy.deepcopy((flosser.state_dict(), broken.state_dict()))
    resumed = network(dtype, size=8)
    resumed.load_state_dict(saved[1])
    flosser = flossing.Flosser(resumed, **options)
    flosser.load_state_dict(saved[0])
    run(flosser, range(5, 9))
    assert all(map(torch.equal, straight.parameters(), resumed.parameters()))
    wrong = flossing.Flosser(network(dtype, size=5), **options)
    with pytest.raises(flossing.InvalidOptionError, match="copies of 4 parameters in half"):
        wrong.load_state_dict(saved[0] | {"optimizer": wrong.state_dict()["optimizer"]})


def test_float32_has_no_copies():
    assert "masters" not in flossing.Flosser(network(torch.float32), k=2).state_dict()


@pytest.mark.parametrize("as_function", [False, True])
def test_an_optimizer_of_the_half_parameters_themselves(as_function):
    rnn, inputs = network(torch.bfloat16), inputs_in(torch.bfloat16)
    own = torch.optim.SGD(rnn.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in rnn.parameters()]
    optimizer = (lambda _: own) if as_function else own
    flossing.floss(rnn, inputs, k=3, steps=3, optimizer=optimizer)
    assert not any(map(torch.equal, before, rnn.parameters()))
    assert all(parameter.grad is None for parameter in rnn.parameters())


def test_a_step_that_fails_in_float16_is_undone_and_named():
    rnn, inputs = network(torch.float16), inputs_in(torch.float16)
    before = [parameter.detach().clone() for parameter in rnn.parameters()]

    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                self.param_groups[0]["params"][1].fill_(torch.nan)

    own = Broken(rnn.parameters(), lr=1e-3)
    with pytest.raises(flossing.NonFiniteError, match="float16 infinite or NaN.*Adam"):
        flossing.floss(rnn, inputs, k=3, steps=3, optimizer=own)
    assert all(map(torch.equal, before, rnn.parameters()))
    # A copy of 1e6 is finite, but not in float16.
    with pytest.raises(flossing.NonFiniteError, match="smaller step size"):
        flossing.floss(rnn, inputs, k=3, steps=3, lr=1e6)
    assert all(map(torch.equal, before, rnn.parameters()))


def grow(weight, factor, state):
    # An exponent whose gradient is the factor.
    return state * torch.exp(factor * (weight.float() - 0.5))


def test_small_and_large_gradients_in_float16():
    # Gradients of 1e-8 and of 1e6 are zero and infinite in float16.
    for factor in (1e-7, 1e6):
        gains = []
        for dtype in (torch.float16, torch.float32):
            weight = torch.full((1,), 0.5, dtype=dtype).requires_grad_()
            history = flossing.floss(
                partial(grow, weight, factor),
                lambda: 20,
                k=1,
                steps=1,
                target=-0.5,
                parameters=[weight],
                state=torch.ones(1, 1),
                optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-12),
            )
            gains.append(float(history.gradient_norm))
        assert gains[0] == pytest.approx(factor, rel=1e-2)
        assert gains[0] == pytest.approx(gains[1], rel=1e-2)
