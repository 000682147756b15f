"""Random calls of the library, each examined for what the library promises.

    python tests/measurement/random_calls.py --calls 10000 --seed 0

A call is a system with random, degenerate or invalid weights, inputs and options. Whatever it is:

- it raises nothing but a `FlossingError`, and does raise one where something is invalid;
- no exponent is NaN or +inf; where one is −inf, a `LostRankWarning` says so;
- where a gradient is not finite, a warning says so;
- a second call gives the same result to the last bit;
- nothing that was passed in is changed, nor is the global random state;
- exponents and gradients are those of the reference backend in float64.

Fast and slow path round differently. How far two right results can lie apart is measured: by
changing weights, inputs and states of the reference by one unit of rounding; by computing the
reference in float32; and as the rounding of a factorisation, one unit times the ratio of the
longest direction to the one that is measured. The results may differ by a multiple of that. Where
units are saturated, the reference has no digits to compare, for it differentiates by 1 − tanh²;
neither have subnormal numbers.
"""

import argparse
import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import flossing

MULTIPLE = 100
"""Times the change by one unit of rounding that the two paths may differ."""

FLOOR = {torch.float32: 2e-4, torch.float64: 1e-10}
"""Difference of exponents, in nats per step, that is always allowed: 100 rounding tolerances."""

GRADIENT_FLOOR = {torch.float32: 2e-3, torch.float64: 1e-9}
"""The same for gradients, relative to their norm."""


# --- Systems ---


class LeakyCell(nn.Module):
    """A leaky rate network: one tensor, no output."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.recurrent = nn.Linear(size, size)
        self.feedforward = nn.Linear(features, size, bias=False)

    def forward(self, inputs, state):
        drive = self.recurrent(torch.tanh(state)) + self.feedforward(inputs)
        return 0.7 * state + 0.3 * drive


class TupleCell(nn.Module):
    """An uneven two-part state, an output, and couplings both ways."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.fast = nn.Linear(features + size + 2, size)
        self.slow = nn.Linear(size, 2)

    def forward(self, inputs, state):
        fast, slow = state
        fast = torch.tanh(self.fast(torch.cat([inputs, fast, slow], dim=-1)))
        slow = 0.8 * slow + 0.3 * torch.sin(self.slow(fast))
        return fast.sum(-1), (fast, slow)


class Autonomous(nn.Module):
    """A map without inputs: orthogonal where its weights are, chaotic where they are large."""

    def __init__(self, size: int, nonlinear: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, size))
        self.nonlinear = nonlinear

    def forward(self, state):
        image = state @ self.weight.mT
        return torch.sin(image) if self.nonlinear else image


# --- Weights ---


def _rank_one(tensor: Tensor) -> Tensor:
    return tensor[:, :1] @ tensor[:1] if tensor.dim() == 2 else tensor


def _blocks_orthogonal(tensor: Tensor) -> Tensor:
    if tensor.dim() != 2:
        return torch.zeros_like(tensor)
    blocks = tensor.split(tensor.shape[1]) if len(tensor) >= tensor.shape[1] else (tensor,)
    return torch.cat(
        [torch.linalg.qr(block.mT).Q.mT.reshape(-1, block.shape[1]) for block in blocks]
    )


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "small": lambda noise: 0.3 * noise,
    "usual": lambda noise: 0.7 * noise,
    "large": lambda noise: 3 * noise,
    "saturating": lambda noise: 300 * noise,
    "zero": torch.zeros_like,
    "tiny": lambda noise: noise * torch.finfo(noise.dtype).tiny ** 0.6,
    "subnormal": lambda noise: noise * torch.finfo(noise.dtype).tiny,
    # The square of a larger one would leave the range, in the part of the gradient of PyTorch.
    "enormous": lambda noise: noise * torch.finfo(noise.dtype).max ** 0.25,
    "rank one": _rank_one,
    "nilpotent": lambda noise: noise.tril(-1) if noise.dim() == 2 else noise,
    "repeated": lambda noise: noise[:1].expand_as(noise),
    "orthogonal": _blocks_orthogonal,
    "not a number": lambda noise: noise.where(noise < noise.max(), torch.nan),
    "infinite": lambda noise: noise.where(noise < noise.max(), torch.inf),
}

INVALID_WEIGHTS = {"not a number", "infinite"}

INVALID_OPTIONS: list[dict[str, Any]] = [
    {"k": 0},
    {"k": -1},
    {"k": 1000},
    {"k": 1.5},
    {"k": "all"},
    {"k": True},
    {"frame_transient": -1},
    {"frame_transient": 1000},
    {"reorthonormalize": 0},
    {"reorthonormalize": "often"},
    {"rounding_tolerance": 0.0},
    {"rounding_tolerance": float("nan")},
    {"checkpoint_interval": 0},
    {"checkpoint_interval": 2.5},
    {"dt": 0.0},
    {"dt": float("inf")},
    {"dt": "second"},
    {"backend": "fastest"},
    {"backend": None},
    {"frame": torch.zeros(1, 2, 2)},
    {"generator": 0},
]


