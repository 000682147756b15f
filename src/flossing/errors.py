"""Exceptions and warnings of the package; every exception is a `ValueError`."""

from collections.abc import Mapping


class FlossingError(ValueError):
    """Base class of the exceptions of this package."""


class UnsupportedSystemError(FlossingError):
    """The system has no single differentiable forward map, hence no Lyapunov exponents."""


class UnsupportedDerivativeError(FlossingError):
    """A derivative was asked for that the backend does not compute."""


class InvalidInputError(FlossingError):
    """The input sequence has an invalid shape, length, dtype, device or value."""


class InvalidStateError(FlossingError):
    """The state or the frame has an invalid shape, structure, dtype, device or value."""


class InvalidOptionError(FlossingError):
    """Invalid option value."""


class InvalidCheckpointError(FlossingError):
    """A checkpoint contains no recurrent network that can be rebuilt, or several."""


class UnreadableFileError(FlossingError):
    """A file is missing, damaged, or cannot be read without executing code from it."""


class NonFiniteError(FlossingError):
    """The trajectory or its tangent vectors became infinite or NaN.

    Attributes:
        diverged: the step at which each trajectory diverged, by its row in the batch; empty where
            that is not known. It lists those that had diverged when the run was given up.
    """

    def __init__(self, message: str, diverged: Mapping[int, int] | None = None) -> None:
        super().__init__(message)
        self.diverged: dict[int, int] = dict(diverged or {})


class DamagedRunWarning(UserWarning):
    """The file of a run is incomplete or of another run; it is set aside and the run repeated."""


class CompiledCodeWarning(UserWarning):
    """Compiled code cannot be kept on disk, was damaged there, or cannot be used."""


class NumericalWarning(UserWarning):
    """The result is degraded; the message says how, and what to do about it."""


class LostRankWarning(NumericalWarning):
    """The frame lost rank: some exponents are −inf."""


class LostGradientWarning(NumericalWarning):
    """Gradients of some exponents exceed the range of the precision, and were left out."""


class IntervalWarning(NumericalWarning):
    """The re-orthonormalisation interval was too long for the precision and was shortened."""


class DivergenceWarning(NumericalWarning):
    """Some trajectories of a batch diverged; their results are NaN."""


class ToleranceWarning(NumericalWarning):
    """The run ended before the standard errors were within the requested tolerance."""


class ExplodingGradientWarning(NumericalWarning):
    """Gradients through the states of a chaotic trajectory exceed the precision."""


class SkippedStepWarning(NumericalWarning):
    """A flossing step was skipped because its gradient was not finite; nothing was changed."""


class DerivativeMismatchWarning(NumericalWarning):
    """The derivatives of a system by automatic differentiation are not those of its values.

    Of a surrogate gradient this is intended; of a detached or quantised path it is usually not.
    """
