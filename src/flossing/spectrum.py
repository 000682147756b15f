"""`lyapunov_spectrum` and `log_growth_rates`: exponents along a trajectory or of Jacobians."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from flossing.measurement.divergence import run_without_diverging
from flossing.measurement.growth import Backend
from flossing.measurement.plan import Options, make_plan
from flossing.measurement.result import LyapunovSpectrum
from flossing.measurement.run import run
from flossing.measurement.summary import summarise, warn_of_explosion, warn_of_tolerance
from flossing.support.autocast import without_autocast
from flossing.support.checks import require_choice
from flossing.support.eval_mode import in_eval_mode
from flossing.systems.jacobian_stack import jacobian_map
from flossing.systems.recurrence import DrivenMap, StateGradient, System, driven_map


def lyapunov_spectrum(
    system: System,
    inputs: Tensor | PackedSequence | None = None,
    state: Any = None,
    *,
    steps: int | None = None,
    k: int | None = None,
    state_transient: int = 0,
    frame_transient: int | None = None,
    reorthonormalize: int | str = "auto",
    rounding_tolerance: float | None = None,
    state_gradient: StateGradient = "full",
    layer: int | None = None,
    frame: Float[Tensor, "B n k"] | None = None,
    checkpoint_interval: int | None = None,
    dt: float = 1.0,
    tolerance: float | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
    backend: str | Backend = "auto",
    on_divergence: str = "raise",
) -> LyapunovSpectrum:
    r"""Compute the Lyapunov exponents of a recurrent map along its trajectory.

    A frame of k tangent vectors is propagated, V_t = J_t V_{t-1} with J_t = ∂h_t/∂h_{t-1}. At
    intervals, the boundaries, it is factored as V = QR and replaced by Q (Benettin et al. 1980;
    for networks Engelken, Wolf & Abbott 2023). The exponents are

    .. math:: \lambda_i = \frac{1}{\text{counted steps}} \sum_{\text{boundaries}} \log R_{ii}.

    Under an input these are the conditional exponents; for a network that generates its own next
    input, see `flossing.closed_loop`. Where gradients are enabled and something requires them, the
    exponents are differentiable with respect to parameters, inputs and initial state, by an adjoint
    scan that needs no graph through the factorisations. To measure only, use `torch.no_grad()`:
    memory then does not grow with the number of steps.

    A module in train mode is measured in eval mode, as a map without dropout and statistics of the
    batch, and put back. Autocast has no effect.

    Args:
        system: `nn.RNN`, `nn.GRU`, `nn.LSTM`, one of their cells, or a callable
            `(x_t, state) -> state` or `-> (out, state)`, where the state is a tensor or a
            structure of tensors; without inputs, `(state) -> state`. A callable must be a
            deterministic function of its arguments that accepts any batch size and treats its rows
            independently; the batch is the first dimension.
            Several tensors of a state may be arguments of their own, `(x_t, s1, s2) -> (s1, s2)` or
            `-> (out, s1, s2)`. Neurons of snnTorch are systems as they are; other cells that keep
            their state inside are, through `flossing.stateful`.
        inputs: (T, B, D), or (B, T, D) if the module is `batch_first`; (T, D) for one trajectory;
            or a `PackedSequence`, of which each trajectory counts its own steps only.
        state: initial state in the module's own convention; zero if `None` (stock modules and
            neurons of snnTorch; for `flossing.stateful` what it finds).
        steps: number of steps of a map without inputs.
        k: number of exponents; `None` for all n of the state.
        state_transient: number of first steps that only advance the state.
        frame_transient: number of further steps that align the frame, without counting its growth.
            `None`: a tenth of the remaining steps, at most 1000 if there is a tolerance, and none
            if a frame is given.
        reorthonormalize: steps between factorisations, or "auto": the longest interval that the
            conditioning of the frame allows. A fixed interval that would lose more than half of
            the digits is shortened where it does, with a warning.
        rounding_tolerance: with "auto", the largest relative error that rounding may cause in the
            shortest direction of the frame between two factorisations: eps times the ratio of the
            longest direction to the shortest. The exponents (per step) and their gradient (relative
            to its norm) then agree to about this tolerance with those of a factorisation at every
            step; Jacobians that nearly lose rank can amplify it. `None`: 2e-6 in float32, 1e-13 in
            float64.
        state_gradient: "full": gradients flow through the states, by backpropagation through
            time, and explode where the largest exponent is positive; "detach": states are
            constants; an integer w: the graph through the states is cut before every w-th step, so
            that each Jacobian sees between 1 and w steps of its state's history.
        layer: index of a layer of a stack, to compute the exponents of that layer alone, driven by
            the one below; `None` for the whole stack as one state.
        frame: orthonormal frame to start from, (B, n, k); `None` for a random one.
        checkpoint_interval: with gradients, keep the graph of this many steps at a time and
            recompute the others in the backward pass: memory for T/interval + interval steps
            instead of T, at the cost of about one more forward pass. At least 4 steps.
        dt: duration of a step; exponents are per unit of time.
        tolerance: stop as soon as all standard errors are at most this, in nats per unit time. The
            number of steps is then an upper limit, and `counted_steps` is the number taken.
            Exponents of −inf are ignored. Error bars are examined from about 300 counted steps on,
            at growing intervals; stopping as soon as they are small makes them slightly optimistic
            (Glynn & Whitt 1992). Not available with gradients. `None`: all steps.
        dtype: precision to compute in, `torch.float32` or `torch.float64`; `None` for the
            system's own (lower ones are computed in float32).
        generator: random generator of the first frame; `None` for a fixed seed. The global random
            state is never used.
        backend: "compiled" (loops compiled for the CPU, PyTorch operations elsewhere), "torch"
            (PyTorch operations everywhere), "reference" (slow: explicit Jacobians and autograd
            through `torch.linalg.qr`), a callable like
            `flossing.measurement.growth.torch_growth`, or "auto": compiled loops if they are on
            disk, and PyTorch operations while a background process compiles them, once per machine,
            in about half a minute. The two agree up to rounding; with `flossing.compile_ahead` a
            program uses compiled loops from its first call on.
        on_divergence: what happens where a trajectory or its tangent vectors become infinite or
            NaN. "raise": the call ends with an error that names the rows and steps; "nan": the
            others of the batch finish, and the results of these rows are NaN, with a warning.

    Returns:
        The exponents, (B, k), with error bars, local rates, and final state and frame.

    Raises:
        UnsupportedSystemError: the system has no single deterministic forward map.
        InvalidInputError: invalid inputs, or too few steps.
        InvalidStateError: invalid initial state or frame.
        InvalidOptionError: invalid option value.
        NonFiniteError: a trajectory or its tangent vectors become infinite or NaN, or all of them
            with `on_divergence="nan"`. Its `diverged` maps rows to steps.

    Warns:
        DivergenceWarning: some trajectories diverged, with `on_divergence="nan"`.
        NumericalWarning: the frame lost rank (exponents of −inf), an interval had to be
            shortened, the tolerance was not reached, or the gradient through the states of a
            chaotic trajectory exceeds the precision.

    Example:
        The logistic map at r = 4, whose exponent is ln 2:

        >>> import torch, flossing
        >>> spectrum = flossing.lyapunov_spectrum(
        ...     lambda x: 4 * x * (1 - x), state=torch.tensor([0.3]), steps=3000,
        ...     dtype=torch.float64,
        ... )
        >>> print(f"{spectrum.exponents.item():.2f}")
        0.69

        The four largest exponents of a network driven by noise, and their gradient:

        >>> rnn = torch.nn.RNN(3, 32)
        >>> inputs = torch.randn(200, 5, 3)
        >>> spectrum = flossing.lyapunov_spectrum(rnn, inputs, k=4)
        >>> spectrum.exponents.shape
        torch.Size([5, 4])
        >>> spectrum.exponents.square().mean().backward()
        >>> rnn.weight_hh_l0.grad.shape
        torch.Size([32, 32])
    """
    options = Options(
        k=k,
        state_transient=state_transient,
        frame_transient=frame_transient,
        reorthonormalize=reorthonormalize,
        rounding_tolerance=rounding_tolerance,
        state_gradient=state_gradient,
        frame=frame,
        checkpoint_interval=checkpoint_interval,
        dt=dt,
        tolerance=tolerance,
        generator=generator,
        backend=backend,
        on_divergence=on_divergence,
    )
    with _outside_inference_mode(), in_eval_mode(system):
        problem = driven_map(system, inputs, state, steps=steps, layer=layer, dtype=dtype)
        return measure(problem, options)


def log_growth_rates(
    jacobians: Float[Tensor, "T *B n n"],
    k: int | None = None,
    *,
    frame_transient: int = 0,
    reorthonormalize: int | str = "auto",
    rounding_tolerance: float | None = None,
    frame: Float[Tensor, "B n k"] | None = None,
    checkpoint_interval: int | None = None,
    dt: float = 1.0,
    generator: torch.Generator | None = None,
    backend: str | Backend = "auto",
) -> LyapunovSpectrum:
    r"""Compute the growth rates of a frame under the product of a stack of Jacobians.

    For Jacobians from other sources: another framework, a feed-forward network, a random product.
    The rates are differentiable, and the gradient with respect to every Jacobian is exact.

    Args:
        jacobians: J_t, (T, B, n, n), or (T, n, n) for a single product.
        k: number of exponents; `None` for all n.
        frame_transient: number of first steps that align the frame, without counting its growth.
        reorthonormalize: see `lyapunov_spectrum`; with 1, `local` has the rates of single steps.
        rounding_tolerance: see `lyapunov_spectrum`.
        frame: orthonormal frame to start from, (B, n, k); `None` for a random one.
        checkpoint_interval: see `lyapunov_spectrum`.
        dt: duration of a step.
        generator: random generator of the first frame; `None` for a fixed seed.
        backend: see `lyapunov_spectrum`.

    Returns:
        The same as `lyapunov_spectrum`; `first_state` and `final_state` are `None`.

    Raises:
        InvalidInputError: the stack is empty, not square, not floating point or not finite.
        InvalidStateError: invalid frame.
        InvalidOptionError: invalid option value.

    Example:
        >>> import torch, flossing
        >>> jacobians = torch.diag(torch.tensor([0.5, 2.0])).repeat(100, 1, 1)
        >>> flossing.log_growth_rates(jacobians, frame_transient=50).exponents
        tensor([[ 0.6931, -0.6931]])
    """
    options = Options(
        k=k,
        frame_transient=frame_transient,
        reorthonormalize=reorthonormalize,
        rounding_tolerance=rounding_tolerance,
        frame=frame,
        checkpoint_interval=checkpoint_interval,
        dt=dt,
        generator=generator,
        backend=backend,
    )
    return measure(jacobian_map(jacobians), options)


@contextmanager
def _outside_inference_mode() -> Generator[None]:
    # The Jacobians of a cell are taken by autograd, which inference mode rules out. Leaving that
    # mode enables gradients, so these are set to what the caller has.
    enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(enabled):
        yield


def measure(problem: DrivenMap, options: Options) -> LyapunovSpectrum:
    """Return the exponents of a map whose system, inputs and state are checked already."""
    require_choice("on_divergence", options.on_divergence, ("raise", "nan"))
    # Autocast would run single operations in a lower precision than the requested one.
    with without_autocast():
        plan = make_plan(problem, options)
        if options.on_divergence == "nan":
            outcome, problem = run_without_diverging(problem, plan)
        else:
            outcome = run(problem, plan)
        result = summarise(outcome, problem, plan)
    warn_of_tolerance(result, problem, plan)
    warn_of_explosion(result, problem, plan)
    return result
