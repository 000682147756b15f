"""The network under analysis with its inputs, and the measurements that sections share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flossing.diagnosis.advice import (
    Advice,
    DirectionCounts,
    advise,
    average,
    count_directions,
)
from flossing.diagnosis.checkpoints import Network
from flossing.errors import InvalidInputError
from flossing.measurement.result import LyapunovSpectrum
from flossing.report.model import Section
from flossing.spectrum import lyapunov_spectrum
from flossing.support.formatting import plural
from flossing.systems.recurrence import driven_map

MOST_EXPONENTS = 256
"""Default limit on the number of exponents: the cost grows with its square."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """The first steps after the state transient, of the first trajectories.

    Attributes:
        steps: Number of steps in the excerpt.
        all_steps: Number of steps available.
        trajectories: Number of trajectories in the excerpt.
        all_trajectories: Number of trajectories available.
        options: Arguments for an analysis of the excerpt.
    """

    steps: int
    all_steps: int
    trajectories: int
    all_trajectories: int
    options: dict[str, Any]

    @property
    def description(self) -> str:
        """The steps and trajectories of the excerpt, and how many there are.

        Example:
            >>> Excerpt(
            ...     steps=9, all_steps=90, trajectories=1, all_trajectories=4, options={}
            ... ).description
            'the first 9 of 90 steps after the state transient and 1 of 4 trajectories'
        """
        steps = (
            f"all {self.steps} steps"
            if self.steps == self.all_steps
            else f"the first {self.steps} of {self.all_steps} steps"
        )
        whole = {1: "the only trajectory", 2: "both trajectories"}
        trajectories = (
            whole.get(self.trajectories, f"all {self.trajectories} trajectories")
            if self.trajectories == self.all_trajectories
            else f"{self.trajectories} of {self.all_trajectories} trajectories"
        )
        return f"{steps} after the state transient and {trajectories}"


def affordable(budget: int | float, cost: int | float, *, most: int) -> int:
    """Return how many items of equal cost fit into a budget: at least one, at most `most`.

    Example:
        >>> affordable(100, 30, most=8), affordable(100, 1, most=8), affordable(100, 500, most=8)
        (3, 8, 1)
    """
    return max(1, min(most, int(budget / cost)))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network under analysis with its inputs; measurements are made on demand and kept.

    Attributes:
        name: Name of the network in the report.
        network: From a checkpoint.
        inputs: (T, B, D).
        source: Where the inputs come from, as text for the report.
        assumption: A sentence about how the inputs were read, if that is in doubt.
        horizon: H, the number of steps over which gradients should be carried.
        k: Number of exponents; `None` for all, up to `MOST_EXPONENTS`.
        layer: Layer of a stack to analyse; `None` for the whole stack as one state.
        dtype: Precision to compute in; `None` for the network's own, at least float32.
        state_transient: Number of first steps that only bring the state to the attractor.
    """

    name: str
    network: Network
    inputs: Float[Tensor, "T B D"]
    source: str
    horizon: int
    k: int | None = None
    layer: int | None = None
    dtype: torch.dtype | None = None
    state_transient: int = 0
    assumption: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments common to all analyses of this subject."""
        return {
            "system": self.network.module,
            "inputs": self.inputs,
            "state": self.network.initial_state(self.inputs.shape[1]),
            "layer": self.layer,
            "dtype": self.dtype,
            "state_transient": self.state_transient,
        }

    @property
    def conditions(self) -> tuple[str, ...]:
        """What was measured and assumed, and a caution where the sequences are too short.

        Exponents depend on the inputs, and a file in another order of axes is read without an
        error: 8 sequences of 60 steps look like 60 sequences of 8.
        """
        steps, sequences, features = self.inputs.shape
        measured = (
            f"Measured on {self.source}: {plural(sequences, 'sequence')} of {plural(steps, 'step')}"
            f" with {plural(features, 'feature')}, for a horizon of {plural(self.horizon, 'step')}."
            f" {self.assumption}"
        ).strip()
        assumed = tuple(f"Assumed: {each}." for each in self.network.assumptions)
        if steps >= self.horizon:
            return measured, *assumed
        return (
            measured,
            *assumed,
            f"Caution: the sequences are shorter than the horizon, so what is said of it is "
            f"extrapolated. If these are {plural(steps, 'sequence')} of {plural(sequences, 'step')}"
            ", the file has the other order of axes: see --layout.",
        )

    def excerpt(self, *, steps: int, trajectories: int, double: bool = False) -> Excerpt:
        """Return at most so many steps after the state transient, of so many trajectories.

        Args:
            steps: At most.
            trajectories: At most.
            double: Compute in float64, if it is a stock module: a custom one has the precision of
                its weights.
        """
        all_steps = len(self.inputs) - self.state_transient
        all_trajectories = self.inputs.shape[1]
        steps, trajectories = min(steps, all_steps), min(trajectories, all_trajectories)
        stock = isinstance(self.network.module, nn.RNNBase | nn.RNNCellBase)
        options = self.options | {
            "inputs": self.inputs[: self.state_transient + steps, :trajectories],
            "state": self.network.initial_state(trajectories),
            "dtype": torch.float64 if double and stock else self.dtype,
        }
        return Excerpt(
            steps=steps,
            all_steps=all_steps,
            trajectories=trajectories,
            all_trajectories=all_trajectories,
            options=options,
        )

    @cached_property
    def spectrum(self) -> LyapunovSpectrum:
        """Lyapunov spectrum of every trajectory."""
        return self._spectrum(self.layer)

    @cached_property
    def layer_spectra(self) -> list[LyapunovSpectrum]:
        """Spectrum of each layer by itself, as it would be flossed; of a single one, `spectrum`."""
        if self.layer is not None or self.network.layers == 1:
            return [self.spectrum]
        return [self._spectrum(layer) for layer in range(self.network.layers)]

    @cached_property
    def exponents(self) -> Float[Tensor, "k"]:
        """Exponents in nats per step, averaged over trajectories, in float64."""
        return average(self.spectrum)[0]

    @cached_property
    def standard_errors(self) -> Float[Tensor, "k"]:
        """Standard errors of `exponents`; infinite where they are unknown."""
        return average(self.spectrum)[1]

    @property
    def state_size(self) -> int:
        """n, the dimension of the state and the number of its exponents."""
        return self.spectrum.final_frame.shape[-2]

    @property
    def counts(self) -> DirectionCounts:
        """What happens to gradients over the horizon along the measured directions."""
        return count_directions(self.exponents, self.standard_errors, self.horizon)

    @property
    def advice(self) -> list[Advice]:
        """Recommendation for each of `layer_spectra`."""
        return [self._advice(spectrum) for spectrum in self.layer_spectra]

    @property
    def gated(self) -> bool:
        """Whether the network is an LSTM or a GRU."""
        return isinstance(self.network.module, nn.LSTM | nn.LSTMCell | nn.GRU | nn.GRUCell)

    @property
    def flossing_dtype(self) -> torch.dtype:
        """Precision in which the network would be flossed, whatever it is analysed in."""
        return torch.float64 if self.network.dtype == torch.float64 else torch.float32

    def leading(self, most: int) -> int:
        """Return how many directions to compare: those that flossing can act on, from 2 to `most`.

        Raises:
            InvalidInputError: The state has one dimension.
        """
        if self.state_size < 2:
            raise InvalidInputError("a one-dimensional state has a single direction")
        return min(self.state_size, max(2, min(most, self.flossable)))

    @property
    def flossable(self) -> int:
        """Number of directions that flossing can act on, in all layers together."""
        return sum(each.flossable for each in self.advice)

    def _spectrum(self, layer: int | None) -> LyapunovSpectrum:
        options: dict[str, Any] = self.options | {"layer": layer}
        k = self.k
        if k is None:
            problem = {name: options[name] for name in options if name != "state_transient"}
            k = min(MOST_EXPONENTS, driven_map(**problem, steps=None).tangent_size)
        with torch.no_grad():
            return lyapunov_spectrum(**options, k=k)

    def _advice(self, spectrum: LyapunovSpectrum) -> Advice:
        module = self.network.module
        exponents, errors = average(spectrum)
        size = spectrum.final_frame.shape[-2]
        return advise(
            exponents,
            count_directions(exponents, errors, self.horizon),
            dtype=self.flossing_dtype,
            memory=module.hidden_size if isinstance(module, nn.LSTM | nn.LSTMCell) else size,
            gated=self.gated,
        )


SectionBuilder = Callable[[Subject], Section]
