"""Shared by all tests."""

import os

import jaxtyping
import pytest
import torch

# The workers of a parallel run share the cores: threads that wait for one another cost more.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """No test depends on when a process in the background is done with compiling."""
    # Imported here, for its types are checked only where pytest is configured before.
    import flossing

    dtypes = [torch.float32, torch.float64]
    # Of two workers, each compiles for one precision, and finds the other's work done.
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
        dtypes.reverse()
    for dtype in dtypes:
        flossing.compile_ahead(dtype=dtype)


@pytest.fixture
def own_checks_only(monkeypatch):
    """Wrong types reach the library's own checks, as they do at a user's, under pytest too."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same global random state."""
    torch.manual_seed(0)
