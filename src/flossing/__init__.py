"""Lyapunov exponents of recurrent PyTorch networks: measured, differentiated, pushed to zero."""

from flossing.analysis.closed_loop import ClosedLoop, closed_loop
from flossing.analysis.context import (
    DynamicalContext,
    Saturation,
    WeightSpectrum,
    dynamical_context,
)
from flossing.analysis.convergence import Convergence, convergence
from flossing.analysis.covariant_vectors import CovariantVectors, covariant_vectors
from flossing.analysis.effective_rank import EffectiveRank, GradientRank, effective_rank
from flossing.analysis.gradient_horizon import GradientHorizon, GradientReach, gradient_horizon
from flossing.analysis.long_term_jacobian import LongTermJacobian, long_term_jacobian
from flossing.errors import (
    CompiledCodeWarning,
    DerivativeMismatchWarning,
    DivergenceWarning,
    ExplodingGradientWarning,
    FlossingError,
    IntervalWarning,
    InvalidCheckpointError,
    InvalidInputError,
    InvalidOptionError,
    InvalidStateError,
    LostGradientWarning,
    LostRankWarning,
    NonFiniteError,
    NumericalWarning,
    SkippedStepWarning,
    ToleranceWarning,
    UnreadableFileError,
    UnsupportedDerivativeError,
    UnsupportedSystemError,
)
from flossing.floss import FlossHistory, floss
from flossing.flosser import Flosser
from flossing.loss import flossing_loss
from flossing.measurement.backends import compile_ahead
from flossing.measurement.result import LyapunovSpectrum
from flossing.spectrum import log_growth_rates, lyapunov_spectrum
from flossing.support.environment import installed_version
from flossing.systems.directions import OneDirection, one_direction
from flossing.systems.keras import keras_layer
from flossing.systems.stateful import Stateful, stateful
from flossing.watch import Watcher, watch

__version__ = installed_version()

__all__ = [
    "ClosedLoop",
    "CompiledCodeWarning",
    "Convergence",
    "CovariantVectors",
    "DerivativeMismatchWarning",
    "DivergenceWarning",
    "DynamicalContext",
    "EffectiveRank",
    "ExplodingGradientWarning",
    "FlossHistory",
    "Flosser",
    "FlossingError",
    "GradientHorizon",
    "GradientRank",
    "GradientReach",
    "IntervalWarning",
    "InvalidCheckpointError",
    "InvalidInputError",
    "InvalidOptionError",
    "InvalidStateError",
    "LongTermJacobian",
    "LostGradientWarning",
    "LostRankWarning",
    "LyapunovSpectrum",
    "NonFiniteError",
    "NumericalWarning",
    "OneDirection",
    "Saturation",
    "SkippedStepWarning",
    "Stateful",
    "ToleranceWarning",
    "UnreadableFileError",
    "UnsupportedDerivativeError",
    "UnsupportedSystemError",
    "Watcher",
    "WeightSpectrum",
    "__version__",
    "closed_loop",
    "compile_ahead",
    "convergence",
    "covariant_vectors",
    "dynamical_context",
    "effective_rank",
    "floss",
    "flossing_loss",
    "gradient_horizon",
    "keras_layer",
    "log_growth_rates",
    "long_term_jacobian",
    "lyapunov_spectrum",
    "one_direction",
    "stateful",
    "watch",
]
