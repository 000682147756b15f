"""Inputs from files and tasks, and what is refused."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flossing.diagnosis.sequences import fit_to, normal_noise, read_sequences, shortened
from flossing.errors import InvalidInputError, InvalidOptionError, UnreadableFileError
from flossing.tasks import AddingProblem, CopyMemory, DelayedCopy, Digits, SpatialXor, task_named

VALUES = np.arange(24.0).reshape(4, 3, 2)


def write(folder, suffix, values):
    path = folder / f"inputs{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".npz":
        np.savez(path, only=values)
    elif suffix == ".safetensors":
        save_file({"only": torch.as_tensor(values.copy())}, path)
    else:
        torch.save(torch.as_tensor(values.copy()), path)
    return path


SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layouts(tmp_path, suffix):
    path = write(tmp_path, suffix, VALUES)
    expected = torch.as_tensor(VALUES)
    assert torch.equal(read_sequences(path), expected)
    assert torch.equal(read_sequences(path, layout="batch-first"), expected.transpose(0, 1))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("shape", "expected"), [((6,), (6, 1, 1)), ((3, 2), (3, 1, 2))])
@pytest.mark.parametrize("layout", ["time-first", "batch-first"])
def test_a_single_sequence(tmp_path, suffix, shape, expected, layout):
    values = np.arange(6.0).reshape(shape)
    inputs = read_sequences(write(tmp_path, suffix, values), layout=layout)
    assert inputs.shape == expected
    assert inputs.flatten().tolist() == values.flatten().tolist()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_real_numbers_of_every_type(tmp_path, suffix, dtype):
    values = np.array([[0, 1], [1, 0]], dtype=dtype)
    inputs = read_sequences(write(tmp_path, suffix, values))
    assert inputs.is_floating_point()
    assert inputs.flatten().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", ["uint16", "uint64", "longdouble", ">f4"])
def test_real_numbers_that_pytorch_lacks(tmp_path, suffix, dtype):
    inputs = read_sequences(write(tmp_path, suffix, np.array([[0, 3]], dtype=dtype)))
    assert inputs.flatten().tolist() == [0, 3]


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_an_array_by_its_name(tmp_path, suffix):
    path = tmp_path / f"inputs{suffix}"
    arrays = {"train": torch.zeros(5, 1), "test": torch.ones(3, 1)}
    if suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    elif suffix == ".pt":
        torch.save(arrays, path)
    else:
        save_file(arrays, path)
    assert read_sequences(path, array="test").shape == (3, 1, 1)
    for array in (None, "validation"):
        with pytest.raises(InvalidOptionError, match=r"array is .*(train|test)"):
            read_sequences(path, array=array)


def table(folder, text):
    path = folder / "inputs.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text", ["x,y\n1,2\n3,4\n", "1,2\n3,4\n", "\ufeffx,y\n1, 2\n\n3,4", "1,2\r\n3,4\r\n"]
)
def test_tables(tmp_path, text):
    inputs = read_sequences(table(tmp_path, text))
    assert inputs.tolist() == [[[1, 2]], [[3, 4]]]


def test_tables_of_several_sequences(tmp_path):
    path = table(tmp_path, "x,name,y\n1,a,2\n5,b,6\n3,a,4\n7,b,8\n")
    inputs = read_sequences(path, sequence_column="name")
    assert inputs.tolist() == [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]


@pytest.mark.parametrize(
    ("text", "column", "error", "message"),
    [
        ("", None, InvalidInputError, "no row of numbers"),
        ("x,y\n", None, InvalidInputError, "no row of numbers"),
        ("x,y\n1,2\n3\n", None, InvalidInputError, "line 3 .* has 1 cells, .* first line has 2"),
        ("x,y\n1,two\n", None, InvalidInputError, "line 2 .* has 'two' where a number"),
        ("1;2\n3;4\n", None, InvalidInputError, "'3;4' where a number .*separate numbers by comma"),
        ("x,y\n1,2\n", "z", InvalidOptionError, "has the columns 'x', 'y': select"),
        ("1,2\n", "x", InvalidOptionError, "has no header"),
        ("name\na\n", "name", InvalidInputError, "has no column besides"),
        ("x,name\n1,a\n2,a\n3,b\n", "name", InvalidInputError, "2 sequences .* from 1 to 2 steps"),
    ],
)
def test_bad_tables(tmp_path, text, column, error, message):
    with pytest.raises(error, match=message):
        read_sequences(table(tmp_path, text), sequence_column=column)


def test_a_table_that_is_no_text(tmp_path):
    path = tmp_path / "inputs.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UnreadableFileError, match="is not a text file"):
        read_sequences(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 1), (2, 2, 2, 2)])
def test_shapes_that_are_no_sequences(tmp_path, suffix, shape):
    with pytest.raises(InvalidInputError, match="contains an array of shape"):
        read_sequences(write(tmp_path, suffix, np.zeros(shape)))


def test_numbers_that_are_not_real(tmp_path):
    for values in (np.zeros(3, dtype=complex), np.array(["a", "b"])):
        with pytest.raises(InvalidInputError, match="expected real numbers"):
            read_sequences(write(tmp_path, ".npy", values))
    torch.save(torch.zeros(3, dtype=torch.complex64), tmp_path / "inputs.pt")
    with pytest.raises(InvalidInputError, match="expected real numbers"):
        read_sequences(tmp_path / "inputs.pt")
    torch.save(torch.zeros(3).to_sparse(), tmp_path / "inputs.pt")
    with pytest.raises(UnreadableFileError, match="is sparse"):
        read_sequences(tmp_path / "inputs.pt")


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_code_in_a_file_is_not_run(tmp_path, suffix):
    path, proof = tmp_path / f"inputs{suffix}", tmp_path / "executed"
    if suffix == ".pt":
        torch.save([Trap(proof)], path)
    else:
        values = np.array([Trap(proof)], dtype=object)
        np.save(path, values) if suffix == ".npy" else np.savez(path, only=values)
    with pytest.raises(UnreadableFileError):
        read_sequences(path)
    assert not proof.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 4])
def test_damaged_files(tmp_path, suffix, content):
    path = tmp_path / f"inputs{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="is damaged|is not a whole|is empty"):
        read_sequences(path)


def test_options_that_do_not_fit_the_file(tmp_path):
    path = write(tmp_path, ".npy", VALUES)
    with pytest.raises(InvalidOptionError, match="array='x' does not fit"):
        read_sequences(path, array="x")
    with pytest.raises(InvalidOptionError, match="sequence_column='x' does not fit"):
        read_sequences(path, sequence_column="x")
    with pytest.raises(InvalidOptionError, match="array='x' does not fit"):
        read_sequences(table(tmp_path, "1,2\n"), array="x")
    (tmp_path / "inputs.txt").touch()
    with pytest.raises(InvalidInputError, match=r"ends in '\.txt'; expected one of \.npy"):
        read_sequences(tmp_path / "inputs.txt")
    with pytest.raises(UnreadableFileError, match="there is no file"):
        read_sequences(tmp_path / "missing.npy")


def test_a_wrong_layout(tmp_path, own_checks_only):
    with pytest.raises(InvalidOptionError, match="'time-first', 'batch-first'"):
        read_sequences(write(tmp_path, ".npy", VALUES), layout="BTD")


def test_limits():
    inputs = torch.arange(24).reshape(4, 3, 2).float()
    assert torch.equal(shortened(inputs), inputs)
    assert torch.equal(shortened(inputs, steps=2, trajectories=1), inputs[:2, :1])
    assert shortened(inputs, steps=100).shape == (4, 3, 2)
    with pytest.raises(InvalidOptionError, match="steps is 0"):
        shortened(inputs, steps=0)


def test_inputs_that_do_not_fit_the_network():
    inputs = torch.zeros(5, 2, 3, dtype=torch.float64)
    assert fit_to(inputs, features=3, dtype=torch.float32).dtype == torch.float32
    assert fit_to(inputs, features=None, dtype=torch.float64) is inputs
    with pytest.raises(InvalidInputError, match="have 3 features, but the network takes 2"):
        fit_to(inputs, features=2, dtype=torch.float32)
    inputs[3, 1, 0] = 1e300
    with pytest.raises(InvalidInputError, match=r"infinite or NaN in torch.float32 at step 3 of 5"):
        fit_to(inputs, features=3, dtype=torch.float32)


def test_noise_depends_on_the_seed_alone():
    before = torch.get_rng_state()
    first, again = (normal_noise(50, 4, 2, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, normal_noise(50, 4, 2, seed=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert abs(float(normal_noise(5000, 4, 1).std()) - 1) < 0.02


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("delayed-copy", DelayedCopy()),
        ("delayed-copy:delay=5", DelayedCopy(delay=5)),
        ("spatial-xor:delay=5, steps=9,channels=2", SpatialXor(delay=5, steps=9, channels=2)),
        ("adding-problem:steps=7", AddingProblem(steps=7)),
        ("copy-memory:recall_only=false,delay=3", CopyMemory(recall_only=False, delay=3)),
        ("digits:filler=noise,test_fraction=0.5", Digits(filler="noise", test_fraction=0.5)),
    ],
)
def test_tasks_by_name(text, task):
    assert task_named(text) == task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("copy", "there is no task 'copy'; choose one of adding-problem, copy-memory"),
        ("delayed-copy:lag=3", "'lag=3' is no setting .* with the fields delay, steps"),
        ("delayed-copy:delay", "'delay' is no setting"),
        ("delayed-copy:delay=", "'delay=' is no setting"),
        ("delayed-copy:delay=3.5", "delay is 3.5"),
        ("delayed-copy:delay=400", "no step has a target"),
        ("digits:steps=3", "no setting"),
    ],
)
def test_bad_task_names(text, message, own_checks_only):
    with pytest.raises(InvalidOptionError, match=message):
        task_named(text)
