"""A run's file: what is read is what was written, or an error."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flossing.errors import UnreadableFileError
from flossing.tasks import TemporalXor
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing
from flossing_lab.runs.files import read_run, sealed, unsealed, write_run, write_whole
from flossing_lab.runs.records import Episode, Epoch, Evaluation, Run

FLOATS = st.floats(width=64)


def a_run(numbers=(0.25, 1e-300, -0.0), seed=3):
    configuration = Configuration(
        task=TemporalXor(delay=4, steps=20),
        architecture=Architecture(size=8),
        flossing=Flossing(k=6, time_steps=17, schedule={"before": 3, "lr": 1e-3}),
        seed=seed,
    )
    first, second, third = numbers
    return Run(
        configuration=configuration,
        epochs=(Epoch(epoch=1, loss=first, gradient_norm=second),),
        episodes=(
            Episode(epoch=0, loss=(first, second), largest_exponent=third, smallest_exponent=first),
        ),
        evaluations=(
            Evaluation(epoch=0, loss=third, accuracy=None, exponents=numbers),
            Evaluation(epoch=1, loss=first, accuracy=0.5, gradient_norm=second),
        ),
        final=Evaluation(epoch=1, loss=second, accuracy=1.0),
        gradient_norm_by_lag=numbers,
        flossing_seconds=0.5,
        training_seconds=1.5,
        together=2,
        environment={"torch": "2.13 ✓ \u2028", "processors": None},
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.jsonl"
    write_run(path, a_run())
    return path


@given(numbers=st.tuples(FLOATS, FLOATS, FLOATS))
def test_every_number_comes_back_as_it_was(numbers, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.jsonl"
    run = a_run(numbers)
    write_run(path, run)
    # As text, for NaN is unequal to itself and −0 equal to 0.
    assert repr(read_run(path)) == repr(run)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 5e-324, 0.1])
def test_every_kind_of_number_comes_back(number, tmp_path):
    run = a_run((number, number, number))
    write_run(tmp_path / "run.jsonl", run)
    assert repr(read_run(tmp_path / "run.jsonl")) == repr(run)


def test_seconds_together_and_environment_are_kept_though_they_do_not_count(path):
    back, run = read_run(path), a_run()
    assert back == run
    assert back == replace(run, flossing_seconds=9.0, training_seconds=9.0, together=1)
    assert (back.flossing_seconds, back.training_seconds) == (0.5, 1.5)
    assert (back.together, back.environment) == (2, run.environment)


def test_the_file_is_lines_of_strict_json(path):
    def refuse(name):
        raise AssertionError(name)

    lines = path.read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line, parse_constant=refuse) for line in lines]
    assert documents[0]["format"] == 1
    assert [next(iter(document)) for document in documents[1:]] == [
        "epochs",
        "episodes",
        "evaluations",
        "evaluations",
        "final",
    ]


@given(data=st.data())
def test_any_truncation_is_found(path, data):
    content = path.read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    cut = path.with_name("cut.jsonl")
    cut.write_bytes(content[:length])
    with pytest.raises(UnreadableFileError, match="cut off|beginning is damaged"):
        read_run(cut)


def test_any_single_changed_byte_is_found(path):
    content = path.read_bytes()
    changed = path.with_name("changed.jsonl")
    for position in range(len(content)):
        # The lowest bit turns a digit into another, and letters into letters.
        for flip in (0x01, 0x20, 0xFF):
            byte = bytes([content[position] ^ flip])
            changed.write_bytes(content[:position] + byte + content[position + 1 :])
            with pytest.raises(UnreadableFileError):
                read_run(changed)


@settings(deadline=None)
@given(data=st.data())
def test_bytes_that_are_put_in_are_found(path, data):
    content = path.read_bytes()
    position = data.draw(st.integers(0, len(content)))
    more = path.with_name("more.jsonl")
    more.write_bytes(content[:position] + data.draw(st.binary(min_size=1)) + content[position:])
    with pytest.raises(UnreadableFileError):
        read_run(more)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not the file of a run"),
        (b"\x89PNG\r\n", "not the file of a run"),
        (b"[1, 2]\n", "not the file of a run"),
        (b'{"seed": 1}\n', "not the file of a run"),
        (b'{"format": 99, "configuration": {}}\n', "has format 99, and .* reads format 1"),
        (b'{"format": 1, "configuration": {}}\n', "cut off"),
    ],
)
def test_foreign_files_are_named_as_such(content, message, tmp_path):
    path = tmp_path / "foreign.jsonl"
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=message):
        read_run(path)


@pytest.mark.parametrize("task", [{"name": "juggling"}, {}, 3])
def test_what_is_sealed_but_no_run_is_refused(task, tmp_path):
    path = tmp_path / "run.jsonl"
    write_run(path, a_run())
    first, *others = unsealed(path, path.read_bytes())
    document = json.loads(first)
    document["configuration"]["task"] = task
    write_whole(path, sealed([json.dumps(document), *(line.decode() for line in others)]))
    with pytest.raises(UnreadableFileError, match="whole but does not hold a run"):
        read_run(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match="there is no file"):
        read_run(tmp_path / "nothing.jsonl")
    with pytest.raises(UnreadableFileError, match="is a folder"):
        read_run(tmp_path)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    write_whole(path, b"before")

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
