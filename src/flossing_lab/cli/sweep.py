"""`flossing sweep`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flossing.support.arguments import folder_path, try_outputs
from flossing.support.terminal import console_for
from flossing_lab.cli.options import add_json_option, add_worker_options, write_json
from flossing_lab.runs.setups import SETUPS

if TYPE_CHECKING:
    from flossing.support.arguments import Commands

SWEEP = """\
Run every combination of the values in a TOML file, many networks in parallel.
Prints a table: success rate, epochs and seconds to an accuracy of 95 %, final
accuracy, and seconds of flossing and of training.

Each run is kept in a file in the output folder, and is not repeated if it is
there already. After an interruption, such as Ctrl-C or a killed process, the
same command resumes from the last checkpoints.
"""

EXAMPLES = """\
example of a file; every combination of the listed values is run:
  task = ["temporal-xor:delay=20", "temporal-xor:delay=40"]
  seeds = 5                      # or a list: [3, 7]
  floss = ["none", "published"]
  evaluate_every = 50
  [architecture]
  cell = ["tanh", "lstm"]
  size = 80
  [training]
  epochs = 3000
  [flossing]                     # overrides values of the schedule
  k = [16, 75]

further keys:
  top level       setup, evaluation_batch_size, final_batch_size,
                  measured_exponents, gradients, divide_inputs, unseen_input
  [architecture]  initialisation, gain, input_gain, bias_scale, form,
                  initial_states, readout_bias, orthogonal, leak, longest_memory
  [training]      batch_size, learning_rate, cooldown, max_gradient_norm,
                  clipping, norm_penalty, patience, solved
  [flossing]      time_steps, sequences, state_transient, frame_transient,
                  anywhere, start, same_frame, before_epoch, despite_learning,
                  before, every, steps, times, lr, training_lr, tolerance,
                  drift, max_gradient_norm

setup = "released" sets all that is not given as in the released code of
Engelken (NeurIPS 2023); so does --setup released, for a file without it.

examples:
  flossing sweep grid.toml --output runs
  flossing sweep grid.toml --output runs --dask tcp://localhost:8786
"""


def add_command(commands: "Commands") -> None:
    """Add the command to the parser."""
    sweep = commands.add_parser(
        "sweep",
        help="run every combination of the values in a file; resumable",
        description=SWEEP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.add_argument(
        "file", type=Path, metavar="FILE", help="TOML file with the values to combine"
    )
    sweep.add_argument(
        "--output",
        type=folder_path,
        required=True,
        metavar="FOLDER",
        help="folder in which the runs are kept",
    )
    sweep.add_argument(
        "--setup", choices=tuple(SETUPS), help="set-up of a file that does not name one"
    )
    add_worker_options(sweep)
    add_json_option(sweep)
    sweep.set_defaults(run=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    # Imported here, because --help works without the extra `cli`.
    from flossing_lab.cli.progress import print_path, print_table, run_with_progress
    from flossing_lab.runs.comparison import numbers_document, tables
    from flossing_lab.runs.grid import read_grid

    console = console_for(options)
    configurations = read_grid(options.file, setup=options.setup)
    try_outputs(options.output / "tried", options.json)
    runs = run_with_progress(
        configurations, options.output, console, workers=options.workers, dask=options.dask
    )
    for table in tables(runs):
        print_table(console, table)
    write_json(console, options.json, numbers_document(runs))
    print_path(console, "Runs", options.output)
    return 0
