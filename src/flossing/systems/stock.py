"""`nn.RNN`, `nn.GRU`, `nn.LSTM` and their cells as recurrent maps.

The flat state of a stack is layer after layer, each h, or for an LSTM h followed by c.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flossing.errors import InvalidOptionError, InvalidStateError, UnsupportedSystemError
from flossing.support.pytree import describe
from flossing.support.torch_typed import split, unflatten
from flossing.systems.compiled_layer import linearised_layer
from flossing.systems.gates import GRU, LSTM, RELU, TANH, Coefficients, Kind, LayerWeights
from flossing.systems.tangent import CellTangent, GatedTangent, Gates, StackedTangent, TangentMap

StockLayer = nn.RNN | nn.GRU | nn.LSTM
StockCell = nn.RNNCell | nn.GRUCell | nn.LSTMCell

_FORWARDS = {
    kind: kind.forward for kind in (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)
}


@dataclass(frozen=True)
class StockRecurrence:
    """A stack of stock layers, or a single cell, as one recurrent map.

    Attributes:
        kind: how a layer of this kind runs.
        layers: the weights of every layer.
        selected: the layer whose tangent map is meant; `None` for the whole stack.
        stacked_states: whether the module's own states have a leading layer dimension.
    """

    kind: Kind
    layers: tuple[LayerWeights, ...]
    selected: int | None
    stacked_states: bool

    @property
    def state_size(self) -> int:
        """Length of the flat state of the whole stack."""
        return len(self.layers) * self._layer_size

    @property
    def projected(self) -> bool:
        """Whether a projection stands between the gates and the hidden state."""
        return self.layers[0].weight_hr is not None

    @property
    def tangent_slice(self) -> slice:
        """The part of the flat state that the tangent map is about."""
        if self.selected is None:
            return slice(0, self.state_size)
        return slice(self.selected * self._layer_size, (self.selected + 1) * self._layer_size)

    @property
    def selected_layers(self) -> Sequence[int]:
        """The layers that the tangent map is about."""
        return range(len(self.layers)) if self.selected is None else [self.selected]

    def elements_per_step(self, exponents: int) -> int:  # noqa: ARG002 - the same for any number
        """Return how many numbers a step of one trajectory needs while scanned, roughly."""
        if self.projected:
            return self.state_size**2
        return self.state_size * self.kind.state_blocks * (self.kind.gates + 3)

    def pack(self, state: Any, batch: int, like: Tensor) -> Float[Tensor, "B n"]:
        """Return the flat state from the module's own convention; `None` is zero.

        Raises:
            InvalidStateError: its structure or shapes are not the module's.
        """
        if state is None:
            return like.new_zeros(batch, self.state_size)
        pair = self.kind is LSTM and isinstance(state, tuple | list)
        blocks: list[Any] = list(cast(tuple[Any, ...], state)) if pair else [state]
        expected = [self._block_shape(size, batch) for size in self._block_sizes]
        found = [tuple(b.shape) if isinstance(b, Tensor) else None for b in blocks]
        if found not in (expected, [self._unbatched(shape) for shape in expected]):
            raise InvalidStateError(
                f"the initial state must have the shapes {_shapes(expected)} for a batch of "
                f"{batch}, as the module itself takes it, not {describe(state)}"
            )
        layered = [
            block.reshape(len(self.layers), batch, -1) for block in cast(list[Tensor], blocks)
        ]
        return torch.cat(layered, dim=-1).transpose(0, 1).flatten(1)

    def unpack(self, state: Float[Tensor, "B n"], *, batched: bool) -> Any:
        """Return a flat state in the module's own convention."""
        layered = unflatten(state, 1, (len(self.layers), -1)).transpose(0, 1)
        blocks = [block.contiguous() for block in split(layered, self._block_sizes)]
        if not self.stacked_states:
            blocks = [block.squeeze(0) for block in blocks]
        if not batched:
            blocks = [block.squeeze(-2) for block in blocks]
        return tuple(blocks) if self.kind is LSTM else blocks[0]

    def output(self, state: Float[Tensor, "B n"]) -> Float[Tensor, "B output_size"]:
        """Return what the module puts out when it arrives at a flat state: the top layer's h."""
        return self._pieces(state)[-1][..., : self._block_sizes[0]]

    def requires_grad(self, inputs: Tensor | None, state: Tensor) -> bool:
        """Whether anything that the trajectory depends on requires gradients."""
        leaves = [state, *(weight for layer in self.layers for weight in layer.present())]
        return any(leaf.requires_grad for leaf in leaves) or (
            inputs is not None and inputs.requires_grad
        )

    def advance(
        self, inputs: Float[Tensor, "T B D"], state: Float[Tensor, "B n"], steps: int
    ) -> Float[Tensor, "T B n"]:
        """Return the flat states after each step."""
        inputs = inputs[:steps]
        pieces: list[Tensor] = []
        for weights, piece in zip(self.layers, state.chunk(len(self.layers), -1), strict=True):
            pieces.append(self.kind.run(inputs, piece.contiguous(), weights))
            inputs = pieces[-1][..., : weights.weight_hh.shape[1]]
        return torch.cat(pieces, dim=-1)

    def linearised_run(
        self, inputs: Float[Tensor, "T B D"], state: Float[Tensor, "B n"], start: int, window: int
    ) -> tuple[Float[Tensor, "T_plus_1 B n"], GatedTangent | None]:
        """Return the states before the first step and after each one, and the tangent map.

        In compiled loops, for layers without projection on the CPU. These have no tangent map of
        a whole stack, nor of an upper layer with a window.

        Args:
            inputs: inputs of every step.
            state: state before the first one.
            start: the number of the first step.
            window: see `flossing.systems.compiled_layer.linearised_layer`.
        """
        pieces: list[Tensor] = []
        tangent = None
        selected = 0 if len(self.layers) == 1 else self.selected
        if selected and window > 0:
            # The inputs of this layer's Jacobians pass the cuts, its states' inputs do not.
            selected = None
        for index, (weights, piece) in enumerate(
            zip(self.layers, self._pieces(state), strict=True)
        ):
            run = linearised_layer(self.kind, weights, inputs, piece, start, window)
            pieces.append(run.states)
            inputs = run.states[1:, :, : weights.weight_hh.shape[1]]
            tangent = run.tangent if index == selected else tangent
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1), tangent

    def step(self, inputs: Any, state: Float[Tensor, "R n"]) -> Float[Tensor, "R n"]:
        """Return the flat states after one step on independent rows, by PyTorch's own kernels."""
        return self.advance(inputs.unsqueeze(0), state, 1).squeeze(0)

    def tangent(
        self, inputs: Float[Tensor, "T B D"], states: Float[Tensor, "T B n"], exponents: int
    ) -> TangentMap:
        """Return the tangent map along the inputs of every step and the states before it."""
        if self.projected:
            return self._projected_tangent(inputs, states, exponents)
        layers = self.selected_layers
        layer_inputs = self._layer_inputs(inputs, states)
        pieces = self._pieces(states)
        coefficients = [
            self.kind.coefficients(layer_inputs[layer], pieces[layer], self.layers[layer])
            for layer in layers
        ]
        gated = tuple(
            _gated(self.layers[layer], coefficient)
            for layer, coefficient in zip(layers, coefficients, strict=True)
        )
        if len(gated) == 1:
            return gated[0]
        couplings = tuple(
            Gates(weights.weight_ih, coefficient.feedforward)
            for weights, coefficient in zip(self.layers[1:], coefficients[1:], strict=True)
        )
        return StackedTangent(gated, couplings)

    def slopes(
        self, inputs: Float[Tensor, "T B D"], states: Float[Tensor, "T B n"]
    ) -> dict[tuple[int, str], Float[Tensor, "T B N"]]:
        """Return the derivative of every squashing function, as a share of its largest.

        They are those of the steps from the given states under the given inputs, by layer and
        gate.
        """
        layer_inputs, pieces = self._layer_inputs(inputs, states), self._pieces(states)
        return {
            (layer, gate): slope
            for layer in self.selected_layers
            for gate, slope in self.kind.slopes(
                layer_inputs[layer], pieces[layer], self.layers[layer]
            ).items()
        }

    def gate_weights(self) -> dict[tuple[int, str], Float[Tensor, "N N"]]:
        """Return the weights from the units of a layer to its gates, by layer and gate.

        Through the projection, where there is one.
        """
        matrices: dict[tuple[int, str], Tensor] = {}
        for layer in self.selected_layers:
            weights = self.layers[layer]
            for gate, matrix in zip(
                self.kind.gate_names, weights.weight_hh.chunk(self.kind.gates), strict=True
            ):
                through = matrix if weights.weight_hr is None else matrix @ weights.weight_hr
                matrices[layer, gate] = through
        return matrices

    @property
    def _block_sizes(self) -> list[int]:
        weights = self.layers[0]
        sizes = [weights.weight_hh.shape[1], weights.weight_hh.shape[0] // self.kind.gates]
        return sizes[: self.kind.state_blocks]

    @property
    def _layer_size(self) -> int:
        return sum(self._block_sizes)

    def _block_shape(self, size: int, batch: int) -> tuple[int, ...]:
        return (len(self.layers), batch, size) if self.stacked_states else (batch, size)

    def _unbatched(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1]) if shape[-2] == 1 else shape

    def _pieces(self, states: Tensor) -> tuple[Tensor, ...]:
        return states.chunk(len(self.layers), dim=-1)

    def _layer_inputs(self, inputs: Tensor, states: Tensor) -> list[Tensor]:
        """Return what each layer is driven by, up to the last one whose tangent map is meant.

        That is a function of the states before the step, also where the graph through these is
        cut: the outputs of the layers below are computed again, all steps in one batch.
        """
        topmost = len(self.layers) - 1 if self.selected is None else self.selected
        driven_by = [inputs]
        for weights, piece in zip(self.layers[:topmost], self._pieces(states), strict=False):
            rows = driven_by[-1].flatten(0, 1).unsqueeze(0)
            after = self.kind.run(rows, piece.flatten(0, 1).contiguous(), weights).squeeze(0)
            outputs = after[:, : self._block_sizes[0]]
            driven_by.append(unflatten(outputs, 0, states.shape[:2]))
        return driven_by

    def _projected_tangent(self, inputs: Tensor, states: Tensor, exponents: int) -> TangentMap:
        # A projection stands in front of the diagonals, so these Jacobians are not A + C W.
        if self.selected is None:
            return CellTangent.of(self.step, inputs, states, exponents)
        alone = StockRecurrence(self.kind, (self.layers[self.selected],), None, True)
        from_below = self._layer_inputs(inputs, states)[self.selected]
        return CellTangent.of(
            alone.step, from_below, self._pieces(states)[self.selected], exponents
        )


