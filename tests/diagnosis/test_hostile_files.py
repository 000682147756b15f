"""Files that are damaged, hostile, or of another kind end in one line, never in a traceback."""

import argparse
import collections
import contextlib
import os
import random
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat
from torch import nn

from flossing.cli import main
from flossing.diagnosis.checkpoints import load_network, read_description
from flossing.diagnosis.sequences import read_sequences
from flossing.errors import FlossingError, UnreadableFileError
from flossing.support.tensor_files import named_tensors

LAYER = nn.LSTM(3, 4).state_dict()


@dataclass
class Settings:
    size: int = 3


@pytest.fixture
def saved(tmp_path):
    def save(content, name="weights.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def repeated(content, times, *, twice=False):
    for _ in range(times):
        content = {"a": content, "b": content} if twice else {"a": content}
    return content


def cyclic():
    content = {"model": LAYER}
    content["self"] = content
    return content


@pytest.mark.parametrize("make", [load_network, read_sequences])
@pytest.mark.parametrize(
    "content",
    [cyclic(), repeated(LAYER, 300), repeated({"rnn": LAYER}, 40, twice=True)],
    ids=["cyclic", "deep", "doubling"],
)
def test_dictionaries_without_end(saved, content, make):
    with pytest.raises(UnreadableFileError, match="nested more than 100 levels"):
        make(saved(content))


def test_two_tensors_of_one_name():
    with pytest.raises(UnreadableFileError, match=r"two tensors .* 'a\.b'"):
        named_tensors({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)})


def strided(*shape):
    return torch.zeros(1).expand(*shape)


@pytest.mark.filterwarnings("ignore:.*(beta state|quant|nested tensors)")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.to("meta"), "on the meta device"),
        (lambda w: w.to_sparse(), "is sparse"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), r"quantised.*dequantize\(\)"),
        (lambda w: w * torch.nan, "infinite or NaN"),
        (lambda w: w.int(), r"int32; expected .*\.float\(\)"),
        (lambda w: w.to(torch.complex64), "complex64; expected"),
        (lambda w: w.to(torch.float8_e4m3fn), "float8_e4m3fn; expected"),
        (lambda w: strided(80_000, 20_000) if w.dim() == 2 else w, "repeats 4 bytes to 6,400"),
    ],
    ids=["meta", "sparse", "quantised", "NaN", "integers", "complex", "float8", "expanded"],
)
def test_tensors_that_are_no_weights(saved, change, message):
    path = saved({name: change(weight) for name, weight in LAYER.items()})
    assert path.stat().st_size < 10_000
    with pytest.raises(FlossingError, match=message):
        load_network(path)


def test_tensors_that_are_no_weights_beside_them_do_not_matter(saved):
    others = {"codebook": torch.zeros(3, 3, device="meta"), "table": torch.eye(3).to_sparse()}
    assert load_network(saved({"rnn": LAYER, **others})).prefix == "rnn."


@pytest.mark.parametrize("change", [lambda x: x.to("meta"), lambda x: strided(80_000, 20_000)])
def test_sequences_without_values(saved, change):
    with pytest.raises(UnreadableFileError, match="meta device|repeats 4 bytes"):
        read_sequences(saved(change(torch.zeros(5, 3))))


@pytest.mark.parametrize(
    "other",
    [
        Path("runs/3"),
        argparse.Namespace(lr=0.1),
        np.float64(0.5),
        np.int32(3),
        np.bool_(True),
        {"best": np.float32(0.5)},
        collections.OrderedDict(epoch=3),
        collections.Counter("abc"),
        {1, 2},
        (None, "text", 3j, b"bytes"),
    ],
    ids=repr,
)
def test_what_often_stands_beside_weights_is_skipped(saved, other):
    assert load_network(saved({"state_dict": LAYER, "other": other})).prefix == "state_dict."


@pytest.mark.parametrize("other", [Settings(), nn.Tanh(), print, np.zeros(3)], ids=repr)
def test_other_objects_are_named(saved, other):
    with pytest.raises(UnreadableFileError, match=r"Settings|torch\.nn|print|numpy\.ndarray"):
        load_network(saved({"state_dict": LAYER, "other": other}))


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "state_dict.model.rnn.", "0.", "ema.1."])
def test_names_of_wrappers_and_lists(saved, prefix):
    assert load_network(saved({prefix + name: w for name, w in LAYER.items()})).prefix == prefix


def test_lists_of_state_dicts(saved):
    assert load_network(saved({"models": [LAYER]})).prefix == "models.0."


