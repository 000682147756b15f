"""Colours, axes and styles shared by all figures."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe & Ito, distinguishable with every kind of colour vision.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
GREY = "#666666"

_NOTE = "flossing: not drawn"


def new_figure(width: float = 5.0, height: float = 3.6) -> "Figure":
    """Create an empty figure whose panels do not overlap.

    Args:
        width: Width in inches.
        height: Height in inches.

    Raises:
        ImportError: Matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need Matplotlib, which could not be imported; "
            'install it with: pip install "flossing[plot]"'
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def with_defaults(style: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Return a style, completed by the defaults of the library."""
    return {"color": BLUE, "linewidth": 1.6, **defaults, **style}


def axes_or_new(ax: "Axes | None") -> "Axes":
    """Return the axes given, or those of a new figure."""
    return new_figure().add_subplot() if ax is None else ax


def finite_or_nan(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Replace infinite values by NaN, which Matplotlib leaves out."""
    return torch.where(values.isfinite(), values, torch.nan)


def add_note(axes: "Axes", text: str) -> None:
    """Write a note on what could not be drawn into the lower left corner, above earlier notes."""
    earlier = sum(note.get_gid() == _NOTE for note in axes.texts)
    axes.annotate(  # pyright: ignore[reportUnknownMemberType]
        text,
        (0.03, 0.03 + 0.08 * earlier),
        xycoords="axes fraction",
        fontsize="small",
        gid=_NOTE,
    )


def time_label(quantity: str, dt: float) -> str:
    """Return the label of an axis of times, which count steps unless a step has a duration.

    >>> time_label("lag", 1.0), time_label("lag", 0.1)
    ('lag (steps)', 'lag (units of time)')
    """
    return f"{quantity} ({'steps' if dt == 1.0 else 'units of time'})"
