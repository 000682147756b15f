"""A network with what drives it: what every section of an analysis is about."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flossing.diagnosis.advice import Advice, Fates, advise, average, fates
from flossing.diagnosis.checkpoints import Network
from flossing.measurement.result import LyapunovSpectrum
from flossing.report.model import Section
from flossing.spectrum import lyapunov_spectrum
from flossing.systems.recurrence import driven_map


@dataclass(frozen=True, kw_only=True)
class Part:
    """The first steps after the state transient, of the first trajectories.

    Attributes:
        steps: How many steps are analysed.
        all_steps: How many there are.
        trajectories: How many trajectories are analysed.
        all_trajectories: How many there are.
        options: The arguments for an analysis of this part.
    """

    steps: int
    all_steps: int
    trajectories: int
    all_trajectories: int
    options: dict[str, Any]

    @property
    def in_words(self) -> str:
        """What was analysed, and what was left out to keep the cost bounded.

        Example:
            >>> part = Part(steps=9, all_steps=90, trajectories=1, all_trajectories=4, options={})
            >>> print(part.in_words)
            this is about the first 9 of 90 steps after the state transient, and
            1 of 4 trajectories.
        """
        steps = (
            f"all {self.steps} steps"
            if self.steps == self.all_steps
            else f"the first {self.steps} of {self.all_steps} steps"
        )
        whole = {1: "the one trajectory", 2: "both trajectories"}
        trajectories = (
            whole.get(self.trajectories, f"all {self.trajectories} trajectories")
            if self.trajectories == self.all_trajectories
            else f"{self.trajectories} of {self.all_trajectories} trajectories"
        )
        return f"this is about {steps} after the state transient, and {trajectories}."


def affordable(budget: int | float, cost: int | float, *, most: int) -> int:
    """Return how many items of equal cost a budget allows: at least one.

    Args:
        budget: In any unit.
        cost: Of one item, in the same.
        most: How many there should be at most.

    Example:
        >>> affordable(100, 30, most=8), affordable(100, 1, most=8), affordable(100, 500, most=8)
        (3, 8, 1)
    """
    return max(1, min(most, int(budget / cost)))


MOST_EXPONENTS = 256
"""So many exponents are computed unless more are asked for: the cost grows with their square."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is analysed, and the measurements that more than one section needs, each made once.

    Attributes:
        name: What the report calls it.
        network: From a checkpoint.
        inputs: What drives it.
        source: Where the inputs come from, in words.
        horizon: H, over how many steps gradients are to be carried.
        k: How many exponents; `None` for all, up to 256.
        layer: Of a stack, the layer that is meant; `None` for all as one state.
        dtype: Precision to compute in; `None` for the network's own, and float32 for lower ones.
        state_transient: So many first steps only bring the state to where the analysis starts.
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

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that every analysis of this network takes."""
        return {
            "system": self.network.module,
            "inputs": self.inputs,
            "state": self.network.initial_state(self.inputs.shape[1]),
            "layer": self.layer,
            "dtype": self.dtype,
            "state_transient": self.state_transient,
        }

    def part(self, *, steps: int, trajectories: int, double: bool = False) -> Part:
        """Return the first steps after the transient, of the first trajectories.

        Args:
            steps: How many at most.
            trajectories: How many at most.
            double: Whether to compute in float64, where the precision can be chosen: a module of
                one's own has that of its weights.
        """
        there, all_trajectories, _ = self.inputs.shape
        all_steps = there - self.state_transient
        steps, trajectories = min(steps, all_steps), min(trajectories, all_trajectories)
        stock = isinstance(self.network.module, nn.RNNBase | nn.RNNCellBase)
        inputs = self.inputs[: self.state_transient + steps, :trajectories]
        options = dict(
            self.options,
            inputs=inputs,
            state=self.network.initial_state(trajectories),
            dtype=torch.float64 if double and stock else self.dtype,
        )
        return Part(
            steps=steps,
            all_steps=all_steps,
            trajectories=trajectories,
            all_trajectories=all_trajectories,
            options=options,
        )

    @cached_property
    def spectrum(self) -> LyapunovSpectrum:
        """Its exponents under these inputs."""
        return self._spectrum(self.layer)

    @cached_property
    def layer_spectra(self) -> list[LyapunovSpectrum]:
        """Each layer's own exponents, as they are flossed: of one layer, the spectrum itself."""
        if self.layer is not None or self.network.layers == 1:
            return [self.spectrum]
        return [self._spectrum(layer) for layer in range(self.network.layers)]

    @property
    def state_size(self) -> int:
        """n, the number of exponents that there are."""
        return self.spectrum.final_frame.shape[-2]

    @property
    def fates(self) -> Fates:
        """What becomes of the gradient along each direction over the horizon."""
        return fates(*average(self.spectrum), self.horizon)

    @property
    def advice(self) -> list[Advice]:
        """For each of `layer_spectra`, whether to floss."""
        return [self._advice(spectrum) for spectrum in self.layer_spectra]

    @property
    def flossable(self) -> int:
        """How many directions flossing could help, in all layers together."""
        return sum(each.k for each in self.advice)

    @property
    def flossing_dtype(self) -> torch.dtype:
        """Precision in which the network would be flossed, whatever it is analysed in."""
        return torch.float64 if self.network.dtype == torch.float64 else torch.float32

    def _advice(self, spectrum: LyapunovSpectrum) -> Advice:
        exponents, errors = average(spectrum)
        module = self.network.module
        size = spectrum.final_frame.shape[-2]
        return advise(
            exponents,
            fates(exponents, errors, self.horizon),
            dtype=self.flossing_dtype,
            memory=module.hidden_size if isinstance(module, nn.LSTM | nn.LSTMCell) else size,
        )

    def _spectrum(self, layer: int | None) -> LyapunovSpectrum:
        options = dict(self.options, layer=layer)
        with torch.no_grad():
            return lyapunov_spectrum(**options, k=self.k or min(MOST_EXPONENTS, _size(options)))


SectionBuilder = Callable[[Study], Section]


def _size(options: Mapping[str, Any]) -> int:
    """Return the number of exponents that there are, without measuring any."""
    arguments = {name: options[name] for name in ("system", "inputs", "state", "layer", "dtype")}
    return driven_map(**arguments, steps=None).tangent_size
