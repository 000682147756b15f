"""The rule by which directions carry gradients, and by which flossing is advised."""

import math

import pytest
import torch
from torch import nn

import flossing
from flossing.diagnosis.advice import VERDICTS, advise, average, count_directions
from flossing.diagnosis.sections.advice import advice_section, suggested_k, verdict_of
from flossing.errors import InvalidOptionError

BOUND = math.log(1000) / 100


def counts_of(exponents, errors=0.0, horizon=100):
    values = torch.tensor(exponents, dtype=torch.float64)
    return count_directions(values, torch.full_like(values, errors), horizon)


def test_directions_are_classified_by_a_thousandfold_over_the_horizon():
    exponents = [1.01 * BOUND, 0.99 * BOUND, 0.0, -0.99 * BOUND, -1.01 * BOUND, -5.0, -math.inf]
    found = counts_of(exponents)
    assert (found.explode, found.carry, found.vanish, found.lost) == (1, 3, 2, 1)
    assert found.bound == pytest.approx(BOUND)
    assert math.exp(found.bound * 100) == pytest.approx(1000)


@pytest.mark.parametrize(
    ("errors", "uncertain"), [(0.0, 0), (0.006 * BOUND, 2), (0.6 * BOUND, 5), (math.inf, 6)]
)
def test_error_bars_across_a_limit_are_counted(errors, uncertain):
    exponents = [1.01 * BOUND, 0.99 * BOUND, 0.0, -1.5 * BOUND, -2.1 * BOUND, -5.0, -math.inf]
    assert counts_of(exponents, errors).uncertain == uncertain


def advice(exponents, memory=None, dtype=torch.float32):
    values = torch.tensor(exponents, dtype=torch.float64)
    return advise(values, counts_of(exponents), dtype=dtype, memory=memory or len(exponents))


def test_k_counts_what_the_precision_resolves():
    exponents = [-1.0, -8.9, -9.0, -18.9, -19.1, -math.inf]
    assert advice(exponents, dtype=torch.float32).k == 2
    assert advice(exponents, dtype=torch.float64).k == 4
    assert advice(exponents, memory=1).k == 1
    assert advice(exponents, memory=1).resolvable == 2


def test_k_is_at_least_one():
    found = advice([-math.inf, -math.inf])
    assert (found.k, found.resolvable, found.verdict) == (1, 0, "vanishes")


@pytest.mark.parametrize(
    ("exponents", "verdict"),
    [
        ([0.0, -0.01, 0.01], "carries all"),
        ([0.0, -0.01, -20.0], "carries all"),
        ([0.0, -0.01, -0.2], "carries some"),
        ([-0.2, -0.3], "vanishes"),
        ([0.2, 0.0, -0.3], "explodes"),
    ],
)
def test_verdicts(exponents, verdict):
    assert advice(sorted(exponents, reverse=True)).verdict == verdict


def test_trajectories_are_averaged_as_independent(stock_subject):
    spectrum = stock_subject(nn.RNN(1, 4)).spectrum
    exponents, errors = average(spectrum)
    torch.testing.assert_close(exponents, spectrum.exponents.double().mean(0))
    expected = spectrum.standard_error.double().square().mean(0).div(2).sqrt()
    torch.testing.assert_close(errors, expected)


def test_a_horizon_must_be_positive():
    with pytest.raises(InvalidOptionError, match="horizon is 0"):
        counts_of([0.0], horizon=0)


@pytest.mark.parametrize(
    ("exponents", "verdict", "floss", "said"),
    [
        ([0.0, 0.0, 0.0], "carries all", False, ["not needed", "--horizon"]),
        ([-0.5, -0.6, -0.7], "vanishes", True, ["k = 3", "no direction", "factor of 1000"]),
        ([0.0, -0.6, -0.7], "carries some", True, ["k = 3", "1 of the 3 directions"]),
        ([0.2, -0.6, -0.7], "explodes", True, ["k = 3", "explode", 'state_gradient="detach"']),
    ],
)
def test_advice_on_maps_with_known_exponents(linear_subject, exponents, verdict, floss, said):
    subject = linear_subject(exponents)
    section = advice_section(subject)
    assert verdict_of(subject) == verdict
    assert section.numbers["floss"] is floss
    assert all(words in section.meaning[0] for words in [*said, "over 100 steps"])
    assert section.meaning[0].startswith("Floss k =") == floss
    assert (f"k={suggested_k(subject)}" in section.code) == floss
    assert ('state_gradient="detach"' in section.code) == (verdict == "explodes")


def test_the_code_of_the_advice_runs(linear_subject):
    subject = linear_subject([0.2, -0.1, -0.2])
    code = advice_section(subject).code.replace("Flosser(network, ", "Flosser(network, before=2, ")
    names = {"batches": lambda: subject.inputs[:10], "steps": 2, "flossing": flossing}

    class Driven(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = subject.network.module

        def forward(self, x, state):
            return self.map(x, state)

    state = "k=3, state=lambda inputs: network.map.initial_state(inputs.shape[1])"
    before = subject.network.module.matrix.detach().clone()
    exec(code.replace("k=3", state), {"network": Driven()} | names)
    assert not torch.equal(subject.network.module.matrix, before)


def test_an_lstm_has_no_more_memory_than_cells(stock_subject):
    subject = stock_subject(nn.LSTM(1, 6))
    assert subject.spectrum.exponents.shape == (2, 12)
    assert suggested_k(subject) == 6


def test_k_is_for_the_precision_of_the_network(linear_subject, stock_subject):
    assert linear_subject([0.0, -9.0]).flossing_dtype == torch.float64
    assert suggested_k(linear_subject([0.0, -9.0])) == 2
    analysed_in_double = stock_subject(nn.RNN(1, 4), dtype=torch.float64)
    assert analysed_in_double.spectrum.exponents.dtype == torch.float64
    assert analysed_in_double.flossing_dtype == torch.float32


def test_each_layer_of_a_stack_is_judged_by_itself(stock_subject):
    stack = nn.GRU(1, 4, num_layers=2)
    with torch.no_grad():
        # The recurrent weights and inputs of the second layer are zero: λ = ln σ(b_z) = ln σ(12).
        for name in ("weight_hh_l1", "weight_ih_l1", "bias_ih_l1", "bias_hh_l1"):
            stack.get_parameter(name).zero_()
        stack.get_parameter("bias_ih_l1")[4:8] = 12.0
    subject = stock_subject(stack, horizon=1000)
    first, second = subject.advice
    assert second.verdict == "carries all"
    assert first.verdict == "vanishes"
    section = advice_section(subject)
    assert "over 1000 steps in layer 0" in section.meaning[0]
    assert [row[0] for row in section.tables[0].rows] == [0, 1]
    assert section.tables[0].rows[1][1] == pytest.approx(0.0, abs=1e-5)
    assert [each["verdict"] for each in section.numbers["layers"]] == ["vanishes", "carries all"]
    alone = stock_subject(stack, horizon=1000, layer=1)
    assert verdict_of(alone) == "carries all"
    assert advice_section(alone).tables == ()


def test_the_verdicts_are_ordered_by_need():
    assert VERDICTS == ("explodes", "vanishes", "carries some", "carries all")
