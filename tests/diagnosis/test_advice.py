"""The rule by which directions carry gradients, and by which flossing is advised."""

import math
import re
from dataclasses import replace
from pathlib import Path

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


def advice(exponents, memory=None, dtype=torch.float32, gated=False):
    values = torch.tensor(exponents, dtype=torch.float64)
    counts = counts_of(exponents)
    return advise(values, counts, dtype=dtype, memory=memory or len(exponents), gated=gated)


def test_k_counts_what_the_precision_resolves():
    exponents = [-1.0, -8.9, -9.0, -18.9, -19.1, -math.inf]
    assert advice(exponents, dtype=torch.float32).k == 2
    assert advice(exponents, dtype=torch.float64).k == 4
    assert advice(exponents, memory=1).k == 1
    assert advice(exponents, memory=1).resolvable == 2


@pytest.mark.parametrize(("units", "k"), [(32, 8), (5, 1), (2, 1)])
def test_of_a_gated_network_a_quarter_is_flossed(units, k):
    found = advice([-1.0] * units, gated=True)
    assert (found.k, found.flossable, found.verdict) == (k, units, "vanishes")
    assert advice([0.0] * k + [-1.0] * (units - k), gated=True).verdict == "carries enough"


def test_k_is_at_least_one():
    found = advice([-math.inf, -math.inf])
    assert (found.k, found.resolvable, found.verdict) == (1, 0, "vanishes")


@pytest.mark.parametrize(
    ("exponents", "verdict"),
    [
        ([0.0, -0.01, 0.01], "carries enough"),
        ([0.0, -0.01, -20.0], "carries enough"),
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


YET_TO_BE_TRAINED = "If the network is yet to be trained, or training stalls at long delays, floss"


@pytest.mark.parametrize(
    ("exponents", "verdict", "floss", "said"),
    [
        ([0.0, 0.0, 0.0], "carries enough", False, ["not needed", "--horizon"]),
        ([-0.5, -0.6, -0.7], "vanishes", True, ["k = 3", "no direction", "as a flip-flop does"]),
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
    assert section.meaning[0].startswith(YET_TO_BE_TRAINED) == floss
    assert ("does its task already, leave it" in section.meaning[0]) == floss
    assert (f"k={suggested_k(subject)}" in section.code) == floss
    assert ('state_gradient="detach"' in section.code) == (verdict == "explodes")


def test_what_the_page_does_not_know_is_said(linear_subject):
    unknown = advice_section(linear_subject([-0.5, -0.6])).meaning[1]
    assert "whether the network has been trained and does its task" in unknown
    assert "under other inputs than nothing" in unknown
    assert "threshold" not in unknown


def test_exponents_on_neither_side_are_named_as_unknown(stock_subject):
    subject = stock_subject(nn.RNN(1, 4), steps=30)
    subject.__dict__["standard_errors"] = torch.full((4,), math.inf)
    assert "4 exponents lie, within two standard errors" in advice_section(subject).meaning[1]


def a_flip_flop():
    """Three units with strong self-excitation, each of which keeps the sign of its last pulse."""
    memory = nn.RNN(3, 3)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.zero_()
        memory.weight_hh_l0.fill_diagonal_(1.5)
        memory.weight_ih_l0.fill_diagonal_(1.0)
    return memory


def test_a_network_that_holds_its_bits_is_not_told_to_change(stock_subject):
    memory = a_flip_flop()
    pulses = torch.zeros(200, 1, 3)
    pulses[0] = torch.tensor([2.0, -2.0, 2.0])
    held = memory(pulses)[0][-1, 0].sign()
    assert held.tolist() == [1.0, -1.0, 1.0]
    section = advice_section(stock_subject(memory, horizon=100))
    assert section.numbers["layers"][0]["verdict"] == "vanishes"
    assert section.meaning[0].startswith(YET_TO_BE_TRAINED)
    assert "If it does its task already, leave it as it is" in section.meaning[0]


# Of the 64 exponents of the LSTM, single precision loses the last.
@pytest.mark.filterwarnings("ignore::flossing.LostRankWarning")
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_gated_networks_are_advised_as_the_guide_says(stock_subject, layer):
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    assert "Floss few exponents of them, about a quarter of N" in " ".join(guide.split())
    section = advice_section(stock_subject(layer(1, 32), horizon=100))
    assert section.numbers["k"] == 8
    assert "about a quarter of its units" in section.meaning[1]
    assert "How much it helps is not settled" in section.meaning[1]
    assert "k=8)" in section.code


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_vanilla_networks_are_advised_as_the_pages_show(stock_subject, page):
    code = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    size = int(re.search(r"torch\.nn\.RNN\(1, (\d+)\)", code)[1])
    shown = re.findall(r"(?:floss|Flosser)\(rnn.*\bk=(\d+)", code)
    assert set(map(int, shown)) == {size}
    assert suggested_k(stock_subject(nn.RNN(1, size), horizon=100)) == size


@pytest.mark.parametrize(
    ("prefix", "named"),
    [
        ("", "model"),
        ("rnn.", "model.rnn"),
        ("model.rnn.", "model.rnn"),
        ("state_dict.model.rnn.", "model.rnn"),
        ("model_state_dict.module._orig_mod.encoder.rnn.", "model.encoder.rnn"),
        ("layers.0.", "model.get_submodule('layers.0')"),
        ('a"b.', "model.get_submodule('a\"b')"),
    ],
)
def test_the_code_names_the_layer_that_was_found(stock_subject, prefix, named):
    subject = stock_subject(nn.RNN(1, 4))
    subject = replace(subject, network=replace(subject.network, prefix=prefix))
    assert advice_section(subject).code.startswith(f"flosser = flossing.Flosser({named}, k=4)")


def test_the_code_of_the_advice_runs(linear_subject):
    subject = linear_subject([0.2, -0.1, -0.2])
    code = advice_section(subject).code.replace("Flosser(model, ", "Flosser(model, before=2, ")
    names = {"batches": lambda: subject.inputs[:10], "steps": 2, "flossing": flossing}

    class Driven(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = subject.network.module

        def forward(self, x, state):
            return self.map(x, state)

    state = "k=3, state=lambda inputs: model.map.initial_state(inputs.shape[1])"
    before = subject.network.module.matrix.detach().clone()
    exec(code.replace("k=3", state), {"model": Driven()} | names)
    assert not torch.equal(subject.network.module.matrix, before)


def test_an_lstm_has_no_more_memory_than_cells(stock_subject):
    subject = stock_subject(nn.LSTM(1, 6))
    assert subject.spectrum.exponents.shape == (2, 12)
    assert (suggested_k(subject), subject.flossable) == (1, 6)


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
    assert second.verdict == "carries enough"
    assert first.verdict == "vanishes"
    section = advice_section(subject)
    assert "over 1000 steps in layer 0" in section.meaning[0]
    assert [row[0] for row in section.tables[0].rows] == [0, 1]
    assert section.tables[0].rows[1][1] == pytest.approx(0.0, abs=1e-5)
    assert [each["verdict"] for each in section.numbers["layers"]] == ["vanishes", "carries enough"]
    alone = stock_subject(stack, horizon=1000, layer=1)
    assert verdict_of(alone) == "carries enough"
    assert advice_section(alone).tables == ()


def test_the_verdicts_are_ordered_by_need():
    assert VERDICTS == ("explodes", "vanishes", "carries some", "carries enough")
