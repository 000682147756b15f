"""The model of a report: text, numbers, tables and figures, independent of their rendering."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flossing.support.environment import environment
from flossing.support.formatting import format_number, printable
from flossing.support.strict_json import json_text

Value = str | int | float
"""A value in a table or fact; numbers are formatted by `shown` only where they are rendered."""


@dataclass(frozen=True)
class Fact:
    """A named property of what the report is about."""

    name: str
    value: Value


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: Describes the contents and their units.
        columns: Headings.
        rows: Tuples of one value per heading.

    Raises:
        ValueError: A row does not have one value per heading.
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
    """An image that is embedded in the report.

    Attributes:
        caption: What it shows and how to read it.
        description: Alternative text for readers who cannot see it.
        data: Contents of the image file.
        media_type: "image/svg+xml" or "image/png".
        width: In CSS pixels; it shrinks with the page.
        height: In CSS pixels, at this width.
    """

    caption: str
    description: str
    data: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """A section of a report, of which any part may be empty.

    Attributes:
        heading: Its title.
        text: Paragraphs that explain the numbers and how they were measured; folded on the page.
        tables: Tables.
        figures: Figures.
        code: Source code to copy.
        example: Source code that belongs to the text, and is folded with it.
        meaning: Paragraphs with the result and what it means.
        notes: Warnings about what degrades the result.
        numbers: All numbers of the section by name, for JSON.
    """

    heading: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    code: str = ""
    example: str = ""
    meaning: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Report:
    """A report, ready to be rendered.

    Attributes:
        title: Title of the page.
        facts: Properties of what was analysed.
        summary: Paragraphs with the main results.
        sections: In reading order.
    """

    title: str
    facts: tuple[Fact, ...]
    summary: tuple[str, ...]
    sections: tuple[Section, ...]

    def document(self) -> dict[str, Any]:
        """Return all numbers, with the versions and the machine that they were computed with.

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
        """Return the document as strict JSON, with "inf", "-inf" and "nan" as strings."""
        return json_text(self.document())


def shown(value: Value) -> str:
    """Return a value as text for a page.

    Example:
        >>> shown("LSTM"), shown(3), shown(-0.25)
        ('LSTM', '3', '−0.25')
    """
    return printable(value) if isinstance(value, str) else format_number(value)
