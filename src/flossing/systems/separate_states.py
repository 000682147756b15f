"""States as several arguments: `(x_t, s1, s2) -> (output, s1, s2)`, as the neurons of snnTorch.

Everything behind `flossing.systems.custom` has one state; here are the other conventions in which
a step takes and returns it, and the modules of snnTorch that take a whole sequence at once.
"""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from flossing.errors import InvalidInputError, InvalidStateError, UnsupportedSystemError
from flossing.support.pytree import describe, flatten, same_structure
from flossing.systems.stateful import Stateful, left_as_it_was

# Names of first and second arguments that tell of a step (state, x_t).
_STATES = {"state", "states", "h", "hx", "hidden", "hidden_state", "carry", "mem", "membrane"}
_INPUTS = {"x", "x_t", "xt", "input", "inputs", "input_", "stimulus"}


def is_neuron(system: Any) -> bool:
    """Whether a system is one of snnTorch's neurons, which take their states one by one."""
    return _from_snntorch(system) and bool(_state_names(system))


def recurrent_part(system: Any) -> Any:
    """Return the part of a module of snnTorch that has a state, and any other system itself.

    Raises:
        UnsupportedSystemError: it computes a whole sequence by a convolution, without a state.
    """
    if not _from_snntorch(system) or is_neuron(system):
        return system
    # The state of LeakyParallel is that of the layer of ReLU units inside it.
    if isinstance(inside := getattr(system, "rnn", None), nn.RNNBase):
        return inside
    raise UnsupportedSystemError(
        f"{type(system).__name__} has no step that takes a state: of one that computes whole "
        "sequences at once, write the recursion that it unrolls, e.g. lambda x, mem: "
        "torch.exp(-1 / neuron.tau) * mem + x for a StateLeaky, with "
        "state=torch.zeros(batch, channels)"
    )


def given_state(system: Any, state: Any) -> Any:
    """Return the caller's state, `None` where a neuron shall start from rest.

    Before its first step a neuron holds tensors without elements; its `reset_mem()` returns them.
    """
    leaves, _ = flatten(state)
    return None if is_neuron(system) and not any(leaf.numel() for leaf in leaves) else state


def batched_state(system: Any, inputs: Tensor | None, state: Any, *, batched: bool) -> Any:
    """Return the state of a neuron or stateful cell with a batch dimension, found if it is `None`.

    Raises:
        InvalidInputError: a neuron has no inputs.
        InvalidStateError: a neuron has several states, and another number of them is given.
        UnsupportedSystemError: no state is found inside the cell, or it forgets its state.
    """
    if isinstance(system, Stateful) and state is None:
        return system.initial_state(inputs)
    if state is not None and inputs is not None and not batched:
        leaves, rebuild = flatten(state)
        state = rebuild([leaf.unsqueeze(0) for leaf in leaves])
    if isinstance(system, Stateful):
        system.require_names(state, inputs)
        return state
    if inputs is None:
        raise InvalidInputError(
            f"a {type(system).__name__} takes an input: pass inputs=..., zeros to run it without "
            "any"
        )
    return _neuron_state(system, inputs[0].detach(), state)


def takes_separate_states(system: Any, state: Any, *, driven: bool) -> bool:
    """Whether the tensors of a state are arguments of their own.

    Of a neuron with more than one, and of any system that can take them in no other way.

    Raises:
        UnsupportedSystemError: the names of its arguments say that the state comes before x_t.
    """
    if is_neuron(system):
        return len(_state_names(system)) > 1
    names = _positional(system)
    if names is None:
        return False
    if driven and len(names) == 2 and names[0] in _STATES and names[1] in _INPUTS:
        raise UnsupportedSystemError(
            f"the arguments of the system are ({names[0]}, {names[1]}), but it is called with x_t "
            "first: pass lambda x, state: system(state, x)"
        )
    states = _count(state) or 1
    return states > 1 and len(names) == driven + states


