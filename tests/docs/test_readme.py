"""Pages in Markdown: code runs, links lead somewhere, numbers are those that were recorded."""

import json
import re
import runpy
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

from flossing_lab.runs.grid import grid
from flossing_lab.studies.page import PAGE, page, picture
from flossing_lab.studies.record import read_records
from flossing_lab.studies.registry import STUDIES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README, GUIDE = ROOT / "README.md", DOCS / "guide.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
CODE = re.compile(r"^```.*?^```$", flags=re.DOTALL | re.MULTILINE)

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
pages_with_code = pytest.mark.parametrize("path", [README, GUIDE], ids=lambda path: path.name)


def blocks(path, language):
    """Return the blocks of code of a page in one language."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def prose(path):
    """Return the text of a page without its blocks and spans of code."""
    return re.sub(r"`[^`]*`", "code", CODE.sub("", path.read_text(encoding="utf-8")))


def anchors(path):
    """Return the anchors that GitHub gives the headings of a page."""
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def links(path):
    """Return the relative links and pictures of a page, as (file, anchor)."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    return [unquote(each).partition("#")[::2] for each in targets if "://" not in each]


def script(name, monkeypatch):
    """Return the variables of a script in docs/ that is not run as the main program."""
    monkeypatch.syspath_prepend(DOCS)
    return runpy.run_path(str(DOCS / name))


@pages_with_code
def test_python_code_runs_from_top_to_bottom(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks(path, "python"):
        exec(compile(block, str(path), "exec"), namespace)
        assert capsys.readouterr().out or "print" not in block
    if "history" in namespace:
        assert namespace["history"].loss[-1] < namespace["history"].loss[0]


@pages_with_code
def test_grids_of_configurations_can_be_run(path):
    for block in blocks(path, "toml"):
        settings = tomllib.loads(block)
        expected = len(settings["task"]) * len(settings["floss"]) * settings["seeds"]
        assert len(grid(settings)) == expected


@every_page
def test_links_lead_to_files_and_headings(path):
    for target, anchor in links(path):
        file = path.parent / target if target else path
        assert file.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{path.name} links to {target}#{anchor}"


def test_links_and_anchors_are_found(tmp_path):
    text = (
        "# A `code` name: b\n\n[x](y.md#a-code-name-b) `[no](link)`\n\n```\n[no](code)\n# no\n```\n"
    )
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    assert anchors(path) == {"a-code-name-b"}
    assert links(path) == [("y.md", "a-code-name-b")]


def test_results_follow_from_the_records(monkeypatch):
    made = script("make_results.py", monkeypatch)["page"]()
    assert made == (DOCS / "results.md").read_text(encoding="utf-8")


def test_the_table_of_the_readme_follows_from_the_records(monkeypatch):
    made = script("make_results.py", monkeypatch)["readme"]()
    assert made == README.read_text(encoding="utf-8")


def test_results_change_with_the_records(monkeypatch, tmp_path):
    variables = script("make_results.py", monkeypatch)
    demos = [json.loads(path.read_text(encoding="utf-8")) for path in variables["DEMOS"]]
    demos[0]["runs"][0]["final_accuracy"] = 0.12345
    assert "| 12.3 / " in variables["demo_section"](demos)


def test_the_page_on_speed_follows_from_its_results():
    made = runpy.run_path(str(ROOT / "benchmarks" / "page.py"))["page"]()
    assert made == (DOCS / "speed.md").read_text(encoding="utf-8")


def test_the_page_of_the_rerun_follows_from_its_records():
    folder = DOCS / "reproduction"
    records = read_records(folder / "records")
    assert (folder / PAGE).read_text(encoding="utf-8") == page(records, STUDIES)
    drawn = [STUDIES[name] for name in records if STUDIES[name].draw is not None]
    assert all((folder / picture(study)).exists() for study in drawn)
