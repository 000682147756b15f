"""Seconds until the first value and gradient are there, compiled anew and loaded from the disk.

Run from the repository's root: `python benchmarks/first_call.py`. Each run is a process of its own
with one thread (N=32, k=4, T=50, B=1); importing is not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from flossing.experiments.environment import environment

MEASURE = """
import sys, time
import torch, flossing

torch.set_num_threads(1)
kind, dtype = sys.argv[1:]
module = getattr(torch.nn, kind)(1, 32).to(getattr(torch, dtype))
inputs = torch.zeros(50, 1, 1, dtype=getattr(torch, dtype)).normal_()
for _ in range(2):
    start = time.perf_counter()
    flossing.flossing_loss(module, inputs, k=4).backward()
    print(time.perf_counter() - start)
"""


def main() -> None:
    """Measure, print, and write the results with their environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    for kind, dtype in (("RNN", "float32"), ("RNN", "float64"), ("LSTM", "float32")):
        taken: dict[str, list[float]] = {"compiled": [], "from disk": [], "second call": []}
        for _ in range(options.repetitions):
            with tempfile.TemporaryDirectory() as folder:
                taken["compiled"].append(first_and_second(kind, dtype, folder)[0])
                first, second = first_and_second(kind, dtype, folder)
            taken["from disk"].append(first)
            taken["second call"].append(second)
        results[f"{kind} {dtype}"] = taken
        medians = (f"{name} {statistics.median(each):.3g} s" for name, each in taken.items())
        print(f"{kind} {dtype}: {', '.join(medians)}", flush=True)
    if options.output:
        document = {"environment": environment(), "N_k_T_B": (32, 4, 50, 1), "seconds": results}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


def first_and_second(kind: str, dtype: str, cache: str) -> tuple[float, float]:
    """Return the seconds of the first two calls in a new process with that folder as its cache."""
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, dtype],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
    ).stdout
    first, second = map(float, output.split())
    return first, second


if __name__ == "__main__":
    main()
