"""What the package raises and warns with: every error is a `ValueError`."""


class FlossingError(ValueError):
    """Base of the errors that this package raises."""


class UnsupportedSystemError(FlossingError):
    """The system has no single differentiable forward map, so no Lyapunov exponents."""


class UnsupportedDerivativeError(FlossingError):
    """A derivative was asked for that the backend does not compute."""


class InvalidInputError(FlossingError):
    """The input sequence has the wrong shape, length, dtype, device or values."""


class InvalidStateError(FlossingError):
    """The state or the frame has the wrong shape, structure, dtype, device or values."""


class InvalidOptionError(FlossingError):
    """An option is outside what it may be."""


class InvalidCheckpointError(FlossingError):
    """A checkpoint holds no recurrent network that can be rebuilt, or not one alone."""


class UnreadableFileError(FlossingError):
    """A file is missing, damaged, or cannot be read without running code that is in it."""


class NonFiniteError(FlossingError):
    """The trajectory or its tangent map left the finite numbers."""


class DamagedRunWarning(UserWarning):
    """The file of a run is not whole or not its own: it is set aside and the run is done again."""


class NumericalWarning(UserWarning):
    """The answer is degraded; the message says how, and what helps."""


class LostRankWarning(NumericalWarning):
    """The frame lost rank: some exponents are −inf."""


class IntervalWarning(NumericalWarning):
    """The reorthonormalization interval was too long for the precision, and was shortened."""


class ToleranceWarning(NumericalWarning):
    """The run ended before the standard errors were as small as was asked for."""


class ExplodingGradientWarning(NumericalWarning):
    """Gradients through the states of a chaotic trajectory are meaningless."""


class SkippedStepWarning(NumericalWarning):
    """A flossing step had a gradient that is not finite, and changed nothing."""


class DerivativeMismatchWarning(NumericalWarning):
    """The derivatives of a system by automatic differentiation are not those of its values.

    Of a surrogate gradient this is intended; of a detached or quantised path it is usually not.
    """
