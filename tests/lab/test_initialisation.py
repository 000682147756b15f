import math

import pytest
import torch
from architectures import ARCHITECTURES, made, name
from torch import nn
from torch.testing import assert_close

from flossing_lab.runs.configuration import Architecture

N = 200
GATED = ["gru", "lstm", "lem"]
VANILLA = ["tanh", "relu", "leaky", "modrelu"]


def weights(network):
    found = network.recurrence.named_parameters()
    return {key.removesuffix("_l0"): value.detach() for key, value in found}


def square_matrices(network):
    drawn = weights(network)
    stacked = torch.cat([drawn[key] for key in ("weight_hh", "weight_zy") if key in drawn])
    return stacked.split(stacked.shape[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=name)
def test_the_generator_alone_decides_the_weights(architecture):
    before = torch.get_rng_state()
    first = made(architecture, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        second = made(architecture, seed=5).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(value.isfinite().all() for value in first.values())
    assert not torch.equal(first["readout.weight"], made(architecture, 6).readout.weight)


@pytest.mark.parametrize("cell", VANILLA + GATED)
def test_gaussian_weights_have_the_variance_asked_for(cell):
    for matrix in square_matrices(made(Architecture(cell=cell, size=N, gain=1.5))):
        assert matrix.std().item() == pytest.approx(1.5 / math.sqrt(N), rel=0.03)
        # A uniform distribution of this variance ends at 1.7 standard deviations.
        assert matrix.abs().max() > 3 * matrix.std()


@pytest.mark.parametrize("cell", VANILLA + GATED)
def test_orthogonal_weights_are_so_for_each_gate(cell):
    architecture = Architecture(cell=cell, size=20, gain=0.5, initialisation="orthogonal")
    matrices = square_matrices(made(architecture))
    assert len(matrices) == {"gru": 3, "lstm": 4, "lem": 4}.get(cell, 1)
    for matrix in matrices:
        assert_close(matrix @ matrix.T, 0.25 * torch.eye(20))
    assert all(not torch.equal(matrix, matrices[0]) for matrix in matrices[1:])


@pytest.mark.parametrize("cell", VANILLA + GATED)
def test_identity_weights_are_so_for_each_gate(cell):
    architecture = Architecture(cell=cell, size=20, gain=0.5, initialisation="identity")
    for matrix in square_matrices(made(architecture)):
        assert torch.equal(matrix, 0.5 * torch.eye(20))


@pytest.mark.parametrize(("cell", "module"), [("tanh", nn.RNN), ("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_stock_weights_are_those_that_the_module_draws_itself(cell, module):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        own = module(2, 20)
    found = made(Architecture(cell=cell, size=20, initialisation="stock"), seed=7).recurrence
    for key, value in own.named_parameters():
        assert torch.equal(found.get_parameter(key), value)
        assert found.get_parameter(key).requires_grad


def test_gain_scales_stock_recurrent_weights_alone():
    plain, scaled = (
        weights(made(Architecture(cell="lstm", size=20, initialisation="stock", gain=gain)))
        for gain in (1.0, 3.0)
    )
    assert torch.equal(scaled.pop("weight_hh"), 3 * plain.pop("weight_hh"))
    assert all(torch.equal(scaled[key], plain[key]) for key in plain)


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "tanh"},
        {"cell": "tanh", "form": "rate"},
        {"cell": "relu", "initialisation": "identity"},
        {"cell": "leaky", "leak": 0.5},
        {"cell": "modrelu", "initialisation": "orthogonal"},
        {"cell": "lstm", "initialisation": "chrono"},
        {"cell": "gru", "initialisation": "stock"},
        {"cell": "lem", "initialisation": "stock"},
    ],
    ids=str,
)
def test_input_gain_scales_input_weights_alone(options):
    plain, scaled = (
        weights(made(Architecture(size=20, input_gain=gain, **options))) for gain in (1.0, 0.25)
    )
    assert torch.equal(scaled.pop("weight_ih"), 0.25 * plain.pop("weight_ih"))
    assert all(torch.equal(scaled[key], plain[key]) for key in plain)


@pytest.mark.parametrize("cell", ["tanh", "relu", "leaky"])
@pytest.mark.parametrize("form", ["state", "rate"])
def test_biases_have_the_scale_that_is_asked_for(cell, form):
    if form == "rate" and cell != "tanh":
        pytest.skip("only a tanh network has a rate form")
    network = made(Architecture(cell=cell, size=2000, form=form, bias_scale=0.5))
    drawn = weights(network)
    bias = drawn["bias" if cell == "leaky" else "bias_ih"]
    assert bias.std().item() == pytest.approx(0.5, rel=0.1)
    assert bias.mean().item() == pytest.approx(0, abs=0.06)
    assert "bias_hh" not in drawn or not drawn["bias_hh"].any()


@pytest.mark.parametrize("cell", GATED)
def test_other_weights_of_gated_cells_are_stock(cell):
    drawn = weights(made(Architecture(cell=cell, size=N)))
    bound = 1 / math.sqrt(N)
    for key in set(drawn) - {"weight_hh", "weight_zy"}:
        assert 0.98 * bound < drawn[key].abs().max() <= bound


@pytest.mark.parametrize("cell", ["tanh", "relu", "leaky"])
def test_gaussian_and_orthogonal_arms_have_the_same_distribution_of_inputs(cell):
    for initialisation in ("gaussian", "orthogonal"):
        network = made(Architecture(cell=cell, size=N, initialisation=initialisation), seed=1)
        assert weights(network)["weight_ih"].std().item() == pytest.approx(1, rel=0.15)


def test_an_identity_network_hardly_listens():
    network = made(Architecture(cell="relu", size=N, initialisation="identity"))
    drawn = weights(network)
    assert drawn["weight_ih"].std().item() == pytest.approx(0.001, rel=0.15)
    assert not drawn["bias_ih"].any()


def test_modrelu_weights_are_glorots():
    drawn = weights(made(Architecture(cell="modrelu", size=N), input_size=3))
    bound = math.sqrt(6 / (N + 3))
    assert 0.98 * bound < drawn["weight_ih"].abs().max() <= bound
    assert 0.0095 < drawn["bias"].abs().max() <= 0.01


def test_chrono_biases_are_those_of_uniform_memories():
    options = {"cell": "lstm", "size": 2000, "initialisation": "chrono", "longest_memory": 50}
    drawn = weights(made(Architecture(**options)))
    to_input, to_forget, to_cell, to_output = (drawn["bias_ih"] + drawn["bias_hh"]).chunk(4)
    assert_close(to_input, -to_forget)
    memories = to_forget.exp()
    assert 1 <= memories.min() < 1.5
    assert 48.5 < memories.max() <= 49.001
    assert memories.mean().item() == pytest.approx(25, rel=0.05)
    bound = 1 / math.sqrt(2000)
    assert max(to_cell.abs().max(), to_output.abs().max()) <= 2 * bound
