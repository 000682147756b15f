"""`one_direction`: half of a bidirectional layer, as a layer of its own with the inputs it sees."""

from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from flossing.errors import InvalidStateError, UnsupportedSystemError
from flossing.support.checks import require_choice, require_integer
from flossing.support.printing import described
from flossing.support.pytree import describe, flatten
from flossing.systems.stock import has_stock_forward
from flossing.systems.stock_weights import has_hooks

Inputs = Tensor | PackedSequence


class OneDirection(NamedTuple):
    """One direction of a layer, in the order of the arguments of `flossing.lyapunov_spectrum`.

    Attributes:
        system: a unidirectional layer that shares its weights with the bidirectional one.
        inputs: what drives it, in the order in which it runs through them.
        state: its initial state; `None` for zero.
    """

    system: nn.RNN | nn.GRU | nn.LSTM
    inputs: Inputs
    state: Any

    def __repr__(self) -> str:
        """Return a line for each part."""
        parts = [f"{name}: {described(part)}" for name, part in self._asdict().items()]
        return "\n  ".join([type(self).__name__, *parts])


def one_direction(
    system: nn.Module,
    inputs: Inputs,
    state: Any = None,
    *,
    direction: str,
    layer: int = 0,
) -> OneDirection:
    r"""Return one direction of a bidirectional layer, to be measured or flossed by itself.

    A bidirectional module has no single forward map: one half of each layer runs from the first
    input to the last, the other from the last to the first. But each half is a recurrent map,
    driven by the inputs, or by the outputs of both halves of the layer below. Its Lyapunov
    exponents say how far errors reach within it, in its own direction of time. A whole stack has
    none: its upper layers see the future of the lower ones.

    The layer returned has the very parameters of the module, so that flossing it changes them.

    Args:
        system: a bidirectional `nn.RNN`, `nn.GRU` or `nn.LSTM`.
        inputs: its inputs, as it takes them: a tensor or a `PackedSequence`, of which each
            sequence is reversed by itself.
        state: its initial state, as it takes it, of all layers and directions; zero if `None`.
        direction: "forward" or "reverse".
        layer: index of the layer.

    Returns:
        Layer, inputs and state, the first arguments of `flossing.lyapunov_spectrum` and of all
        analyses. Inputs of "reverse" are in reversed order: its first step is at the last input.

    Raises:
        UnsupportedSystemError: the module is not bidirectional, has weights that are computed
            from other parameters, or drops out the inputs of the layer at random.
        InvalidStateError: the state is not one of the module.
        InvalidOptionError: there is no such direction or layer.

    Example:
        >>> import torch, flossing
        >>> lstm = torch.nn.LSTM(3, 8, num_layers=2, bidirectional=True)
        >>> half = flossing.one_direction(
        ...     lstm, torch.randn(50, 4, 3), direction="reverse", layer=1
        ... )
        >>> half.system.weight_hh_l0 is lstm.weight_hh_l1_reverse, half.inputs.shape
        (True, torch.Size([50, 4, 16]))
        >>> flossing.lyapunov_spectrum(*half, k=5).exponents.shape
        torch.Size([4, 5])
    """
    system = _two_directions(system)
    require_choice("direction", direction, ("forward", "reverse"))
    require_integer("layer", layer, at_least=0, at_most=system.num_layers - 1)
    _check_state(system, state)
    if layer:
        if system.dropout and system.training:
            raise UnsupportedSystemError(
                f"this {type(system).__name__} has dropout={system.dropout} between its layers and "
                f"is in train mode, so the inputs of layer {layer} are random: call .eval() on it "
                "first"
            )
        names = {f"_l{below}{end}": f"_l{below}{end}" for below in range(layer) for end in _ENDS}
        lower = _with_shared_weights(system, system.input_size, layer, names)
        inputs = lower(inputs, _picked(state, slice(0, 2 * layer)))[0]
    size = 2 * (system.proj_size or system.hidden_size) if layer else system.input_size
    reverse = direction == "reverse"
    half = _with_shared_weights(system, size, 1, {"_l0": f"_l{layer}{_ENDS[reverse]}"})
    place = 2 * layer + reverse
    return OneDirection(
        half,
        _reversed(inputs, system.batch_first) if reverse else inputs,
        _picked(state, slice(place, place + 1)),
    )


# What the names of the weights of the two directions end with.
_ENDS = ("", "_reverse")


def _two_directions(system: nn.Module) -> nn.RNN | nn.GRU | nn.LSTM:
    name = type(system).__name__
    if not isinstance(system, nn.RNN | nn.GRU | nn.LSTM) or not has_stock_forward(system):
        raise UnsupportedSystemError(
            f"the system must be a bidirectional nn.RNN, nn.GRU or nn.LSTM, not a {name}"
        )
    if not system.bidirectional:
        raise UnsupportedSystemError(
            f"this {name} has one direction only: pass it to lyapunov_spectrum itself"
        )
    if has_hooks(system) or parametrize.is_parametrized(system):
        raise UnsupportedSystemError(
            f"the weights of this {name} are computed from other parameters (a parametrization, "
            "pruning or another hook), which its two directions cannot share: make "
            "them permanent first, with torch.nn.utils.parametrize.remove_parametrizations or "
            "torch.nn.utils.prune.remove"
        )
    return system


def _check_state(system: nn.RNNBase, state: Any) -> None:
    halves = 2 * system.num_layers
    for tensor in flatten(state)[0]:
        if tensor.dim() < 2 or len(tensor) != halves:
            raise InvalidStateError(
                f"the initial state must be that of the whole module, with {halves} halves of "
                f"layers as the first dimension, not {describe(state)}"
            )


def _picked(state: Any, part: slice) -> Any:
    tensors, rebuild = flatten(state)
    return rebuild([tensor[part] for tensor in tensors])


def _with_shared_weights(
    system: nn.RNN | nn.GRU | nn.LSTM, input_size: int, layers: int, names: dict[str, str]
) -> nn.RNN | nn.GRU | nn.LSTM:
    """Return a module with the weights of another; `names` maps what their names end with."""
    if isinstance(system, nn.LSTM):
        kind, special = nn.LSTM, {"proj_size": system.proj_size}
    elif isinstance(system, nn.GRU):
        kind, special = nn.GRU, {}
    else:
        kind, special = nn.RNN, {"nonlinearity": cast(Any, system).nonlinearity}
    # On the meta device nothing is allocated, and no random number is drawn.
    shared = kind(
        input_size,
        system.hidden_size,
        num_layers=layers,
        bias=system.bias,
        batch_first=system.batch_first,
        bidirectional=len(names) > 1,
        device="meta",
        **special,
    ).train(system.training)
    for name in [name for name, _ in shared.named_parameters()]:
        field, _, end = name.rpartition("_l")
        own = getattr(system, field + names["_l" + end])
        # A weight may be a buffer, which cannot take the place of a parameter.
        delattr(shared, name)
        setattr(shared, name, own)
    return shared


def _reversed(inputs: Inputs, batch_first: bool) -> Inputs:
    if isinstance(inputs, PackedSequence):
        padded, lengths = pad_packed_sequence(inputs)
        rows = [padded[: int(length), row] for row, length in enumerate(lengths)]
        flipped = nn.utils.rnn.pad_sequence([row.flip(0) for row in rows])
        return pack_padded_sequence(flipped, lengths, enforce_sorted=False)
    return inputs.flip(1 if batch_first and inputs.dim() == 3 else 0)
