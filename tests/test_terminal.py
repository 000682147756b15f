"""What commands print: sentences, as much as is asked for, nothing that a terminal obeys."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from flossing.cli import main
from flossing.report import Fact, Report, Section, Table, render
from flossing.report.rendering import markdown
from flossing.support.formatting import printable

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\u202ec\ud800"
SHOWN = "a\\x1b[2J\\x1b]0;title\\x07b\\u202ec\\ud800"


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(nn.GRU(1, 3).state_dict(), "model.pt")


def analyse(*options):
    return main(["analyze", "model.pt", "--steps", "60", "--sections", "spectrum", *options])


def test_what_a_terminal_obeys_is_shown_escaped():
    assert printable(HOSTILE) == SHOWN
    assert printable("λ₁ = −0.5\n\tnext") == "λ₁ = −0.5\n\tnext"


@pytest.mark.parametrize(
    "name", ["weight\x1b[2J", "\x1b]0;owned\x07weight", "a\u202eb", "a\rb\x00"]
)
def test_names_in_files_are_shown_escaped(name, capsys):
    torch.save({name: torch.ones(2)}, "model.pt")
    assert analyse() == 1
    torch.save(
        {f"{name}{key}": weight for key, weight in nn.GRU(1, 3).state_dict().items()}, "model.pt"
    )
    analyse("--prefix", name)
    shown = "".join(capsys.readouterr())
    assert shown.replace("\n", "").isprintable()
    page = Path("flossing-report.html")
    assert not page.exists() or page.read_text("utf-8").replace("\n", "").isprintable()


def test_pages_show_them_escaped():
    table = Table(HOSTILE, (HOSTILE,), ((HOSTILE,),))
    section = Section(
        HOSTILE, (HOSTILE,), (table,), code=HOSTILE, meaning=(HOSTILE,), notes=(HOSTILE,)
    )
    report = Report(HOSTILE, (Fact(HOSTILE, HOSTILE),), (HOSTILE,), (section,))
    for page in (render(report), markdown(report)):
        assert page.replace("\n", "").isprintable()
        assert SHOWN in page


def test_quiet_prints_nothing(capsys):
    assert analyse("-q") == 0
    assert capsys.readouterr() == ("", "")
    assert Path("flossing-report.html").exists()
    assert analyse("--quiet", "--k", "9") == 1
    assert "k must be from 1 to 3" in capsys.readouterr().err


def test_verbose_shows_where_an_error_came_from(capsys):
    assert analyse("-v", "--k", "9") == 1
    told = capsys.readouterr().err
    assert told.startswith("flossing: k=9")
    assert "Traceback" in told


@pytest.mark.parametrize("command", ["analyze", "demo", "report", "reproduce", "sweep", "train"])
def test_every_command_says_as_much_as_is_asked_for(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "-q, --quiet" in shown
    assert "-v, --verbose" in shown


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys):
    pytest.importorskip("shtab", reason="shtab is not installed")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in ("analyze", "sweep", "--sections", "--horizon"):
        assert name in script


def test_completion_without_shtab_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "shtab" in line
    assert 'pip install "flossing[cli]"' in line


def test_warnings_come_without_source_lines(monkeypatch, capsys):
    def warned(*_, **__):
        # As Python would write it: pytest keeps warnings to itself.
        sys.stderr.write(warnings.formatwarning("few\ndigits", UserWarning, "file.py", 3))
        raise OSError("the end")

    monkeypatch.setattr("flossing.diagnosis.command._subject", warned)
    before = warnings.formatwarning
    assert analyse() == 1
    assert capsys.readouterr().err == "flossing: warning: few digits\nflossing: the end\n"
    assert warnings.formatwarning is before


@pytest.mark.parametrize("option", ["--output", "--json"])
def test_outputs_are_tried_before_the_work(option, monkeypatch, capsys):
    monkeypatch.setattr(
        "flossing.diagnosis.command._analyse_with_progress", lambda *_: pytest.fail("too early")
    )
    # Nobody can make a file there, root included.
    assert analyse(option, "/proc/report.html") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "/proc/report.html" in line


def test_trying_leaves_what_is_there(capsys):
    Path("flossing-report.html").write_text("before", encoding="utf-8")
    assert analyse("--k", "9", "--json", "new.json") == 1
    assert Path("flossing-report.html").read_text(encoding="utf-8") == "before"
    assert not Path("new.json").exists()


def test_folders_are_tried_before_the_work(capsys):
    Path("grid.toml").write_text('task = "digits"\n', encoding="utf-8")
    for command in (["train", "digits"], ["sweep", "grid.toml"], ["reproduce", "fig1"]):
        assert main([*command, "--output", "/proc/runs"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "/proc/runs" in line
