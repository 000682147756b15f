import math
import sys

import numpy
import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure

import flossing
from flossing.plots import BLUE, plot_covariant_angles, plot_localisation


def with_angles(*angles):
    """Two vectors in the plane that make these angles, one at each point."""
    angles = torch.tensor(angles, dtype=torch.float64)
    fixed = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(len(angles), 2)
    turned = torch.stack([angles.cos(), angles.sin()], dim=-1)
    vectors = torch.stack([fixed, turned], dim=-1).unsqueeze(1)
    local = torch.zeros(len(angles) - 1, 1, 2, dtype=torch.float64)
    return flossing.CovariantVectors(vectors, torch.arange(len(angles)), local)


def test_angles_are_a_density_where_they_lie():
    ax = plot_covariant_angles(with_angles(0.0, 0.01, 1.0, math.pi / 2), label="here")
    (stairs,) = ax.patches
    values, edges, _ = stairs.get_data()
    assert numpy.sum(values * numpy.diff(edges)) == pytest.approx(1.0)
    filled = [(edges[at], edges[at + 1]) for at in numpy.flatnonzero(values)]
    assert filled[0][0] == 0.0
    assert filled[1][0] <= 1.0 <= filled[1][1]
    assert filled[2][1] == pytest.approx(math.pi / 2)
    assert values[0] == pytest.approx(2 * values[-1])
    assert ax.get_xlim() == pytest.approx((0.0, math.pi / 2))
    assert ax.get_legend_handles_labels()[1] == ["here"]


def test_localisation_is_the_mean_over_points_within_its_range():
    ax = plot_localisation(with_angles(0.0, math.pi / 4, math.pi / 2), label="here")
    line = ax.lines[0]
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata() == pytest.approx([1.0, (1 + 0.5 + 1) / 3])
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.6)
    assert heights.max() == pytest.approx(1.0)
    assert [mark.get_ydata()[0] for mark in ax.lines[1:]] == [1.0, 0.5]
    assert [text.get_text() for text in ax.texts] == ["one unit", "all units"]
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("plot", [plot_covariant_angles, plot_localisation])
def test_axes_styles_and_the_missing_library(plot, monkeypatch):
    found = with_angles(0.3, 0.4)
    ax = Figure().add_subplot()
    assert plot(found, ax, color="black", linestyle="--") is ax
    drawn = (ax.patches or ax.lines)[0]
    edge = drawn.get_edgecolor() if ax.patches else drawn.get_color()
    assert same_color(edge, "black")
    ax.figure.canvas.draw()
    default = plot(found)
    drawn = (default.patches or default.lines)[0]
    assert same_color(drawn.get_edgecolor() if default.patches else drawn.get_color(), BLUE)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "flossing\[plot\]"'):
        plot(found)


def test_one_vector_has_no_angles():
    found = with_angles(0.3, 0.4)
    one = flossing.CovariantVectors(found.vectors[..., :1], found.steps, found.local[..., :1])
    with pytest.raises(flossing.InvalidOptionError, match="larger k"):
        plot_covariant_angles(one)