FOREIGN = {
    "weights.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "Git LFS"),
    "weights.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "weights.npz": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(90), r"HDF5 file.*numpy\.savez"),
    "model.hdf5": (b"?", r"Keras.*numpy\.savez"),
    "model.keras": (b"PK\x03\x04", r"Keras.*numpy\.savez"),
    "model.onnx": (b"\x08\x07", "ONNX"),
    "model.pb": (b"\x08\x07", "TensorFlow"),
    "weights.pkl": (b"\x80\x04N.", "a pickle"),
    "page.pt": (b"<!DOCTYPE html>", "web page"),
    "empty.pt": (b"", "is empty"),
    "empty.npz": (b"", "is empty"),
    "empty.mat": (b"", "is empty"),
    "weights.mat": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(90), r"7\.3.*'-v7'"),
    "text.pt": (b"hello", "damaged, or not a file that torch.save wrote"),
    "text.mat": (b"hello", "damaged, or not a file of MATLAB"),
    "text.npz": (b"hello", "damaged, or contains objects"),
    "text.safetensors": (b"hello", "not a whole .safetensors file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_another_kind_are_named(tmp_path, name, capsys):
    content, message = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFileError, match=message):
        load_network(tmp_path / name)
    assert main(["analyze", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_folders_and_pipes(tmp_path):
    with pytest.raises(UnreadableFileError, match="is a folder"):
        load_network(tmp_path)
    os.mkfifo(tmp_path / "pipe.pt")
    for read in (load_network, read_sequences, read_description):
        with pytest.raises(UnreadableFileError, match="is a pipe or a device"):
            read(tmp_path / "pipe.pt")


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 5000 + "]" * 5000,
        "module=" + "1" * 5000,
        "a" + ".a" * 3000 + "=1",
        "\0",
        "a=1\na=2",
    ],
    ids=["deep", "long", "dotted", "NUL", "twice"],
)
def test_descriptions_that_are_no_good(tmp_path, text):
    (tmp_path / "model.toml").write_text(text)
    with pytest.raises(FlossingError):
        read_description(tmp_path / "model.toml")


def test_archives_that_would_fill_the_memory(tmp_path):
    for name, member in (("bomb.npz", "x.npy"), ("bomb.pt", "a/data.pkl")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, bytes(2**27))
        with pytest.raises(UnreadableFileError, match="unpack to 134,217,728"):
            load_network(tmp_path / name)


def test_an_archive_that_claims_to_be_one_of_several(tmp_path, saved):
    path = saved(LAYER)
    content = bytearray(path.read_bytes())
    # The number of this part, in the locator of the central directory.
    content[content.rindex(b"PK\x06\x07") + 16] = 9
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="is damaged"):
        load_network(path)


def test_only_the_array_that_is_wanted_is_read(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez(path, small=np.zeros((5, 3)), large=np.arange(999.0))
    damaged = path.read_bytes().replace(np.arange(500.0, 600.0).tobytes(), bytes(800))
    path.write_bytes(damaged)
    assert read_sequences(path, array="small").shape == (5, 1, 3)
    with pytest.raises(UnreadableFileError, match="damaged"):
        read_sequences(path, array="large")


def test_a_module_of_pytorch_saved_by_numpy(tmp_path):
    arrays = {name: weight.numpy() for name, weight in LAYER.items()}
    # Objects beside the weights are never unpickled.
    objects = np.array([Settings()], dtype=object)
    np.savez(tmp_path / "weights.npz", **arrays, settings=objects, name="text")
    assert load_network(tmp_path / "weights.npz").summary.startswith("LSTM: 3 inputs")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "uint16", "int64", "bool"])
def test_arrays_of_matlab(tmp_path, compressed, dtype):
    path = tmp_path / "inputs.mat"
    values = np.arange(-12, 12).reshape(4, 2, 3).astype(dtype)
    others = {"z": 1j * np.ones(3), "text": "abc", "cells": np.array([1, "a"], dtype=object)}
    savemat(path, {"inputs": values, "struct": {"a": 1}, **others}, do_compression=compressed)
    read = read_sequences(path)
    assert read.dtype == (torch.float32 if dtype == "float32" else torch.float64)
    assert torch.equal(read.double(), torch.as_tensor(values.astype(float)))


def write_all(folder):
    """Write a good file of every kind, with its reader."""
    arrays = {name: weight.numpy() for name, weight in LAYER.items()}
    torch.save({"state_dict": LAYER, "epoch": 3, "path": Path("a")}, folder / "weights.pt")
    np.savez(folder / "weights.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    np.save(folder / "inputs.npy", np.ones((4, 3)))
    savemat(folder / "plain.mat", arrays)
    savemat(folder / "packed.mat", arrays, do_compression=True)
    save_file(LAYER, folder / "weights.safetensors")
    (folder / "inputs.csv").write_text("name,x,y\na,1,2\na,3,4\nb,5,6\nb,7,8\n")
    (folder / "model.toml").write_text('module = "LSTM"\nprefix = "state_dict."\n[arguments]\n')
    return {
        "weights.pt": load_network,
        "weights.npz": load_network,
        "packed.npz": load_network,
        "plain.mat": load_network,
        "packed.mat": load_network,
        "weights.safetensors": load_network,
        "inputs.npy": read_sequences,
        "inputs.csv": lambda path: read_sequences(path, sequence_column="name"),
        "model.toml": read_description,
    }


def damage(content, generator):
    """Cut bytes off or out, or flip bits."""
    changed = bytearray(content)
    if generator.random() < 0.3:
        return bytes(changed[: generator.randrange(len(changed))])
    for _ in range(generator.choice([1, 1, 2, 8])):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_are_read_or_refused(tmp_path, seed):
    generator = random.Random(seed)
    for name, read in write_all(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes(), generator))
        with contextlib.suppress(FlossingError, OSError):
            read(path)