def stock_recurrence(
    system: StockLayer | StockCell, layer: int | None, dtype: torch.dtype
) -> StockRecurrence:
    """Return the recurrent map of a stock module, computing in `dtype`.

    Raises:
        UnsupportedSystemError: the module has no single forward map, or not the one that its
            weights define.
        InvalidOptionError: there is no such layer.
    """
    _refuse_what_has_no_single_map(system)
    if isinstance(system, nn.RNNBase):
        names = [f"_l{index}" for index in range(system.num_layers)]
    else:
        names = [""]
    if layer is not None and not 0 <= layer < len(names):
        raise InvalidOptionError(
            f"layer must be from 0 to {len(names) - 1} for this {type(system).__name__} of "
            f"{len(names)} layer(s), or None for the whole stack, not {layer}"
        )
    return StockRecurrence(
        kind=_kind(system),
        layers=tuple(_layer_weights(system, name, dtype) for name in names),
        selected=layer,
        stacked_states=isinstance(system, nn.RNNBase),
    )


def is_stock(system: object) -> bool:
    """Whether a system is one of PyTorch's own recurrent modules.

    A cell with a forward of its own is not: it runs as any other callable. A layer with a forward
    of its own is refused later, since it takes a whole sequence.
    """
    if isinstance(system, nn.RNNCell | nn.GRUCell | nn.LSTMCell):
        return _has_stock_forward(system)
    return isinstance(system, nn.RNN | nn.GRU | nn.LSTM)


