"""Recurrent networks found in checkpoints, and what is refused."""

import datetime
import io
import os
import pickle
import textwrap
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from flossing.diagnosis.checkpoints import Description, load_network, read_description
from flossing.errors import (
    InvalidCheckpointError,
    InvalidOptionError,
    UnreadableFileError,
    UnsupportedSystemError,
)

LAYERS = (nn.RNN, nn.GRU, nn.LSTM)


@pytest.fixture
def saved(tmp_path):
    """Save something by `torch.save`, and return where."""

    def save(content, name="checkpoint.pt", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


def assert_same(network, original):
    assert type(network.module) is type(original)
    expected = original.state_dict()
    found = network.module.state_dict()
    assert list(found) == list(expected)
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight)
    for attribute in ("input_size", "hidden_size", "num_layers", "bias", "proj_size"):
        assert getattr(network.module, attribute, None) == getattr(original, attribute, None)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(LAYERS),
    input_size=st.integers(1, 5),
    hidden_size=st.integers(1, 6),
    num_layers=st.integers(1, 3),
    bias=st.booleans(),
    projection=st.integers(0, 5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    prefix=st.sampled_from(["", "rnn.", "module.model.encoder.0."]),
)
def test_every_layer_is_rebuilt_from_its_shapes(
    tmp_path, kind, input_size, hidden_size, num_layers, bias, projection, dtype, prefix
):
    options = {"num_layers": num_layers, "bias": bias, "dtype": dtype}
    if kind is nn.LSTM:
        options["proj_size"] = min(projection, hidden_size - 1)
    original = kind(input_size, hidden_size, **options)
    weights = {prefix + name: weight for name, weight in original.state_dict().items()}
    weights[f"{prefix}readout.weight"] = torch.zeros(1, hidden_size)
    torch.save(weights, tmp_path / "weights.pt")
    save_file(weights, tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        network = load_network(tmp_path / name)
        assert network.prefix == prefix
        assert network.dtype == dtype
        assert not network.module.training
        assert_same(network, original)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(saved, kind, bias):
    original = kind(2, 5, bias=bias)
    network = load_network(saved({"cell." + n: w for n, w in original.state_dict().items()}))
    assert_same(network, original)
    assert network.initial_state(3) is None


def test_the_random_state_is_left_alone(saved):
    path = saved(nn.LSTM(1, 4).state_dict())
    before = torch.get_rng_state()
    load_network(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rebuilt_network_computes_the_same(saved):
    original = nn.LSTM(2, 5, num_layers=2)
    inputs = torch.randn(7, 2, 2)
    network = load_network(saved(original.state_dict()))
    torch.testing.assert_close(network.module(inputs)[0], original(inputs)[0])


def test_checkpoints_of_trainers(saved):
    model = nn.ModuleDict({"rnn": nn.GRU(1, 4), "readout": nn.Linear(4, 1)})
    optimizer = torch.optim.Adam(model.parameters())
    model["readout"](model["rnn"](torch.zeros(2, 1, 1))[0]).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "state_dict": {f"model.{name}": weight for name, weight in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": {"lr": 1e-3, "name": "run"},
    }
    network = load_network(saved(checkpoint))
    assert network.prefix == "state_dict.model.rnn."
    assert_same(network, model["rnn"])


def test_files_of_the_older_format(saved):
    original = nn.GRU(1, 4)
    path = saved(original.state_dict(), _use_new_zipfile_serialization=False)
    assert_same(load_network(path), original)


def test_one_of_several_layers_by_its_prefix(saved):
    encoder, decoder = nn.GRU(1, 4), nn.GRU(4, 4)
    weights = {f"model.encoder.{name}": w for name, w in encoder.state_dict().items()}
    weights |= {f"model.decoder.{name}": w for name, w in decoder.state_dict().items()}
    path = saved({"state_dict": weights})
    with pytest.raises(InvalidCheckpointError, match=r"'state_dict\.model\.encoder\.'.*--prefix"):
        load_network(path)
    for prefix in ("decoder", "model.decoder.", "state_dict.model.decoder"):
        assert_same(load_network(path, Description(prefix=prefix)), decoder)
    with pytest.raises(InvalidOptionError, match=r"no recurrent layer under the prefix 'coder'"):
        load_network(path, Description(prefix="coder"))


def test_a_prefix_that_fits_twice_is_refused(saved):
    weights = {f"rnn.{name}": w for name, w in nn.GRU(1, 4).state_dict().items()}
    path = saved({"model": weights, "averaged": weights})
    with pytest.raises(InvalidCheckpointError, match="2 recurrent layers"):
        load_network(path, Description(prefix="rnn"))
    assert load_network(path, Description(prefix="averaged.rnn")).prefix == "averaged.rnn."


def test_the_nonlinearity_of_an_rnn(saved):
    path = saved(nn.RNN(1, 4).state_dict())
    by_default = load_network(path)
    assert by_default.module.nonlinearity == "tanh"
    assert "tanh" in by_default.assumptions[0]
    told = load_network(path, Description(nonlinearity="relu"))
    assert told.assumptions == ()
    inputs = torch.randn(5, 1, 1)
    assert (told.module(inputs)[0] >= 0).all()
    assert not (by_default.module(inputs)[0] >= 0).all()
    with pytest.raises(InvalidOptionError, match="is for an RNN"):
        load_network(saved(nn.GRU(1, 4).state_dict()), Description(nonlinearity="relu"))


def test_a_module_that_the_shapes_contradict(saved):
    path = saved(nn.GRU(1, 4).state_dict())
    assert load_network(path, Description(module="GRU")).summary.startswith("GRU")
    with pytest.raises(InvalidOptionError, match="module is 'LSTM', but the shapes are those of G"):
        load_network(path, Description(module="LSTM"))


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "older", "pickle"])
@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, form, nested):
    path, proof = tmp_path / "checkpoint.pt", tmp_path / "executed"
    content = {"state_dict": nn.GRU(1, 4).state_dict(), "extra": Trap(proof)}
    content = content if nested else Trap(proof)
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UnreadableFileError, match=r"torch\.save\(model\.state_dict\(\)"):
        load_network(path)
    assert not proof.exists()
    # The trap is set: a reader that trusts the file falls into it.
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("new", [True, False])
def test_more_than_tensors_is_named(saved, new):
    whole = saved(nn.LSTM(1, 4), _use_new_zipfile_serialization=new)
    with pytest.raises(UnreadableFileError, match=r"a whole module \(torch.nn.modules.rnn.LSTM"):
        load_network(whole)
    content = {"state_dict": nn.GRU(1, 4).state_dict(), "options": datetime.timedelta(1)}
    with pytest.raises(UnreadableFileError, match=r"more than tensors \(datetime.timedelta\)"):
        load_network(saved(content, _use_new_zipfile_serialization=new))


