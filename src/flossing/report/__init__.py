"""Reports: a plain model of text, tables and figures, rendered as HTML, Markdown and JSON."""

from flossing.report.model import Fact, Figure, Report, Section, Table
from flossing.report.rendering import render

__all__ = ["Fact", "Figure", "Report", "Section", "Table", "render"]
