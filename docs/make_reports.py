"""Make the reports in docs/reports: train an LSTM and a GRU, save them, and analyse them.

    python docs/make_reports.py

It takes about a minute, and another to compile where nothing is cached. Everything
is seeded; the last digits may differ between machines.
"""

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import flossing
from flossing.cli import main
from flossing.tasks import DelayedCopy, task_loss

FOLDER = Path(__file__).parent / "reports"
TASK = DelayedCopy(delay=10, steps=50)
SIZE = 32
TRAINING_STEPS = 800
SEED = 0


class Memory(nn.Module):
    """A recurrent layer with a linear readout."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]):
        super().__init__()
        self.rnn = layer(TASK.input_size, SIZE)
        self.readout = nn.Linear(SIZE, TASK.output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output at every step."""
        return self.readout(self.rnn(inputs)[0])


def trained(layer: type[nn.LSTM] | type[nn.GRU]) -> Memory:
    """Return a network trained to repeat bits after the delay."""
    torch.manual_seed(SEED)
    network = Memory(layer)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    batches = TASK.batches(16, seed=SEED)
    for _ in range(TRAINING_STEPS):
        batch = next(batches)
        optimizer.zero_grad()
        task_loss(TASK, network(batch.inputs), batch).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def analyse(checkpoint: Path, name: str) -> int:
    """Run `flossing analyze` and return its exit code."""
    task = f"delayed-copy:delay={TASK.delay},steps=1000"
    outputs = ("--output", str(FOLDER / f"{name}.html"), "--json", str(FOLDER / f"{name}.json"))
    return main(["analyze", str(checkpoint), "--task", task, *outputs])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        flossing.compile_ahead(dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        lstm, gru = Path(folder) / "lstm.pt", Path(folder) / "gru.safetensors"
        torch.save(trained(nn.LSTM).state_dict(), lstm)
        save_file(trained(nn.GRU).state_dict(), gru)
        sys.exit(analyse(lstm, "lstm") or analyse(gru, "gru"))
