"""Lyapunov exponents of recurrent PyTorch networks: measured, differentiated, pushed to zero."""

from flossing.analysis.closed_loop import ClosedLoop, closed_loop
from flossing.analysis.context import DynamicalContext, dynamical_context
from flossing.analysis.saturation import Saturation
from flossing.analysis.weights import WeightSpectrum
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
    UnsupportedSystemError,
)
from flossing.floss import FlossHistory, floss
from flossing.flosser import Flosser
from flossing.loss import flossing_loss
from flossing.result import LyapunovSpectrum
from flossing.spectrum import log_growth_rates, lyapunov_spectrum
from flossing.watch import Watcher, watch

__all__ = [
    "ClosedLoop",
    "DynamicalContext",
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
    "Saturation",
    "SkippedStepWarning",
    "UnsupportedSystemError",
    "Watcher",
    "WeightSpectrum",
    "closed_loop",
    "dynamical_context",
    "floss",
    "flossing_loss",
    "log_growth_rates",
    "lyapunov_spectrum",
    "watch",
]