def test_torchscript_is_refused(tmp_path):
    # What sets such an archive apart; to write a real one is deprecated.
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version", "code/__torch__.py"):
            archive.writestr(f"model/{name}", pickle.dumps(()) if name[-1] == "l" else b"3\n")
    with pytest.raises(UnreadableFileError, match=r"TorchScript.*torch\.jit\.load"):
        load_network(path)


def damaged_files():
    buffer = io.BytesIO()
    torch.save(nn.GRU(1, 4).state_dict(), buffer)
    whole = buffer.getvalue()
    return {
        "empty": b"",
        "text": b"time,value\n1,2\n",
        "noise": bytes(range(256)),
        "truncated": whole[: len(whole) // 2],
        "greeting": b"hello world" * 10,
    }


@pytest.mark.parametrize(("name", "content"), damaged_files().items())
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files(tmp_path, name, content, suffix):
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="is damaged|is not a whole|is empty"):
        load_network(path)


def test_no_file(tmp_path):
    with pytest.raises(UnreadableFileError, match="there is no file"):
        load_network(tmp_path / "missing.pt")
    with pytest.raises(UnreadableFileError, match="is a folder"):
        load_network(tmp_path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [2.0], 7])
def test_no_named_tensors(saved, content):
    with pytest.raises(InvalidCheckpointError, match="without named tensors"):
        load_network(saved(content))


def test_no_recurrent_layer_lists_what_there_is(saved):
    with pytest.raises(InvalidCheckpointError, match=r"found 0\.weight, 0\.bias.*and 4 more"):
        load_network(saved(nn.Sequential(*(nn.Linear(1, 1) for _ in range(6))).state_dict()))


def test_parametrised_weights_are_refused(saved):
    rnn = nn.utils.parametrizations.orthogonal(nn.RNN(1, 4), "weight_hh_l0")
    with pytest.raises(InvalidCheckpointError, match="remove_parametrizations"):
        load_network(saved(rnn.state_dict()))


