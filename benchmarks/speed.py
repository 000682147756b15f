"""Measure speed and accuracy of the value and gradient of the mean squared exponents.

Run from the repository's root: `make benchmark`. Methods run in turns, so that changes in the speed
of the machine affect all of them; medians of the ratios are printed, with the smallest and the
largest. The first table compares the library with

- reference: the same products, unrolled, with a graph through `torch.linalg.qr` at every step;
- JAX: a jitted `scan` with `qr`, and its `grad`, at every step;
- floor: the matrix products alone.

The second table varies one dimension at a time. The last compares the cost of the published
schedule of flossing with that of the training it belongs to.
"""

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

SIZES = [
    (32, 1, 100, 1),
    (64, 16, 512, 1),
    (80, 75, 300, 1),
    (80, 75, 55, 1),
    (256, 32, 300, 1),
    (80, 16, 300, 16),
    (512, 64, 300, 4),
]
SCALING = {
    "T": [(80, 16, steps, 4) for steps in (100, 200, 400, 800)],
    "k": [(128, k, 200, 4) for k in (8, 16, 32, 64, 128)],
    "n": [(units, 16, 200, 4) for units in (32, 64, 128, 256, 512)],
    "B": [(80, 16, 200, batch) for batch in (1, 4, 16, 64)],
}


