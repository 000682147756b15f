"""Reports: a plain model of sections with numbers, and pages and documents made from it."""

from flossing.report.model import Fact, Figure, Report, Section, Table
from flossing.report.rendering import render

__all__ = ["Fact", "Figure", "Report", "Section", "Table", "render"]
