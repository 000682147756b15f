"""Configurations are told apart by all in which they differ."""

from dataclasses import fields, replace

from flossing.tasks import DelayedCopy
from flossing_lab.runs.codec import LEFT_OUT
from flossing_lab.runs.configuration import Architecture, Configuration
from flossing_lab.runs.differences import settings

BASE = Configuration(
    task=DelayedCopy(delay=4, steps=20), architecture=Architecture(size=4, form="rate")
)
NEW = [each.name for each in fields(Architecture) if each.metadata == LEFT_OUT]


OTHER = {"input_gain": 0.5, "bias_scale": 0.5, "initial_states": 2, "readout_bias": 0.5}


def with_architecture(**options):
    return replace(BASE, architecture=replace(BASE.architecture, **options))


def test_what_is_left_out_of_a_document_is_told_where_it_differs():
    assert list(OTHER) == NEW
    assert not BASE.document()["architecture"].keys() & set(NEW)
    for name, value in OTHER.items():
        other = with_architecture(**{name: value})
        assert other.digest != BASE.digest
        words = name.replace("_", " ")
        for pair in ((BASE, other), (other, BASE)):
            told = [each[words] for each in settings(pair)]
            assert sorted(told) == sorted([str(value), str(getattr(BASE.architecture, name))])