def _has_stock_forward(system: nn.Module) -> bool:
    return type(system).forward in _FORWARDS.values() and "forward" not in vars(system)


def _refuse_what_has_no_single_map(system: StockLayer | StockCell) -> None:
    name = type(system).__name__
    if not _has_stock_forward(system):
        raise UnsupportedSystemError(
            f"{name} replaces the forward of PyTorch's module, so its weights do not tell its map; "
            "pass its step as a callable (x_t, state) -> state"
        )
    if not isinstance(system, nn.RNNBase):
        return
    if system.bidirectional:
        raise UnsupportedSystemError(
            f"this {name} is bidirectional: its two directions run through time in opposite "
            "senses, so there is no single forward map and no Lyapunov spectrum; pass a "
            "unidirectional module"
        )
    if system.dropout and system.training and system.num_layers > 1:
        raise UnsupportedSystemError(
            f"this {name} has dropout={system.dropout} between its layers and is in train mode: "
            "every step is a different random map; call .eval() on it first"
        )


def _kind(system: StockLayer | StockCell) -> Kind:
    if isinstance(system, nn.LSTM | nn.LSTMCell):
        return LSTM
    if isinstance(system, nn.GRU | nn.GRUCell):
        return GRU
    nonlinearity = cast(str, system.nonlinearity)  # pyright: ignore[reportUnknownMemberType]
    return RELU if nonlinearity == "relu" else TANH


def _layer_weights(system: StockLayer | StockCell, suffix: str, dtype: torch.dtype) -> LayerWeights:
    names = [name + suffix for name in LayerWeights._fields]
    parameters = dict(system.named_parameters(recurse=False))
    # nn.LSTMCell has no projection, and modules without bias no bias attributes.
    weights = [
        (parameters[name] if name in parameters else _computed_weight(system, name)).to(dtype)
        if getattr(system, name, None) is not None
        else None
        for name in names
    ]
    return LayerWeights(*cast(list[Any], weights))


def _computed_weight(system: nn.Module, name: str) -> Tensor:
    if not parametrize.is_parametrized(system, name):
        raise UnsupportedSystemError(
            f"{name} of this {type(system).__name__} is not a parameter: a hook that recomputes it "
            "before each forward would be missed; use torch.nn.utils.parametrizations instead of "
            "the older weight_norm and spectral_norm"
        )
    return cast(Tensor, getattr(system, name))


def _gated(weights: LayerWeights, coefficients: Coefficients) -> GatedTangent:
    return GatedTangent(Gates(weights.weight_hh, coefficients.recurrent), coefficients.diagonal)


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))