@pytest.mark.parametrize("kind", LAYERS)
def test_bidirectional_layers_are_refused(saved, kind):
    with pytest.raises(UnsupportedSystemError, match="bidirectional"):
        load_network(saved(kind(1, 4, bidirectional=True).state_dict()))


def without(name):
    return lambda weights: weights.pop(name)


def shaped(name, *shape, dtype=torch.float32):
    return lambda weights: weights.update({name: torch.zeros(shape, dtype=dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("weight_ih_l0"), "weight_ih_l0 is missing"),
        (without("weight_hh_l0"), "weight_hh_l0 is missing"),
        (without("bias_hh_l1"), r"bias_hh_l1 should be \(12,\) and is missing"),
        (without("weight_ih_l1"), r"weight_ih_l1 should be \(12, 4\) and is missing"),
        (shaped("bias_ih_l0", 11), r"bias_ih_l0 should be \(12,\) and is \(11,\)"),
        (shaped("weight_ih_l1", 12, 5), r"weight_ih_l1 should be \(12, 4\) and is \(12, 5\)"),
        (shaped("weight_hh_l0", 10, 4), r"\(10, 4\) for 4 hidden units: expected 1 \(RNN\), 3"),
        (shaped("weight_hh_l0", 8, 4), "expected 1"),
        (shaped("weight_hh_l0", 0, 0), "for 0 hidden units"),
        (shaped("weight_hh_l0", 12), r"has the shape \(12,\); expected a matrix"),
        (shaped("weight_hr_l0", 2, 4), "4 where there is a projection"),
        (shaped("weight_hr_l1", 2, 4), "there should be no weight_hr_l1"),
        (shaped("weight_ih_l3", 12, 4), "weight_ih_l2 should be .* and is missing.*and 2 more"),
        (shaped("weight_hh", 12, 4), "weight_ih is missing"),
        (shaped("bias_ih_l0", 12, dtype=torch.float64), "torch.float32, torch.float64; expected"),
    ],
)
def test_shapes_that_contradict_one_another(saved, change, message):
    weights = nn.GRU(1, 4, num_layers=2).state_dict()
    change(weights)
    with pytest.raises(InvalidCheckpointError, match=message):
        load_network(saved(weights))


def test_integers_and_missing_numbers_are_refused(saved):
    integers = {name: weight.to(torch.int8) for name, weight in nn.GRU(1, 4).state_dict().items()}
    with pytest.raises(InvalidCheckpointError, match=r"are torch\.int8; expected"):
        load_network(saved(integers))
    weights = nn.GRU(1, 4).state_dict()
    weights["weight_hh_l0"][0, 0] = torch.nan
    with pytest.raises(InvalidCheckpointError, match="weight_hh_l0 has infinite or NaN"):
        load_network(saved(weights))


CELL = """
import torch

class Leaky(torch.nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.input_size = 1
        self.recurrent = torch.nn.Linear(size, size)
        self.size = size

    def forward(self, x, state):
        return 0.9 * state + 0.1 * torch.tanh(self.recurrent(state) + x)

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, self.size)

def make(size=3):
    return Leaky(size)

class Careless(Leaky):
    def load_state_dict(self, weights):
        return super().load_state_dict(weights, strict=False)

def make_careless(size=3):
    return Careless(size)

def make_meta():
    return Leaky().to("meta")

def fails():
    raise KeyError("size")

def not_a_module():
    return 3
"""


@pytest.fixture
def own_cell(tmp_path, monkeypatch):
    """A module in the current folder, and a name that no other test imports."""
    name = f"own_cell_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(CELL))
    monkeypatch.chdir(tmp_path)
    return name


def linear_weights(size, prefix=""):
    layer = nn.Linear(size, size)
    return {f"{prefix}recurrent.{name}": weight for name, weight in layer.state_dict().items()}


