"""Rendering of a report as a self-contained HTML page or as Markdown."""

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any

from flossing.report.model import Figure, Report, Section, Table, shown
from flossing.support.environment import environment
from flossing.support.formatting import printable


def render(report: Report) -> str:
    """Return a report as a self-contained HTML page without scripts.

    Styles and figures are embedded; text is escaped. The page follows the reader's preference for
    a light or dark colour scheme and adapts to the width of a phone, where wide tables scroll
    horizontally.

    Raises:
        ImportError: Jinja is missing.

    Example:
        >>> page = render(Report("A < B", (), (), ()))
        >>> "<title>A &lt; B</title>" in page
        True
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError(
            "reports need Jinja, which could not be imported; "
            'install it with: pip install "flossing[cli]"'
        ) from error
    templates = Environment(
        loader=PackageLoader("flossing.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_text_escaped,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"shown": shown, "data_address": _data_address, "anchor": _anchor}
    templates.filters.update(filters)
    return templates.get_template("page.html").render(report=report, environment=environment())


def markdown(report: Report) -> str:
    """Return a report as Markdown, without its figures and without sections of figures alone.

    Example:
        >>> table = Table("Answers", ("task", "accuracy"), (("copy", 0.5),))
        >>> print(markdown(Report("Runs", (), (), (Section("Results", tables=(table,)),))))
        # Runs
        <BLANKLINE>
        ## Results
        <BLANKLINE>
        Answers
        <BLANKLINE>
        | task | accuracy |
        |---|---|
        | copy | 0.5 |
        <BLANKLINE>
    """
    blocks = [f"# {_escaped(report.title)}", *map(_escaped, report.summary)]
    if report.facts:
        blocks.append(
            "\n".join(
                f"- {_escaped(each.name)}: {_escaped(shown(each.value))}" for each in report.facts
            )
        )
    for section in report.sections:
        content = list(_blocks(section))
        if content:
            blocks += [f"## {_escaped(section.heading)}", *content]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, without its caption.

    Example:
        >>> print(markdown_table(Table("Answers", ("task", "accuracy"), (("copy", 0.5),))))
        | task | accuracy |
        |---|---|
        | copy | 0.5 |
    """
    ruler = "|" + "---|" * len(table.columns)
    rows = [_row([shown(value) for value in row]) for row in table.rows]
    return "\n".join([_row(table.columns), ruler, *rows])


def _text_escaped(value: object) -> object:
    # What a macro returns is markup, and its text is escaped already.
    return printable(value) if type(value) is str else value


def _data_address(figure: Figure) -> str:
    encoded = base64.b64encode(figure.data).decode("ascii")
    return f"data:{figure.media_type};base64,{encoded}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _blocks(section: Section) -> Iterator[str]:
    yield from map(_escaped, section.meaning)
    yield from (f"**Note:** {_escaped(note)}" for note in section.notes)
    for table in section.tables:
        yield _escaped(table.caption)
        yield markdown_table(table)
    yield from map(_escaped, section.text)


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, values))} |"


def _escaped(text: str) -> str:
    return printable(" ".join(text.split())).replace("|", "\\|")
