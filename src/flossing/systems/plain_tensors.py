"""Kinds of tensors with which nothing can be measured, each with what to do instead."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from flossing.errors import InvalidInputError, InvalidStateError, UnsupportedSystemError
from flossing.support.pytree import constants, flatten


def require_plain_tensors(system: Any, inputs: Any, state: Any) -> None:
    """Require dense tensors with values on one machine, and real inputs and states.

    Raises:
        UnsupportedSystemError: parameters or buffers are others.
        InvalidInputError: the inputs are others, or anything is on the meta device.
        InvalidStateError: the state is another, or contains arrays.
    """
    data = inputs.data if isinstance(inputs, PackedSequence) else inputs
    arrays = [each for each in constants(state) if hasattr(each, "__array__")]
    if arrays:
        raise InvalidStateError(
            f"the state contains a {type(arrays[0]).__name__} of NumPy: convert it with "
            "torch.from_numpy(...) or torch.tensor(...), in the precision of the system"
        )
    for error, name, tensor in _all_tensors(system, data, state):
        classes = {kind.__name__ for kind in type(tensor).__mro__}
        if "DTensor" in classes:
            raise error(
                f"the {name} are distributed (DTensor): every step needs whole tensors; pass "
                "tensor.full_tensor() in their place, or a copy of the module with those"
            )
        if tensor.is_meta or "FakeTensor" in classes:
            raise InvalidInputError(
                f"the {name} are on the meta device or fake, without values: make a module there "
                "real with .to_empty(device=...) and load its weights, and pass inputs and a "
                "state with values"
            )
        if name != "parameters" and (tensor.is_nested or tensor.layout is not torch.strided):
            layout = "nested" if tensor.is_nested else tensor.layout
            raise error(
                f"the {name} must be dense, not {layout}: pass {name}.to_dense(), or "
                "torch.nn.utils.rnn.pack_sequence(...) of inputs of unequal lengths"
            )
        if name != "parameters" and tensor.is_complex():
            raise error(
                f"the {name} must be real, not {tensor.dtype}: pass torch.view_as_real({name})"
                ".flatten(-2), real and imaginary parts side by side; a step makes a complex "
                "tensor of it by torch.view_as_complex(tensor.unflatten(-1, (-1, 2))), and returns "
                "a real one"
            )


def _all_tensors(
    system: Any, data: Any, state: Any
) -> Iterator[tuple[type[ValueError], str, Tensor]]:
    if isinstance(data, Tensor):
        yield InvalidInputError, "inputs", data
    for leaf in flatten(state)[0]:
        yield InvalidStateError, "state", leaf
    if isinstance(system, nn.Module):
        for tensor in (*system.parameters(), *system.buffers()):
            yield UnsupportedSystemError, "parameters", tensor
