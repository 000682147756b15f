"""Write docs/speed.md from the results of the benchmarks: `python benchmarks/page.py`."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"

INTRODUCTION = """\
# Speed, accuracy and memory

Times are of the value and the gradient of the mean squared exponents (`flossing_loss` and its
backward pass), for networks with Gaussian recurrent weights of gain 1 under white noise, float32.
Sizes are given as hidden units N, exponents k, steps T, trajectories B. Each section names the
command that measures it; `python benchmarks/page.py` writes this page from the results.
"""

SPEED = """\
## Comparison with the reference, JAX and the products alone

- reference: the same products, unrolled, with a graph through `torch.linalg.qr` at every step;
- JAX: a jitted `scan` with `qr` at every step, and its `grad`;
- floor: the matrix products alone, by `torch.mm`, with the same shapes and threads;
- every step: this library with a factorisation at every step.

The methods run in turns, so that changes in the speed of the machine affect all of them. Ratios are
medians, with the smallest and the largest in brackets. Errors are relative to float64 with a
factorisation at every step; those of the reference are in brackets. Measured by `make benchmark`;
results in `benchmarks/results/speed.json`.
"""

BREAKDOWN = """\
## Where the time goes

Medians in milliseconds, for a vanilla network. The time of the products is that of the same loops
for a network whose tangent vectors stay orthonormal and need no factorisation. The last column is
the overhead of Python and PyTorch, about two hundred small operations; it dominates at N = 32.
At (80, 75) λ₁ − λ₇₅ is two nats per step, so that float32 needs a factorisation at nearly every
step; these are sequential within a trajectory and take more arithmetic than the products.
Measured by `python benchmarks/breakdown.py`; results in `benchmarks/results/breakdown.json`.
"""

SCALING = """\
## Scaling with each dimension

Milliseconds for a vanilla network with one dimension varied, and the exponent of a fitted power
law. Measured by `make benchmark`.
"""

SCHEDULE = """\
## The published schedule

1500 steps of flossing over 55 time steps (N = 80, k = 75, B = 1), compared with 3001 training steps
over 300 time steps (B = 16), including the steps of the optimizers. Measured by `make benchmark`.
"""

TOGETHER = """\
## Many networks trained as one model

Milliseconds of a training step per network (N = 80, T = 120, B = 16, one thread): forward pass,
loss, backward pass, clipping and Adam. "PyTorch alone" trains one network through the module's own
forward pass. In brackets: the speed relative to one network in a model of its own. Cells that loop
over steps in Python become about three times faster, and `flossing train` and `flossing sweep`
train several seeds of them in one model; PyTorch's layers, which spend their time on arithmetic,
gain nothing, and are trained one by one.
Measured by `python benchmarks/together.py --output benchmarks/results/together.json`.
"""

MEMORY = """\
## Memory of a long run

N = 256, k = 32, T = 100,000, B = 1, with gradient: increase of peak resident memory, each run in a
process of its own. Measured by `python benchmarks/memory.py`; results in
`benchmarks/results/memory.json`.
"""

FIRST_CALL = """\
## The first call

Seconds for the first values and gradients in a process (N = 32, one thread). With an empty cache,
PyTorch operations compute them while another process compiles the loops. Later calls, and all later
processes, load the compiled loops from disk. Measured by `python benchmarks/first_call.py`; results
in `benchmarks/results/first_call.json`.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page as Markdown."""
    speed = _read("speed")
    sections = [
        INTRODUCTION + "\n" + _environment(speed),
        SPEED + "\n" + speed_table(speed["speed"]),
        BREAKDOWN + "\n" + breakdown_table(_read("breakdown")["rows"]),
        SCALING + "\n" + scaling_table(speed["scaling"]),
        SCHEDULE + "\n" + schedule_sentence(speed["schedule"]),
        TOGETHER + "\n" + together_table(_read("together")["seconds_per_network_and_epoch"]),
        MEMORY + "\n" + memory_table(_read("memory")["results"]),
        FIRST_CALL + "\n" + first_call_table(_read("first_call")["seconds"]),
    ]
    return "\n".join(sections)


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of times, ratios and errors by layer and size."""
    names = list(rows[0]["ratios"])
    heading = ["", "N, k, T, B", "ms", *names, "error of exponents", "error of gradient"]
    return _table(
        heading,
        [
            [
                row["kind"],
                _size(row),
                _number(1e3 * statistics.median(row["seconds"]["ours"])),
                *(_spread(row["ratios"][name]) for name in names),
                *(
                    f"{row['errors']['ours'][what]:.0e} ({row['errors']['reference'][what]:.0e})"
                    for what in ("exponents", "gradient")
                ),
            ]
            for row in rows
        ],
    )


def breakdown_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of what the time is spent on."""
    parts = list(rows[0]["milliseconds"])
    return _table(
        ["N, k, T, B", *parts],
        [[_size(row), *(_number(row["milliseconds"][part]) for part in parts)] for row in rows],
    )


def scaling_table(scaling: dict[str, Any]) -> str:
    """Return the table of power laws."""
    rows = []
    for name, result in scaling.items():
        times = ", ".join(
            f"{_size({'N_k_T_B': size})}: {_number(1e3 * seconds)}"
            for size, seconds in zip(result["N_k_T_B"], result["seconds"], strict=True)
        )
        rows.append([name, times, f"{result['exponent']:.2f}"])
    return _table(["", "N, k, T, B: ms", "exponent"], rows)


def schedule_sentence(schedule: dict[str, Any]) -> str:
    """Return the cost of flossing relative to training."""
    flossing, training = (schedule["seconds"][name] for name in ("flossing", "training"))
    return (
        f"A flossing step takes {_number(1e3 * statistics.median(flossing))} ms, a training step "
        f"{_number(1e3 * statistics.median(training))} ms; flossing takes "
        f"{_spread(schedule['share'])} of the time of training.\n"
    )


def together_table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the table of milliseconds by the number of networks."""
    alone = "PyTorch alone"
    numbers = [name for name in next(iter(results.values())) if name != alone]

    def cell(taken: dict[str, list[float]], name: str) -> str:
        if name not in taken:
            return "–"
        seconds = statistics.median(taken[name])
        gain = statistics.median(taken[numbers[0]]) / seconds
        return f"{_number(1e3 * seconds)} ({_number(gain)})"

    heading = ["", alone, *(f"{name} in one model" for name in numbers)]
    rows = [
        [kind, cell(taken, alone), *(cell(taken, name) for name in numbers)]
        for kind, taken in results.items()
    ]
    return _table(heading, rows)


def memory_table(results: dict[str, dict[str, float]]) -> str:
    """Return the table of memory and time by the interval between checkpoints."""
    rows = [
        [f"`{name}`", f"{each['mebibytes']:.0f}", f"{each['seconds']:.1f}"]
        for name, each in results.items()
    ]
    return _table(["", "MiB", "seconds"], rows)


def first_call_table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the table of the times of first calls."""
    names = list(next(iter(results.values())))
    rows = [[kind, *(_spread(taken[name]) for name in names)] for kind, taken in results.items()]
    return _table(["", *names], rows)


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _environment(document: dict[str, Any]) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in document["environment"].items())
    return f"Measured with {document['threads']} threads, seed {document['seed']}; {facts}.\n"


def _size(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row["N_k_T_B"]))


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    inner = f"{_number(min(values))}–{_number(max(values))}"
    return f"{_number(statistics.median(values))} ({inner})"


def _number(value: float) -> str:
    """Return three digits, without an exponent."""
    if value == 0:
        return "0"
    decimals = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 4)}f}"


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
