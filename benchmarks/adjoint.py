"""Value and gradient of the mean squared exponents: the adjoint scan against autograd.

Run from the repository's root: `python benchmarks/adjoint.py`. Each size is measured in turns,
so that a change in the machine's speed falls on all; medians are quoted, with the spread.

- adjoint, every step: `flossing_loss(..., reorthonormalize=1)` and its backward pass.
- adjoint, auto: the same with the default `reorthonormalize="auto"`.
- autograd: the same Jacobian-vector products, unrolled, with a graph through `torch.linalg.qr`.
- floor: the matrix products of the three passes alone (forward, gradient, adjoint).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import flossing
from flossing.experiments.environment import environment

SIZES = [(32, 1, 100), (64, 16, 512), (80, 75, 55), (80, 75, 300), (256, 32, 300)]


def network(size: int) -> nn.RNN:
    """A vanilla network with Gaussian recurrent weights of gain 1."""
    rnn = nn.RNN(1, size)
    nn.init.normal_(rnn.weight_hh_l0, std=size**-0.5)
    return rnn


def adjoint(rnn: nn.RNN, inputs: Tensor, k: int, interval: int | str) -> None:
    """One value and gradient by the library."""
    rnn.zero_grad()
    flossing.flossing_loss(
        rnn, inputs, k=k, frame_transient=0, reorthonormalize=interval
    ).backward()


def autograd(rnn: nn.RNN, inputs: Tensor, k: int) -> None:
    """One value and gradient by autograd through the factorisations."""
    rnn.zero_grad()
    hidden, _ = rnn(inputs)
    slopes = (1 - hidden.square()).transpose(-1, -2)
    frame = torch.linalg.qr(torch.randn(rnn.hidden_size, k)).Q
    growth = []
    for slope in slopes.unbind():
        frame, triangular = torch.linalg.qr(slope * (rnn.weight_hh_l0 @ frame))
        growth.append(triangular.diagonal().abs().log())
    torch.stack(growth).mean(0).square().mean().backward()


def floor(rnn: nn.RNN, inputs: Tensor, k: int) -> None:
    """The matrix products alone, for the same shapes."""
    weight, steps = rnn.weight_hh_l0.detach(), len(inputs)
    frame = torch.randn(rnn.hidden_size, k)
    for _ in range(steps):
        torch.mm(weight, frame)
        torch.mm(weight.T, frame)
    long = torch.randn(rnn.hidden_size, steps * k)
    torch.mm(long, long.T)


def measure(sizes: tuple[int, int, int], repetitions: int) -> dict[str, list[float]]:
    """Seconds of every method, in turns, after one round that does not count."""
    size, k, steps = sizes
    rnn, inputs = network(size), torch.randn(steps, 1, 1)
    methods: dict[str, Callable[[], None]] = {
        "adjoint, every step": lambda: adjoint(rnn, inputs, k, 1),
        "adjoint, auto": lambda: adjoint(rnn, inputs, k, "auto"),
        "autograd": lambda: autograd(rnn, inputs, k),
        "floor": lambda: floor(rnn, inputs, k),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for repetition in range(repetitions + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure all sizes, print a table, and write the results with their environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    table = Table("N", "k", "T", title="Value and gradient: median ms (fastest–slowest)")
    methods = ["adjoint, every step", "adjoint, auto", "autograd", "floor"]
    for heading in [*methods, "autograd / every step", "autograd / auto"]:
        table.add_column(heading, justify="right")
    rows = []
    for sizes in SIZES:
        seconds = measure(sizes, options.repetitions)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        ratios = {
            name: statistics.median(
                a / b for a, b in zip(seconds["autograd"], seconds[name], strict=True)
            )
            for name in methods[:2]
        }
        rows.append({"N_k_T": sizes, "seconds": seconds, "autograd_over": ratios})
        cells = [
            f"{1e3 * medians[n]:.1f} ({1e3 * min(seconds[n]):.1f}–{1e3 * max(seconds[n]):.1f})"
            for n in methods
        ]
        table.add_row(*map(str, sizes), *cells, *(f"{ratio:.2f}" for ratio in ratios.values()))
    Console(width=160).print(table)
    if options.output:
        document = {
            "environment": environment(),
            "threads": options.threads,
            "seed": 0,
            "dtype": "float32",
            "rows": rows,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
