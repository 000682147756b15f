"""Layers of Keras as those of PyTorch, which compute the same."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flossing.errors import InvalidInputError, InvalidOptionError
from flossing.support.checks import require_choice

# Blocks of Keras's columns in the order of PyTorch's rows, by their number. An LSTM has the same
# order, input, forget, cell, output; a GRU is update, reset, new in Keras, and reset, update, new.
_ORDERS = {1: (0,), 3: (1, 0, 2), 4: (0, 1, 2, 3)}
_KINDS = {1: nn.RNN, 3: nn.GRU, 4: nn.LSTM}


def keras_layer(
    weights: Sequence[Any],
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    reset_after: bool | None = None,
) -> nn.RNN | nn.GRU | nn.LSTM:
    """Build the layer of PyTorch that computes what a layer of Keras does.

    Keras stores transposed weights, (D, gN) and (N, gN) for g gates, in the order i, f, c, o for an
    `LSTM` (as PyTorch) and z, r, h for a `GRU` (PyTorch: r, z, n). The activations are not among
    the weights: they must be Keras's defaults, tanh and sigmoid. (Before version 2.3 the default
    `recurrent_activation` was `hard_sigmoid`, which PyTorch's layers do not have.)

    Args:
        weights: `layer.get_weights()` of a `SimpleRNN`, `GRU` or `LSTM`: kernel (D, gN), recurrent
            kernel (N, gN) and, unless `use_bias=False`, bias, (gN,), or (2, 3N) for a `GRU` with
            `reset_after=True`.
        nonlinearity: "tanh" or "relu", the activation of a `SimpleRNN`.
        reset_after: of a `GRU` without bias, whether it was built with `reset_after=True`, Keras's
            default and what PyTorch computes; with a bias its shape tells.

    Returns:
        The layer, with `batch_first=True` as in Keras; float64 if all weights are, else float32.

    Raises:
        InvalidInputError: the shapes are those of no layer of Keras, or weights are not finite.
        InvalidOptionError: it is a `GRU` with `reset_after=False`, which PyTorch does not have, or
            that is not known.

    Example:
        >>> import numpy as np
        >>> layer = keras_layer([np.zeros((3, 32)), np.zeros((8, 32)), np.zeros(32)])
        >>> layer
        LSTM(3, 8, batch_first=True)
    """
    require_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    arrays = [np.asarray(weight) for weight in weights]
    shapes = [array.shape for array in arrays]
    if len(arrays) not in (2, 3) or len(shapes[0]) != 2 or len(shapes[1]) != 2:
        raise InvalidInputError(f"{_EXPECTED}, not arrays of the shapes {shapes}")
    (features, columns), (size, recurrent_columns) = shapes[:2]
    gates = columns // size if size and columns % size == 0 else 0
    biases = ((columns,), (2, columns)) if gates == 3 else ((columns,),)
    if (
        gates not in _KINDS
        or columns != recurrent_columns
        or not features
        or (len(arrays) == 3 and shapes[2] not in biases)
    ):
        raise InvalidInputError(f"{_EXPECTED}, not arrays of the shapes {shapes}")
    _require_reset_after(gates, shapes[2:], reset_after)
    if not all(
        array.dtype.kind in "fV" and np.isfinite(array.astype(np.float64)).all() for array in arrays
    ):
        raise InvalidInputError("the weights of a layer of Keras must be finite, real numbers")
    options: dict[str, Any] = {"nonlinearity": nonlinearity} if gates == 1 else {}
    double = all(array.dtype == np.float64 for array in arrays)
    dtype = torch.float64 if double else torch.float32
    # Without values first, so that the global random state is left alone.
    empty = _KINDS[gates](
        features,
        size,
        batch_first=True,
        bias=len(arrays) == 3,
        dtype=dtype,
        device="meta",
        **options,
    )
    layer = empty.to_empty(device="cpu")
    kernel, recurrent, *bias = (_ordered(array, gates, dtype) for array in arrays)
    values = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T}
    if bias:
        both = bias[0] if bias[0].dim() == 2 else torch.stack((bias[0], torch.zeros_like(bias[0])))
        values |= {"bias_ih_l0": both[0], "bias_hh_l0": both[1]}
    layer.load_state_dict(values)
    return layer


_EXPECTED = (
    "expected the weights of one SimpleRNN, GRU or LSTM of Keras, layer.get_weights(): kernel "
    "(D, gN), recurrent kernel (N, gN), and bias (gN,) or (2, 3N), with g = 1, 3 or 4"
)


def _require_reset_after(
    gates: int, bias: Sequence[tuple[int, ...]], reset_after: bool | None
) -> None:
    if gates != 3:
        return
    told = len(bias[0]) == 2 if bias else reset_after
    if told is None:
        raise InvalidOptionError(
            "a GRU of Keras without bias does not tell its reset_after: pass reset_after=True if "
            "it was built so, as is the default"
        )
    if not told or reset_after is False:
        raise InvalidOptionError(
            "the GRU has reset_after=False: its reset gate acts before the recurrent weights, "
            "which nn.GRU does not compute; write it as a function (x_t, state) -> state"
        )


def _ordered(array: Any, gates: int, dtype: torch.dtype) -> Tensor:
    """Return the blocks of the last axis in the order of PyTorch."""
    tensor = torch.as_tensor(array.astype(np.float64)).to(dtype)
    blocks = tensor.chunk(gates, dim=-1)
    return torch.cat([blocks[number] for number in _ORDERS[gates]], dim=-1)
