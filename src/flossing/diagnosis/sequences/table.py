"""Sequences from tables of comma-separated values."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flossing.errors import InvalidInputError, InvalidOptionError, UnreadableFileError


def read_table(path: Path, sequence_column: str | None = None) -> Float[Tensor, "T B D"]:
    """Read sequences from a file with a row per step and a column per feature.

    Args:
        path: The file, with or without a header.
        sequence_column: Column that identifies the sequence of each row; `None` if all rows are
            one sequence.

    Raises:
        UnreadableFileError: The file is not text.
        InvalidInputError: A cell is not a number, rows or sequences differ in length, or there
            are no rows.
        InvalidOptionError: There is no such column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFileError(
            f"{str(path)!r} is not a text file of comma-separated values ({error})"
        ) from error
    names = _names(lines[0][1]) if lines else []
    rows = lines[1:] if names else lines
    if not rows:
        raise InvalidInputError(f"{str(path)!r} contains no row of numbers")
    column = _column(sequence_column, names, path)
    sequences: dict[str, list[list[float]]] = {}
    for line, row in rows:
        if len(row) != len(lines[0][1]):
            raise InvalidInputError(
                f"line {line} of {str(path)!r} has {len(row)} cells, but the first line has "
                f"{len(lines[0][1])}: every step needs the same features"
            )
        name = "" if column is None else row.pop(column).strip()
        sequences.setdefault(name, []).append([_number(cell, line, path) for cell in row])
    return _stacked(sequences, path)


def _names(first: Sequence[str]) -> list[str]:
    """Return the names of the columns, or none if the first line is not a header."""
    return [] if all(_is_number(cell) for cell in first) else [cell.strip() for cell in first]


def _column(name: str | None, names: Sequence[str], path: Path) -> int | None:
    if name is None:
        return None
    if name not in names:
        listed = f"has the columns {', '.join(map(repr, names))}" if names else "has no header"
        raise InvalidOptionError(
            f"sequence_column is {name!r}, but {str(path)!r} {listed}: select a column by its name "
            "in the header"
        )
    return names.index(name)


def _number(cell: str, line: int, path: Path) -> float:
    if not _is_number(cell):
        raise InvalidInputError(
            f"line {line} of {str(path)!r} has {cell!r} where a number was expected: separate "
            "numbers by commas, and name a column of labels with --sequence-column"
        )
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _stacked(sequences: dict[str, list[list[float]]], path: Path) -> Float[Tensor, "T B D"]:
    lengths = [len(rows) for rows in sequences.values()]
    shortest, features = min(lengths), len(next(iter(sequences.values()))[0])
    if not features:
        raise InvalidInputError(f"{str(path)!r} has no column besides the sequence column")
    if shortest != max(lengths):
        raise InvalidInputError(
            f"the {len(lengths)} sequences in {str(path)!r} have from {shortest} to {max(lengths)} "
            "steps; expected equal lengths: analyse the sequences of each length separately"
        )
    values = torch.tensor(list(sequences.values()))
    return values.transpose(0, 1)
