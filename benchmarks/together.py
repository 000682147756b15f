"""Measure the time of a training step per network, for several networks trained as one model.

Run from the repository's root: `python benchmarks/together.py`. One thread, float32; a step is
forward pass, loss, backward pass, clipping and Adam. The reference trains one network through the
module's own forward pass, as a plain PyTorch script would. Layers of PyTorch are trained one at a
time only: as one model they gain nothing (docs/speed.md). Repetitions are interleaved; medians.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from flossing.measurement.backends import compile_ahead
from flossing.support.environment import environment
from flossing.tasks import TemporalXor, task_loss
from flossing_lab.runs.configuration import Architecture, Configuration, Training
from flossing_lab.training.trainer import run_together

TASK = TemporalXor(delay=40, steps=120)
EPOCHS = 20
ARCHITECTURES = {
    "modReLU, orthogonal": Architecture(
        cell="modrelu", initialisation="orthogonal", orthogonal=True
    ),
    "leaky": Architecture(cell="leaky", leak=0.5),
    "tanh": Architecture(form="rate"),
    "GRU": Architecture(cell="gru", initialisation="stock"),
    "LSTM": Architecture(cell="lstm", initialisation="stock"),
}
MODULES: dict[str, Callable[..., nn.Module]] = {"tanh": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def main() -> None:
    """Measure, print, and write the results with their environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 2, 5, 10])
    options = parser.parse_args()
    torch.set_num_threads(1)
    compile_ahead(threads=1)
    results: dict[str, dict[str, list[float]]] = {}
    for name, architecture in ARCHITECTURES.items():
        numbers = [1] if architecture.is_stock_layer else options.numbers
        taken: dict[str, list[float]] = {str(number): [] for number in numbers}
        if name in MODULES:
            taken["PyTorch alone"] = []
        for _ in range(options.repetitions):
            for number in numbers:
                taken[str(number)].append(seconds_together(architecture, number))
            if name in MODULES:
                taken["PyTorch alone"].append(seconds_in_pytorch(MODULES[name]))
        results[name] = taken
        medians = {key: statistics.median(each) for key, each in taken.items()}
        alone = medians[str(numbers[0])]
        gains = (
            f"{key}: {1e3 * each:.1f} ms ({alone / each:.1f})" for key, each in medians.items()
        )
        print(f"{name}, each network: {', '.join(gains)}", flush=True)
    if options.output:
        document = {
            "environment": environment(),
            "N_T_B": (80, TASK.steps, 16),
            "seconds_per_network_and_epoch": results,
        }
        options.output.write_text(json.dumps(document, indent=1) + "\n")


def seconds_together(architecture: Architecture, number: int) -> float:
    """Return the seconds of an epoch for each of so many networks trained as one."""
    common = Configuration(
        task=TASK,
        architecture=architecture,
        training=Training(epochs=EPOCHS),
        evaluate_every=EPOCHS,
        final_batch_size=1,
        evaluation_batch_size=1,
    )
    runs = run_together([replace(common, seed=seed) for seed in range(number)])
    return statistics.mean(each.training_seconds for each in runs) / EPOCHS


def seconds_in_pytorch(module: Callable[..., nn.Module]) -> float:
    """Return the seconds of an epoch of one network, as a plain script trains it."""
    recurrent, readout = module(1, 80), nn.Linear(80, 1)
    parameters = [*recurrent.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters)
    batches = TASK.batches(16, seed=0)
    start = time.perf_counter()
    for _ in range(EPOCHS):
        batch = next(batches)
        loss = task_loss(TASK, readout(recurrent(batch.inputs)[0]), batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.03)
        optimizer.step()
    return (time.perf_counter() - start) / EPOCHS


if __name__ == "__main__":
    main()