def test_a_factory_takes_arguments_and_weights(saved, own_cell):
    weights = linear_weights(5, "model.cell.")
    path = saved({"state_dict": weights, "epoch": 1})
    description = Description(module=f"{own_cell}:make", arguments={"size": 5})
    network = load_network(path, description)
    assert network.prefix == "state_dict.model.cell."
    assert network.input_size == 1
    assert network.initial_state(4).shape == (4, 5)
    assert torch.equal(network.module.recurrent.weight, weights["model.cell.recurrent.weight"])
    assert load_network(path, Description(**vars(description) | {"prefix": "cell"})).prefix


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        ("missing", {}, InvalidOptionError, "has no function 'missing'"),
        ("not_a_module", {}, InvalidOptionError, "returned a int; expected an nn.Module"),
        ("make", {"width": 5}, InvalidOptionError, "could not be called.*width"),
        ("fails", {}, InvalidOptionError, "could not be called.*KeyError: 'size'"),
        ("make_meta", {}, InvalidOptionError, "on the meta device"),
        ("make", {"size": 4}, InvalidCheckpointError, "are not those of the module.*size mismatch"),
    ],
)
def test_factories_that_do_not_fit(saved, own_cell, function, arguments, error, message):
    description = Description(module=f"{own_cell}:{function}", arguments=arguments)
    with pytest.raises(error, match=f"(?s){message}"):
        load_network(saved(linear_weights(5)), description)


def test_a_factory_without_weights_in_the_file_or_with_two_sets(saved, own_cell):
    description = Description(module=f"{own_cell}:make")
    with pytest.raises(InvalidCheckpointError, match="(?s)are not those of the module"):
        load_network(saved(nn.Linear(3, 3).state_dict()), description)
    twice = linear_weights(3, "first.") | linear_weights(3, "second.")
    with pytest.raises(InvalidCheckpointError, match="under any of 'first.', 'second.'"):
        load_network(saved(twice), description)


def test_tensors_that_a_factory_does_not_take_are_named(saved, own_cell):
    weights = linear_weights(3, "cell.") | {"readout.weight": torch.ones(1, 3)}
    description = Description(module=f"{own_cell}:make")
    network = load_network(saved(weights), description)
    assert network.assumptions == ("these tensors of the file do not count: readout.weight",)
    assert load_network(saved(linear_weights(3, "cell.")), description).assumptions == ()
    careless = Description(module=f"{own_cell}:make_careless")
    weights = linear_weights(3) | {"recurrent.mask": torch.ones(3, 3)}
    assert "recurrent.mask" in load_network(saved(weights), careless).assumptions[0]
    del weights["recurrent.bias"]
    with pytest.raises(InvalidCheckpointError, match=r"took no value for recurrent\.bias"):
        load_network(saved(weights), careless)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.complex64])
def test_a_factory_does_not_take_integers_for_weights(saved, own_cell, dtype):
    weights = {name: weight.to(dtype) for name, weight in linear_weights(3).items()}
    with pytest.raises(InvalidCheckpointError, match="save it as floating point"):
        load_network(saved(weights), Description(module=f"{own_cell}:make"))


def test_a_factory_that_cannot_be_imported(saved):
    message = r"nowhere.at_all:make could not be imported \(ModuleNotFoundError: No module named"
    with pytest.raises(InvalidOptionError, match=message):
        load_network(saved(linear_weights(3)), Description(module="nowhere.at_all:make"))


def test_a_module_of_ones_own_without_initial_state(saved):
    network = load_network(
        saved(nn.Linear(2, 2).state_dict()),
        Description(module="torch.nn:Linear", arguments={"in_features": 2, "out_features": 2}),
    )
    with pytest.raises(InvalidOptionError, match=r"initial_state\(batch_size\)"):
        network.initial_state(1)


def test_descriptions_from_files(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text('module = "a.b:c"\nprefix = "rnn."\n[arguments]\nsize = 4\n')
    assert read_description(path) == Description(
        module="a.b:c", prefix="rnn.", arguments={"size": 4}
    )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("module = ", UnreadableFileError, "is not TOML"),
        ('kind = "GRU"', InvalidOptionError, "pass one of 'module', 'prefix'"),
        ('module = "gru"', InvalidOptionError, "pass one of 'RNN', 'GRU', 'LSTM'"),
        ("prefix = 3", InvalidOptionError, r"prefix in .* is 3 \(int\)"),
        ('nonlinearity = "sigmoid"', InvalidOptionError, "pass one of 'tanh', 'relu'"),
        ("arguments = 3", InvalidOptionError, "as a table"),
        ("[arguments]\nsize = 3", InvalidOptionError, "are for a factory"),
    ],
)
def test_bad_descriptions(tmp_path, text, error, message):
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_description(path)
