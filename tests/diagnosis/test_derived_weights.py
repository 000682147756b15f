"""Weights that a checkpoint stores in parts are those that the live module computes with."""

import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import flossing
from flossing.diagnosis.checkpoints import Description, load_network
from flossing.errors import InvalidCheckpointError

NAME = "weight_hh_l0"


def old(name):
    def apply(module, weight, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return getattr(nn.utils, name)(module, weight, **options)

    return apply


def masked(module, weight):
    # As in torch.ao.pruning.
    class Mask(nn.Module):
        def __init__(self):
            super().__init__()
            size = module.get_parameter(weight).shape
            self.register_buffer("mask", (torch.arange(size.numel()) % 3 > 0).view(size))

        def forward(self, x):
            return self.mask * x

    parametrize.register_parametrization(module, weight, Mask())
    return module


def pruned(module, weight):
    return prune.random_unstructured(module, weight, 0.5)


def pruned_norm(module, weight):
    old("weight_norm")(module, weight)
    return prune.random_unstructured(module, f"{weight}_v", 0.5)


METHODS = {
    "prune": pruned,
    "old weight norm": old("weight_norm"),
    "old weight norm of all": lambda module, name: old("weight_norm")(module, name, dim=None),
    "old weight norm of columns": lambda module, name: old("weight_norm")(module, name, dim=1),
    "old spectral norm": old("spectral_norm"),
    "weight norm": parametrizations.weight_norm,
    "weight norm of columns": lambda module, name: parametrizations.weight_norm(module, name, 1),
    "spectral norm": parametrizations.spectral_norm,
    "mask": masked,
}


def trained(module, inputs):
    """Change the parameters as training does, which leaves derived weights to be computed."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        module.train()(inputs)
        for weight in module.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    return module.eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_exponents_are_those_of_the_live_module(tmp_path, method, kind):
    torch.manual_seed(1)
    live = METHODS[method](kind(3, 5, num_layers=2), NAME)
    inputs = torch.randn(120, 2, 3)
    trained(live, inputs)
    path = tmp_path / "weights.safetensors"
    weights = {f"model.rnn.{name}": weight for name, weight in live.state_dict().items()}
    save_file(weights, path)
    network = load_network(path)
    with torch.no_grad():
        expected = live(inputs)[0]
        torch.testing.assert_close(network.module(inputs)[0], expected)
        plain = kind(3, 5, num_layers=2)
        plain.load_state_dict({name: getattr(live, name) for name in plain.state_dict()})
        found = flossing.lyapunov_spectrum(network.module, inputs, k=3).exponents
        right = flossing.lyapunov_spectrum(plain, inputs, k=3).exponents
    torch.testing.assert_close(found, right)
    (how,) = network.rebuilt
    assert how.startswith(f"{NAME}: ")


def test_a_pruned_normalised_weight(tmp_path):
    live = trained(pruned_norm(nn.GRUCell(3, 5), "weight_hh"), torch.randn(2, 3))
    torch.save(live.state_dict(), tmp_path / "weights.pt")
    network = load_network(tmp_path / "weights.pt")
    inputs, state = torch.randn(2, 3), torch.randn(2, 5)
    # Its hooks run in the order of registration: the norm is a call behind the mask.
    live(inputs, state)
    torch.testing.assert_close(network.module(inputs, state), live(inputs, state))
    assert "pruned" in network.rebuilt[0]
    assert "weight norm" in network.rebuilt[0]


@pytest.mark.parametrize("raw_outside", [True, False])
def test_weight_drop_keeps_the_raw_weights(tmp_path, raw_outside):
    right = nn.LSTM(3, 5)
    weights = {f"rnns.0.module.{name}": w for name, w in right.state_dict().items()}
    raw = weights[f"rnns.0.module.{NAME}"]
    weights[f"rnns.0.module.{NAME}"] = nn.functional.dropout(raw, 0.5)
    # fastai keeps the raw weights outside the layer, the AWD-LSTM of Merity et al. inside.
    weights[f"rnns.0.{'' if raw_outside else 'module.'}{NAME}_raw"] = raw
    torch.save(weights, tmp_path / "weights.pt")
    network = load_network(tmp_path / "weights.pt")
    assert network.prefix == "rnns.0.module."
    assert torch.equal(network.module.weight_hh_l0, right.weight_hh_l0)
    assert network.rebuilt == (f"{NAME}: {NAME}_raw, of which training drops entries",)


@pytest.mark.parametrize("both", [True, False])
def test_a_copy_beside_the_parts(tmp_path, both):
    live = old("weight_norm")(nn.RNN(3, 5), NAME).eval()
    copy = live.weight_hh_l0.detach() * (1 if both else 0.9)
    torch.save(live.state_dict() | {NAME: copy}, tmp_path / "weights.pt")
    if both:
        assert torch.equal(load_network(tmp_path / "weights.pt").module.weight_hh_l0, copy)
        return
    with pytest.raises(InvalidCheckpointError, match=f"computed from {NAME}_g, {NAME}_v, {NAME}"):
        load_network(tmp_path / "weights.pt")


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T


@pytest.mark.parametrize(
    "extend",
    [
        lambda rnn: parametrizations.orthogonal(rnn, NAME).state_dict(),
        lambda rnn: parametrize.register_parametrization(rnn, NAME, Symmetric()).state_dict(),
        lambda rnn: rnn.state_dict() | {f"{NAME}_scale": torch.ones(1)},
        lambda rnn: rnn.state_dict() | {f"{NAME}_mask": torch.ones(5, 5)},
        lambda rnn: rnn.state_dict() | {"bias_hh_l0_ema": torch.ones(5)},
        lambda rnn: pruned(rnn, NAME).state_dict() | {f"{NAME}_mask": torch.ones(5, 4)},
        lambda rnn: old("weight_norm")(rnn, NAME).state_dict() | {f"{NAME}_g": torch.ones(4, 1)},
    ],
)
def test_what_cannot_be_rebuilt_is_refused(tmp_path, extend):
    path = tmp_path / "weights.pt"
    torch.save({"rnn." + n: w for n, w in extend(nn.RNN(3, 5)).items()}, path)
    with pytest.raises(InvalidCheckpointError, match=r"computed from .*remove_parametrizations"):
        load_network(path)


def test_another_layer_does_not_matter(tmp_path):
    weights = {f"a.{name}": w for name, w in nn.RNN(3, 5).state_dict().items()}
    odd = parametrizations.orthogonal(nn.RNN(3, 5), NAME).state_dict()
    weights |= {f"b.{name}": w for name, w in odd.items()}
    torch.save(weights, tmp_path / "weights.pt")
    assert load_network(tmp_path / "weights.pt", Description(prefix="a")).rebuilt == ()


LAYER = nn.LSTM(3, 4).state_dict()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (LAYER | {"weight_hh_l0.lora_A": torch.ones(2, 4)}, "computed from weight_hh_l0.lora_A"),
        (LAYER | {"weight_hh_l0_lora_A": torch.ones(2, 4)}, "computed from weight_hh_l0_lora_A"),
        (LAYER | {"weight_hh_l0.absmax": torch.ones(2)}, "computed from weight_hh_l0.absmax"),
        (LAYER | {"weight_hh_l0_scale": torch.ones(1)}, "computed from weight_hh_l0_scale"),
        (LAYER | {"lora_A.weight": torch.ones(2, 4)}, r"adapters .*\(lora_A.weight\).*merge"),
        (
            {f"rnn.base_layer.{name}": weight for name, weight in LAYER.items()}
            | {"rnn.lora_B.default.weight": torch.ones(2, 4)},
            "'rnn.' has adapters",
        ),
    ],
)
def test_weights_that_something_beside_them_changes_are_refused(tmp_path, weights, message):
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(InvalidCheckpointError, match=message):
        load_network(tmp_path / "weights.pt")


def test_adapters_of_other_layers_do_not_matter(tmp_path):
    weights = {f"rnn.{name}": weight for name, weight in LAYER.items()}
    # A submodule that happens to have the name of a weight, too.
    weights |= {"head.lora_A.weight": torch.ones(2, 4), "cell.weight_hh.weight": torch.ones(4, 4)}
    torch.save(weights, tmp_path / "weights.pt")
    assert load_network(tmp_path / "weights.pt").prefix == "rnn."
