"""Sweeps that no machine can do are refused before anything is allocated."""

import tracemalloc

import pytest

from flossing.cli import main
from flossing.errors import InvalidOptionError
from flossing_lab.runs.grid import grid

TASK = {"task": "temporal-xor:delay=20"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 10**9}, "1000000000 runs"),
        ({"seeds": range(5, 10**9 + 5)}, "1000000000 runs"),
        (
            {
                "seeds": 1000,
                "architecture": {"size": list(range(8, 40)), "gain": [0.5, 1.0]},
                "training": {"epochs": [1, 2]},
            },
            "128000 runs",
        ),
        ({"architecture": {"size": 10**9}}, "size 1000000000"),
        ({"architecture": {"size": 10**6, "cell": "lstm"}}, "GiB of memory"),
        ({"task": "temporal-xor:delay=20,steps=1000000000"}, "1000000000 steps"),
        ({"training": {"epochs": 10**12}}, "1000000000000 epochs"),
        ({"training": {"batch_size": 10**9}}, "batches of 1000000000"),
        ({"final_batch_size": 10**9}, "GiB of memory"),
        ({"floss": "published", "flossing": {"sequences": 10**8}}, "GiB of memory"),
    ],
)
def test_what_costs_too_much_is_refused_before_it_is_made(settings, message):
    tracemalloc.start()
    try:
        with pytest.raises(InvalidOptionError, match=message):
            grid(TASK | settings)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_large_networks_that_a_machine_can_do_are_not_refused():
    large = {"architecture": {"size": 4096}, "training": {"epochs": 10**6}, "floss": "default"}
    assert len(grid(TASK | large | {"seeds": 3})) == 3


def test_the_commands_refuse_in_one_line(tmp_path, capsys):
    file = tmp_path / "grid.toml"
    file.write_text('task = "digits"\nseeds = 1000000000\n', encoding="utf-8")
    folder = str(tmp_path / "runs")
    assert main(["sweep", str(file), "--output", folder]) == 1
    assert main(["train", "digits", "--seeds", "1000000000"]) == 1
    assert main(["train", "digits", "--size", "1000000000"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert all(len(line) < 300 for line in told)
