"""Small networks to analyse."""

import pytest
import torch
from torch import nn

from flossing.diagnosis.chapters import CHAPTERS, analyse
from flossing.diagnosis.checkpoints import Network
from flossing.diagnosis.subject import Subject


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
    """Return the chapters with these keys."""
    return [chapter for chapter in CHAPTERS if chapter.key in keys]


@pytest.fixture(scope="session")
def section_of():
    """Build a single section as in a report, with its notes."""

    def section(key, subject):
        (only,) = analyse(subject, chapters=chapters(key)).sections
        return only

    return section


@pytest.fixture(scope="session")
def brief():
    """Build the report of the two quick sections, spectrum and advice."""
    return lambda subject: analyse(subject, chapters=chapters("spectrum", "advice"))


@pytest.fixture(scope="session")
def linear_subject():
    """A linear map with the given exponents."""

    def subject(exponents, **options):
        matrix = torch.diag(torch.tensor(exponents, dtype=torch.float64).exp())
        inputs = torch.zeros(60, 2, len(exponents), dtype=torch.float64)
        network = Network(LinearMap(matrix), "", "a linear map")
        given = {"name": "map.pt", "horizon": 100, "state_transient": 5} | options
        return Subject(network=network, inputs=inputs, source="nothing", **given)

    return subject


@pytest.fixture(scope="session")
def stock_subject():
    """A layer or cell of PyTorch driven by noise."""

    def subject(module, *, steps=80, **options):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(steps, 2, module.input_size, generator=generator)
        network = Network(module, "rnn.", f"{type(module).__name__}: for tests")
        given = {"name": "weights.pt", "horizon": 20} | options
        return Subject(network=network, inputs=inputs, source="noise", **given)

    return subject
