"""`nn.RNN`, `nn.GRU`, `nn.LSTM` and their cells as recurrent maps.

The flat state of a stack is layer after layer, each h, or for an LSTM h followed by c: for two LSTM
layers (h^0, c^0, h^1, c^1). PyTorch's own layout is by kind of state first, h [layers, B, N] and
c [layers, B, N]; `pack` and `unpack` convert. See docs/mathematics.md, Tangent
maps of the layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flossing.errors import InvalidOptionError, InvalidStateError, UnsupportedSystemError
from flossing.support.pytree import describe
from flossing.support.torch_typed import split, unflatten
from flossing.systems.cell_tangent import CellTangent
from flossing.systems.compiled_layer import linearised_layer
from flossing.systems.gates import GRU, LSTM, RELU, TANH, Kind, LayerWeights
from flossing.systems.stock_weights import has_forward_hooks, layer_weights, unknown_pre_hooks
from flossing.systems.tangent import GatedTangent, Gates, StackedTangent, TangentMap

StockLayer = nn.RNN | nn.GRU | nn.LSTM
StockCell = nn.RNNCell | nn.GRUCell | nn.LSTMCell

_FORWARDS = [
    kind.forward for kind in (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)
]

# Arrays of the size of a step's coefficients that a scan holds beside them: the states, and the
# pre-activations of inputs and state.
_OTHER_ARRAYS = 3


@dataclass(frozen=True)
class StockRecurrence:
    """A stack of stock layers, or a single cell, as one recurrent map.

    Attributes:
        kind: the dynamics and derivatives of each layer.
        layers: the weights of every layer.
        selected: the layer to linearise; `None` for the whole stack.
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
        """Whether the layers are LSTMs with `proj_size`, so that h = W_hr o tanh(c)."""
        return self.layers[0].weight_hr is not None

    @property
    def tangent_slice(self) -> slice:
        """The part of the flat state that the tangent map acts on."""
        if self.selected is None:
            return slice(0, self.state_size)
        return slice(self.selected * self._layer_size, (self.selected + 1) * self._layer_size)

    @property
    def selected_layers(self) -> Sequence[int]:
        """The layers to linearise."""
        return range(len(self.layers)) if self.selected is None else [self.selected]

    def elements_per_step(self, exponents: int) -> int:  # noqa: ARG002 - the same for any number
        """Return roughly how many elements a scan holds for a step of one trajectory."""
        if self.projected:
            return self.state_size**2
        return self.state_size * self.kind.state_blocks * (self.kind.gates + _OTHER_ARRAYS)

    def pack(self, state: Any, batch: int, like: Tensor) -> Float[Tensor, "B n"]:
        """Return the flat state from the module's own convention; `None` is zero.

        Raises:
            InvalidStateError: the structure or shapes are not the module's.
        """
        if state is None:
            return like.new_zeros(batch, self.state_size)
        pair = self.kind is LSTM and isinstance(state, tuple | list)
        blocks: list[Any] = list(cast(tuple[Any, ...], state)) if pair else [state]
        layers = (len(self.layers),) if self.stacked_states else ()
        expected = [(*layers, batch, size) for size in self._block_sizes]
        # As in PyTorch, unbatched inputs come with a state that has no batch dimension either.
        unbatched = [(*layers, size) for size in self._block_sizes] if batch == 1 else expected
        found = [tuple(b.shape) if isinstance(b, Tensor) else None for b in blocks]
        if found not in (expected, unbatched):
            raise InvalidStateError(
                f"the initial state must have the shapes {' and '.join(map(str, expected))} for a "
                f"batch of {batch}, as the module itself takes it, not {describe(state)}"
            )
        layered = [
            block.reshape(len(self.layers), batch, -1) for block in cast(list[Tensor], blocks)
        ]
        # h and c joined for each layer, [layers, B, h + c]; then layer after layer, [B, n].
        return torch.cat(layered, dim=-1).transpose(0, 1).flatten(1)

    def unpack(self, state: Float[Tensor, "B n"], *, batched: bool) -> Any:
        """Return a flat state in the module's own convention; the inverse of `pack`."""
        layered = unflatten(state, 1, (len(self.layers), -1)).transpose(0, 1)
        blocks = [block.contiguous() for block in split(layered, self._block_sizes)]
        if not self.stacked_states:
            blocks = [block.squeeze(0) for block in blocks]
        if not batched:
            blocks = [block.squeeze(-2) for block in blocks]
        return tuple(blocks) if self.kind is LSTM else blocks[0]

    def output(self, state: Float[Tensor, "B n"]) -> Float[Tensor, "B output_size"]:
        """Return the module's output in a flat state: the top layer's h."""
        return self._layer_states(state)[-1][..., : self._block_sizes[0]]

    def requires_grad(self, inputs: Tensor | None, state: Tensor) -> bool:
        """Whether anything that the trajectory depends on requires gradients."""
        leaves = [state, *(weight for layer in self.layers for weight in layer.present())]
        return any(leaf.requires_grad for leaf in leaves) or (
            inputs is not None and inputs.requires_grad
        )

    def of_influence(self) -> "StockRecurrence":
        """Return the same map, without the graph of weights that no growth of frames depends on.

        These are the weights of layers above the selected one, and those that enter nothing but the
        slopes of a ReLU. From some backends they would get gradients of zero, with which an
        optimizer still applies weight decay and what is left of its momentum.
        """
        last = self.selected_layers[-1]
        layers: list[LayerWeights] = []
        for position, layer in enumerate(self.layers):
            cut = layer.detached()
            if self.kind is not RELU:
                layers.append(layer if position <= last else cut)
            elif position in self.selected_layers:
                # In a whole stack W_ih of an upper layer carries the tangent vectors upwards.
                coupling = layer if self.selected is None and position > 0 else cut
                layers.append(cut._replace(weight_hh=layer.weight_hh, weight_ih=coupling.weight_ih))
            else:
                layers.append(cut)
        return replace(self, layers=tuple(layers))

    def advance(
        self, inputs: Float[Tensor, "T B D"], state: Float[Tensor, "B n"], steps: int
    ) -> Float[Tensor, "T B n"]:
        """Return the flat states after each step."""
        inputs = inputs[:steps]
        states: list[Tensor] = []
        # Layer by layer rather than step by step, and not by the module's own forward, which
        # returns every step of the top layer alone: the Jacobians need all states of all layers.
        for weights, first in zip(self.layers, self._layer_states(state), strict=True):
            states.append(self.kind.run(inputs, first.contiguous(), weights))
            inputs = states[-1][..., : weights.weight_hh.shape[1]]
        return torch.cat(states, dim=-1)

    def linearised_run(
        self, inputs: Float[Tensor, "T B D"], state: Float[Tensor, "B n"], start: int, window: int
    ) -> tuple[Float[Tensor, "T_plus_1 B n"], GatedTangent | None]:
        """Return the states before the first step and after each one, and the tangent map.

        By the compiled loops, for layers without projection on the CPU. The tangent map is `None`
        for a whole stack, and for an upper layer under a window.

        Args:
            inputs: inputs of every step.
            state: state before the first one.
            start: the number of the first step.
            window: see `flossing.systems.compiled_layer.linearised_layer`.
        """
        states: list[Tensor] = []
        tangent = None
        selected = 0 if len(self.layers) == 1 else self.selected
        if selected and window > 0:
            # This layer's input is h^{l-1}_t, which depends on h^{l-1}_{t-1}. At a cut that
            # dependence ends for the layer's states, but not for its Jacobians (see
            # `_layer_inputs`). Here one tensor is the input of both, so `tangent` has to do it.
            selected = None
        layers = zip(self.layers, self._layer_states(state), strict=True)
        for number, (weights, first) in enumerate(layers):
            run = linearised_layer(self.kind, weights, inputs, first, start, window)
            states.append(run.states)
            inputs = run.states[1:, :, : weights.weight_hh.shape[1]]
            tangent = run.tangent if number == selected else tangent
        return states[0] if len(states) == 1 else torch.cat(states, dim=-1), tangent

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
        layer_inputs, layer_states = self._layer_inputs(inputs, states), self._layer_states(states)
        coefficients = [
            self.kind.coefficients(layer_inputs[layer], layer_states[layer], self.layers[layer])
            for layer in layers
        ]
        gated = tuple(
            GatedTangent(
                Gates(self.layers[layer].weight_hh, coefficient.recurrent), coefficient.diagonal
            )
            for layer, coefficient in zip(layers, coefficients, strict=True)
        )
        # One layer, or one selected layer, driven by the one below: no coupling, for the frame
        # lives in this layer's state alone and what drives it is given.
        if len(gated) == 1:
            return gated[0]
        # K^l = C_x W_ih, the derivative of layer l with respect to its input, for l = 1, 2, ….
        couplings = tuple(
            Gates(weights.weight_ih, coefficient.feedforward)
            for weights, coefficient in zip(self.layers[1:], coefficients[1:], strict=True)
        )
        return StackedTangent(gated, couplings)

    def slopes(
        self, inputs: Float[Tensor, "T B D"], states: Float[Tensor, "T B n"]
    ) -> dict[tuple[int, str], Float[Tensor, "T B N"]]:
        """Return the derivative of every squashing function, as a share of its largest value.

        By layer and gate, for the steps from the given states under the given inputs.
        """
        layer_inputs, layer_states = self._layer_inputs(inputs, states), self._layer_states(states)
        return {
            (layer, gate): slope
            for layer in self.selected_layers
            for gate, slope in self.kind.slopes(
                layer_inputs[layer], layer_states[layer], self.layers[layer]
            ).items()
        }

    def gate_weights(self) -> dict[tuple[int, str], Float[Tensor, "N N"]]:
        """Return the weights from the units of a layer to its gates, by layer and gate.

        With a projection they are W_hh W_hr, from the N units before it.
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
        # W_hh has m·N rows and a column for each entry of h: N of them, or `proj_size`. c has N.
        sizes = [weights.weight_hh.shape[1], weights.weight_hh.shape[0] // self.kind.gates]
        return sizes[: self.kind.state_blocks]

    @property
    def _layer_size(self) -> int:
        return sum(self._block_sizes)

    def _layer_states(self, states: Tensor) -> tuple[Tensor, ...]:
        return states.chunk(len(self.layers), dim=-1)

    def _layer_inputs(self, inputs: Tensor, states: Tensor) -> list[Tensor]:
        """Return the inputs of each layer, up to the last one to linearise."""
        # Layer l is driven by h^{l-1}_t = f_{l-1}(h^{l-1}_{t-1}, …), a function of the states
        # before the step. It is computed again from these, all steps in one batch, instead of
        # taken from the trajectory: there the graph may be cut ("detach", a window), whereas the
        # Jacobian of one step is always differentiated with respect to all of its own parameters.
        topmost = len(self.layers) - 1 if self.selected is None else self.selected
        driven_by = [inputs]
        below = zip(self.layers[:topmost], self._layer_states(states), strict=False)
        for weights, before in below:
            rows = driven_by[-1].flatten(0, 1).unsqueeze(0)
            after = self.kind.run(rows, before.flatten(0, 1).contiguous(), weights).squeeze(0)
            outputs = after[:, : self._block_sizes[0]]
            driven_by.append(unflatten(outputs, 0, states.shape[:2]))
        return driven_by

    def _projected_tangent(self, inputs: Tensor, states: Tensor, exponents: int) -> TangentMap:
        # dh = W_hr (…): W_hr multiplies the diagonals from the left, so that these Jacobians are
        # not A + C W with blocks of diagonals. Automatic differentiation of a step serves instead.
        if self.selected is None:
            return CellTangent.of(self.step, inputs, states, exponents)
        alone = StockRecurrence(self.kind, (self.layers[self.selected],), None, True)
        from_below = self._layer_inputs(inputs, states)[self.selected]
        return CellTangent.of(
            alone.step, from_below, self._layer_states(states)[self.selected], exponents
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
    _require_single_map(system)
    names = _suffixes(system)
    if layer is not None and not _is_index(layer, len(names)):
        raise InvalidOptionError(
            f"layer must be from 0 to {len(names) - 1} for this {type(system).__name__} of "
            f"{len(names)} layer(s), or None for the whole stack, not {layer}"
        )
    return StockRecurrence(
        kind=_kind(system),
        layers=layer_weights(system, names, dtype),
        selected=None if layer is None else index(layer),
        stacked_states=isinstance(system, nn.RNNBase),
    )


def _is_index(layer: object, layers: int) -> bool:
    return (
        hasattr(layer, "__index__")
        and not isinstance(layer, bool)
        and 0 <= cast(int, layer) < layers
    )


def is_stock(system: object) -> bool:
    """Whether a system is one of PyTorch's own recurrent modules.

    A cell that overrides `forward` is not, nor one with hooks that may change its state: it runs
    like any other callable. A layer that does is, and is refused later: it takes a whole sequence,
    so it is not one step of a map either.
    """
    if isinstance(system, nn.RNNCell | nn.GRUCell | nn.LSTMCell):
        hooked = has_forward_hooks(system) or unknown_pre_hooks(system, _suffixes(system))
        return _has_stock_forward(system) and not hooked
    return isinstance(system, nn.RNN | nn.GRU | nn.LSTM)


def _has_stock_forward(system: nn.Module) -> bool:
    # Overridden neither in a subclass nor on the instance.
    return type(system).forward in _FORWARDS and "forward" not in vars(system)


def _require_single_map(system: StockLayer | StockCell) -> None:
    name = type(system).__name__
    if not _has_stock_forward(system):
        raise UnsupportedSystemError(
            f"{name} replaces the forward of PyTorch's module, so its weights do not define its "
            "map; pass its step as a callable (x_t, state) -> state"
        )
    if not isinstance(system, nn.RNNBase):
        return
    if system.bidirectional:
        raise UnsupportedSystemError(
            f"this {name} is bidirectional: its two halves run through time in opposite "
            "directions, so there is no single forward map and no Lyapunov spectrum; pass a "
            "unidirectional module"
        )
    # A single layer has no dropout, whatever the module's option says.
    if system.dropout and system.training and system.num_layers > 1:
        raise UnsupportedSystemError(
            f"this {name} has dropout={system.dropout} between its layers and is in train mode: "
            "every step is a different random map; call .eval() on it first"
        )
    # Hooks after the forward act on a whole sequence that has been computed: the map is the same.
    if hooks := unknown_pre_hooks(system, _suffixes(system)):
        raise UnsupportedSystemError(
            f"this {name} has a forward pre-hook, {hooks[0]!r}, which may change its weights or "
            "inputs before every call, and is not run here: remove the hook; to constrain weights, "
            "use torch.nn.utils.parametrize; or pass the step as a callable (x_t, state) -> state"
        )


def _suffixes(system: StockLayer | StockCell) -> list[str]:
    """Return what the names of each layer's weights end with."""
    if isinstance(system, nn.RNNBase):
        return [f"_l{number}" for number in range(system.num_layers)]
    return [""]


def _kind(system: StockLayer | StockCell) -> Kind:
    if isinstance(system, nn.LSTM | nn.LSTMCell):
        return LSTM
    if isinstance(system, nn.GRU | nn.GRUCell):
        return GRU
    nonlinearity = cast(str, system.nonlinearity)  # pyright: ignore[reportUnknownMemberType]
    return RELU if nonlinearity == "relu" else TANH
