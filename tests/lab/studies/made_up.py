"""Runs whose outcome is given."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from flossing_lab.runs.records import Episode, Epoch, Evaluation, Run, condensed
from flossing_lab.studies.study import Results
from flossing_lab.sweeps.workers import Processes


class Threads(Processes):
    """In place of processes, so that calls can be counted."""

    @contextlib.contextmanager
    def executor(self, most):
        with ThreadPoolExecutor(1) as pool:
            yield pool


@contextlib.contextmanager
def opened(workers, dask):
    yield Threads(1)


def made_up(configuration, reach):
    """A run that solves delays up to `reach(configuration)`."""
    solved = configuration.task.delay <= reach(configuration)
    epochs = configuration.training.epochs
    flossed = configuration.flossing is not None

    def evaluation(epoch):
        return Evaluation(
            epoch=epoch,
            loss=0.5,
            accuracy=0.99 if solved and epoch else 0.5,
            gradient_norm=0.1 if flossed else 0.001,
        )

    episode = Episode(epoch=0, loss=(1.0,), largest_exponent=0.0, smallest_exponent=-1.0)
    return Run(
        configuration=configuration,
        epochs=tuple(Epoch(epoch=e, loss=0.5, gradient_norm=1.0) for e in range(1, epochs + 1)),
        episodes=(episode,) if flossed else (),
        evaluations=tuple(
            evaluation(epoch) for epoch in range(0, epochs + 1, configuration.evaluate_every)
        ),
        final=evaluation(epochs),
        flossing_seconds=1.0 if flossed else 0.0,
        training_seconds=2.0,
        environment={"torch": "made up"},
    )


def results(configurations, reach, measurements=()):
    return Results(
        runs=tuple(condensed(made_up(each, reach)) for each in configurations),
        measurements=tuple(measurements),
    )