# --- Calls ---


@dataclass
class Call:
    """What is passed to `lyapunov_spectrum` or `log_growth_rates`, and what is known of it."""

    kind: str
    weights: str
    dtype: torch.dtype
    system: nn.Module | None
    inputs: Tensor | None
    state: Any
    options: dict[str, Any]
    gradient: bool
    invalid: bool
    indefinite: bool

    def tensors(self) -> list[Tensor]:
        """All leaves: parameters, inputs, state."""
        parameters = [] if self.system is None else list(self.system.parameters())
        state = self.state if isinstance(self.state, tuple) else (self.state,)
        return parameters + [each for each in (self.inputs, *state) if each is not None]

    def __call__(self, **options: Any) -> flossing.LyapunovSpectrum:
        options = {**self.options, **options}
        if self.system is None:
            assert self.inputs is not None
            return flossing.log_growth_rates(self.inputs, **options)
        return flossing.lyapunov_spectrum(self.system, self.inputs, self.state, **options)

    def in_precision(self, dtype: torch.dtype, perturbed: float = 0.0, seed: int = 0) -> "Call":
        """The same call in a precision, its numbers changed by a relative amount."""
        twin = copy.deepcopy(self)
        random = torch.Generator().manual_seed(seed)

        def changed(tensor: Tensor) -> Tensor:
            noise = torch.randn(tensor.shape, dtype=torch.float64, generator=random)
            changed = tensor.detach().double() * (1 + perturbed * noise)
            return changed.to(dtype).requires_grad_(tensor.requires_grad)

        if twin.system is not None:
            twin.system.to(dtype)
            for own, parameter in zip(
                self.system.parameters(), twin.system.parameters(), strict=True
            ):
                parameter.data = changed(own).data
        twin.inputs = None if self.inputs is None else changed(self.inputs)
        if isinstance(self.state, tuple):
            twin.state = tuple(changed(each) for each in self.state)
        elif self.state is not None:
            twin.state = changed(self.state)
        return twin


