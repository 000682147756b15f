"""Memory does not grow with the number of steps, measured in a process of its own."""

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, pathlib, sys, warnings
import torch, flossing

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

torch.set_num_threads(1)
steps, differentiate, checkpoint = json.loads(sys.argv[1])
rnn = torch.nn.RNN(1, 64)
inputs = torch.zeros(steps, 1, 1).normal_()
for interval in (None, 5):
    options = {"state_gradient": "detach", "checkpoint_interval": interval}
    flossing.flossing_loss(rnn, inputs[:20], k=16, **options).backward()
# Compiling and PyTorch's first checkpoint have peaks of their own: start from what is in use now.
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
if differentiate:
    flossing.flossing_loss(
        rnn, inputs, k=16, state_gradient="detach", checkpoint_interval=checkpoint
    ).backward()
else:
    with torch.no_grad():
        spectrum = flossing.lyapunov_spectrum(rnn, inputs, k=16)
    assert spectrum.counted_steps.item() == steps - steps // 10
print(peak() - before)
"""


def added_mebibytes(steps, *, differentiate=False, checkpoint=None):
    arguments = json.dumps([steps, differentiate, checkpoint])
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, arguments], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return float(process.stdout)


def test_a_hundred_thousand_steps_without_gradients():
    # Far below 1 GiB; inputs and local rates alone are some 15 MiB.
    assert added_mebibytes(100_000) < 150


@pytest.mark.slow
def test_memory_without_gradients_is_flat():
    assert added_mebibytes(1_000_000) < 400


def test_checkpoints_trade_recomputation_for_memory():
    steps = 20_000
    everything = added_mebibytes(steps, differentiate=True)
    checkpoints = added_mebibytes(steps, differentiate=True, checkpoint=500)
    # The frames alone of all steps are 4 n k T bytes.
    assert everything > 4 * 64 * 16 * steps / 2**20
    assert checkpoints < everything / 4
