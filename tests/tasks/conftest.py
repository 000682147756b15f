"""Shared by the tests of the tasks."""

import jaxtyping
import pytest


@pytest.fixture
def own_checks_only(monkeypatch):
    """Wrong types reach the library's own checks, as they do at a user's, under pytest too."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
