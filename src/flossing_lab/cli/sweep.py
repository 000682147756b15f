"""`flossing sweep`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flossing.support.arguments import folder_path
from flossing_lab.cli.options import add_worker_options

if TYPE_CHECKING:
    from flossing.support.arguments import Commands

SWEEP = """\
Run every combination of the values in a TOML file, several networks side by
side, and show a table: success rate, epochs and seconds to 95 %, accuracy, and
the seconds of flossing and of training.

Every run is kept in a file of the folder. What is there already is not run
again; after an interruption, by Ctrl-C or a killed process, the same command
goes on from the last checkpoints.
"""

EXAMPLES = """\
a file, whose lists are crossed:
  task = ["temporal-xor:delay=20", "temporal-xor:delay=40"]
  seeds = 5                      # or a list: [3, 7]
  floss = ["none", "published"]
  evaluate_every = 50
  [architecture]
  cell = ["tanh", "lstm"]
  size = 80
  [training]
  epochs = 3000
  [flossing]                     # replaces values of the schedule
  k = [16, 75]

keys of [architecture]: cell, size, initialisation, gain, input_gain, bias_scale,
form, orthogonal, leak, longest_memory; of [training]: epochs, batch_size,
learning_rate, cooldown, max_gradient_norm, norm_penalty, patience; of
[flossing]: k, time_steps, sequences, state_transient, frame_transient,
anywhere, before, every, steps, times, lr, training_lr, tolerance, drift,
max_gradient_norm; at the top also evaluation_batch_size, final_batch_size,
measured_exponents, gradients.

examples:
  flossing sweep grid.toml --output runs
  flossing sweep grid.toml --output runs --dask tcp://localhost:8786
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser.

    Args:
        commands: What the parser keeps its commands in.
    """
    sweep = commands.add_parser(
        "sweep",
        help="run every combination of the values in a file; resumable",
        description=SWEEP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.add_argument("file", type=Path, metavar="FILE", help="a TOML file of values to combine")
    sweep.add_argument(
        "--output",
        type=folder_path,
        required=True,
        metavar="FOLDER",
        help="where the runs are kept",
    )
    add_worker_options(sweep)
    sweep.set_defaults(run=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    # Imported here, for it needs the extra `cli`, and --help does not.
    from rich.console import Console

    from flossing_lab.cli.progress import rich_table, run_with_progress
    from flossing_lab.runs.comparison import tables
    from flossing_lab.runs.grid import read_grid

    console = Console()
    configurations = read_grid(options.file)
    runs = run_with_progress(
        configurations, options.output, console, workers=options.workers, dask=options.dask
    )
    for table in tables(runs):
        console.print(rich_table(table))
    console.print(f"Runs: {options.output}", soft_wrap=True, highlight=False, markup=False)
    return 0
