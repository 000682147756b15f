"""What a report is made of: text, numbers, tables and pictures, without a word of HTML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flossing.support.environment import environment
from flossing.support.formatting import number_in_words
from flossing.support.strict_json import json_text

Value = str | int | float
"""What a table or a fact shows; numbers are put into words for the page, and kept in JSON."""


@dataclass(frozen=True)
class Fact:
    """One line of what the report is about.

    Attributes:
        name: What it is.
        value: What it amounts to.
    """

    name: str
    value: Value


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: What it shows.
        columns: The headings.
        rows: A value for each heading.

    Raises:
        ValueError: a row has not one value a heading.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row of the table {self.caption!r} has {len(row)} values for "
                    f"{len(self.columns)} columns: {row}"
                )


@dataclass(frozen=True)
class Figure:
    """A picture, within the report rather than beside it.

    Attributes:
        caption: What it shows and how to read it.
        description: For those who cannot see it, what can be seen in it.
        data: The file.
        media_type: Of the file, "image/svg+xml" or "image/png".
        width: In CSS pixels, at most; it shrinks where there is less room.
        height: In CSS pixels, at that width.
    """

    caption: str
    description: str
    data: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes:
        heading: The question, or what the section is about.
        text: Paragraphs.
        tables: After the paragraphs.
        figures: After the tables.
        code: Lines to copy.
        meaning: What the numbers mean for the reader, in plain words.
        notes: What degrades the answer.
        numbers: All numbers of the section by their names, for JSON.
    """

    heading: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    code: str = ""
    meaning: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Report:
    """A report, ready to be rendered.

    Attributes:
        title: Of the page.
        facts: What it is about: the network, its inputs, the options.
        summary: The answers in a few sentences.
        sections: In the order in which they are read.
    """

    title: str
    facts: tuple[Fact, ...]
    summary: tuple[str, ...]
    sections: tuple[Section, ...]

    def document(self) -> dict[str, Any]:
        """All numbers, with what they depend on.

        Example:
            >>> section = Section("Spectrum", numbers={"exponents": [0.5]})
            >>> Report("Network", (), (), (section,)).document()["sections"]
            [{'heading': 'Spectrum', 'meaning': [], 'notes': [], 'numbers': {'exponents': [0.5]}}]
        """
        return {
            "title": self.title,
            "environment": environment(),
            "facts": {fact.name: fact.value for fact in self.facts},
            "summary": list(self.summary),
            "sections": [
                {
                    "heading": section.heading,
                    "meaning": list(section.meaning),
                    "notes": list(section.notes),
                    "numbers": dict(section.numbers),
                }
                for section in self.sections
            ],
        }

    def json(self) -> str:
        """The document as strict JSON; numbers that are not finite are "inf", "-inf", "nan"."""
        return json_text(self.document())


def shown(value: Value) -> str:
    """Return a value as a page shows it.

    Example:
        >>> shown("LSTM"), shown(3), shown(-0.25)
        ('LSTM', '3', '−0.25')
    """
    return value if isinstance(value, str) else number_in_words(value)
