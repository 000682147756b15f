"""Cells that keep their state inside: `stateful` makes it an argument and a result.

Spiking libraries write the membrane of a neuron into an attribute or a buffer of the module.
Nothing says which of a module's tensors are its state, so it is found by calling it: the state is
what a step changes and the next step reads.
"""

import copy
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from flossing.errors import InvalidStateError, UnsupportedSystemError
from flossing.support.pytree import describe, flatten, same_structure

# Steps in which the state is looked for, and compared with the cell's own calls.
_STEPS = 8

# What every module has; its buffers may be state.
_OF_EVERY_MODULE = vars(nn.Module()).keys() - {"_buffers"}

Slots = dict[str, tuple[dict[str, Any], str]]
Values = dict[str, Any]


def stateful(cell: Callable[..., Any]) -> "Stateful":
    r"""Make the state of a cell that keeps it inside an argument and a result.

    For neurons of spiking libraries (snnTorch's with `init_hidden=True`, SpikingJelly's nodes),
    networks of them, and own modules that store their state in attributes or buffers. Which tensors
    are the state is found by calling the cell: those that a step changes and the next one reads.
    Measuring leaves the cell as it was, its state included.

    The initial state is what `reset_mem()` or `reset()` of the cell and its parts leave, where they
    have such a method, and else what the cell holds when it is measured; `None`, an empty tensor or
    a number stand for zeros or that number. Another one is passed as `state`, a dictionary by the
    names of the attributes, like that of `final_state`.

    Args:
        cell: a module, an object with attributes, or a bound method of one; called as `cell(x_t)`,
            or as `cell()` without inputs, it takes one step. It must accept any batch size.

    Returns:
        A module `(x_t, state) -> (output, state)` with the cell's parameters: a valid `system` for
        `lyapunov_spectrum`, `floss` and the analyses.

    Raises:
        UnsupportedSystemError: the cell has no attributes; when it is measured, no state is found
            inside, or the cell remembers more than its floating point tensors.

    Example:
        >>> import torch, flossing
        >>> class Leaky(torch.nn.Module):
        ...     membrane = None
        ...     def forward(self, current):
        ...         before = torch.zeros_like(current) if self.membrane is None else self.membrane
        ...         self.membrane = 0.5 * before + current
        ...         return (self.membrane > 1).float()
        >>> cell = flossing.stateful(Leaky())
        >>> spectrum = flossing.lyapunov_spectrum(cell, torch.randn(20, 1, 2))
        >>> spectrum.exponents.exp()
        tensor([[0.5000, 0.5000]])
        >>> list(spectrum.final_state)
        ['membrane']
    """
    if not callable(cell) or not hasattr(_owner(cell), "__dict__"):
        raise UnsupportedSystemError(
            "stateful takes a module, an object or a bound method, which keep their state in "
            f"attributes, not a {type(cell).__name__}"
        )
    if isinstance(cell, Stateful):
        return cell
    return Stateful(cell)


