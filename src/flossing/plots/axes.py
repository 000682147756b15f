"""What all figures share: colours, axes, styles."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart with every kind of colour vision.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
GREY = "#666666"

_NOTE = "flossing: not drawn"


def new_figure(width: float = 5.0, height: float = 3.6) -> "Figure":
    """An empty figure whose panels do not overlap.

    Args:
        width: In inches.
        height: In inches.

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
    """Return a style with the library's own where it says nothing."""
    return {"color": BLUE, "linewidth": 1.6, **defaults, **style}


def axes_or_new(ax: "Axes | None") -> "Axes":
    """Return the axes given, or those of a new figure."""
    return new_figure().add_subplot() if ax is None else ax


def finite_or_nan(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values, with NaN, which Matplotlib leaves out, where they are not finite."""
    return torch.where(values.isfinite(), values, torch.nan)


def add_note(axes: "Axes", text: str) -> None:
    """Write into the lower left corner what could not be drawn, above earlier notes."""
    earlier = sum(note.get_gid() == _NOTE for note in axes.texts)
    axes.annotate(  # pyright: ignore[reportUnknownMemberType]
        text,
        (0.03, 0.03 + 0.08 * earlier),
        xycoords="axes fraction",
        fontsize="small",
        gid=_NOTE,
    )
