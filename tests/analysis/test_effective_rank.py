import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

import flossing
from flossing import GradientRank, InvalidOptionError, NonFiniteError

F64 = torch.float64


def sum_of_squares(output):
    return output.square().sum()


def last_sum_of_squares(output):
    return output[-1].square().sum()


def ranks(rank):
    return [rank.participation_ratio, rank.stable_rank, rank.entropy_rank]


def autograd_gradient(module, inputs, loss, name):
    output = module(inputs)[0]
    return torch.autograd.grad(loss(output), dict(module.named_parameters())[name])[0]


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_ranks_of_known_singular_values(scale):
    equal = GradientRank(scale * torch.ones(5, dtype=F64))
    assert ranks(equal) == [pytest.approx(5.0)] * 3
    single = GradientRank(scale * torch.tensor([3.0, 0.0, 0.0], dtype=F64))
    assert ranks(single) == [1.0] * 3
    uneven = GradientRank(scale * torch.tensor([2.0, 1.0], dtype=F64))
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    expected = [25 / 17, 5 / 4, math.exp(entropy)]
    assert ranks(uneven) == [pytest.approx(value, rel=1e-14) for value in expected]
    assert ranks(GradientRank(torch.zeros(4))) == [0.0] * 3


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bias": False}, {"batch_first": True}])
def test_singular_values_are_those_of_autograds_gradient(kind, options):
    module = kind(2, 5, dtype=F64, **options)
    inputs = torch.randn(7, 3, 2, dtype=F64)
    result = flossing.effective_rank(module, inputs, loss=sum_of_squares)
    assert list(result.matrices) == [f"weight_hh_l{i}" for i in range(module.num_layers)]
    assert result.loss == pytest.approx(sum_of_squares(module(inputs)[0]).item())
    for name, rank in result.matrices.items():
        gradient = autograd_gradient(module, inputs, sum_of_squares, name)
        assert_close(rank.singular_values, torch.linalg.svdvals(gradient))
        gates = result.gates.get(name, {})
        pieces = gradient.split(5)
        assert len(gates) == (0 if kind is nn.RNN else len(pieces))
        for gate, piece in zip(gates.values(), pieces, strict=False):
            assert_close(gate.singular_values, torch.linalg.svdvals(piece))


def test_gates_are_named_in_pytorchs_order():
    lstm, gru = nn.LSTM(1, 3), nn.GRU(1, 3)
    inputs = torch.randn(4, 2, 1)
    names = {
        module: list(
            flossing.effective_rank(module, inputs, loss=sum_of_squares).gates.popitem()[1]
        )
        for module in (lstm, gru)
    }
    assert names[lstm] == ["input", "forget", "cell", "output"]
    assert names[gru] == ["reset", "update", "new"]


def test_one_outer_product_has_rank_one():
    # From a state of zero, two steps with one trajectory give a single term δ_2 h_1ᵀ.
    rnn = nn.RNN(2, 6, dtype=F64)
    result = flossing.effective_rank(rnn, torch.randn(2, 1, 2, dtype=F64), loss=last_sum_of_squares)
    assert ranks(result.matrices["weight_hh_l0"]) == [pytest.approx(1.0, abs=1e-12)] * 3


def test_rank_is_at_most_the_number_of_outer_products():
    rnn = nn.RNN(2, 8, dtype=F64)
    result = flossing.effective_rank(rnn, torch.randn(2, 3, 2, dtype=F64), loss=last_sum_of_squares)
    values = result.matrices["weight_hh_l0"].singular_values
    assert bool((values[3:] < 1e-14 * values[0]).all())
    assert bool((values[:3] > 1e-6 * values[0]).all())


def test_errors_that_came_down_to_one_direction_have_a_lower_rank_than_rotating_ones():
    size, steps = 8, 60
    shrinking = torch.diag(torch.tensor([1.0] + [0.2] * (size - 1), dtype=F64))
    rotating = torch.linalg.qr(torch.randn(size, size, dtype=F64)).Q
    target = torch.randn(size, dtype=F64)
    found = {}
    for name, weight in (("shrinking", shrinking), ("rotating", rotating)):
        cell = LinearCell(weight)
        found[name] = flossing.effective_rank(
            cell,
            torch.randn(steps, 1, size, dtype=F64),
            torch.zeros(1, size, dtype=F64),
            loss=lambda states: states[-1] @ target,
            parameters=["weight"],
        ).matrices["weight"]
    assert found["shrinking"].participation_ratio < 2
    assert found["rotating"].participation_ratio > 3


