"""The section about the gradient horizon."""

import math

import pytest
import torch
from torch import nn

import flossing


def test_gradients_that_vanish(linear_subject, section_of):
    # ln 1000 / 0.5 = 13.8
    section = section_of("reach", linear_subject([-0.5, -0.5, -0.5]))
    assert "about 14 steps, shorter than the 100 steps requested" in section.meaning[0]
    assert "gradients in random directions vanish" in section.meaning[0]
    assert "the best direction they vanish after 14 steps" in section.meaning[0]
    assert section.numbers["random"]["vanishing_lag"] == [14.0, 14.0]
    assert section.numbers["best"]["exploding_lag"] == [math.inf, math.inf]
    assert section.numbers["exponent"] == pytest.approx([-0.5, -0.5])
    assert section.tables[0].rows[0][1:3] == ("14", "> 55")


def test_gradients_that_explode(linear_subject, section_of):
    section = section_of("reach", linear_subject([0.5, 0.5], horizon=10))
    assert "about 14 steps, which covers the 10 steps requested" in section.meaning[0]
    assert "gradients in random directions explode" in section.meaning[0]
    assert "the best direction they do not vanish" in section.meaning[0]


@pytest.mark.parametrize(
    ("horizon", "words"),
    [(50, "exceeds the 50 steps requested"), (100, "too few steps to judge the 100 steps")],
)
def test_gradients_that_stay(linear_subject, section_of, horizon, words):
    section = section_of("reach", linear_subject([0.0, 0.0], horizon=horizon))
    assert "less than a factor of 1000 over 55 steps" in section.meaning[0]
    assert words in section.meaning[0]


def test_gradients_that_are_lost_at_once(linear_subject, section_of):
    section = section_of("reach", linear_subject([-math.inf, -math.inf]))
    assert "about 1 step, shorter than" in section.meaning[0]


def test_numbers_are_those_of_the_analysis(stock_subject, section_of):
    subject = stock_subject(nn.GRU(1, 4), steps=90, state_transient=7)
    section = section_of("reach", subject)
    lags = section.numbers["lags"]
    expected = flossing.gradient_horizon(
        subject.network.module,
        subject.inputs[: 7 + lags[-1]],
        lags=lags,
        state_transient=7,
        dtype=torch.float64,
    )
    assert 20 in lags
    assert section.numbers["random"]["mean_log_norm"] == pytest.approx(
        expected.random.log_norm.mean(dim=1).tolist()
    )
    assert section.numbers["best"]["vanishing_lag"] == expected.worst.vanishing_lag.tolist()


def test_the_best_direction_of_large_states_is_left_out(stock_subject, section_of):
    section = section_of("reach", stock_subject(nn.RNN(1, 257), steps=30, k=1))
    assert section.numbers["best"] is None
    assert len(section.tables[0].rows) == 1
    assert "best" not in section.meaning[0]
    assert any("more than 256 dimensions" in paragraph for paragraph in section.text)


def test_the_code_runs(stock_subject, section_of):
    rnn = nn.RNN(1, 4)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.readout = rnn, nn.Linear(4, 1)

    import flossing.plots

    subject = stock_subject(rnn)
    names = {
        "flossing": flossing,
        "network": Network(),
        "inputs": subject.inputs,
        "targets": torch.zeros(2, 1),
        "criterion": nn.functional.mse_loss,
    }
    exec(section_of("reach", subject).example, names)
    assert names["horizon"].error.log_norm.shape == (81, 2)
