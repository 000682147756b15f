"""The forward scan: V_t = J_t V_{t-1}, factored at the boundaries."""

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from flossing.scan.boundaries import next_interval
from flossing.scan.compiled.factor import factor
from flossing.scan.compiled.machine import part, serial_and_parallel
from flossing.scan.compiled.tangents import push, share


class Frames(NamedTuple):
    """What the forward scan fills.

    Attributes:
        rows: the frame before every step and after the last one [T+1, B·k, n].
        triangles: R at every boundary [M, B, k, k], with the blocks on its diagonal inverted, or at
            the last one only [1, B, k, k].
        diagonals: the diagonal of R [M, B, k].
        ends: the step at which each boundary lies [M].
    """

    rows: Any
    triangles: Any
    diagonals: Any
    ends: Any


class Progress(NamedTuple):
    """How far a scan has come.

    Attributes:
        step: steps done.
        boundary: boundaries done.
        interval: steps to the next boundary.
        shortened: how many intervals had to be shorter than asked for.
        planned: length of the interval for whose end there is no Cholesky factor, or zero.
    """

    step: int
    boundary: int
    interval: int
    shortened: int
    planned: int


_next_interval = part(next_interval)


def _scan(
    tangent: Any,
    frames: Any,
    size: int,
    stops: Any,
    adaptive: bool,
    limits: Any,
    progress: Any,
    spaces: Any,
    used: Any,
) -> Any:
    """Go on to the last stop, or to a frame that has no Cholesky factor to be trusted.

    Args:
        tangent: the tangent map.
        frames: the frame before step `progress.step` is there; what follows is filled in.
        size: n.
        stops: increasing steps that must be boundaries; the last one ends the scan.
        adaptive: let the interval follow the conditioning of the frame.
        limits: how far the frame may stretch in an interval.
        progress: where to begin.
        spaces: work space of the factorisation, with a leading dimension for threads.
        used: work space, one number a thread.

    Returns:
        The progress made.
    """
    step, boundary, interval, shortened, _ = progress
    _, trajectories, vectors = frames.diagonals.shape
    threads = len(used)
    for stop in stops:
        while step < stop:
            planned = min(interval, stop - step)
            taken = planned
            worst = np.inf
            while not worst <= 1.0:
                for thread in prange(threads):
                    part_of_batch = share(thread, threads, trajectories, vectors)
                    if taken == planned:
                        _advance(tangent, frames.rows, step, planned, part_of_batch)
                    used[thread] = _factor(
                        frames, size, boundary, step + taken, part_of_batch, spaces, limits,
                        taken == 1,
                    )  # fmt: skip
                worst = 0.0
                for thread in range(threads):
                    worst = max(worst, used[thread]) + 0 * used[thread]
                if worst <= 1.0 or (taken == 1 and worst < np.inf):
                    break
                if taken == 1 or not (adaptive or worst < np.inf):
                    unsolved = 1 if adaptive else planned
                    return Progress(step, boundary, interval, shortened, unsolved)
                taken //= 2
            if adaptive:
                interval = _next_interval(taken, worst)
            elif taken < planned and worst <= 1.0:
                shortened += 1
            step += taken
            frames.ends[boundary] = step
            boundary += 1
    return Progress(step, boundary, interval, shortened, 0)


scan_forward, scan_forward_parallel = serial_and_parallel(_scan)


@part
def _advance(tangent: Any, rows: Any, start: int, length: int, part_of_batch: Any) -> None:
    for step in range(start, start + length):
        push(tangent, step, part_of_batch, rows[step], rows[step + 1])


@part
def _factor(
    frames: Any,
    size: int,
    boundary: int,
    end: int,
    part_of_batch: Any,
    spaces: Any,
    limits: Any,
    forced: bool,
) -> float:
    vectors, worst = part_of_batch.vectors, 0.0
    space = (spaces[0][part_of_batch.thread], spaces[1][part_of_batch.thread])
    for trajectory in range(part_of_batch.first, part_of_batch.last):
        used = factor(
            frames.rows[end, trajectory * vectors : (trajectory + 1) * vectors],
            size,
            frames.triangles[boundary % len(frames.triangles), trajectory],
            frames.diagonals[boundary, trajectory],
            space,
            limits,
            forced,
        )
        worst = max(worst, used) + 0 * used
    return worst