class LinearCell(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x, h):
        return h @ self.weight.mT + x


def test_gradient_of_a_linear_network_is_the_sum_of_outer_products():
    size, steps = 4, 6
    weight = torch.randn(size, size, dtype=F64)
    inputs = torch.randn(steps, 1, size, dtype=F64)
    state = torch.randn(1, size, dtype=F64)
    target = torch.randn(size, dtype=F64)
    states = [state[0]]
    for x in inputs[:, 0]:
        states.append(weight @ states[-1] + x)
    error, gradient = target, torch.zeros(size, size, dtype=F64)
    for before in states[-2::-1]:
        gradient += torch.outer(error, before)
        error = weight.mT @ error
    result = flossing.effective_rank(
        LinearCell(weight),
        inputs,
        state,
        loss=lambda states: (states[-1] @ target).sum(),
        parameters=["weight"],
    )
    assert_close(result.matrices["weight"].singular_values, torch.linalg.svdvals(gradient))
    assert result.gates == {}


class Wrapped(nn.Module):
    """A custom cell around a stock one, with a buffer of its own."""

    def __init__(self, dtype):
        super().__init__()
        self.cell = nn.GRUCell(2, 4, dtype=dtype)
        self.register_buffer("scale", torch.ones(1, dtype=dtype))

    def forward(self, x, h):
        return self.scale * self.cell(x, h)


def test_a_custom_module_finds_recurrent_weights_by_their_names():
    wrapped = Wrapped(F64)
    inputs, zero = torch.randn(5, 3, 2, dtype=F64), torch.zeros(3, 4, dtype=F64)
    by_name = flossing.effective_rank(wrapped, inputs, zero, loss=sum_of_squares)
    stock = flossing.effective_rank(wrapped.cell, inputs, loss=sum_of_squares)
    assert list(by_name.matrices) == ["cell.weight_hh"]
    assert_close(
        by_name.matrices["cell.weight_hh"].singular_values,
        stock.matrices["weight_hh"].singular_values,
    )
    named = flossing.effective_rank(
        wrapped, inputs, zero, loss=sum_of_squares, parameters=["cell.weight_ih"]
    )
    assert named.matrices["cell.weight_ih"].singular_values.shape == (2,)


def test_double_precision_of_a_single_precision_module():
    wrapped = Wrapped(torch.float32)
    inputs, zero = torch.randn(5, 3, 2), torch.zeros(3, 4)
    for system, state in ((wrapped, zero), (wrapped.cell, None)):
        found = flossing.effective_rank(
            system, inputs, state, loss=last_sum_of_squares, dtype=F64
        ).matrices.popitem()[1]
        assert found.singular_values.dtype is F64
    exact = flossing.effective_rank(
        wrapped.double(), inputs.double(), zero.double(), loss=last_sum_of_squares
    ).matrices["cell.weight_hh"]
    assert_close(found.singular_values, exact.singular_values)


def test_other_matrices_of_stock_modules_by_name():
    lstm = nn.LSTM(3, 5, num_layers=2, proj_size=2, dtype=F64)
    inputs = torch.randn(6, 4, 3, dtype=F64)
    names = ["weight_ih_l1", "weight_hr_l0", "weight_hh_l1"]
    result = flossing.effective_rank(lstm, inputs, loss=sum_of_squares, parameters=names)
    assert list(result.matrices) == names
    assert list(result.gates) == ["weight_ih_l1", "weight_hh_l1"]
    for name in names:
        gradient = autograd_gradient(lstm, inputs, sum_of_squares, name)
        assert_close(result.matrices[name].singular_values, torch.linalg.svdvals(gradient))


def test_parametrised_and_frozen_weights_are_taken_as_they_act():
    rnn = nn.RNN(2, 4, dtype=F64)
    parametrizations.orthogonal(rnn, "weight_hh_l0")
    plain = nn.RNN(2, 4, dtype=F64)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(plain, name).copy_(getattr(rnn, name))
    plain.requires_grad_(False)
    inputs = torch.randn(6, 2, 2, dtype=F64)
    found = [
        flossing.effective_rank(module, inputs, loss=sum_of_squares).matrices["weight_hh_l0"]
        for module in (rnn, plain)
    ]
    assert_close(found[0].singular_values, found[1].singular_values)


