"""`dynamical_context`: dimension, volume, saturation and the spectrum of W beside the exponents."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.analysis.linearisation import Linearisation, linearise
from flossing.errors import InvalidOptionError
from flossing.measurement.result import LyapunovSpectrum
from flossing.spectrum import lyapunov_spectrum
from flossing.support.autocast import without_autocast
from flossing.support.checks import require_choice, require_integer
from flossing.support.eval_mode import in_eval_mode
from flossing.support.printing import Printed
from flossing.support.torch_typed import eigvals, matrix_norm, slogdet
from flossing.systems.recurrence import System
from flossing.systems.stock import StockRecurrence

# Slopes of all gates take several times the memory of the states, so they are computed for a
# window of so many steps at a time. The result does not depend on it.
_SLOPE_WINDOW = 256

# Determinants of many small matrices at once cost half of what they cost one by one; so many
# numbers of Jacobians are held at a time, 16 MiB in float32.
_JACOBIAN_ELEMENTS = 1 << 22


@dataclass(frozen=True, repr=False)
class WeightSpectrum(Printed):
    r"""Eigenvalues and norms of a square matrix W.

    Attributes:
        eigenvalues: (N,), of W.
        spectral_radius: ρ(W), the largest modulus of an eigenvalue: the growth per step of W^t
            after many steps.
        spectral_norm: ‖W‖₂, the largest growth in a single step; never below the radius.
        departure_from_normality: Henrici's (‖W‖_F² − Σ|μ_i|²)^½ over ‖W‖_F, from 0 for a normal
            matrix (symmetric, orthogonal) to 1 for a nilpotent one, such as a feedforward chain
            (Henrici 1962; Trefethen & Embree, "Spectra and Pseudospectra", 2005). Zero for W = 0.
    """

    eigenvalues: Complex[Tensor, "N"]
    spectral_radius: float
    spectral_norm: float
    departure_from_normality: float


@dataclass(frozen=True, repr=False)
class Saturation(Printed):
    """How often the units of one gate hardly respond to a change of their input.

    Attributes:
        share: (B,), share of saturated units, averaged over steps.
        throughout: (B,), share of units that are saturated at every step: for ReLU units, the
            dead ones.
    """

    share: Float[Tensor, "B"]
    throughout: Float[Tensor, "B"]


@dataclass(frozen=True, repr=False)
class DynamicalContext(Printed):
    r"""The exponents of a trajectory, and quantities that help to interpret them.

    Why exp(λ₁), the mean growth per step, is neither ρ(W) nor ‖W‖₂: the network does not multiply
    by W but by J_t = D_t W (or a gated sum of such products), where the slopes D_t are below 1
    wherever units saturate, so that J_t is mostly smaller than W. And J_t differs from step to
    step. ρ(W) is the growth under repeated application of one matrix, ‖W‖₂ that of the best
    direction in one step; for a W far from normal the two differ greatly, since a vector that one
    step stretches leaves that direction with the next. With changing D_t, eigenvectors do not
    carry over from step to step: products of matrices with radii below 1 may grow, and products
    of matrices with norms above 1 may shrink. Only one inequality always holds: λ₁ ≤ ⟨ln‖J_t‖₂⟩.

    Attributes:
        spectrum: the exponents, (B, k), in nats per unit time.
        volume_growth_rate: (B,), ⟨ln|det J_t|⟩ in nats per unit time over the steps that the
            exponents count; negative where volumes contract, −inf where a Jacobian is singular.
            Computed from determinants; equal to the sum of all n exponents. `None` for
            `volume=False`.
        jacobian_spectral_radius: (B,), mean over sampled steps of the largest modulus of an
            eigenvalue of J_t.
        jacobian_spectral_norm: (B,), mean over the same steps of ‖J_t‖₂.
        weights: by layer and gate, e.g. (0, "update"), the spectrum of the recurrent weights from
            the layer's units to that gate; through the projection, where there is one. Gates are
            "hidden" (`nn.RNN`), "reset", "update", "new" (`nn.GRU`), "input", "forget", "cell",
            "output" (`nn.LSTM`). Empty for other systems, which have no one W.
        saturation: by layer and gate, how often units are saturated; for `nn.LSTM` also
            "cell state", the tanh of the new cell state. Empty for other systems, whose squashing
            functions are not known.
    """

    spectrum: LyapunovSpectrum
    volume_growth_rate: Float[Tensor, "B"] | None
    jacobian_spectral_radius: Float[Tensor, "B"]
    jacobian_spectral_norm: Float[Tensor, "B"]
    weights: dict[tuple[int, str], WeightSpectrum]
    saturation: dict[tuple[int, str], Saturation]

    @property
    def kaplan_yorke_dimension(self) -> Float[Tensor, "B"]:
        """See `LyapunovSpectrum.kaplan_yorke_dimension`."""
        return self.spectrum.kaplan_yorke_dimension

    @property
    def entropy_rate(self) -> Float[Tensor, "B"]:
        """See `LyapunovSpectrum.entropy_rate`; in nats per unit time."""
        return self.spectrum.entropy_rate

    def as_dict(self) -> dict[str, float]:
        """Return all numbers, averaged over trajectories, for a table or a logger.

        The Kaplan–Yorke dimension is NaN, with a `NumericalWarning`, where too few exponents were
        computed to determine it.
        """
        numbers = {
            "largest_exponent": self.spectrum.exponents[:, 0],
            "kaplan_yorke_dimension": self.kaplan_yorke_dimension,
            "entropy_rate": self.entropy_rate,
            "jacobian_spectral_radius": self.jacobian_spectral_radius,
            "jacobian_spectral_norm": self.jacobian_spectral_norm,
        }
        if self.volume_growth_rate is not None:
            numbers["volume_growth_rate"] = self.volume_growth_rate
        for (layer, gate), saturation in self.saturation.items():
            numbers[f"layer_{layer}/{gate}/saturated"] = saturation.share
            numbers[f"layer_{layer}/{gate}/saturated_throughout"] = saturation.throughout
        scalars = {name: float(values.double().mean()) for name, values in numbers.items()}
        for (layer, gate), weights in self.weights.items():
            prefix = f"layer_{layer}/{gate}/"
            scalars[prefix + "spectral_radius"] = weights.spectral_radius
            scalars[prefix + "spectral_norm"] = weights.spectral_norm
            scalars[prefix + "departure_from_normality"] = weights.departure_from_normality
        return scalars


def dynamical_context(
    system: System,
    inputs: Tensor | PackedSequence | None = None,
    state: Any = None,
    *,
    steps: int | None = None,
    layer: int | None = None,
    dtype: torch.dtype | None = None,
    state_transient: int = 0,
    frame_transient: int | None = None,
    k: int | None = None,
    volume: bool = True,
    sampled_jacobians: int = 50,
    saturated_below: float = 0.1,
    dt: float = 1.0,
) -> DynamicalContext:
    r"""Measure exponents together with volume growth, saturation, and spectra of W and J_t.

    Beyond the cost of the exponents, for n state dimensions: with `volume`, one n×n determinant
    for each step and trajectory, about n³ operations; for each sampled step the eigenvalues and
    singular values of the Jacobian, about 30 n³; the same once for the weights of each gate.

    Args:
        system: as in `flossing.lyapunov_spectrum`.
        inputs: as in `flossing.lyapunov_spectrum`; each sequence counts its own steps only.
        state: as in `flossing.lyapunov_spectrum`.
        steps: as in `flossing.lyapunov_spectrum`.
        layer: as in `flossing.lyapunov_spectrum`; weights and saturation are then those of that
            layer only.
        dtype: as in `flossing.lyapunov_spectrum`.
        state_transient: number of first steps that are left out of everything.
        frame_transient: as in `flossing.lyapunov_spectrum`; these steps are also left out of
            volume, saturation and sampled Jacobians.
        k: number of exponents; `None` for all n. Fewer may leave the dimension undetermined.
        volume: whether to compute determinants.
        sampled_jacobians: number of steps, evenly spaced, at which eigenvalues and norms of the
            Jacobian are computed; all steps if there are fewer. A shorter sequence has those
            before its end.
        saturated_below: a unit is saturated while the derivative of its activation function is
            below this fraction of its maximum: with 0.1 a tanh beyond ±0.949, a sigmoid gate
            outside 0.026 to 0.974. A ReLU is saturated while it is inactive.
        dt: duration of a step; exponents, entropy and the growth of volumes are per unit of time.

    Returns:
        All quantities by trajectory, without gradients.

    Raises:
        InvalidOptionError: an option has an invalid value.
        FlossingError: as raised by `flossing.lyapunov_spectrum`.

    Example:
        A network with orthogonal weights: ρ = ‖W‖₂ = 1, but the slopes of tanh make it contract.

        >>> import torch, flossing
        >>> rnn = torch.nn.RNN(1, 16)
        >>> _ = torch.nn.init.orthogonal_(rnn.weight_hh_l0)
        >>> context = flossing.dynamical_context(rnn, torch.randn(200, 1, 1))
        >>> print(f"{context.weights[0, 'hidden'].spectral_radius:.3f}")
        1.000
        >>> bool(context.spectrum.exponents[0, 0] < 0)
        True
        >>> contraction = context.spectrum.exponents.sum(-1)
        >>> torch.testing.assert_close(contraction, context.volume_growth_rate, rtol=1e-4, atol=0)
    """
    require_choice("volume", volume, (True, False))
    sampled_jacobians = require_integer("sampled_jacobians", sampled_jacobians, at_least=1)
    if not 0 < saturated_below < 1:
        raise InvalidOptionError(
            f"saturated_below={saturated_below!r} must lie between 0 and 1: it is a fraction of "
            "the largest derivative of the activation function"
        )
    # Before the exponents, so that bad sequences and transients are refused before any long run.
    run = linearise(
        system,
        inputs,
        state,
        steps=steps,
        layer=layer,
        dtype=dtype,
        state_transient=state_transient,
    )
    with torch.no_grad(), without_autocast(), in_eval_mode(system):
        spectrum = lyapunov_spectrum(
            system,
            inputs,
            state,
            steps=steps,
            layer=layer,
            dtype=dtype,
            state_transient=state_transient,
            frame_transient=frame_transient,
            k=k,
            dt=dt,
        )
        start = run.lengths[0] - int(spectrum.counted_steps[0])
        radius, norm = _sampled_jacobians(run, start, sampled_jacobians)
        weights, saturation = {}, {}
        if isinstance(recurrence := run.problem.recurrence, StockRecurrence):
            gate_weights = recurrence.gate_weights()
            weights = {gate: weight_spectrum(matrix) for gate, matrix in gate_weights.items()}
            saturation = _saturation(run, recurrence, start, saturated_below)
        return DynamicalContext(
            spectrum=spectrum,
            volume_growth_rate=_volume_growth_rate(run, start) / dt if volume else None,
            jacobian_spectral_radius=radius,
            jacobian_spectral_norm=norm,
            weights=weights,
            saturation=saturation,
        )


def weight_spectrum(weights: Float[Tensor, "N N"]) -> WeightSpectrum:
    """Compute eigenvalues and norms of a square matrix, in double precision.

    Example:
        A chain has no eigenvalue but 0, and yet it passes a vector on undiminished.

        >>> import torch
        >>> chain = weight_spectrum(torch.diag(torch.ones(3), -1))
        >>> chain.spectral_radius, chain.spectral_norm, chain.departure_from_normality
        (0.0, 1.0, 1.0)
    """
    matrix = weights.detach().double()
    eigenvalues = eigvals(matrix)
    energy = float(matrix.square().sum())
    # Rounding can make the difference negative where the matrix is normal.
    excess = max(0.0, energy - float(eigenvalues.abs().square().sum()))
    return WeightSpectrum(
        eigenvalues=eigenvalues,
        spectral_radius=float(eigenvalues.abs().max()),
        spectral_norm=float(matrix_norm(matrix, ord=2)),
        departure_from_normality=(excess / energy) ** 0.5 if energy > 0 else 0.0,
    )


def _volume_growth_rate(run: Linearisation, start: int) -> Float[Tensor, "B"]:
    total = torch.zeros(run.batch, dtype=torch.float64, device=run.states.device)
    window = max(1, _JACOBIAN_ELEMENTS // (run.batch * run.size**2))
    for first in range(start, run.steps, window):
        steps = range(first, min(first + window, run.steps))
        jacobians = torch.stack([run.jacobian(step) for step in steps])
        total += slogdet(jacobians)[1].double().sum(dim=0)
    # After the end of a trajectory determinants are 1.
    return (total / _counted(run, start)).to(run.states.dtype)


def _counted(run: Linearisation, start: int) -> Int[Tensor, "B"]:
    return torch.tensor(run.lengths, device=run.states.device) - start


def _sampled_jacobians(
    run: Linearisation, start: int, samples: int
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Return the mean spectral radius and norm of Jacobians at evenly spaced steps."""
    counted = run.steps - start
    samples = min(samples, counted)
    radii: list[Tensor] = []
    norms: list[Tensor] = []
    for sample in range(samples):
        step = start + sample * counted // samples
        jacobian, ended = run.jacobian(step), ~run.running(step, step + 1).squeeze(0)
        radii.append(eigvals(jacobian).abs().amax(dim=-1).masked_fill(ended, torch.nan))
        norms.append(matrix_norm(jacobian, ord=2).masked_fill(ended, torch.nan))
    return torch.stack(radii).nanmean(dim=0), torch.stack(norms).nanmean(dim=0)


def _saturation(
    run: Linearisation, recurrence: StockRecurrence, start: int, relative_slope: float
) -> dict[tuple[int, str], Saturation]:
    # The inputs include those of the transient, which the states do not.
    skipped = run.problem.steps - run.steps
    counts: dict[tuple[int, str], Tensor] = {}
    throughout: dict[tuple[int, str], Bool[Tensor, "B N"]] = {}
    for first in range(start, run.steps, _SLOPE_WINDOW):
        last = min(first + _SLOPE_WINDOW, run.steps)
        running = run.running(first, last).unsqueeze(-1)
        inputs = cast(Tensor, run.problem.inputs_from(skipped + first, skipped + last))
        for gate, slope in recurrence.slopes(inputs, run.states[first:last]).items():
            saturated = (slope < relative_slope) & running
            counts[gate] = counts.get(gate, 0) + saturated.sum(dim=0)
            throughout[gate] = throughout.get(gate, True) & (saturated | ~running).all(dim=0)
    return {
        gate: Saturation(
            count.double().mean(-1) / _counted(run, start), throughout[gate].double().mean(-1)
        )
        for gate, count in counts.items()
    }
