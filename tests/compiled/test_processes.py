"""Compiled loops in processes that others start, and in several that compile at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flossing

ROOT = Path(__file__).parent.parent.parent

WORKERS = """
import sys
import torch, flossing
from torch.utils.data import DataLoader, Dataset


class Exponents(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        torch.manual_seed(index)
        rnn = torch.nn.RNN(2, 8)
        inputs = torch.randn(20, 2, 2)
        exponents = flossing.lyapunov_spectrum(rnn, inputs, k=3, backend="compiled").exponents
        gradient, = torch.autograd.grad(exponents.sum(), rnn.weight_hh_l0)
        return exponents.detach(), gradient


if __name__ == "__main__":
    if sys.argv[1] == "fork":
        # Loops on several threads, before there is another process.
        from flossing.compiled import compiler
        compiler.PARALLEL_WORK = 0
    torch.set_num_threads(2 if sys.argv[1] == "fork" else 1)
    here = [Exponents()[index] for index in range(2)]
    loader = DataLoader(
        Exponents(), batch_size=None, num_workers=1, multiprocessing_context=sys.argv[1]
    )
    for found, expected in zip(loader, here, strict=True):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_workers_of_a_data_loader(tmp_path, start):
    flossing.compile_ahead(torch.nn.RNN(2, 8), threads=2)
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    process = subprocess.run(
        [sys.executable, str(script), start],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout == "done\n"


COMPILE = """
import torch, flossing

torch.set_num_threads(1)
rnn, inputs = torch.nn.RNN(1, 4), torch.ones(10, 1, 1)
flossing.compile_ahead(rnn)
flossing.flossing_loss(rnn, inputs, k=2, backend="compiled").backward()
"""


@pytest.mark.slow
@pytest.mark.parametrize("locks", [True, False])
def test_two_compilations_at_once(tmp_path, locks):
    without = "from filelock import FileLock\n"
    without += "def acquire(*_, **__): raise OSError\nFileLock.acquire = acquire\n"
    program = COMPILE if locks else without + COMPILE
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(2):
        # The second time, all of it is there.
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error::UserWarning", "-c", program],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors[-3000:]
