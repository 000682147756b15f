"""A run that goes on without the trajectories that diverge."""

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from flossing.errors import DivergenceWarning, NonFiniteError
from flossing.measurement.plan import Plan
from flossing.measurement.run import Run, run
from flossing.systems.divergence import in_words
from flossing.systems.recurrence import DrivenMap


def run_without_diverging(problem: DrivenMap, plan: Plan) -> tuple[Run, DrivenMap]:
    """Scan the trajectories that do not diverge; the others are NaN, and have no steps.

    Raises:
        NonFiniteError: all trajectories diverge.

    Warns:
        DivergenceWarning: some do.
    """
    batch = len(problem.state)
    diverged: dict[int, int] = {}
    rows, finite, scan = list(range(batch)), problem, plan
    while True:
        try:
            outcome = run(finite, scan)
            break
        except NonFiniteError as error:
            if len(error.diverged) in (0, batch):
                raise
            diverged |= {rows[row]: step for row, step in error.diverged.items()}
            rows = [row for row in range(batch) if row not in diverged]
            if not rows:
                raise NonFiniteError(in_words(diverged, batch), diverged) from error
        # From the first step on: another batch, with the frames that these rows had.
        finite, scan = problem.of_rows(rows), plan._replace(frame=plan.frame[rows])
    if not diverged:
        return outcome, problem
    warnings.warn(
        f"{in_words(diverged, batch)}; their results are NaN, the others are complete",
        DivergenceWarning,
        stacklevel=4,  # The caller of `lyapunov_spectrum`.
    )
    lengths = tuple(0 if row in diverged else steps for row, steps in enumerate(problem.lengths))
    return _placed(outcome, rows, batch), replace(problem, lengths=lengths)


def _placed(outcome: Run, rows: list[int], batch: int) -> Run:
    """Return a run of some rows as one of the whole batch, with NaN in the others."""

    def placed(tensor: Tensor, dim: int = 0) -> Tensor:
        shape = (*tensor.shape[:dim], batch, *tensor.shape[dim + 1 :])
        index = torch.tensor(rows, device=tensor.device)
        return tensor.new_full(shape, torch.nan).index_copy(dim, index, tensor)

    return outcome._replace(
        log_growth=placed(outcome.log_growth, dim=1),
        first_state=placed(outcome.first_state),
        first_frame=placed(outcome.first_frame),
        final_state=placed(outcome.final_state),
        final_frame=placed(outcome.final_frame),
    )
