"""`flossing analyze`, from a checkpoint to its report."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import flossing
from flossing.cli import main
from flossing.diagnosis.chapters import CHAPTERS
from flossing.diagnosis.sequences import normal_noise


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint(tmp_path):
    """Save a module's weights, and return the file's name."""

    def save(module, prefix=""):
        weights = {prefix + name: weight for name, weight in module.state_dict().items()}
        torch.save({"state_dict": weights}, tmp_path / "model.pt")
        return "model.pt"

    return save


def analyse(*arguments, sections="spectrum,advice"):
    """Run the command on few steps, and return the numbers of its report."""
    outputs = ("--output", "out/report.html", "--json", "out/report.json")
    assert main(["analyze", *arguments, "--sections", sections, *outputs]) == 0
    document = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    return document["facts"], *(section["numbers"] for section in document["sections"])


def refusal(capsys, *arguments):
    """Return the single line with which the command fails."""
    assert main(["analyze", *arguments]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("flossing: ")
    assert "Traceback" not in message
    return message


def test_a_report_by_default(checkpoint, capsys, tmp_path):
    assert main(["analyze", checkpoint(nn.GRU(2, 3), "rnn."), "--steps", "60"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "GRU: 2 inputs, 3 hidden units, 1 layer, float32" in shown.out
    assert "Report:  flossing-report.html" in shown.out
    page = (tmp_path / "flossing-report.html").read_text(encoding="utf-8")
    assert "Lyapunov analysis of model.pt" in page
    assert "standard normal noise, seed 0" in page
    assert {path.name for path in tmp_path.iterdir()} == {"flossing-report.html", "model.pt"}


def test_numbers_are_those_of_the_library(checkpoint):
    rnn = nn.RNN(2, 4)
    facts, spectrum, advice = analyse(
        checkpoint(rnn), "--steps", "80", "--trajectories", "3", "--seed", "5", "--horizon", "30"
    )
    inputs = normal_noise(80, 3, 2, seed=5)
    with torch.no_grad():
        expected = flossing.lyapunov_spectrum(rnn, inputs, state_transient=8)
    found = torch.tensor(spectrum["exponents_by_trajectory"])
    torch.testing.assert_close(found, expected.exponents)
    assert spectrum["horizon"] == 30
    assert "tanh" in facts["Assumption"]
    assert facts["Trajectories"] == "3, 80 steps each"
    assert advice["k"] == 4


def test_sections_come_in_their_own_order(checkpoint):
    name = checkpoint(nn.GRU(1, 3))
    facts, convergence, context = analyse(name, "--steps", "60", sections="context, convergence")
    assert facts["Exponents"] == "all 3"
    assert "drift" in convergence
    assert "layer_0/update/spectral_radius" in context


def test_options_of_the_network_and_of_the_analysis(checkpoint):
    name = checkpoint(nn.RNN(1, 4, num_layers=2), "model.rnn.")
    options = ("--prefix", "rnn", "--module", "RNN", "--nonlinearity", "relu", "--layer", "1")
    further = ("--steps", "60", "--k", "2", "--dtype", "float64", "--state-transient", "3")
    facts, spectrum, _ = analyse(name, *options, *further)
    assert spectrum["state_size"] == 4
    assert len(spectrum["exponents"]) == 2
    assert facts["Precision"] == "float64"
    assert facts["Layer"] == 1
    assert "Assumption" not in facts
    # Three steps, and a tenth of the other 57.
    assert facts["Transient steps"] == 8


@pytest.mark.parametrize(
    ("arguments", "steps", "trajectories", "horizon"),
    [
        (["delayed-copy:delay=7,steps=60"], 60, 4, 7),
        (["delayed-copy:delay=7", "--steps", "50", "--trajectories", "2"], 50, 2, 7),
        (["delayed-copy:delay=7,steps=60", "--horizon", "9"], 60, 4, 9),
        (["digits"], 64, 4, 100),
    ],
)
def test_tasks(checkpoint, arguments, steps, trajectories, horizon):
    facts, spectrum, _ = analyse(checkpoint(nn.GRU(1, 3)), "--task", *arguments)
    assert facts["Trajectories"] == f"{trajectories}, {steps} steps each"
    assert spectrum["horizon"] == horizon


def test_inputs_from_files(checkpoint):
    name = checkpoint(nn.GRU(2, 3))
    np.savez("inputs.npz", a=np.random.default_rng(0).random((3, 60, 2)), b=np.zeros(1))
    file = ("--inputs", "inputs.npz", "--array", "a", "--layout", "batch-first")
    facts, _, _ = analyse(name, *file, "--trajectories", "2")
    assert facts["Trajectories"] == "2, 60 steps each"
    assert facts["Inputs"] == "inputs.npz, array a"


def test_tables(checkpoint):
    rows = "".join(f"{step % 2},{step % 3},{0.1 * step}\n" for step in range(80))
    Path("inputs.csv").write_text("sequence,x,y\n" + rows, encoding="utf-8")
    table = ("--inputs", "inputs.csv", "--sequence-column", "sequence")
    facts, _, _ = analyse(checkpoint(nn.LSTM(2, 3)), *table)
    assert facts["Trajectories"] == "2, 40 steps each"


def test_safetensors_in_double_precision():
    save_file(nn.LSTM(1, 3, dtype=torch.float64).state_dict(), "weights.safetensors")
    facts, spectrum, _ = analyse("weights.safetensors", "--steps", "60")
    assert facts["Precision"] == "float64"
    assert spectrum["state_size"] == 6


def test_half_precision_is_computed_in_single(checkpoint):
    facts, _, _ = analyse(checkpoint(nn.GRU(1, 3).to(torch.bfloat16)), "--steps", "60")
    assert facts["Precision"] == "float32"


CELL = """
import torch

