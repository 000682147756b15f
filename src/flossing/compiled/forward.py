"""The forward scan: V_t = J_t V_{t-1}, factored as V = Q R at the boundaries.

See docs/mathematics.md, QR and its gauge and Re-orthonormalisation intervals.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from flossing.compiled.compiler import inlined, serial_and_parallel
from flossing.compiled.orthonormal import Space, orthonormalise
from flossing.compiled.tangents import push, share
from flossing.scan.boundaries import next_interval


@inlined
def factor(
    rows: Any,
    size: int,
    triangle: Any,
    diagonal: Any,
    space: Any,
    spread: float,
    magnitude: float,
) -> float:
    """Orthonormalise the tangent vectors of one trajectory in place; see `orthonormalise`.

    `spread` and `magnitude` are `boundaries.Limits`.

    Returns:
        The share of the limits that the frame used: infinite for lost rank, NaN for vectors that
        are not finite.
    """
    # Over the interval the frame has stretched by R. The spread log(longest / shortest) costs
    # digits of the shortest vector, as many nats as it has; magnitudes near the ends of the
    # exponent range overflow or underflow. `longest` is a length in V, not the largest R_ii: a
    # vector that is long and almost dependent has lost as many digits.
    longest = orthonormalise(rows, size, triangle, diagonal, space)
    if not longest < np.inf:
        return np.nan
    shortest = diagonal[0]
    for index in range(len(rows)):
        shortest = min(shortest, diagonal[index])
    # Lost rank; a shorter interval may keep it.
    if shortest == 0:
        return np.inf
    high, low = np.log(longest), np.log(shortest)
    return max((high - low) / spread, max(abs(high), abs(low)) / magnitude)


class Frames(NamedTuple):
    """What the forward scan fills in.

    Attributes:
        rows: the frame before every step and after the last one [T+1, B·k, n].
        triangles: Rᵀ at every boundary [M, B, k, k], or at the last one only [1, B, k, k].
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
        step: the step at which the last boundary lies.
        pushed: steps that the frame has taken since.
        boundaries: boundaries done.
        interval: steps to the next boundary.
        shortened: how many intervals had to be shorter than asked for.
        finite: whether all tangent vectors were.
    """

    step: int
    pushed: int
    boundaries: int
    interval: int
    shortened: int
    finite: bool


_next_interval = inlined(next_interval)


def _scan(
    tangent: Any,
    frames: Any,
    size: int,
    stops: Any,
    pace: Any,
    space: Any,
    used: Any,
    progress: Any,
    budget: int,
) -> Any:
    """Carry a frame on along the trajectory, some steps at a time.

    Args:
        tangent: the tangent map.
        frames: with the first frame; the rest is filled in.
        size: n.
        stops: increasing steps that must be boundaries; the last one ends the scan.
        pace: the interval between boundaries.
        space: work space of the factorisation, with a leading dimension for threads.
        used: work space, one number per thread.
        progress: the progress so far.
        budget: steps after which to return, though not before the next boundary is factored.

    Returns:
        The progress made. A plain tuple: for a named one Numba calls its Python class, in which
        an exception that a signal raises would go unnoticed and crash the process.
    """
    step, pushed, boundary = progress.step, progress.pushed, progress.boundaries
    interval, shortened = progress.interval, progress.shortened
    spread, magnitude = pace.limits
    _, trajectories, vectors = frames.diagonals.shape
    threads = len(used)
    for stop in stops:
        while step < stop:
            if budget <= 0:
                return step, pushed, boundary, interval, shortened, True
            planned = min(interval, stop - step)
            # Two parallel loops, with a barrier between: rows are dealt out evenly to threads for
            # the steps, but a factorisation needs all rows of its trajectory.
            until = min(planned, pushed + budget)
            for thread in prange(threads):
                rows = share(thread, threads, trajectories, vectors)
                for time in range(step + pushed, step + until):
                    push(tangent, time, rows, frames.rows[time], frames.rows[time + 1])
            budget -= until - pushed
            pushed = until
            if pushed < planned:
                return step, pushed, boundary, interval, shortened, True
            # The interval as planned, then half of it, a quarter … until the frame is within the
            # limits, or a single step is left, which cannot be divided. As the frames of all steps
            # are kept, the others factor an earlier frame, and steps after it are taken again from
            # there. Twice the plan, for the loop halves first.
            taken = 2 * planned
            accepted, worst = False, np.inf
            while not accepted:
                taken //= 2
                for thread in prange(threads):
                    used[thread] = _factor(
                        frames, size, boundary, step + taken, thread, threads, space,
                        spread, magnitude,
                    )  # fmt: skip
                # One interval for all trajectories, that of the worst of them.
                worst = 0.0
                for index in range(threads):
                    worst = _larger(worst, used[index])
                # False for NaN; a shorter interval may avoid an overflow.
                accepted = worst <= 1.0 or taken == 1
            if np.isnan(worst):
                return step, pushed, boundary, interval, shortened, False
            if pace.adaptive:
                interval = _next_interval(taken, worst)
            elif taken < planned and worst <= 1.0:
                shortened += 1
            step += taken
            pushed = 0
            frames.ends[boundary] = step
            boundary += 1
    return step, pushed, boundary, interval, shortened, True


scan_forward, scan_forward_parallel = serial_and_parallel(_scan)


@inlined
def _factor(
    frames: Any,
    size: int,
    boundary: int,
    end: int,
    thread: int,
    threads: int,
    space: Any,
    spread: float,
    magnitude: float,
) -> float:
    # All triangles, where gradients will need them, or one place for each in turn.
    place = boundary % len(frames.triangles)
    work = Space(
        space.columns[thread],
        space.outside[thread],
        space.within[thread],
        space.inverse[thread],
        space.lengths[thread],
    )
    worst = 0.0
    _, trajectories, vectors = frames.diagonals.shape
    for trajectory in range(thread, trajectories, threads):
        first = trajectory * vectors
        used = factor(
            frames.rows[end, first : first + vectors],
            size,
            frames.triangles[place, trajectory],
            frames.diagonals[boundary, trajectory],
            work,
            spread,
            magnitude,
        )
        worst = _larger(worst, used)
    return worst


@inlined
def _larger(first: float, second: float) -> float:
    """Return the larger number; NaN if either is."""
    return second if second > first or np.isnan(second) else first
