"""Measure memory and time of a long run with gradient, with and without checkpoints.

Run from the repository's root: `python benchmarks/memory.py`. Each run is its own process (N=256,
k=32, B=1, float32); memory is the increase of peak resident memory.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

import flossing
from flossing.support.environment import environment

STATUS = Path("/proc/self/status")


def peak_mebibytes() -> float:
    """Return the highest resident memory since the last reset."""
    return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 1024


def measure(steps: int, checkpoint_interval: int | None) -> dict[str, float]:
    """Return mebibytes and seconds of one value and gradient."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    rnn = nn.RNN(1, 256)
    nn.init.normal_(rnn.weight_hh_l0, std=256**-0.5)
    inputs = torch.randn(steps, 1, 1)
    flossing.compile_ahead(rnn)
    # Compiled code and PyTorch's first checkpoint have memory of their own.
    for interval in (None, 25):
        flossing.flossing_loss(rnn, inputs[:50], k=32, checkpoint_interval=interval).backward()
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak_mebibytes(), time.perf_counter()
    flossing.flossing_loss(rnn, inputs, k=32, checkpoint_interval=checkpoint_interval).backward()
    return {"mebibytes": peak_mebibytes() - before, "seconds": time.perf_counter() - start}


def main() -> None:
    """Measure each interval in its own process, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.steps, options.one or None)))
        return
    results: dict[str, dict[str, float]] = {}
    for interval in (0, 300, 1000, 3000):
        command = [sys.executable, __file__, "--one", str(interval), "--steps", str(options.steps)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        name = f"checkpoint_interval={interval or None}"
        results[name] = json.loads(output)
        print(f"{name}: {results[name]['mebibytes']:.0f} MiB, {results[name]['seconds']:.1f} s")
    if options.output:
        document = {
            "environment": environment(),
            "threads": 2,
            "N_k_T_B": (256, 32, options.steps, 1),
            "seed": 0,
            "results": results,
        }
        options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
