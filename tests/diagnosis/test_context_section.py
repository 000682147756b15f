"""The section about dimension, volume, saturation and recurrent weights."""

import math

import pytest
import torch
from torch import nn

import flossing


def test_numbers_are_those_of_the_analysis(stock_subject, section_of):
    torch.manual_seed(0)
    subject = stock_subject(nn.LSTM(1, 4), steps=120, state_transient=10)
    section = section_of("context", subject)
    context = flossing.dynamical_context(
        subject.network.module, subject.inputs, state_transient=10, sampled_jacobians=20
    )
    expected = context.as_dict()
    assert section.numbers.keys() == expected.keys()
    for name, value in expected.items():
        assert section.numbers[name] == pytest.approx(value, rel=1e-3), name
    gates = [row[0] for row in section.tables[1].rows]
    assert gates == [gate for _, gate in context.saturation]
    assert section.tables[1].rows[4][1:4] == ("–", "–", "–")
    assert "contracting" in section.meaning[0]


def test_volumes_come_from_determinants_where_exponents_are_missing(stock_subject, section_of):
    torch.manual_seed(0)
    rnn = nn.RNN(1, 4)
    every = section_of("context", stock_subject(rnn)).numbers["volume_growth_rate"]
    few = section_of("context", stock_subject(rnn, k=2)).numbers["volume_growth_rate"]
    assert few == pytest.approx(every, rel=1e-4)


@pytest.mark.parametrize(
    ("exponents", "words", "dimension"),
    [
        ([0.5, -1.0], "chaotic under these inputs", 1.5),
        ([-0.5, -1.0], "contracting under these inputs", 0.0),
        ([0.0, 0.0], "within two standard errors of zero", 2.0),
    ],
)
def test_kinds_of_dynamics(linear_subject, section_of, exponents, words, dimension):
    section = section_of("context", linear_subject(exponents))
    assert words in section.meaning[0]
    assert section.numbers["kaplan_yorke_dimension"] == pytest.approx(dimension)
    assert section.numbers["entropy_rate"] == pytest.approx(max(0.0, exponents[0]))
    assert section.numbers["volume_growth_rate"] == pytest.approx(sum(exponents))


def test_a_module_of_ones_own_has_no_named_gates(linear_subject, section_of):
    section = section_of("context", linear_subject([-0.5, -1.0]))
    assert len(section.tables) == 1
    assert section.figures == ()
    assert "left out" in section.meaning[0]
    assert not any("saturated" in paragraph for paragraph in section.text[:-1])


def test_a_stack_has_a_figure_for_each_layer(stock_subject, section_of):
    section = section_of("context", stock_subject(nn.GRU(1, 3, num_layers=2)))
    assert len(section.figures) == 2
    assert "of layer 1" in section.figures[1].caption
    assert section.tables[1].rows[3][0] == "reset, layer 1"


def test_saturation_in_words(stock_subject, section_of):
    rnn = nn.RNN(1, 3)
    with torch.no_grad():
        rnn.bias_hh_l0.fill_(50.0)
    section = section_of("context", stock_subject(rnn))
    assert "100 % of its units" in section.meaning[0]
    assert section.tables[1].rows[0][-2:] == ("100 %", "100 %")


def test_singular_jacobians(linear_subject, section_of):
    section = section_of("context", linear_subject([0.0, -math.inf]))
    assert "singular" in section.meaning[0]
    assert section.numbers["volume_growth_rate"] == -math.inf


def test_too_few_exponents_for_the_dimension_are_noted(linear_subject, section_of):
    section = section_of("context", linear_subject([0.5, 0.4, -1.0], k=2))
    assert any("Kaplan–Yorke dimension" in note and "larger k" in note for note in section.notes)
    assert dict(section.tables[0].rows)["Kaplan–Yorke dimension"] == "unknown"


def test_dimension_and_entropy_have_their_errors(stock_subject, section_of):
    torch.manual_seed(0)
    rnn = nn.RNN(1, 20)
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(4)
    subject = stock_subject(rnn, steps=400, k=15)
    spectrum = subject.spectrum
    section = section_of("context", subject)
    for name, values, errors in (
        (
            "Kaplan–Yorke dimension",
            spectrum.kaplan_yorke_dimension,
            spectrum.kaplan_yorke_dimension_error,
        ),
        ("entropy rate (nats per step)", spectrum.entropy_rate, spectrum.entropy_rate_error),
    ):
        told, error = (float(part) for part in dict(section.tables[0].rows)[name].split(" ± "))
        assert told == pytest.approx(values.mean().item(), rel=1e-2)
        # Of the mean over two trajectories, which are independent.
        assert error == pytest.approx(errors.square().sum().sqrt().item() / 2, rel=0.1)
        assert error > 0
