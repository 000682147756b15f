"""Studies of small networks."""

import pytest
import torch
from torch import nn

from flossing.diagnosis.chapters import CHAPTERS, analyse
from flossing.diagnosis.checkpoints import Network
from flossing.diagnosis.study import Study


class LinearMap(nn.Module):
    """h' = W h + x, whose exponents are known."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x, state):
        return state @ self.matrix.T + x

    def initial_state(self, batch_size):
        return self.matrix.new_zeros(batch_size, len(self.matrix))


def chapters(*keys):
    """Return the chapters of these keys."""
    return [chapter for chapter in CHAPTERS if chapter.key in keys]


@pytest.fixture(scope="session")
def section_of():
    """Build one section as a report has it, with its notes."""

    def section(key, study):
        (only,) = analyse(study, chapters=chapters(key)).sections
        return only

    return section


@pytest.fixture(scope="session")
def brief():
    """Analyse the spectrum, and advise on it: what is quick."""
    return lambda study: analyse(study, chapters=chapters("spectrum", "advice"))


@pytest.fixture(scope="session")
def linear_study():
    """A study of a map with the exponents given."""

    def study(exponents, **options):
        matrix = torch.diag(torch.tensor(exponents, dtype=torch.float64).exp())
        inputs = torch.zeros(60, 2, len(exponents), dtype=torch.float64)
        network = Network(LinearMap(matrix), "", "a linear map")
        given = {"name": "map.pt", "horizon": 100, "state_transient": 5} | options
        return Study(network=network, inputs=inputs, source="nothing", **given)

    return study


@pytest.fixture(scope="session")
def stock_study():
    """A study of a stock module under noise."""

    def study(module, *, steps=80, **options):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(steps, 2, module.input_size, generator=generator)
        network = Network(module, "rnn.", f"{type(module).__name__}: for tests")
        given = {"name": "weights.pt", "horizon": 20} | options
        return Study(network=network, inputs=inputs, source="noise", **given)

    return study
