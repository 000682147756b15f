"""A training checkpoint with any bit flipped is set aside, and training begins anew."""

import json
import random
import warnings

import pytest
import torch

from flossing.errors import DamagedRunWarning
from flossing_lab.runs.files import _SEAL_LENGTH, _with_seal, read_checkpoint, write_checkpoint

STATE = {"digests": ["0123456789abcdef"], "epoch": 100, "weights": {"w": torch.ones(3)}}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "group.checkpoint", STATE)
    return tmp_path / "group.checkpoint"


def with_bit_flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def positions(content):
    """Every bit of the first and last 100 bytes, and 300 others."""
    bits = 8 * len(content)
    generator = random.Random(0)
    return [*range(800), *range(bits - 800, bits), *generator.sample(range(bits), 300)]


def test_what_was_written_comes_back(path):
    assert str(read_checkpoint(path)) == str(STATE)
    assert path.exists()


def test_a_missing_file_is_no_checkpoint(tmp_path):
    assert read_checkpoint(tmp_path / "nothing.checkpoint") is None


def test_any_flipped_bit_is_set_aside(path):
    content = path.read_bytes()
    for bit in positions(content):
        path.write_bytes(with_bit_flipped(content, bit))
        with pytest.warns(DamagedRunWarning, match="is set aside as 'group.checkpoint.damaged'"):
            assert read_checkpoint(path) is None
        assert not path.exists()


def test_any_flipped_bit_is_set_aside_where_the_seal_fits_it(path):
    """As after a fault of the memory, or by another program: the unpickler raises anything."""
    content = path.read_bytes()[:-_SEAL_LENGTH]
    assert _with_seal(content) == path.read_bytes()
    refused = 0
    for bit in positions(content):
        path.write_bytes(_with_seal(with_bit_flipped(content, bit)))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            state = read_checkpoint(path)
        assert (state is None) == path.with_name("group.checkpoint.damaged").exists()
        assert (state is None) == bool(warned)
        refused += state is None
        path.with_name("group.checkpoint.damaged").unlink(missing_ok=True)
    assert refused > 100


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"PK\x03\x04", json.dumps([1]).encode()])
def test_other_content_is_set_aside(path, content):
    for file in (content, _with_seal(content)):
        path.write_bytes(file)
        with pytest.warns(DamagedRunWarning):
            assert read_checkpoint(path) is None
