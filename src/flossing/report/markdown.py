"""A report's words and tables as Markdown."""

from collections.abc import Iterator, Sequence

from flossing.report.model import Report, Section, Table, shown


def markdown(report: Report) -> str:
    """Return a report as Markdown, without its figures, which a text cannot hold.

    Args:
        report: what to show; sections of nothing but figures are left out.

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
        blocks.append("\n".join(f"- {each.name}: {shown(each.value)}" for each in report.facts))
    for section in report.sections:
        content = list(_blocks(section))
        if content:
            blocks += [f"## {_escaped(section.heading)}", *content]
    return "\n\n".join(blocks) + "\n"


def _blocks(section: Section) -> Iterator[str]:
    yield from section.meaning
    yield from (f"**Note:** {_escaped(note)}" for note in section.notes)
    for table in section.tables:
        yield _escaped(table.caption)
        yield markdown_table(table)
    yield from section.text


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, without its caption.

    Args:
        table: what to show.

    Example:
        >>> print(markdown_table(Table("Answers", ("task", "accuracy"), (("copy", 0.5),))))
        | task | accuracy |
        |---|---|
        | copy | 0.5 |
    """
    ruler = "|" + "---|" * len(table.columns)
    rows = [_row([shown(value) for value in row]) for row in table.rows]
    return "\n".join([_row(table.columns), ruler, *rows])


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, values))} |"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
