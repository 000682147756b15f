import math
from dataclasses import replace

import pytest
import torch

from flossing.errors import InvalidOptionError
from flossing.experiments.demo import QUICK
from flossing.experiments.parallel import run_all
from flossing.experiments.training import run

XOR = QUICK["xor"]


@pytest.fixture(scope="module")
def plain():
    return replace(XOR, flossing=None)


def test_the_same_as_in_this_process_whatever_the_order(plain):
    seen = []
    records = run_all([XOR, plain], seed=3, on_progress=seen.append)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert records == [run(XOR, seed=3), run(plain, seed=3)]
    finally:
        torch.set_num_threads(threads)
    last = {(each.index, each.phase): (each.done, each.total) for each in seen}
    assert last[0, "flossing"] == (10, 10)
    assert last[0, "training"] == last[1, "training"] == (20, 20)
    assert all(math.isfinite(number) for record in records for number in record.exponents)


def test_a_failure_surfaces_at_once_and_names_its_run(plain):
    endless = replace(plain, name="endless", training_steps=10**9)
    failing = replace(XOR, name="failing", flossing=replace(XOR.flossing, k=10**6))
    with pytest.raises(InvalidOptionError, match="1000000") as caught:
        run_all([endless, failing], seed=0, workers=2)
    assert caught.value.__notes__ == [
        "This happened in the run 'failing, flossed before training'."
    ]
    # What happened in the worker is shown too.
    assert "in _run_in_worker" in str(caught.value.__cause__)