def test_no_gradient_flows_through_the_transient():
    rnn = nn.GRU(2, 4, dtype=F64)
    inputs = torch.randn(9, 2, 2, dtype=F64)
    with torch.no_grad():
        _, state = rnn(inputs[:4])
    seen = []
    late = flossing.effective_rank(
        rnn, inputs, loss=lambda y: seen.append(len(y)) or sum_of_squares(y), state_transient=4
    )
    alone = flossing.effective_rank(rnn, inputs[4:], state, loss=sum_of_squares)
    assert seen == [5]
    for name, rank in late.matrices.items():
        assert_close(rank.singular_values, alone.matrices[name].singular_values)


def test_nothing_of_the_module_or_the_random_state_is_touched():
    rnn, inputs = nn.GRU(2, 4), torch.randn(5, 2, 2)
    readout = nn.Linear(4, 1)
    rnn.weight_hh_l0.grad = torch.full_like(rnn.weight_hh_l0, 7.0)
    before, weight = torch.get_rng_state(), rnn.weight_hh_l0.clone()
    with torch.inference_mode():
        result = flossing.effective_rank(rnn, inputs, loss=lambda y: readout(y).square().mean())
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(rnn.weight_hh_l0, weight)
    assert bool((rnn.weight_hh_l0.grad == 7.0).all())
    assert rnn.bias_hh_l0.grad is None
    assert readout.weight.grad is None
    assert not result.matrices["weight_hh_l0"].singular_values.requires_grad


def test_a_gate_without_gradient_has_rank_zero():
    gru = nn.GRU(1, 3, dtype=F64)
    with torch.no_grad():
        gru.bias_ih_l0[:3] = -800.0
    result = flossing.effective_rank(gru, torch.randn(6, 2, 1, dtype=F64), loss=sum_of_squares)
    gates = result.gates["weight_hh_l0"]
    assert ranks(gates["reset"]) == [0.0] * 3
    assert all(rank >= 1 for rank in ranks(gates["update"]))


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]),
    layers=st.integers(1, 3),
    steps=st.integers(2, 6),
    batch=st.integers(1, 3),
    units=st.integers(1, 4),
    batched=st.booleans(),
    dtype=st.sampled_from([None, F64]),
)
def test_ranks_lie_between_one_and_the_size(kind, layers, steps, batch, units, batched, dtype):
    module = kind(2, units, num_layers=layers)
    inputs = torch.randn(steps, batch, 2) if batched else torch.randn(steps, 2)
    result = flossing.effective_rank(module, inputs, loss=sum_of_squares, dtype=dtype)
    assert len(result.matrices) == layers
    for rank in result.matrices.values():
        assert rank.singular_values.shape == (units,)
        for value in ranks(rank):
            assert 1 - 1e-6 <= value <= units + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": []}, "weight_ih_l0"),
        ({"parameters": ["weight_hh_l1"]}, r"\['weight_hh_l1'\]"),
        ({"parameters": ["bias_hh_l0"]}, r"\['bias_hh_l0'\]"),
        ({"loss": lambda y: 0.0 * y.sum()}, "gradient of weight_hh_l0 is zero"),
        ({"loss": lambda y: y}, "scalar"),
        ({"loss": lambda y: y.detach().sum()}, "autograd"),
    ],
)
@pytest.mark.usefixtures("own_checks_only")
def test_bad_options_are_named(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        flossing.effective_rank(
            nn.RNN(2, 3), torch.randn(4, 1, 2), **{"loss": sum_of_squares, **options}
        )


def test_one_step_from_zero_has_no_gradient():
    with pytest.raises(InvalidOptionError, match="zero"):
        flossing.effective_rank(nn.RNN(2, 3), torch.randn(1, 1, 2), loss=sum_of_squares)


def test_a_plain_function_is_told_to_become_a_module():
    with pytest.raises(InvalidOptionError, match=r"nn\.Module"):
        flossing.effective_rank(
            lambda h: 0.5 * h, state=torch.ones(1, 2), steps=3, loss=sum_of_squares
        )


def test_a_module_without_names_to_go_by_lists_its_matrices():
    with pytest.raises(InvalidOptionError, match=r"weight_hh\*.*\['weight'\]"):
        flossing.effective_rank(
            LinearCell(torch.eye(2)), torch.ones(3, 1, 2), torch.ones(1, 2), loss=sum_of_squares
        )


class Steep(LinearCell):
    def forward(self, x, h):
        return (1e3 * super().forward(x, h)).sin()


def test_exploding_gradients_are_refused():
    with pytest.raises(NonFiniteError, match="gradient of weight"):
        flossing.effective_rank(
            Steep(torch.eye(2)),
            torch.zeros(40, 1, 2),
            torch.ones(1, 2),
            loss=last_sum_of_squares,
            parameters=["weight"],
        )
