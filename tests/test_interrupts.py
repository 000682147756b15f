"""Ctrl-C ends the program at any time with exit code 130 and without a traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

PROGRAM = (
    "import sys; from flossing_command import main; print('begun', flush=True); sys.exit(main())"
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are sent to a process of POSIX")


@pytest.fixture
def program(tmp_path):
    """Start `flossing analyze` and return it once its output has a line that begins so."""
    torch.save(nn.LSTM(4, 64).state_dict(), tmp_path / "model.pt")

    def start(line):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "analyze", "model.pt", "--steps", "20000"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        while not process.stdout.readline().startswith(line):
            assert process.poll() is None
        return process

    return start


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0])
def test_during_the_imports(program, seconds):
    assert_interrupted(program("begun"), seconds)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_during_an_analysis(program, seconds):
    assert_interrupted(program("LSTM"), seconds)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1 * step for step in range(1, 60)])
def test_at_any_time(program, seconds):
    assert_interrupted(program("begun"), seconds)


def assert_interrupted(process, seconds):
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == "flossing: interrupted\n"
