"""Lyapunov exponents of recurrent PyTorch networks: measured, differentiated, pushed to zero."""

from flossing.errors import (
    ExplodingGradientWarning,
    FlossingError,
    IntervalWarning,
    InvalidCheckpointError,
    InvalidInputError,
    InvalidOptionError,
    InvalidStateError,
    LostRankWarning,
    NonFiniteError,
    NumericalWarning,
    SkippedStepWarning,
    UnreadableFileError,
    UnsupportedSystemError,
)
from flossing.floss import FlossHistory, floss
from flossing.flosser import Flosser
from flossing.loss import flossing_loss
from flossing.result import LyapunovSpectrum
from flossing.spectrum import log_growth_rates, lyapunov_spectrum

__all__ = [
    "ExplodingGradientWarning",
    "FlossHistory",
    "Flosser",
    "FlossingError",
    "IntervalWarning",
    "InvalidCheckpointError",
    "InvalidInputError",
    "InvalidOptionError",
    "InvalidStateError",
    "LostRankWarning",
    "LyapunovSpectrum",
    "NonFiniteError",
    "NumericalWarning",
    "SkippedStepWarning",
    "UnreadableFileError",
    "UnsupportedSystemError",
    "floss",
    "flossing_loss",
    "log_growth_rates",
    "lyapunov_spectrum",
]
