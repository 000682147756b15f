"""Sentences and numbers of docs/results.md."""

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flossing.support.formatting import format_number
from flossing_lab.runs.outcomes import Arm


def paragraph(text: str) -> str:
    """Return text as a paragraph of Markdown."""
    # Text is not wrapped at spaces that do not break.
    words = " ".join(text.split()).replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.fill(words, 100, break_long_words=False, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def accuracy(arm: Arm) -> str:
    """Return the median accuracy of an arm."""
    return percent(arm.median_accuracy)


def percent(share: float, decimals: int = 1) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.{decimals}f} %"


def number(value: float) -> str:
    """Return a number with two digits."""
    return format_number(value, 2)


def listed(names: Iterable[str]) -> str:
    """Return names as an enumeration, with semicolons, since a name may have commas."""
    return "; ".join(names)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
