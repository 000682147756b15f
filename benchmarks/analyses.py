"""Measure what each analysis costs: wall-clock seconds and additional memory.

Run from the repository's root: `make benchmark-analyses`. Each analysis at each size runs in its
own process, on a vanilla network of gain 1 in float32, driven by one sequence of standard normal
noise. A short warm-up run comes first, so that compilation and one-time allocations do not count.
Memory is the increase of peak resident memory during the first timed run.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import flossing

SIZES = ((80, 300), (80, 10_000), (256, 1000))
WARM_UP_STEPS = 40
HORIZONS = (1, 10, 30)
LAGS = 30
FEWEST_RUNS, MOST_RUNS = 3, 20
TRAINING_BATCH = 16
LEAST_TRAINING_STEPS = 5
STATUS = Path("/proc/self/status")


class Problem(NamedTuple):
    """A network and the sequence that drives it, (T, 1, 1)."""

    rnn: nn.RNN
    inputs: Tensor

    @classmethod
    def of(cls, units: int, steps: int) -> "Problem":
        """Draw a network and a sequence from seed 0."""
        torch.manual_seed(0)
        rnn = nn.RNN(1, units)
        nn.init.normal_(rnn.weight_hh_l0, std=units**-0.5)
        return cls(rnn, torch.randn(steps, 1, 1))


Prepared = Callable[[], object]


def spectrum(problem: Problem) -> Prepared:
    """Measure all exponents."""
    return lambda: _without_gradients(flossing.lyapunov_spectrum, *problem)


def long_term_jacobian(problem: Problem) -> Prepared:
    """Compute all singular values, from 10 origins."""
    return lambda: flossing.long_term_jacobian(*problem, horizons=HORIZONS)


def gradient_horizon(problem: Problem) -> Prepared:
    """Carry gradients back, with the spectral norm at every lag."""
    lags = _lags(problem)
    return lambda: flossing.gradient_horizon(*problem, loss=_loss, lags=lags)


def gradient_horizon_without_norm(problem: Problem) -> Prepared:
    """Carry gradients back in the direction of the error and in random ones only."""
    lags = _lags(problem)
    return lambda: flossing.gradient_horizon(*problem, loss=_loss, lags=lags, spectral_norm=False)


def effective_rank(problem: Problem) -> Prepared:
    """Compute the rank of the gradient of the recurrent weights."""
    return lambda: flossing.effective_rank(*problem, loss=_loss)


def covariant_vectors(problem: Problem) -> Prepared:
    """Compute all vectors at every tenth step."""
    return lambda: flossing.covariant_vectors(*problem, every=10)


def convergence(problem: Problem) -> Prepared:
    """Compute the convergence of all exponents of a given spectrum."""
    measured = _without_gradients(flossing.lyapunov_spectrum, *problem, reorthonormalize=1)
    return lambda: flossing.convergence(measured)


def dynamical_context(problem: Problem) -> Prepared:
    """Compute everything: all exponents, determinants, 50 Jacobians."""
    return lambda: flossing.dynamical_context(*problem)


def closed_loop(problem: Problem) -> Prepared:
    """Measure some exponents of the free-running network."""
    readout = nn.Linear(problem.rnn.hidden_size, 1)
    loop = flossing.closed_loop(problem.rnn, readout)
    state = loop.warm_up(problem.inputs[:20])
    steps = len(problem.inputs)
    return lambda: _without_gradients(
        flossing.lyapunov_spectrum, loop, state=state, steps=steps, k=16
    )


def watch(problem: Problem) -> Prepared:
    """Make one measurement: 8 exponents over at most 200 steps."""
    watcher = flossing.watch(problem.rnn, every=1, share=None)
    return lambda: watcher(problem.inputs)


def analyze(problem: Problem) -> Prepared:
    """Run the command, including the report."""
    from flossing.cli import main

    folder = Path(tempfile.mkdtemp())
    torch.save(problem.rnn.state_dict(), folder / "model.pt")
    steps = str(len(problem.inputs))
    arguments = ["analyze", str(folder / "model.pt"), "--steps", steps, "--trajectories", "1"]
    arguments += ["--horizon", "100", "--output", str(folder / "report.html")]

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            if main(arguments):
                raise RuntimeError("the command failed")

    return run


ANALYSES: dict[str, Callable[[Problem], Prepared]] = {
    "`lyapunov_spectrum`, all exponents": spectrum,
    "`convergence` of them": convergence,
    "`long_term_jacobian`, up to 30 steps": long_term_jacobian,
    "`gradient_horizon` at 30 lags": gradient_horizon,
    "`gradient_horizon`, the same, `spectral_norm=False`": gradient_horizon_without_norm,
    "`effective_rank`": effective_rank,
    "`covariant_vectors`, all, `every=10`": covariant_vectors,
    "`dynamical_context`": dynamical_context,
    "`lyapunov_spectrum` of a `closed_loop`, `k=16`": closed_loop,
    "`watch`, one measurement": watch,
    "`flossing analyze`": analyze,
}


def _lags(problem: Problem) -> list[int]:
    steps = len(problem.inputs)
    return [steps * part // LAGS for part in range(1, LAGS + 1)]


def _loss(output: Tensor) -> Tensor:
    return output[-1].square().sum()


def _without_gradients(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with torch.no_grad():
        return function(*arguments, **options)


def measure(name: str, units: int, steps: int, seconds: float) -> dict[str, Any]:
    """Time an analysis in this process.

    Args:
        name: Of the analysis.
        units: N.
        steps: T.
        seconds: Time that runs are repeated for.
    """
    ANALYSES[name](Problem.of(units, WARM_UP_STEPS))()
    run = ANALYSES[name](Problem.of(units, steps))
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mebibytes()
    taken = [_seconds(run)]
    added = _peak_mebibytes() - before
    while len(taken) < FEWEST_RUNS or (sum(taken) < seconds and len(taken) < MOST_RUNS):
        taken.append(_seconds(run))
    return {"seconds": taken, "mebibytes": added}


def measure_share(units: int, steps: int, seconds: float) -> dict[str, Any]:
    """Time calls of a watcher, with its own settings, and the training steps around them.

    Args:
        units: N.
        steps: T.
        seconds: How long to train at least.
    """
    rnn, _ = Problem.of(units, steps)
    inputs = torch.randn(steps, TRAINING_BATCH, 1)
    optimizer = torch.optim.Adam(rnn.parameters())
    flossing.watch(rnn)(inputs[:WARM_UP_STEPS])
    watcher = flossing.watch(rnn)
    watching: list[float] = []
    training: list[float] = []

    def train() -> None:
        optimizer.zero_grad()
        _loss(rnn(inputs)[0]).backward()
        optimizer.step()

    while sum(training) < seconds or len(training) < LEAST_TRAINING_STEPS:
        watching.append(_seconds(lambda: watcher(inputs)))
        training.append(_seconds(train))
    return {
        "training_steps": len(training),
        "median_training_step": statistics.median(training),
        "share": sum(watching) / (sum(watching) + sum(training)),
    }


def _seconds(run: Prepared) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _peak_mebibytes() -> float:
    return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 1024


def markdown_table(document: dict[str, Any]) -> str:
    """Return the table of `docs/analyses.md`.

    Args:
        document: The results.
    """
    sizes = [tuple(size) for size in document["N_T"]]
    heads = [f"N = {units}, T = {steps:,}" for units, steps in sizes]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, row in document["analyses"].items():
        lines.append(f"| {name} | {' | '.join(_cell(**each) for each in row)} |")
    shares = [f"{100 * each['share']:.2g} %" for each in document["watch_share"]]
    lines.append(f"| `watch` in training, share of the time | {' | '.join(shares)} |")
    return "\n".join(lines)


def _cell(seconds: list[float], mebibytes: float) -> str:
    middle, low, high = (
        _rounded(value) for value in (statistics.median(seconds), min(seconds), max(seconds))
    )
    return f"{middle} s ({low}–{high}), {_rounded(mebibytes)} MiB"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def main() -> None:
    """Measure each analysis in its own process, print the table, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--seconds", type=float, default=2.0, help="of repetitions, at least")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for dtype in (torch.float32, torch.float64):
        flossing.compile_ahead(dtype=dtype)
    if options.one is not None:
        name, units, steps = options.one[0], *map(int, options.one[1:])
        if name in ANALYSES:
            print(json.dumps(measure(name, units, steps, options.seconds)))
        else:
            print(json.dumps(measure_share(units, steps, 5 * options.seconds)))
        return
    document = measured(options.seconds, options.threads)
    print(markdown_table(document))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")


def measured(seconds: float, threads: int) -> dict[str, Any]:
    """Return all results with what they depend on.

    Args:
        seconds: Time that runs are repeated for.
        threads: Of PyTorch and of the compiled loops.
    """
    from flossing.support.environment import environment

    def row(name: str) -> list[dict[str, Any]]:
        print(name, file=sys.stderr)
        return [_in_process(name, size, seconds, threads) for size in SIZES]

    return {
        "environment": environment(),
        "threads": threads,
        "seed": 0,
        "dtype": "float32",
        "N_T": SIZES,
        "analyses": {name: row(name) for name in ANALYSES},
        "watch_share": row("share"),
    }


def _in_process(name: str, size: tuple[int, int], seconds: float, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, *map(str, size)]
    command += ["--seconds", str(seconds), "--threads", str(threads)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


if __name__ == "__main__":
    main()
