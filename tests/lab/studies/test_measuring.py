"""Measurements are done once, and damaged files are not trusted."""

import json
from dataclasses import dataclass

import pytest
from made_up import opened

from flossing.errors import DamagedRunWarning
from flossing_lab.studies import measuring
from flossing_lab.studies.study import Study


@dataclass(frozen=True)
class Setting:
    seed: int


@pytest.fixture
def squares(monkeypatch):
    """A study that squares its seeds, and a list of those squared so far."""
    monkeypatch.setattr(measuring, "opened", opened)
    asked = []

    def measure(setting):
        asked.append(setting.seed)
        return {"square": setting.seed**2, "endless": float("inf"), "pair": (1.0, 2.0)}

    return Study(name="squares", title="Squares", measure=measure), asked


def test_what_is_there_is_not_measured_again(squares, tmp_path):
    study, asked = squares
    first = measuring.measure_all(study, [Setting(2), Setting(3)], tmp_path)
    progress = []
    again = measuring.measure_all(
        study,
        [Setting(4), Setting(3), Setting(2)],
        tmp_path,
        on_progress=lambda *each: progress.append(each),
    )
    assert asked == [2, 3, 4]
    assert [each.numbers["square"] for each in again] == [16, 9, 4]
    # A fresh measurement equals the one that is read from its file.
    assert again[1:] == first[::-1]
    assert first[0].numbers["endless"] == float("inf")
    assert first[0].numbers["pair"] == [1.0, 2.0]
    assert progress == [(2, 3), (3, 3)]


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_file_is_set_aside(squares, tmp_path, damage):
    study, asked = squares
    measuring.measure_all(study, [Setting(2)], tmp_path)
    (path,) = tmp_path.glob("*.json")
    text = path.read_text(encoding="utf-8")
    damaged = {
        "cut": text[:-10],
        "changed": text.replace('"square": 4', '"square": 5'),
        "other": json.dumps([1]),
    }[damage]
    path.write_text(damaged, encoding="utf-8")
    with pytest.warns(DamagedRunWarning, match="set aside"):
        (measurement,) = measuring.measure_all(study, [Setting(2)], tmp_path)
    assert measurement.numbers["square"] == 4
    assert asked == [2, 2]
    assert len(list(tmp_path.glob("*.damaged"))) == 1


def test_another_study_has_measurements_of_its_own(squares, tmp_path):
    study, asked = squares
    other = Study(name="others", title="Others", measure=study.measure)
    for each in (study, other):
        measuring.measure_all(each, [Setting(2)], tmp_path)
    assert asked == [2, 2]
