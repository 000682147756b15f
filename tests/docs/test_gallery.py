"""The gallery shows every plot, and its code runs."""

import importlib.util
import re
from pathlib import Path

import pytest

from flossing import plots

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
PICTURES = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
SIZES = "N, T, flossing_steps, training_steps = 80, 800, 300, 400\n"
TINY = "N, T, flossing_steps, training_steps = 10, 60, 1, 3\n"


@pytest.fixture(scope="module")
def gallery():
    specification = importlib.util.spec_from_file_location("gallery", DOCS / "make_gallery.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_plot_is_shown(gallery):
    code = gallery.code_of(PAGE)
    functions = {name for name in plots.__all__ if name.startswith("plot_")}
    assert len(functions) > 10
    assert functions == set(re.findall(r"plots\.(plot_\w+)\(", code))


def test_every_picture_exists_and_is_made_by_the_code(gallery):
    made = re.findall(r'save\(.*"([^"]+\.png)"\)', gallery.code_of(PAGE))
    assert [Path(picture).name for picture in PICTURES] == made
    assert all((DOCS / picture).read_bytes().startswith(b"\x89PNG") for picture in PICTURES)
    assert sorted(made) == sorted(path.name for path in gallery.FIGURES.iterdir())


def test_the_code_of_the_gallery(gallery, tmp_path):
    code = gallery.code_of(PAGE)
    assert code.count(SIZES) == 1
    gallery.make_figures(code.replace(SIZES, TINY), tmp_path)
    names = {Path(picture).name for picture in PICTURES}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all((tmp_path / name).stat().st_size > 5000 for name in names)


def test_links_of_the_page_exist():
    links = re.findall(r"(?<!!)\[[^\]]+\]\(((?!http)[^)#]+)", PAGE)
    assert links
    assert all((DOCS / link).exists() for link in links)