class Draw:
    """Random choices from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def of(self, *choices: Any) -> Any:
        return choices[self.integer(0, len(choices) - 1)]

    def happens(self, probability: float) -> bool:
        return bool(torch.rand((), generator=self.generator) < probability)

    def noise(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator).to(dtype)


def drawn(seed: int) -> Call:
    """The call of a seed."""
    draw = Draw(seed)
    dtype = draw.of(torch.float32, torch.float64)
    kind = draw.of(
        "RNN", "RNN", "GRU", "LSTM", "LSTM with projections", "stack", "RNNCell", "GRUCell",
        "LSTMCell", "leaky cell", "tuple cell", "map", "Jacobians",
    )  # fmt: skip
    weights = draw.of(*[each for each in WEIGHTS for _ in range(6 if each == "usual" else 1)])
    size, features = draw.of(2, 3, 4, 5, 9), draw.integer(1, 3)
    steps, batch = draw.integer(4, 14), draw.integer(1, 3)
    scale = draw.of(1.0, 1.0, 1.0, 0.0, 90.0)
    inputs = scale * draw.noise(steps, batch, features, dtype=dtype)
    options: dict[str, Any] = {
        "frame_transient": draw.of(None, 0, 1, 2),
        "reorthonormalize": draw.of("auto", "auto", "auto", 1, 2, 5),
        "dt": draw.of(1.0, 1.0, 0.1),
        "backend": draw.of("compiled", "compiled", "torch", "reference"),
    }
    if draw.happens(0.1):
        options["checkpoint_interval"] = draw.integer(1, steps)
    system, state, dimension = _system(draw, kind, size, features, batch, dtype, options)
    if kind == "Jacobians":
        inputs = torch.stack(
            [
                torch.stack(
                    [WEIGHTS[weights](draw.noise(size, size, dtype=dtype)) for _ in range(batch)]
                )
                for _ in range(steps)
            ]
        )
    elif kind == "map":
        options["steps"], inputs = steps, None
    if system is not None:
        for parameter in system.parameters():
            parameter.data = WEIGHTS[weights](draw.noise(*parameter.shape, dtype=dtype)).clone()
        options["state_transient"] = draw.of(0, 0, 1)
        options["state_gradient"] = draw.of("full", "full", "detach", 2)
    options["k"] = draw.of(None, 1, draw.integer(1, dimension))
    invalid = weights in INVALID_WEIGHTS
    if draw.happens(0.08):
        options |= draw.of(*INVALID_OPTIONS)
        invalid = True
    gradient = draw.happens(0.5)
    indefinite = weights in ("saturating", "subnormal") or (kind != "Jacobians" and scale > 1)
    call = Call(kind, weights, dtype, system, inputs, state, options, gradient, invalid, indefinite)
    for leaf in call.tensors():
        leaf.requires_grad_(gradient)
    return call


def _system(draw: Draw, kind: str, size: int, features: int, batch: int, dtype, options):
    """The module, its first state, and the number of its state variables."""
    state: Any = draw.noise(batch, size, dtype=dtype)
    if kind == "Jacobians":
        return None, None, size
    if kind == "map":
        return Autonomous(size, nonlinear=draw.of(True, False)), state, size
    if kind == "leaky cell":
        return LeakyCell(features, size), state, size
    if kind == "tuple cell":
        return TupleCell(features, size), (state, draw.noise(batch, 2, dtype=dtype)), size + 2
    if kind.endswith("Cell"):
        module = getattr(nn, kind)(features, size, bias=draw.of(True, False))
        if kind == "LSTMCell":
            return module, (state, draw.noise(batch, size, dtype=dtype)), 2 * size
        return module, state, size
    extra = {"nonlinearity": draw.of("tanh", "relu")} if kind == "RNN" else {}
    if kind == "LSTM with projections":
        return nn.LSTM(features, size, proj_size=size - 1).to(dtype), None, 2 * size - 1
    name = draw.of("RNN", "GRU", "LSTM") if kind == "stack" else kind
    layers = draw.integer(2, 3) if kind == "stack" else 1
    module = getattr(nn, name)(features, size, layers, bias=draw.of(True, False), **extra)
    width = 2 * size if name == "LSTM" else size
    if layers > 1:
        options["layer"] = draw.of(None, *range(layers))
    # The zero state of a stock layer is where its exponents are most degenerate.
    return module, None, width * (layers if options.get("layer") is None else 1)


# --- What is examined ---


@dataclass
class Finding:
    """How a call ended, and everything that is wrong with it."""

    outcome: str
    faults: list[str]
    warned: set[str] = field(default_factory=set)
    compared: str = "not compared"


def examined(seed: int) -> Finding:
    """Make the call of a seed and say what is wrong with it."""
    call = drawn(seed)
    before = [leaf.detach().clone() for leaf in call.tensors()]
    random_state = torch.get_rng_state()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            spectrum, gradients = _measured(call)
        except flossing.FlossingError as error:
            return Finding(type(error).__name__, _changes(call, before, random_state))
        except Exception as error:
            return Finding("crash", [f"{type(error).__name__}: {str(error)[:200]}"])
    warned = {warning.category.__name__ for warning in caught}
    faults = _changes(call, before, random_state)
    if call.invalid:
        return Finding("accepted", [*faults, "something invalid was accepted"], warned)
    faults += _unannounced(spectrum, gradients, warned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again, gradients_again = _measured(call)
        if not all(
            torch.equal(one.nan_to_num(), other.nan_to_num())
            for one, other in zip(
                [spectrum.exponents, *gradients], [again.exponents, *gradients_again], strict=True
            )
        ):
            faults.append("a second call gives another result")
        if "LostRankWarning" in warned and call.options.get("frame_transient") != 0:
            # A direction that vanishes in the transient goes on as an arbitrary other one.
            disagreement, compared = [], "rank lost"
        else:
            disagreement, compared = _disagreement(call, spectrum, gradients, warned)
    return Finding("result", faults + disagreement, warned, compared)


def _measured(call: Call) -> tuple[flossing.LyapunovSpectrum, list[Tensor]]:
    with torch.set_grad_enabled(call.gradient):
        spectrum = call()
    exponents = spectrum.exponents
    if not exponents.requires_grad:
        return spectrum, []
    finite = exponents[exponents.isfinite()]
    return spectrum, _zero_for_none(finite.square().sum(), call.tensors())


def _zero_for_none(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]


def _changes(call: Call, before: list[Tensor], random_state: Tensor) -> list[str]:
    faults = []
    for old, new in zip(before, call.tensors(), strict=True):
        if not torch.equal(old.nan_to_num(), new.detach().nan_to_num()):
            faults.append("a tensor was changed")
        if new.grad is not None:
            faults.append(".grad was set")
    if not torch.equal(random_state, torch.get_rng_state()):
        faults.append("the global random state was changed")
    return faults


def _unannounced(spectrum, gradients: list[Tensor], warned: set[str]) -> list[str]:
    faults = []
    exponents = spectrum.exponents
    if bool(exponents.isnan().any() | exponents.isposinf().any()):
        faults.append("an exponent is NaN or +inf")
    if bool(exponents.isneginf().any()) and "LostRankWarning" not in warned:
        faults.append("an exponent is -inf without a warning")
    if not warned and not all(bool(each.isfinite().all()) for each in gradients):
        faults.append("a gradient is not finite without a warning")
    return faults


def _disagreement(
    call: Call, spectrum, gradients: list[Tensor], warned: set[str]
) -> tuple[list[str], str]:
    """Compare with the reference in float64, and with what rounding does to the reference."""
    if call.indefinite:
        return [], "without digits"
    try:
        right = _reference(call.in_precision(torch.float64))
    except flossing.FlossingError:
        return [], "no reference"
    unit = torch.finfo(call.dtype).eps
    spread = torch.zeros_like(right.exponents)
    gradient_spread = 0.0
    for dtype, perturbed, seed in (
        (torch.float64, unit, 1),
        (torch.float64, unit, 2),
        (torch.float32, 0, 0),
    ):
        try:
            other = _reference(call.in_precision(dtype, perturbed, seed))
        except flossing.FlossingError:
            continue
        share = 1.0 if perturbed else unit / torch.finfo(dtype).eps
        # The largest of a trajectory: a single exponent can agree by chance.
        difference = (other.exponents - right.exponents).abs().nan_to_num(0.0, posinf=math.inf)
        spread = torch.maximum(spread, share * difference.cummax(dim=-1).values)
        gradient_spread = max(
            gradient_spread, share * float((other.gradient - right.gradient).norm())
        )
    rounding = unit * right.condition
    found = spectrum.exponents.detach().double()
    finite = found.isfinite() & right.exponents.isfinite()
    if call.options["reorthonormalize"] not in ("auto", 1):
        # A fixed interval may lose half of the digits.
        rounding = rounding + unit**0.5
    allowed = FLOOR[call.dtype] / call.options["dt"] + MULTIPLE * (spread + rounding)
    excess = ((found - right.exponents).abs() / allowed)[finite & allowed.isfinite()]
    faults = []
    if bool((excess > 1).any()):
        faults.append(f"exponents differ by {excess.max():.1e} times what is allowed")
    gradient = _flat(gradients)
    # Gradients that are left out with a warning are none to compare with.
    same_rank = "LostGradientWarning" not in warned and torch.equal(
        found.isfinite(), right.exponents.isfinite()
    )
    if not len(gradient) or not same_rank or not bool(right.gradient.isfinite().all()):
        return faults, "exponents"
    worst = float(rounding[finite].max()) if bool(finite.any()) else 0.0
    scale = float(right.gradient.norm())
    allowed = (GRADIENT_FLOOR[call.dtype] + MULTIPLE * worst) * scale + MULTIPLE * gradient_spread
    difference = float((gradient - right.gradient).norm())
    if difference > allowed:
        faults.append(f"gradients differ by {difference / allowed:.1e} times what is allowed")
    return faults, "exponents and gradients"


class Reference(NamedTuple):
    """What the reference backend finds."""

    exponents: Tensor
    gradient: Tensor
    condition: Tensor
    """(B, k), the largest ratio of the growth of any direction within a step to that of each."""


def _reference(call: Call) -> Reference:
    call.options |= {"backend": "reference", "reorthonormalize": 1, "checkpoint_interval": None}
    spectrum, gradients = _measured(call)
    growth = spectrum.local.detach().double() * spectrum.dt
    ratio = (growth.amax(dim=-1, keepdim=True) - growth).nan_to_num(0.0, posinf=math.inf).exp()
    return Reference(spectrum.exponents.detach().double(), _flat(gradients), ratio.amax(dim=0))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0), *(each.flatten() for each in tensors)]).double()


def main() -> None:
    """Make many calls and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for dtype in FLOOR:
        flossing.compile_ahead(dtype=dtype)
    outcomes, warned, compared, faults = Counter(), Counter(), Counter(), []
    for seed in range(arguments.seed, arguments.seed + arguments.calls):
        finding = examined(seed)
        outcomes[finding.outcome] += 1
        warned.update(finding.warned)
        compared[finding.compared] += 1
        for fault in finding.faults:
            call = drawn(seed)
            faults.append(fault)
            print(
                f"seed {seed}: {fault} ({call.kind}, {call.weights}, {call.dtype}, {call.options})"
            )
    for title, counts in (
        ("ended", outcomes),
        ("warned", warned),
        ("with the reference", compared),
    ):
        print(title + ":", ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    print(f"{arguments.calls} calls, {len(faults)} faults")


if __name__ == "__main__":
    main()
