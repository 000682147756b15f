"""Methods that compute the mean squared exponents and their gradient, compared by speed.py."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import flossing
from flossing.measurement.growth import Growth

Method = Callable[[], Any]


class Size(NamedTuple):
    """Hidden units, exponents, steps, trajectories."""

    N: int
    k: int
    T: int
    B: int


class Problem(NamedTuple):
    """A network with inputs; its recurrent weights are Gaussian with gain 1."""

    module: nn.RNN | nn.GRU | nn.LSTM
    inputs: Tensor
    size: Size

    @classmethod
    def of(cls, kind: str, size: Size) -> "Problem":
        """Return a network of a kind, "RNN", "GRU" or "LSTM"."""
        torch.manual_seed(0)
        module = getattr(nn, kind)(1, size.N)
        nn.init.normal_(module.weight_hh_l0, std=size.N**-0.5)
        return cls(module, torch.randn(size.T, size.B, 1), size)


def loss(problem: Problem, **options: Any) -> Tensor:
    """Return the mean squared exponents."""
    return flossing.flossing_loss(
        problem.module, problem.inputs, k=problem.size.k, frame_transient=0, **options
    )


def library(problem: Problem, **options: Any) -> Method:
    """Return value and gradient by the library, with its defaults or with options."""

    def run() -> None:
        problem.module.zero_grad()
        loss(problem, **options).backward()

    return run


def autograd_growth(tangent: Any, frame: Tensor, stops: tuple[int, ...], pace: Any) -> Growth:
    """Scan with the library's own products, unrolled, and a graph through `torch.linalg.qr`."""
    growth = []
    for step in range(stops[-1]):
        frame, triangular = torch.linalg.qr(tangent.push(step, frame))
        growth.append(triangular.diagonal(dim1=-2, dim2=-1).abs().log())
    ends = list(range(1, stops[-1] + 1))
    return Growth(torch.stack(growth), ends, frame, [frame.detach()] * len(stops), pace)


def floor(problem: Problem) -> Method:
    """Return the matrix products alone: W V, Wᵀ G and the gradient of W, for the same shapes."""
    weight = problem.module.weight_hh_l0.detach()
    outputs, units = weight.shape
    columns = problem.size.k * problem.size.B
    vectors, covectors = torch.randn(units, columns), torch.randn(outputs, columns)
    pushed, pulled = torch.empty(outputs, columns), torch.empty(units, columns)
    together = max(1, min(problem.size.T, 4096 // columns))
    left, right = torch.randn(outputs, together * columns), torch.randn(together * columns, units)
    gradient = torch.zeros(outputs, units)

    def run() -> None:
        for step in range(problem.size.T):
            torch.mm(weight, vectors, out=pushed)
            torch.mm(weight.T, covectors, out=pulled)
            if step % together == 0:
                torch.addmm(gradient, left, right, out=gradient)

    return run


def jax_method(kind: str, problem: Problem) -> Method | None:
    """Return the same in JAX, jitted: `lax.scan` over steps with `jnp.linalg.qr`, and `jax.grad`.

    `None` where JAX is not installed.
    """
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    cell = {"RNN": _jax_rnn, "GRU": _jax_gru, "LSTM": _jax_lstm}[kind](jnp, jax)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [jnp.asarray(getattr(problem.module, name).detach().numpy()) for name in names]
    inputs = jnp.asarray(problem.inputs.numpy())
    states = (2 if kind == "LSTM" else 1) * problem.size.N
    noise = jax.random.normal(jax.random.PRNGKey(0), (problem.size.B, states, problem.size.k))
    first_frame = jnp.linalg.qr(noise)[0]

    def objective(weights: Any, inputs: Any, frame: Any) -> Any:
        def one(state: Any, frame: Any, x: Any) -> Any:
            image, push = jax.linearize(lambda h: cell(weights, x, h), state)
            frame, triangular = jnp.linalg.qr(jax.vmap(push, in_axes=1, out_axes=1)(frame))
            return image, frame, jnp.log(jnp.abs(jnp.diagonal(triangular)))

        def step(carry: Any, x: Any) -> Any:
            state, frame, growth = jax.vmap(one)(*carry, x)
            return (state, frame), growth

        state = jnp.zeros((inputs.shape[1], states))
        _, growth = jax.lax.scan(step, (state, frame), inputs)
        return (growth.mean(0) ** 2).mean()

    compiled = jax.jit(jax.value_and_grad(objective))
    return lambda: jax.block_until_ready(compiled(weights, inputs, first_frame))


def _jax_rnn(jnp: Any, _: Any) -> Callable[..., Any]:
    def cell(weights: Any, x: Any, h: Any) -> Any:
        w_ih, w_hh, b_ih, b_hh = weights
        return jnp.tanh(w_ih @ x + b_ih + w_hh @ h + b_hh)

    return cell


def _jax_gru(jnp: Any, jax: Any) -> Callable[..., Any]:
    def cell(weights: Any, x: Any, h: Any) -> Any:
        w_ih, w_hh, b_ih, b_hh = weights
        from_input, from_state = w_ih @ x + b_ih, w_hh @ h + b_hh
        input_r, input_z, input_n = jnp.split(from_input, 3)
        state_r, state_z, state_n = jnp.split(from_state, 3)
        update = jax.nn.sigmoid(input_z + state_z)
        new = jnp.tanh(input_n + jax.nn.sigmoid(input_r + state_r) * state_n)
        return (1 - update) * new + update * h

    return cell


def _jax_lstm(jnp: Any, jax: Any) -> Callable[..., Any]:
    def cell(weights: Any, x: Any, state: Any) -> Any:
        w_ih, w_hh, b_ih, b_hh = weights
        hidden, memory = jnp.split(state, 2)
        i, f, g, o = jnp.split(w_ih @ x + b_ih + w_hh @ hidden + b_hh, 4)
        memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jnp.concatenate([jax.nn.sigmoid(o) * jnp.tanh(memory), memory])

    return cell
