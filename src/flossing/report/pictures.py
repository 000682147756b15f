"""Matplotlib axes as figures of a report."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import io
from typing import TYPE_CHECKING, Any

from flossing.plots import new_figure
from flossing.report.model import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In inches: narrow, so that text stays readable when scaled to the width of a phone.
WIDTH, HEIGHT = 4.4, 3.3
# CSS pixels per inch.
RESOLUTION = 96
# Metadata that Matplotlib would add; the date would make every file different.
_SVG_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def new_axes(height: float = HEIGHT) -> "Axes":
    """Return empty axes of a new figure that fits the page; the height is in inches.

    Raises:
        ImportError: Matplotlib is missing.
    """
    return new_figure(WIDTH, height).add_subplot()


def figure_from(axes: "Axes", *, caption: str, description: str) -> Figure:
    """Return the figure of axes as SVG with a transparent background.

    The same figure always gives the same bytes.

    Example:
        >>> from flossing.plots import plot_gradient_norm
        >>> axes = plot_gradient_norm([1, 2, 3], [1.0, 0.1, 0.01], new_axes())
        >>> figure = figure_from(axes, caption="Decay", description="A falling line.")
        >>> figure.media_type, figure.width
        ('image/svg+xml', 422)
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as MatplotlibFigure

    whole = axes.get_figure(root=True)
    if not isinstance(whole, MatplotlibFigure):
        raise TypeError("the axes belong to no figure")
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "flossing"}):
        whole.savefig(buffer, format="svg", transparent=True, metadata=_SVG_METADATA)
    width, height = whole.get_size_inches()
    return Figure(
        caption=caption,
        description=description,
        data=buffer.getvalue(),
        media_type="image/svg+xml",
        width=round(width * RESOLUTION),
        height=round(height * RESOLUTION),
    )
