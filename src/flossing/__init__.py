"""Lyapunov exponents of recurrent PyTorch networks: measured, differentiated, pushed to zero."""

from flossing.analysis.convergence import Convergence, convergence
from flossing.analysis.covariant_vectors import CovariantVectors, covariant_vectors
from flossing.errors import (
    ExplodingGradientWarning,
    FlossingError,
    IntervalWarning,
    InvalidInputError,
    InvalidOptionError,
    InvalidStateError,
    LostRankWarning,
    NonFiniteError,
    NumericalWarning,
    SkippedStepWarning,
    ToleranceWarning,
    UnsupportedSystemError,
)
from flossing.floss import FlossHistory, floss
from flossing.flosser import Flosser
from flossing.loss import flossing_loss
from flossing.result import LyapunovSpectrum
from flossing.spectrum import log_growth_rates, lyapunov_spectrum

__all__ = [
    "Convergence",
    "CovariantVectors",
    "ExplodingGradientWarning",
    "FlossHistory",
    "Flosser",
    "FlossingError",
    "IntervalWarning",
    "InvalidInputError",
    "InvalidOptionError",
    "InvalidStateError",
    "LostRankWarning",
    "LyapunovSpectrum",
    "NonFiniteError",
    "NumericalWarning",
    "SkippedStepWarning",
    "ToleranceWarning",
    "UnsupportedSystemError",
    "convergence",
    "covariant_vectors",
    "floss",
    "flossing_loss",
    "log_growth_rates",
    "lyapunov_spectrum",
]
