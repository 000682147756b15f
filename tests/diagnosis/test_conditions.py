"""What was read is said, since another order of axes is read without an error."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flossing.cli import main


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An LSTM, and 8 sequences of 60 steps in a file that has the sequences first."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(nn.LSTM(16, 8).state_dict(), "model.pt")
    np.save("x.npy", torch.randn(8, 60, 16).numpy())


def analysed(capsys, *options):
    command = ["analyze", "model.pt", "--inputs", "x.npy", "--sections", "spectrum"]
    assert main([*command, "--json", "numbers.json", *options]) == 0
    summary = json.loads(Path("numbers.json").read_text(encoding="utf-8"))["summary"]
    return " ".join(capsys.readouterr().out.split()), " ".join(summary)


def test_the_wrong_order_of_axes_is_seen(files, capsys):
    for text in analysed(capsys, "--horizon", "50"):
        assert "x.npy: 60 sequences of 8 steps with 16 features, for a horizon of 50 steps" in text
        assert "Caution" in text
        assert "8 sequences of 60 steps" in text
        assert "axes were read as (steps, sequences, features); pass --layout batch-first" in text


def test_the_right_order_of_axes(files, capsys):
    for text in analysed(capsys, "--horizon", "50", "--layout", "batch-first"):
        assert "8 sequences of 60 steps with 16 features" in text
        assert "Caution" not in text
        assert "--layout" not in text


def test_the_default_order_of_axes_is_said_only_where_it_is_assumed(files, capsys):
    assert "axes were read as" in analysed(capsys, "--horizon", "5")[0]
    assert (
        "axes were read as" not in analysed(capsys, "--horizon", "5", "--layout", "time-first")[0]
    )
    np.save("x.npy", np.random.default_rng(0).random((60, 16)))
    assert "axes were read as" not in analysed(capsys, "--horizon", "50")[0]


def test_what_a_checkpoint_does_not_tell_is_named(files, capsys):
    torch.save(nn.RNN(16, 8).state_dict(), "model.pt")
    assert "Assumed: the nonlinearity is tanh" in analysed(capsys, "--layout", "time-first")[0]


def test_noise_is_named(files, capsys):
    assert main(["analyze", "model.pt", "--steps", "60", "--sections", "spectrum"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "noise" in shown
    assert "4 sequences of 60 steps" in shown