def after_output(result: Any, state: Any, *, neuron: bool) -> Any:
    """Return the states that follow an output, (out, s1, s2), and any other result itself.

    Raises:
        UnsupportedSystemError: the result may as well be (s1, s2, out).
    """
    if not isinstance(result, tuple | list):
        return result
    results = tuple(cast(list[Any], result))
    states = _count(state)
    if neuron:
        return results[-1] if states is None else results[-states:]
    if not states or len(results) != states + 1 or not same_structure(results[1:], state):
        return cast(object, result)
    if same_structure(results[:-1], state):
        raise UnsupportedSystemError(
            f"the system returns {len(results)} tensors of equal shapes for a state of {states}: "
            "which are the next state is not known. Return (output, (s1, s2)), e.g. by\n"
            "def step(x, state):\n    out, *state = cell(x, *state)\n    return out, tuple(state)"
        )
    return results[1:]


def has_neurons(system: nn.Module) -> bool:
    """Whether a module is or contains a neuron, which stores what it is given and returns."""
    return any(map(_from_snntorch, system.modules()))


@contextmanager
def explicit_states(system: nn.Module) -> Generator[None]:
    """Let a neuron take its states as arguments, and leave it, and those inside, as they were."""
    with left_as_it_was(system):
        if is_neuron(system):
            vars(system)["init_hidden"] = False
        yield


def _from_snntorch(system: Any) -> bool:
    # Where its `forward` was written: a subclass with one of its own takes states as it likes.
    forward: Any = getattr(cast(Any, type(system)), "forward", None)
    # Generated code may be of no module.
    return str(getattr(forward, "__module__", None)).partition(".")[0] == "snntorch"


def _count(state: Any) -> int | None:
    """Return the number of parts of a state, `None` if it is not a sequence of them."""
    return len(cast(list[Any], state)) if isinstance(state, tuple | list) else None


def _state_names(neuron: Any) -> list[str]:
    return list(inspect.signature(neuron.forward).parameters)[1:]


def _positional(system: Callable[..., Any]) -> list[str] | None:
    """Return the names of a system's arguments if it takes no others than positional ones."""
    function = system.forward if isinstance(system, nn.Module) else system
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(
        each.kind not in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters
    ):
        return None
    required = [each.name for each in parameters if each.default is each.empty]
    return required if len(required) == len(parameters) else None


def _neuron_state(neuron: Any, inputs: Tensor, state: Any) -> Any:
    names = _state_names(neuron)
    leaves, rebuild = flatten(_states_at_rest(neuron, inputs))
    if state is None:
        return rebuild([leaf.to(inputs.dtype) for leaf in leaves])
    if len(names) > 1 and _count(state) != len(names):
        raise InvalidStateError(
            f"{type(neuron).__name__} has the states ({', '.join(names)}): pass state=None to "
            f"start from rest, or a tuple of {len(names)} tensors, not {describe(state)}"
        )
    return state


def _states_at_rest(neuron: Any, inputs: Tensor) -> Any:
    """Return zeros in the shapes of the states, which a step tells.

    Raises:
        UnsupportedSystemError: the step is the same from other states.
    """
    count = len(_state_names(neuron))
    # In the default precision, in which snnTorch makes zeros: the values do not matter.
    tensors = {**dict(neuron.named_parameters()), **dict(neuron.named_buffers())}
    rows, weights = _in_default_precision({"": inputs, **tensors})

    def states(*given: Any) -> Any:
        return torch.func.functional_call(neuron, weights, (rows, *given))[-count:]

    with torch.no_grad(), left_as_it_was(neuron):
        neuron.reset_mem()
        # It keeps its states inside, and returns them nevertheless. An early reset asks for spikes.
        for name in ("init_hidden", "output", "reset_delay"):
            vars(neuron)[name] = True
        leaves, rebuild = flatten(states())
        vars(neuron)["init_hidden"] = False
        rest, other = (
            rebuild([torch.full_like(leaf, value) for leaf in leaves]) for value in (0.0, 0.1)
        )
        after_rest, after_other = states(*rest), states(*other)
    if all(map(torch.equal, flatten(after_rest)[0], flatten(after_other)[0])):
        raise UnsupportedSystemError(
            f"this {type(neuron).__name__} forgets its state at every step, so it has no exponents "
            "(snnTorch's SLSTM does unless input_size equals hidden_size: it compares the shape "
            "of the state with that of the input)"
        )
    return rest if count > 1 else rest[0]


def _in_default_precision(tensors: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    dtype = torch.get_default_dtype()
    converted = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    return converted.pop(""), converted
