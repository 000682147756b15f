"""Matplotlib's axes as figures of a report."""

# Matplotlib leaves its keyword arguments untyped, so its methods are partially unknown.
# pyright: reportUnknownMemberType=false

import io
from typing import TYPE_CHECKING, Any

from flossing.plots import new_figure
from flossing.report.model import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In inches: narrow, so that letters stay readable where the page is as wide as a telephone.
WIDTH, HEIGHT = 4.4, 3.3
# CSS pixels an inch.
RESOLUTION = 96
# What Matplotlib would write into the file beside the picture.
_SVG_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def new_axes(height: float = HEIGHT) -> "Axes":
    """Return empty axes of the size that fits the page.

    Args:
        height: Of the figure, in inches.

    Raises:
        ImportError: Matplotlib is missing.
    """
    return new_figure(WIDTH, height).add_subplot()


def figure_from(axes: "Axes", *, caption: str, description: str) -> Figure:
    """Return the figure that axes are part of, as SVG with a transparent background.

    The same figure gives the same bytes.

    Args:
        axes: Of the figure.
        caption: What it shows and how to read it.
        description: For those who cannot see it, what can be seen in it.

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