class Stateful(nn.Module):
    """A cell whose state is an argument and a result; see `flossing.stateful`.

    Attributes:
        cell: the cell.
    """

    cell: Callable[..., Any]

    def __init__(self, cell: Callable[..., Any]) -> None:
        super().__init__()
        self.cell = cell
        owner = _owner(cell)
        # Of a bound method: the parameters are those of its module.
        if owner is not cell and isinstance(owner, nn.Module):
            self.owner = owner

    def forward(self, *arguments: Any) -> tuple[Any, Values]:
        """Return output and next state from `(x_t, state)`, or from `(state)` alone."""
        *inputs, state = arguments
        with left_as_it_was(_owner(self.cell)):
            slots = self._slots_of(state)
            for name, (container, key) in slots.items():
                leaves, rebuild = flatten(state[name])
                # Copies, for the cell may change its state in place.
                container[key] = rebuild([leaf.clone() for leaf in leaves])
            output = self.cell(*inputs)
            return output, {name: container[key] for name, (container, key) in slots.items()}

    def initial_state(self, inputs: Tensor | None) -> Values:
        """Find the state by running the cell on the first of its inputs.

        Args:
            inputs: (T, B, ...), or `None` for a cell without inputs.

        Returns:
            The state before the first step, by names.

        Raises:
            UnsupportedSystemError: no state is found, or the cell remembers more than that.
        """
        record, names = self._found(inputs)
        after = record.after[0]
        before = {name: self._of_class(name) for name in names} | record.before
        state = {name: _before(before[name], after[name]) for name in names}
        self._require_same_steps(record, 0, state)
        return state

    def require_names(self, state: Any, inputs: Tensor | None) -> None:
        """Check that a state has the names of what is found inside the cell.

        Raises:
            InvalidStateError: it has others.
            UnsupportedSystemError: no state is found, or the cell remembers more than that.
        """
        record, names = self._found(inputs)
        if not isinstance(state, Mapping) or cast(Values, state).keys() != set(names):
            found = {name: record.after[0][name] for name in names}
            raise InvalidStateError(
                f"the state of {self._name()} is a dictionary with {_described(found)}, like the "
                f"final_state of a spectrum, not {describe(state)}"
            )

    def _found(self, inputs: Tensor | None) -> tuple["_Record", list[str]]:
        """Run the cell, and return the names of what its steps change and read."""
        # In the cell's own precision, whatever is computed in.
        weights = [each.dtype for each in self.parameters() if each.is_floating_point()]
        first = None if inputs is None else inputs[:_STEPS].detach()
        first = first if first is None or not weights else first.to(weights[0])
        calls = [()] * _STEPS if first is None else [(x,) for x in first]
        with torch.no_grad():
            record = self._record(calls)
            changed = _changed(record)
            values = {name: record.after[0][name] for name in changed}
            names = [name for name in changed if self._is_read(name, calls[-1], values)]
            if not names:
                raise UnsupportedSystemError(
                    f"no state is found inside {self._name()}: a step changes "
                    f"{', '.join(changed) or 'no floating point tensor'}, and the next step reads "
                    "none of it. If it takes its state as an argument, pass it without stateful"
                )
            found = {name: values[name] for name in names}
            batch = None if inputs is None else inputs.shape[1]
            if batch is not None and any(leaf.shape[:1] != (batch,) for leaf in flatten(found)[0]):
                raise UnsupportedSystemError(
                    f"{self._name()} changes {_described(found)}, and reads it in the next step, "
                    f"but a state has the batch of {batch} as its first dimension. Statistics of a "
                    "batch or of weights are no state: call .eval()"
                )
            self._require_same_steps(record, 1, found)
        return record, names

    def _record(self, calls: Sequence[tuple[Any, ...]]) -> "_Record":
        """Run the cell as it is meant to be run, from its reset state on."""
        owner = _owner(self.cell)
        outputs: list[Any] = []
        after: list[Values] = []
        with left_as_it_was(owner):
            # Copies take the place of all tensors, for the cell may write into them.
            for container, key in _slots(owner).values():
                container[key] = _copy(container[key])
            _reset(owner)
            before = _values(owner)
            for arguments in calls:
                try:
                    outputs.append(_copy(self.cell(*arguments)))
                except Exception as error:
                    shapes = [tuple(each.shape) for each in arguments]
                    raise UnsupportedSystemError(
                        f"calling {self._name()} on inputs of the shape {shapes} failed with "
                        f"{type(error).__name__}: {error}. If it holds a state of another batch "
                        "size, reset it, or give it a method reset()"
                    ) from error
                after.append(_values(owner))
        return _Record(calls, before, outputs, after)

    def _is_read(self, name: str, arguments: tuple[Any, ...], values: Values) -> bool:
        """Whether anything that a step returns or changes depends on one of the values."""
        # Thresholds hide small changes and NaN, so values from far away are tried, too.
        expected = flatten(self(*arguments, values))[0]
        for other in (float("nan"), 1e4, -1e4):
            leaves, rebuild = flatten(values[name])
            replaced = rebuild([torch.full_like(leaf, other) for leaf in leaves])
            found = flatten(self(*arguments, {**values, name: replaced}))[0]
            if not all(map(_equal, found, expected)):
                return True
        return False

    def _require_same_steps(self, record: "_Record", start: int, state: Values) -> None:
        """Compare the steps that the cell took by itself with those from a state alone."""
        values = state
        steps = zip(record.calls, record.outputs, record.after, strict=True)
        for arguments, expected, after in list(steps)[start:]:
            output, values = self(*arguments, values)
            right = flatten((expected, {name: after[name] for name in values}))[0]
            if not all(map(_equal, flatten((output, values))[0], right)):
                others = sorted(_different(record.before, record.after[0]) - state.keys())
                raise UnsupportedSystemError(
                    f"{self._name()} remembers more than the state found inside it, "
                    f"{_described(state)}: from this state alone it does not take the steps that "
                    f"it takes by itself. A step also changes {', '.join(others) or 'nothing else'}"
                    " among its attributes. Keep the state in floating point tensors; if it starts "
                    "from other values than zeros, pass them as state={'name': tensor}"
                )

    def _slots_of(self, state: Values) -> Slots:
        owner = _owner(self.cell)
        slots, parts = _slots(owner), _parts(owner)
        for name in state.keys() - slots.keys():
            # An attribute that a step creates: of a part, or in a dictionary of a part.
            prefix, dot, key = name.rpartition(".")
            outer, inner_dot, dictionary = prefix.rpartition(".")
            if prefix + dot in parts:
                slots[name] = (_attributes(parts[prefix + dot]), key)
            else:
                slots[name] = (_attributes(parts[outer + inner_dot])[dictionary], key)
        return {name: slots[name] for name in state}

    def _of_class(self, name: str) -> Any:
        """Return what the class of a part has for an attribute, `None` if it has nothing."""
        prefix, dot, key = name.rpartition(".")
        part: object = _parts(_owner(self.cell)).get(prefix + dot)
        return getattr(type(part), key, None)

    def _name(self) -> str:
        return getattr(self.cell, "__name__", type(self.cell).__name__)


