"""The section about how far gradients reach."""

import math

import pytest
import torch
from torch import nn

import flossing
from flossing.diagnosis.sections import reach


def test_gradients_that_vanish(linear_study, section_of):
    # ln 1000 / 0.5 = 13.8
    section = section_of("reach", linear_study([-0.5, -0.5, -0.5]))
    assert section.meaning == (
        "The usable horizon is about 14 steps, short of the 100 steps asked for: gradients in "
        "random directions vanish after so many. Along the best direction they vanish after 14 "
        "steps.",
    )
    assert section.numbers["random"]["vanishing_lag"] == [14.0, 14.0]
    assert section.numbers["best"]["exploding_lag"] == [math.inf, math.inf]
    assert section.numbers["exponent"] == pytest.approx([-0.5, -0.5])
    assert section.tables[0].rows[0][1:3] == ("14", "> 55")


def test_gradients_that_explode(linear_study, section_of):
    section = section_of("reach", linear_study([0.5, 0.5], horizon=10))
    assert "The usable horizon is about 14 steps, which is enough for the 10" in section.meaning[0]
    assert "gradients in random directions explode" in section.meaning[0]
    assert "do not vanish within the steps measured" in section.meaning[0]


@pytest.mark.parametrize(
    ("horizon", "words"),
    [(50, "longer than the 50 steps asked for"), (100, "too few to tell about the 100 steps")],
)
def test_gradients_that_stay(linear_study, section_of, horizon, words):
    section = section_of("reach", linear_study([0.0, 0.0], horizon=horizon))
    assert "stay within a thousandfold over 55 steps" in section.meaning[0]
    assert words in section.meaning[0]


def test_gradients_that_are_lost_at_once(linear_study, section_of):
    section = section_of("reach", linear_study([-math.inf, -math.inf]))
    assert "The usable horizon is about 1 step, short of" in section.meaning[0]


def test_numbers_are_those_of_the_analysis(stock_study, section_of):
    study = stock_study(nn.GRU(1, 4), steps=90, state_transient=7)
    section = section_of("reach", study)
    lags = section.numbers["lags"]
    expected = flossing.gradient_horizon(
        study.network.module,
        study.inputs[: 7 + lags[-1]],
        lags=lags,
        state_transient=7,
        dtype=torch.float64,
    )
    assert 20 in lags
    assert section.numbers["random"]["mean_log_norm"] == pytest.approx(
        expected.random.log_norm.mean(dim=1).tolist()
    )
    assert section.numbers["best"]["vanishing_lag"] == expected.worst.vanishing_lag.tolist()


def test_large_states_are_spared_the_best_direction(stock_study, section_of, monkeypatch):
    monkeypatch.setattr(reach, "LARGEST_STATE", 3)
    section = section_of("reach", stock_study(nn.RNN(1, 4)))
    assert section.numbers["best"] is None
    assert len(section.tables[0].rows) == 1
    assert "best" not in section.meaning[0]
    assert any("too costly" in paragraph for paragraph in section.text)


def test_the_code_runs(stock_study, section_of):
    rnn = nn.RNN(1, 4)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.readout = rnn, nn.Linear(4, 1)

    import flossing.plots

    study = stock_study(rnn)
    names = {
        "flossing": flossing,
        "network": Network(),
        "inputs": study.inputs,
        "targets": torch.zeros(2, 1),
        "criterion": nn.functional.mse_loss,
    }
    exec(section_of("reach", study).code, names)
    assert names["horizon"].error.log_norm.shape == (81, 2)