def main() -> None:
    """Measure, print the tables, and write the results with their environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each row, roughly")
    parser.add_argument("--threads", type=int, default=2, help="of every library")
    parser.add_argument("--kinds", nargs="+", default=["RNN", "GRU", "LSTM"])
    options = parser.parse_args()
    # JAX takes the number of threads from what the process may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    import torch
    from rich.console import Console

    import flossing
    from flossing.support.environment import environment

    torch.set_num_threads(options.threads)
    for dtype in (torch.float32, torch.float64):
        flossing.compile_ahead(dtype=dtype)
    console = Console(width=170)
    document: dict[str, Any] = {
        "environment": environment(),
        "threads": options.threads,
        "seed": 0,
        "dtype": "float32",
    }
    document["speed"] = speed_table(console, options.kinds, options.seconds)
    document["scaling"] = scaling_table(console, options.seconds / 4)
    document["schedule"] = schedule_table(console, options.seconds)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")


def in_turns(methods: dict[str, Any], seconds: float) -> dict[str, list[float]]:
    """Run methods in turns for a given time, and return the seconds of each.

    Each runs twice in its turn, and the second time counts: as in a loop over its own steps, its
    memory and threads are then as it left them, not as another library did.
    """
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(taken.values()))) < 2:
        for name, method in methods.items():
            method()
            start = time.perf_counter()
            method()
            taken[name].append(time.perf_counter() - start)
    return taken


def ratios(taken: dict[str, list[float]], over: str, under: str) -> list[float]:
    """Return the ratios of the seconds of two methods, turn by turn."""
    return [a / b for a, b in zip(taken[over], taken[under], strict=True)]


def speed_table(console: Any, kinds: list[str], seconds: float) -> list[dict[str, Any]]:
    """Compare the library with the reference, JAX and the floor, in time and accuracy."""
    from rich.table import Table

    table = Table(title="Value and gradient: median (fastest–slowest)")
    for heading in (
        *("", "N k T B", "ours, ms", "reference / ours", "JAX / ours", "ours / floor"),
        *("every step / ours", "error of exponents (reference)", "error of gradient (reference)"),
    ):
        table.add_column(heading, justify="right")
    rows = []
    for kind in kinds:
        for size in SIZES:
            row = speed_row(kind, size, seconds)
            rows.append(row)
            ours, errors = row["seconds"]["ours"], row["errors"]
            table.add_row(
                kind,
                " ".join(map(str, size)),
                _spread([1e3 * second for second in ours]),
                *(_spread(row["ratios"][name]) for name in RATIOS),
                *(
                    f"{errors['ours'][what]:.1e} ({errors['reference'][what]:.1e})"
                    for what in ("exponents", "gradient")
                ),
            )
    console.print(table)
    return rows


RATIOS = {
    "reference / ours": ("reference", "ours"),
    "JAX / ours": ("JAX", "ours"),
    "ours / floor": ("ours", "floor"),
    "every step / ours": ("every step", "ours"),
}


def speed_row(kind: str, size: tuple[int, int, int, int], seconds: float) -> dict[str, Any]:
    """Compare the methods on one network."""
    from methods import Problem, Size, autograd_growth, floor, jax_method, library

    problem = Problem.of(kind, Size(*size))
    methods = {
        "ours": library(problem),
        "every step": library(problem, reorthonormalize=1),
        "reference": library(problem, backend=autograd_growth),
        "floor": floor(problem),
    }
    in_jax = jax_method(kind, problem)
    if in_jax is not None:
        methods["JAX"] = in_jax
    taken = in_turns(methods, seconds)
    return {
        "kind": kind,
        "N_k_T_B": size,
        "seconds": taken,
        "ratios": {
            name: ratios(taken, over, under) if over in taken else []
            for name, (over, under) in RATIOS.items()
        },
        "errors": {
            "ours": errors(problem),
            "reference": errors(problem, backend=autograd_growth),
        },
    }


def errors(problem: Any, **options: Any) -> dict[str, float]:
    """Return errors in float32 relative to float64 with a factorisation at every step."""
    import torch

    import flossing

    def measured(**options: Any) -> tuple[Any, Any]:
        problem.module.zero_grad()
        spectrum = flossing.lyapunov_spectrum(
            problem.module, problem.inputs, k=problem.size.k, frame_transient=0, **options
        )
        spectrum.exponents.square().mean().backward()
        gradient = [parameter.grad.double().flatten() for parameter in problem.module.parameters()]
        return spectrum.exponents.detach().double(), torch.cat(gradient)

    exact = measured(dtype=torch.float64, reorthonormalize=1)
    found = measured(**options)
    names = ("exponents", "gradient")
    return {
        name: float((ours - best).norm() / best.norm())
        for name, ours, best in zip(names, found, exact, strict=True)
    }


def scaling_table(console: Any, seconds: float) -> dict[str, Any]:
    """Measure time against one dimension at a time, and fit a power law."""
    from methods import Problem, Size, library
    from rich.table import Table

    table = Table("", "N k T B: median ms", "exponent", title="Cost of value and gradient, RNN")
    result: dict[str, Any] = {}
    for number, (name, sizes) in enumerate(SCALING.items()):
        place = {"n": 0, "k": 1, "T": 2, "B": 3}[name]
        medians = []
        for size in sizes:
            method = library(Problem.of("RNN", Size(*size)))
            medians.append(statistics.median(in_turns({"ours": method}, seconds)["ours"]))
        slope = statistics.linear_regression(
            [math.log(size[place]) for size in sizes], [math.log(median) for median in medians]
        ).slope
        result[name] = {"N_k_T_B": sizes, "seconds": medians, "exponent": slope}
        cells = [
            f"{' '.join(map(str, size))}: {1e3 * median:.1f}"
            for size, median in zip(sizes, medians, strict=True)
        ]
        table.add_row(name, "\n".join(cells), f"{slope:.2f}", end_section=number < 3)
    console.print(table)
    return result


def schedule_table(console: Any, seconds: float) -> dict[str, Any]:
    """Compare 1500 steps of flossing over 55 time steps with 3001 training steps over 300."""
    from rich.table import Table

    floss_step, train_step = schedule_steps()
    taken = in_turns({"flossing": floss_step, "training": train_step}, seconds)
    share = [1500 * ratio / 3001 for ratio in ratios(taken, "flossing", "training")]
    table = Table("flossing step, ms", "training step, ms", "1500 flossing / 3001 training steps")
    table.title = "The published schedule (N=80, k=75)"
    milliseconds = {name: [1e3 * second for second in each] for name, each in taken.items()}
    table.add_row(*(_spread(each) for each in milliseconds.values()), _spread(share))
    console.print(table)
    return {"seconds": taken, "share": share}


def schedule_steps() -> tuple[Any, Any]:
    """Return one step of flossing and one of training, as published, Adam and clipping included."""
    import torch
    from torch import nn

    import flossing

    torch.manual_seed(0)
    module, readout = nn.RNN(1, 80), nn.Linear(80, 1)
    nn.init.normal_(module.weight_hh_l0, std=80**-0.5)
    flossing_optimizer = torch.optim.Adam(module.parameters())
    parameters = [*module.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters)
    inputs = torch.randint(0, 2, (300, 16, 1)).float()

    def floss_step() -> None:
        flossing_optimizer.zero_grad()
        bits = torch.randint(0, 2, (55, 1, 1)).float()
        flossing.flossing_loss(module, bits, k=75, state_transient=10, frame_transient=6).backward()
        flossing_optimizer.step()

    def train_step() -> None:
        optimizer.zero_grad()
        states, _ = module(inputs)
        logits = readout(states)[20:]
        target = (inputs[:-20] != inputs[10:-10]).float()
        nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
        nn.utils.clip_grad_norm_(parameters, 0.03)
        optimizer.step()

    return floss_step, train_step


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


if __name__ == "__main__":
    main()