class _Record(NamedTuple):
    """Steps of a cell by itself: arguments, attributes before and after each, and outputs."""

    calls: Sequence[tuple[Any, ...]]
    before: Values
    outputs: list[Any]
    after: list[Values]


@contextmanager
def left_as_it_was(owner: Any) -> Generator[None]:
    """Put the attributes of an object and its submodules back at the end, buffers included."""
    held = [(each, copy.copy(each)) for part in _parts(owner).values() for each in _held(part)]
    try:
        yield
    finally:
        for container, before in held:
            container.clear()
            (container.update if hasattr(container, "update") else container.extend)(before)


def _held(part: Any) -> Generator[Any]:
    """Yield the containers of an object's attributes that can be changed in place."""
    own = _attributes(part)
    yield own
    pending: list[Any] = [value for name, value in own.items() if name not in _OF_EVERY_MODULE]
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list | deque):
            container = cast(Any, value)
            yield container
            pending.extend(container.values() if isinstance(value, dict) else container)


def _owner(cell: Any) -> Any:
    # Of a bound method, what it is bound to.
    return getattr(cell, "__self__", cell)


def _attributes(part: Any) -> dict[str, Any]:
    return cast(dict[str, Any], vars(part))


def _parts(owner: Any) -> dict[str, Any]:
    """Return an object and its submodules by prefixes of names."""
    modules: dict[str, Any] = {"": owner}
    if isinstance(owner, nn.Module):
        modules.update(cast(Any, owner).named_modules())
    return {f"{name}." if name else "": part for name, part in modules.items()}


def _slots(owner: Any) -> Slots:
    """Return where each attribute is kept: those of every part, buffers, and entries of dicts."""
    slots: Slots = {}
    for prefix, part in _parts(owner).items():
        for name, value in _attributes(part).items():
            if name in _OF_EVERY_MODULE:
                continue
            if not isinstance(value, dict):
                slots[prefix + name] = (_attributes(part), name)
                continue
            # As SpikingJelly's `_memories`, whose entries are read as attributes.
            entries = cast(dict[str, Any], value)
            for key in entries:
                short = prefix + key
                plain = name.startswith("_") and short not in slots
                slots[short if plain else f"{prefix}{name}.{key}"] = (entries, key)
    return slots


def _values(owner: Any) -> Values:
    return {name: _copy(container[key]) for name, (container, key) in _slots(owner).items()}


def _copy(tree: Any) -> Any:
    leaves, rebuild = flatten(tree)
    if not leaves:
        return tree
    kept = [leaf if isinstance(leaf, nn.Parameter) else leaf.detach().clone() for leaf in leaves]
    return rebuild(kept)


def _reset(owner: Any) -> None:
    parameters = list(owner.parameters()) if isinstance(owner, nn.Module) else []
    before = [(each, each._version, each.detach().clone()) for each in parameters]
    for part in _parts(owner).values():
        method = getattr(part, "reset_mem", None) or getattr(part, "reset", None)
        if callable(method):
            method()
    for parameter, version, value in before:
        if parameter._version != version:
            parameter.copy_(value)
            raise UnsupportedSystemError(
                "reset() of the cell changes parameters; it is called to get the initial state, "
                "and must reset the state only"
            )


def _different(before: Values, after: Values) -> set[str]:
    return {name for name in after if not _same(before.get(name), after[name])}


def _same(first: Any, second: Any) -> bool:
    leaves, others = flatten(first)[0], flatten(second)[0]
    if leaves or others:
        return same_structure(first, second) and all(map(_equal, leaves, others))
    return first is second or (isinstance(first, int | float | str) and first == second)


def _changed(record: _Record) -> list[str]:
    """Return the names of floating point tensors that some step changes."""
    sequence = [record.before, *record.after]
    different = set[str]().union(*(_different(*step) for step in pairwise(sequence)))
    return [name for name in record.after[0] if name in different and _floating(record, name)]


def _floating(record: _Record, name: str) -> bool:
    leaves = flatten(record.after[0][name])[0]
    return bool(leaves) and all(leaf.is_floating_point() for leaf in leaves)


def _before(before: Any, after: Any) -> Any:
    """Return the state before the first step, in the structure that it has after it."""
    leaves, rebuild = flatten(after)
    values = flatten(before)[0] if same_structure(before, after) else [before] * len(leaves)
    return rebuild([_filled(value, leaf) for value, leaf in zip(values, leaves, strict=True)])


def _filled(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor) and value.shape in (like.shape, like.shape[1:]):
        return value.expand_as(like).clone()
    # A tensor of another batch size is taken for one that the cell replaces by zeros.
    return torch.full_like(like, value if isinstance(value, int | float) else 0.0)


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    if not first.is_floating_point():
        return torch.equal(first, second)
    tolerance = torch.finfo(first.dtype).eps ** 0.5
    return torch.allclose(
        first, second.to(first.dtype), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def _described(state: Values) -> str:
    return ", ".join(f"{name} ({describe(value)})" for name, value in state.items())
