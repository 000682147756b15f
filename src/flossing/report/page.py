"""A report as one HTML page that needs nothing beside itself."""

import base64
import re
from typing import Any

from flossing.experiments.environment import environment
from flossing.report.model import Figure, Report, shown


def render(report: Report) -> str:
    """Return a report as a self-contained HTML page, without scripts.

    Style and figures are within the page; text is escaped. It follows the reader's choice of a
    light or a dark scheme, and shrinks to the width of a telephone, where wide tables scroll
    inside their own box.

    Args:
        report: What to show.

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
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"shown": shown, "data_address": _data_address, "anchor": _anchor}
    templates.filters.update(filters)
    return templates.get_template("page.html").render(report=report, environment=environment())


def _data_address(figure: Figure) -> str:
    encoded = base64.b64encode(figure.data).decode("ascii")
    return f"data:{figure.media_type};base64,{encoded}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
