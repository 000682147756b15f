"""Every public result prints as a few lines, of which each is right."""

import dataclasses

import pytest
import snntorch
import torch
from torch import nn

import flossing
from flossing.support.printing import Printed

INPUTS = torch.randn(200, 2, 2, generator=torch.Generator().manual_seed(0))


def mean_square(outputs):
    return outputs[-1].square().mean()


def results():
    rnn = nn.GRU(2, 12)
    spectrum = flossing.lyapunov_spectrum(rnn, INPUTS)
    horizon = flossing.gradient_horizon(rnn, INPUTS, loss=mean_square)
    context = flossing.dynamical_context(rnn, INPUTS)
    rank = flossing.effective_rank(rnn, INPUTS, loss=mean_square)
    watcher = flossing.watch(rnn, k=3)
    watcher(INPUTS)
    return [
        spectrum,
        horizon,
        horizon.worst,
        context,
        *list(context.weights.values())[:1],
        *list(context.saturation.values())[:1],
        rank,
        rank.matrices["weight_hh_l0"],
        watcher,
        flossing.convergence(spectrum),
        flossing.covariant_vectors(rnn, INPUTS, k=3),
        flossing.long_term_jacobian(rnn, INPUTS, horizons=[5, 10]),
        flossing.floss(rnn, INPUTS, k=3, steps=2),
        flossing.Flosser(rnn, k=3),
        flossing.closed_loop(rnn, nn.Linear(12, 2)),
        flossing.stateful(snntorch.Leaky(beta=0.9, init_hidden=True)),
        flossing.one_direction(nn.GRU(2, 12, bidirectional=True), INPUTS, direction="reverse"),
    ]


def test_every_public_result_prints_as_a_few_lines():
    printed = results()
    for result in printed:
        text = repr(result)
        assert str(result) == text
        assert len(text.splitlines()) <= 10
        assert len(text) < 600
        assert "tensor(" not in text
        assert " object at " not in text
    # None was forgotten: every public class is there that is no error, warning or option.
    classes = {
        each
        for each in vars(flossing).values()
        if isinstance(each, type) and not issubclass(each, BaseException)
    }
    assert classes == {type(result) for result in printed}


def test_a_spectrum():
    spectrum = flossing.log_growth_rates(torch.diag(torch.tensor([0.5, 2.0])).repeat(100, 1, 1))
    lines = repr(spectrum).splitlines()
    low, high = float(spectrum.exponents.min()), float(spectrum.exponents.max())
    assert lines[0] == "LyapunovSpectrum"
    assert lines[1] == f"  exponents: (1, 2) from {low:.4g} to {high:.4g}"
    assert [line.split(":")[0].strip() for line in lines[2:]] == [
        "standard_error",
        "local",
        "counted_steps",
        "dt",
    ]


@dataclasses.dataclass(frozen=True, repr=False)
class Found(Printed):
    value: object


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor([1.5, -2.0], requires_grad=True), "1.5, -2"),
        (torch.tensor(3), "3"),
        (torch.zeros(0, 3), "(0, 3)"),
        (torch.full((9,), torch.nan), "(9,)"),
        (torch.tensor([[torch.nan, -torch.inf, 2.0]]), "(1, 3) from -inf to 2"),
        (torch.tensor([[3 + 4j]]), "(1, 1) of sizes from 5 to 5"),
        (torch.ones(2, 2, dtype=torch.bfloat16), "(2, 2) from 1 to 1"),
        (torch.tensor([[True], [False]]), "(2, 1) from 0 to 1"),
        (0.123456, "0.1235"),
        (None, "None"),
        ({}, "none"),
        (dict.fromkeys(range(9)), "9, by 0, 1, 2, 3, 4, 5, …"),
        (Found(1), "Found with value: 1"),
    ],
)
def test_values(value, text):
    assert repr(Found(value)) == f"Found\n  value: {text}"
