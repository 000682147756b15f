"""Measure the time to the first value and gradient, with an empty and with a filled cache.

Run from the repository's root: `python benchmarks/first_call.py`. Each run is its own process with
one thread (N=32, k=4, T=50, B=1); imports are not counted. With an empty cache, PyTorch operations
compute the first values while another process compiles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from flossing.support.environment import environment

MEASURE = """
import sys, time
import torch, flossing
from flossing.measurement.backends import chosen_backend
from flossing.measurement.compiled_growth import compiled_growth
from flossing.systems.recurrence import driven_map

torch.set_num_threads(1)
kind, dtype = sys.argv[1:]
module = getattr(torch.nn, kind)(1, 32).to(getattr(torch, dtype))
inputs = torch.zeros(50, 1, 1, dtype=getattr(torch, dtype)).normal_()
begin = time.perf_counter()
for _ in range(2):
    start = time.perf_counter()
    flossing.flossing_loss(module, inputs, k=4).backward()
    print(time.perf_counter() - start)
problem = driven_map(module, inputs, None, steps=None, layer=None, dtype=None)
while chosen_backend("auto", problem, 4) is not compiled_growth:
    time.sleep(0.05)
print(time.perf_counter() - begin)
"""


def main() -> None:
    """Measure, print, and write the results with their environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    for kind, dtype in (("RNN", "float32"), ("RNN", "float64"), ("LSTM", "float32")):
        names = ("first call, empty cache", "second call, empty cache", "until compiled")
        names += ("first call, from disk", "second call, from disk")
        taken: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(options.repetitions):
            with tempfile.TemporaryDirectory() as folder:
                seconds = [*measured(kind, dtype, folder), *measured(kind, dtype, folder)[:2]]
            for name, each in zip(names, seconds, strict=True):
                taken[name].append(each)
        results[f"{kind} {dtype}"] = taken
        medians = (f"{name} {statistics.median(each):.3g} s" for name, each in taken.items())
        print(f"{kind} {dtype}: {', '.join(medians)}", flush=True)
    if options.output:
        document = {"environment": environment(), "N_k_T_B": (32, 4, 50, 1), "seconds": results}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


def measured(kind: str, dtype: str, cache: str) -> list[float]:
    """Return the seconds of the first two calls in a new process, and until its code is compiled.

    Args:
        kind: "RNN", "GRU" or "LSTM".
        dtype: "float32" or "float64".
        cache: the folder of compiled code.
    """
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, dtype],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
    ).stdout
    return [float(line) for line in output.split()]


if __name__ == "__main__":
    main()
