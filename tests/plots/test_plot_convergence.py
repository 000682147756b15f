import math
import sys

import pytest
import torch
from matplotlib.figure import Figure

import flossing
from flossing.plots import plot_convergence


@pytest.fixture(scope="module")
def course():
    generator = torch.Generator().manual_seed(0)
    jacobians = torch.randn(50, 2, 9, 9, generator=generator)
    return flossing.convergence(flossing.log_growth_rates(jacobians, reorthonormalize=1), points=9)


def test_lines_and_bands_are_those_of_the_result(course):
    ax = plot_convergence(course, trajectory=1)
    assert [line.get_label() for line in ax.lines] == ["λ₁", "λ₃", "λ₅", "λ₇", "λ₉"]
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 5
    for line, band, index in zip(ax.lines, ax.collections, [0, 2, 4, 6, 8], strict=True):
        assert line.get_xdata().tolist() == course.steps[:, 1].tolist()
        assert math.isnan(line.get_ydata()[0]), "one interval has no error bar"
        drawn = torch.tensor(line.get_ydata()[1:])
        torch.testing.assert_close(drawn, course.exponents[1:, 1, index])
        heights = torch.tensor(band.get_paths()[0].vertices[:, 1])
        assert heights.min() == pytest.approx(course.lower[1:, 1, index].min().item())
        assert heights.max() == pytest.approx(course.upper[1:, 1, index].max().item())
    assert ax.get_xscale() == "log"
    assert ax.get_ylabel() == "Lyapunov exponent (nats per step)"
    assert ax.get_legend().get_title().get_text() == "with 95 % confidence bands"
    ax.figure.canvas.draw()


def test_fewer_exponents_than_lines(course):
    assert [line.get_label() for line in plot_convergence(course, exponents=1).lines] == ["λ₁"]
    one = flossing.convergence(
        flossing.log_growth_rates(torch.rand(9, 1, 1, 1) + 0.1, reorthonormalize=1, dt=0.1)
    )
    ax = plot_convergence(one)
    assert len(ax.lines) == 1
    assert ax.get_ylabel() == "Lyapunov exponent (nats per unit of time)"


def test_axes_are_used_again_and_bad_options_refused(course, monkeypatch):
    ax = Figure().add_subplot()
    assert plot_convergence(course, ax) is ax
    with pytest.raises(flossing.InvalidOptionError, match="trajectory is 2 .*from 0 to 1"):
        plot_convergence(course, trajectory=2)
    with pytest.raises(flossing.InvalidOptionError, match="exponents is 6 .*from 1 to 5"):
        plot_convergence(course, exponents=6)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "flossing\[plot\]"'):
        plot_convergence(course)
