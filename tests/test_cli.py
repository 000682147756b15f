import json
import math
import runpy
import sys

import pytest

from flossing.cli import main

PNG = b"\x89PNG\r\n\x1a\n"


def refused(arguments, capsys):
    """The message with which bad options are refused."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, float) else []


def test_demo_shows_a_table_and_writes_its_files(tmp_path, capsys):
    figure, records = tmp_path / "new" / "demo.png", tmp_path / "demo.json"
    options = ["--output", str(figure), "--records", str(records), "--seed", "7"]
    assert main(["demo", "--quick", "--task", "all", *options]) == 0
    shown = capsys.readouterr().out
    assert "(quick" in shown
    assert str(figure) in shown
    assert figure.read_bytes().startswith(PNG)
    document = json.loads(records.read_text(encoding="utf-8"))
    assert document["seed"] == 7
    assert document["quick"]
    runs = [(run["configuration"]["task"]["name"], run["arm"]) for run in document["runs"]]
    assert runs == [
        ("digits", "without flossing"),
        ("digits", "flossed before training"),
        ("temporal-xor", "without flossing"),
        ("temporal-xor", "flossed before training"),
    ]
    numbers = numbers_in(document)
    assert len(numbers) > 50
    assert all(math.isfinite(number) for number in numbers)
    for run in document["runs"]:
        assert (run["flossing_seconds"] > 0) == (run["configuration"]["flossing"] is not None)
        assert f"{100 * run['final_accuracy']:.1f} %" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["dance"], "invalid choice: 'dance'"),
        (["demo", "--task", "copy"], "invalid choice: 'copy'"),
        (["demo", "--seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["demo", "--seed", "one"], "'one' is not a whole number"),
        (["demo", "--output", "demo.gif"], "should end in one of .png, .pdf, .svg"),
        (["demo", "--quickly"], "unrecognized arguments: --quickly"),
    ],
)
def test_bad_options_are_refused(arguments, message, capsys):
    assert message in refused(arguments, capsys)


def test_paths_that_cannot_be_written_are_refused_before_training(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert "is a folder" in refused(["demo", "--records", str(tmp_path)], capsys)
    assert "is a file" in refused(["demo", "--output", str(file / "demo.png")], capsys)


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_and_version_end_well(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "flossing" in capsys.readouterr().out


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert {"analyze", "demo", "report", "reproduce", "sweep", "train"} <= set(listed)


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["something", "--seed", "1", "--", "-x"], ["--output=a.png"]]
)
def test_a_command_that_cannot_be_imported_says_so(arguments, tmp_path, monkeypatch, capsys):
    distribution = tmp_path / "made_up-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Name: made-up\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(
        "[flossing.commands]\nbroken = made_up_command:add_command\n"
    )
    (tmp_path / "made_up_command.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["broken", *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert "a_package_that_is_not_installed" in line
    # The other commands are not affected.
    with pytest.raises(SystemExit) as caught:
        main(["analyze", "--help"])
    assert caught.value.code == 0


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    shown = capsys.readouterr().out
    for option in ("--output", "--records", "--seed", "--task", "--quick"):
        assert option in shown


def test_a_missing_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["demo", "--output", str(tmp_path / "demo.png")]) == 1
    assert 'pip install "flossing[plot]"' in capsys.readouterr().err


def test_the_package_is_its_command_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["flossing", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("flossing", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("flossing ")