class Cell(torch.nn.Module):
    input_size = 2

    def __init__(self, size):
        super().__init__()
        self.recurrent = torch.nn.Linear(size, size)

    def forward(self, x, state):
        return torch.tanh(self.recurrent(state) + x.sum(-1, keepdim=True))

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, self.recurrent.in_features)
"""


def test_a_cell_of_ones_own(checkpoint, tmp_path):
    module = f"cell_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(CELL)
    (tmp_path / "model.toml").write_text(f'module = "{module}:Cell"\n[arguments]\nsize = 3\n')
    cell = nn.ModuleDict({"recurrent": nn.Linear(3, 3)})
    before = list(sys.path)
    facts, spectrum, _ = analyse(
        checkpoint(cell, "model.cell."), "--description", "model.toml", "--steps", "60"
    )
    assert sys.path == before
    assert facts["Network"] == f"Cell by {module}:Cell"
    assert spectrum["state_size"] == 3


def test_the_command_line_overrides_the_description(checkpoint, tmp_path):
    (tmp_path / "model.toml").write_text('module = "LSTM"\nprefix = "other."\n')
    options = ("--description", "model.toml", "--module", "GRU", "--prefix", "rnn.")
    facts, _, _ = analyse(checkpoint(nn.GRU(1, 3), "rnn."), *options, "--steps", "60")
    assert facts["Parameter prefix"] == "state_dict.rnn."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt"], "there is no file 'missing.pt'"),
        (["model.pt", "--inputs", "missing.npy"], "there is no file 'missing.npy'"),
        (["model.pt", "--description", "missing.toml"], "there is no file 'missing.toml'"),
        (["model.pt", "--module", "LSTM"], "module is 'LSTM', but the shapes"),
        (["model.pt", "--module", "CNN"], "module is 'CNN'"),
        (["model.pt", "--prefix", "decoder"], "there is no recurrent layer under"),
        (["model.pt", "--task", "copy"], "there is no task 'copy'"),
        (["model.pt", "--task", "spatial-xor"], "have 3 features, but the network takes 1"),
        (["model.pt", "--array", "x"], "name the file with --inputs"),
        (["model.pt", "--layer", "1"], "layer must be from 0 to 0"),
        (["model.pt", "--k", "4"], "k must be from 1 to 3"),
        (["model.pt", "--steps", "10", "--state-transient", "10"], "leaves none to count"),
        (["model.pt", "--module", "a.b.c:d"], "No module named"),
    ],
)
def test_what_is_refused_in_one_line(checkpoint, arguments, message, capsys):
    checkpoint(nn.GRU(1, 3))
    assert message in refusal(capsys, *arguments)
    assert not Path("flossing-report.html").exists()


def test_a_pickle_is_not_run(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state_dict": nn.GRU(1, 3).state_dict(), "trap": Trap()}, "model.pt")
    assert "holds more than tensors" in refusal(capsys, "model.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: CHECKPOINT"),
        (["model.pt", "--horizon", "0"], "'0' is not a whole number of at least 1"),
        (["model.pt", "--output", "report.pdf"], "'report.pdf' should end in one of .html, .htm"),
        (
            ["model.pt", "--sections", "spectrum,reech"],
            "no section 'reech': choose from spectrum, ",
        ),
        (["model.pt", "--sections", ""], "there is no section ''"),
        (["model.pt", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["model.pt", "--inputs", "a.npy", "--task", "digits"], "not allowed with argument"),
    ],
)
def test_bad_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["analyze", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["analyze", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    network = ("--module", "--prefix", "--nonlinearity", "--description", "--layer")
    inputs = ("--inputs", "--task", "--array", "--sequence-column", "--layout", "--steps")
    others = ("--trajectories", "--seed", "--horizon", "--k", "--state-transient", "--dtype")
    outputs = ("--sections", "--output", "--json", "examples:")
    for option in (*network, *inputs, *others, *outputs):
        assert option in shown
    for chapter in CHAPTERS:
        assert chapter.key in shown


@pytest.mark.parametrize("missing", ["jinja2", "safetensors", "matplotlib.figure", "rich.console"])
def test_a_missing_extra_is_named(monkeypatch, capsys, missing):
    save_file(nn.GRU(1, 3).state_dict(), "weights.safetensors")
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["analyze", "weights.safetensors", "--steps", "60"]) == 1
    assert 'pip install "flossing[cli]"' in capsys.readouterr().err
