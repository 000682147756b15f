"""Records that are sealed but hold what no run holds are left out by name; the rest is shown."""

import json

import pytest
from test_files import a_run

from flossing.errors import UnreadableFileError
from flossing_lab.runs.codec import encode
from flossing_lab.runs.configuration import FORMAT
from flossing_lab.runs.files import _FIRST, _LAST, _SEQUENCES, read_run, sealed
from flossing_lab.runs.store import Store


def write(path, document):
    lines = [
        {"format": FORMAT, **{name: document[name] for name in _FIRST}},
        *({name: record} for name in _SEQUENCES for record in document[name]),
        {name: document[name] for name in _LAST},
    ]
    path.write_bytes(sealed(map(json.dumps, lines)))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("final", "accuracy"), "high"),
        (("final", "accuracy"), [0.5]),
        (("final", "accuracy"), True),
        (("final", "loss"), None),
        (("final", "epoch"), 10**400),
        (("final", "epoch"), 1.5),
        (("evaluations", 0, "exponents"), "ab"),
        (("evaluations", 0, "exponents"), {"a": 1}),
        (("flossing_seconds",), "long"),
        (("training_seconds",), {}),
        (("together",), "two"),
        (("environment",), "here"),
        (("evaluations",), []),
        (("epochs", 0, "loss"), "small"),
        (("episodes", 0, "loss"), 1.0),
        (("configuration", "architecture", "cell"), "\x1b[2J"),
        (("configuration", "architecture", "leak"), "nan"),
        (("configuration", "task", "delay"), "4"),
        (("configuration", "flossing", "schedule"), [1]),
        (("configuration", "gradients"), "yes"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(tmp_path, keys, value):
    document = encode(a_run())
    part = document
    for key in keys[:-1]:
        part = part[key]
    assert keys[-1] in part
    part[keys[-1]] = value
    write(tmp_path / "run.jsonl", document)
    with pytest.raises(UnreadableFileError, match=r"run.jsonl' is whole but does not hold a run"):
        read_run(tmp_path / "run.jsonl")


def test_nesting_without_end_is_refused(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "a-0123456789abcdef.jsonl").write_text(deep, encoding="utf-8")
    line = f'{{"format": {FORMAT}, "configuration": {{}}, "environment": {{}}}}'
    content = sealed([line, f'{{"epochs": {deep}}}', '{"final": 0}'])
    (tmp_path / "b-0123456789abcdef.jsonl").write_bytes(content)
    runs, refused = Store(tmp_path).runs()
    assert runs == []
    assert ["a-01" in str(refused[0]), "b-01" in str(refused[1])] == [True, True]


def test_one_hostile_record_does_not_keep_the_others_from_the_page(tmp_path):
    store = Store(tmp_path)
    good = a_run(seed=1)
    store.write(good)
    document = encode(a_run(seed=2))
    document["final"]["accuracy"] = "high"
    write(store.path(a_run(seed=2).configuration), document)
    runs, (refused,) = store.runs()
    assert runs == [good]
    assert "seed-2" in str(refused)
