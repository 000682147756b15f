"""Measure where the time of value and gradient goes, for a vanilla network in float32.

Run from the repository's root: `python benchmarks/breakdown.py`. The compiled loops are timed from
inside. The time of their products is that of the same loops for a network whose tangent vectors
stay orthonormal (W a permutation, all slopes 1) and need no factorisation; the rest of a scan is
attributed to the factorisations, and everything outside the loops to Python and PyTorch.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from methods import Problem, Size, library
from rich.console import Console
from rich.table import Table
from speed import SIZES
from torch import nn

import flossing
from flossing.compiled import layer_interface, scan_interface
from flossing.compiled.backward import scan_backward, scan_backward_parallel
from flossing.compiled.forward import scan_forward, scan_forward_parallel
from flossing.compiled.layer_scan import run, run_back, run_back_parallel, run_parallel
from flossing.support.environment import environment

COLUMNS = (
    "total",
    "states",
    "products forward",
    "factorisations forward",
    "products backward",
    "factorisations backward",
    "states backward",
    "around the loops",
)
LOOPS = {
    run: "states",
    run_parallel: "states",
    run_back: "states backward",
    run_back_parallel: "states backward",
    scan_forward: "forward",
    scan_forward_parallel: "forward",
    scan_backward: "backward",
    scan_backward_parallel: "backward",
}


def main() -> None:
    """Measure, print the table, and write the results with their environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    flossing.compile_ahead(dtype=torch.float32)
    taken = timed_loops()
    table = Table("N k T B", *COLUMNS, title="Milliseconds, medians")
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        parts = breakdown(Problem.of("RNN", Size(*size)), options.repetitions, taken)
        rows.append({"N_k_T_B": size, "milliseconds": parts})
        table.add_row(" ".join(map(str, size)), *(f"{parts[name]:.3g}" for name in COLUMNS))
    Console(width=170).print(table)
    if options.output:
        document = {"environment": environment(), "threads": options.threads, "rows": rows}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


def timed_loops() -> dict[str, float]:
    """Time every compiled loop, and return where the seconds are added up."""
    taken: dict[str, float] = defaultdict(float)

    def timed(threads: int, function: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = in_threads(threads, function, *arguments)
        taken[LOOPS[function]] += time.perf_counter() - start
        return result

    in_threads = scan_interface.in_threads
    scan_interface.in_threads = layer_interface.in_threads = timed
    return taken


def breakdown(problem: Problem, repetitions: int, taken: dict[str, float]) -> dict[str, float]:
    """Return the time of every part in milliseconds."""
    orthonormal = Problem.of("RNN", problem.size)
    # A permutation keeps tangent vectors orthonormal, and a large bias all units active.
    units = torch.randperm(problem.size.N)
    orthonormal.module.weight_hh_l0.data = torch.eye(problem.size.N)[units]
    orthonormal.module.nonlinearity = "relu"
    nn.init.constant_(orthonormal.module.bias_hh_l0, 10.0)
    runs: dict[str, list[dict[str, float]]] = {"own": [], "orthonormal": []}
    methods = {"own": library(problem), "orthonormal": library(orthonormal)}
    for repetition in range(repetitions + 2):
        for name, method in methods.items():
            taken.clear()
            start = time.perf_counter()
            method()
            total = time.perf_counter() - start
            if repetition >= 2:
                runs[name].append({"total": total, **taken})
    own, products = ({key: _median(each, key) for key in each[0]} for each in runs.values())
    return {
        "total": own["total"],
        "states": own["states"],
        "products forward": products["forward"],
        "factorisations forward": own["forward"] - products["forward"],
        "products backward": products["backward"],
        "factorisations backward": own["backward"] - products["backward"],
        "states backward": own["states backward"],
        "around the loops": own["total"] - sum(own[name] for name in set(LOOPS.values())),
    }


def _median(runs: list[dict[str, float]], key: str) -> float:
    return 1e3 * statistics.median(each[key] for each in runs)


if __name__ == "__main__":
    main()
