"""The page: whole, escaped, accessible; and the document beside it."""

import base64
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from flossing.diagnosis.chapters import CHAPTERS, Chapter, analyse
from flossing.errors import InvalidInputError, NumericalWarning
from flossing.report import Fact, Figure, Report, Section, Table, render
from flossing.report.pictures import figure_from, new_axes

HOSTILE = '"><script>alert(1)</script>&amp;'
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """The elements of a page in order, each with its attributes; and that they are nested."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(stock_subject, brief):
    return brief(stock_subject(nn.LSTM(2, 5)))


@pytest.fixture(scope="module")
def page(report):
    return Page(render(report))


def test_the_page_needs_nothing_beside_itself(page):
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not page.all("script")
    style = re.search(r"<style>(.*)</style>", render(Report("", (), (), ())), re.DOTALL)
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_page_is_accessible(page):
    assert page.all("html") == [{"lang": "en"}]
    assert "Lyapunov analysis of weights.pt" in page.text
    headings = [tag for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings == ["h1", "h2", "h2"]
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert len(page.all("table")) == len(page.all("caption")) == 2
    assert {cell["scope"] for cell in page.all("th")} == {"col", "row"}
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    targets = [link["href"].removeprefix("#") for link in page.all("a")]
    assert targets == identifiers
    assert [section["aria-labelledby"] for section in page.all("section")] == identifiers


def test_figures_are_pictures(page):
    (image,) = page.all("img")
    media_type, _, content = image["src"].partition(";base64,")
    assert media_type == "data:image/svg+xml"
    assert base64.b64decode(content).startswith(b"<?xml")


def test_the_same_subject_gives_the_same_page(stock_subject):
    torch.manual_seed(0)
    subject = stock_subject(nn.GRU(1, 3))
    assert render(analyse(subject)) == render(analyse(subject))


def test_everything_is_escaped():
    table = Table(HOSTILE, (HOSTILE, "b"), ((HOSTILE, 1),))
    figure = Figure(HOSTILE, HOSTILE, b"", "image/png", 10, 10)
    section = Section(
        heading=HOSTILE,
        text=(HOSTILE,),
        tables=(table,),
        figures=(figure,),
        code=HOSTILE,
        meaning=(HOSTILE,),
        notes=(HOSTILE,),
    )
    report = Report(HOSTILE, (Fact(HOSTILE, HOSTILE),), (HOSTILE,), (section, Section("Other")))
    page = Page(render(report))
    assert not page.all("script")
    # Title, headings, contents, summary, fact, meaning, note, captions, cells, text and code.
    assert page.text.count(HOSTILE) == 15
    assert page.all("img")[0]["alt"] == HOSTILE


def test_numbers_on_the_page():
    table = Table("Numbers", ("name", "value"), (("a", -0.5), ("b", math.inf), ("c", 1e-9)))
    page = Page(render(Report("", (Fact("count", 3),), (), (Section("S", tables=(table,)),))))
    for shown in ("−0.5", "∞", "1 · 10⁻⁹"):
        assert shown in page.text


def test_rows_must_fit_the_columns():
    with pytest.raises(ValueError, match="has 1 values for 2 columns"):
        Table("Numbers", ("a", "b"), ((1,),))


def test_figures_are_the_same_every_time():
    def draw():
        axes = new_axes()
        axes.plot([0, 1], [0, 1], label="line", clip_on=True)
        axes.fill_between([0, 1], [0, 1])
        return figure_from(axes, caption="", description="").data

    assert draw() == draw()
    assert b"<dc:date>" not in draw()


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_document_has_the_numbers(report, stock_subject):
    document = strict(report.json())
    spectrum, advice = document["sections"]
    assert spectrum["heading"] == "Lyapunov spectrum"
    assert len(spectrum["numbers"]["exponents"]) == 10
    assert spectrum["numbers"]["state_size"] == 10
    assert spectrum["numbers"]["horizon"] == 20
    assert (advice["numbers"]["k"], advice["numbers"]["layers"][0]["flossable"]) == (1, 5)
    assert document["facts"]["Network"] == "LSTM: for tests"
    assert document["environment"]["torch"] == torch.__version__
    assert document["summary"] == list(report.summary)


def test_numbers_that_are_not_finite_are_strings(linear_subject, brief):
    report = brief(linear_subject([-0.5, -math.inf]))
    (spectrum, _) = strict(report.json())["sections"]
    assert spectrum["numbers"]["exponents"][0] == pytest.approx(-0.5)
    assert spectrum["numbers"]["exponents"][1] == "-inf"
    assert spectrum["numbers"]["standard_errors"][1] == "inf"
    assert "lost rank" in spectrum["notes"][0]
    assert "lost rank" in Page(render(report)).text


def test_chapters_come_in_order_with_progress(linear_subject):
    calls = []
    extra = Chapter("else", "Something else", lambda subject: Section(subject.name))
    report = analyse(
        linear_subject([0.0]),
        chapters=(*CHAPTERS[:2], extra),
        on_progress=lambda done, name: calls.append((done, name)),
    )
    assert calls == [(0, "Lyapunov spectrum"), (1, "What to do"), (2, "Something else")]
    assert report.sections[-1].heading == "map.pt"


def test_warnings_become_notes_once_and_others_pass(linear_subject):
    def build(subject):
        import warnings

        for _ in range(2):
            warnings.warn("few digits", NumericalWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
        return Section("Warned", notes=("own",))

    with pytest.warns(UserWarning, match="something else"):
        report = analyse(linear_subject([0.0]), chapters=(Chapter("", "", build),))
    assert report.sections[0].notes == ("own", "few digits")


@pytest.mark.parametrize(
    ("exponents", "words"),
    [
        ([-0.5, -0.6], "Gradients vanish over the horizon of 100 steps"),
        ([0.0, -0.6], "Some directions carry gradients over the horizon"),
        ([0.0, 0.01], "All directions carry gradients over the horizon"),
        ([0.5, -0.6], "Gradients explode over the horizon"),
    ],
)
def test_the_outcome_in_words(linear_subject, brief, exponents, words):
    report = brief(linear_subject(exponents))
    assert report.summary[0].startswith(words)


@pytest.mark.parametrize(
    ("exponent", "factor"),
    [(-0.5, "shrink by a factor of 10²²"), (0.5, "grow by a factor of 10²²")],
)
def test_the_factor_over_the_horizon(linear_subject, brief, exponent, factor):
    assert factor in brief(linear_subject([exponent])).summary[0]


def test_fewer_exponents_than_the_state_has(linear_subject, brief):
    section = brief(linear_subject([0.0, -0.5, -0.6], k=2)).sections[0]
    assert "explode along 0 of the leading 2 directions (of 3)" in section.meaning[0]
    assert "carried along 1 and vanish along 1" in section.meaning[0]
    assert len(section.numbers["exponents"]) == 2


def test_what_cannot_be_measured_is_said_in_its_section(linear_subject):
    def refuse(subject):
        raise InvalidInputError("too few steps")

    chapters = (Chapter("a", "Too much", refuse), CHAPTERS[0])
    failed, spectrum = analyse(linear_subject([0.0]), chapters=chapters).sections
    assert (failed.heading, failed.numbers) == ("Too much", {})
    assert "could not be measured: too few steps" in failed.meaning[0]
    assert spectrum.numbers["exponents"] == [pytest.approx(0.0)]


@pytest.mark.parametrize(("error", "required"), [(InvalidInputError, True), (KeyError, False)])
def test_other_failures_end_the_analysis(linear_subject, error, required):
    def refuse(subject):
        raise error("too few steps")

    with pytest.raises(error, match="too few steps"):
        analyse(linear_subject([0.0]), chapters=(Chapter("a", "a", refuse, required),))
