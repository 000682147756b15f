"""Bad input gets an error that says what came, what was expected and what to do."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import flossing
from flossing import (
    InvalidInputError,
    InvalidOptionError,
    InvalidStateError,
    NonFiniteError,
    UnsupportedSystemError,
)

pytestmark = pytest.mark.usefixtures("own_checks_only")

INPUTS = torch.zeros(10, 2, 3)


def rnn(**options):
    return nn.RNN(3, 4, **options)


def with_nan(tensor):
    tensor = tensor.clone()
    tensor[0, 0, 0] = torch.nan
    return tensor


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 4)
        self.readout = nn.Linear(4, 1)

    def forward(self, inputs):
        return self.readout(self.rnn(inputs)[0])


class OwnForward(nn.RNN):
    def forward(self, inputs):
        return inputs


def hooked():
    module = rnn()
    module.register_forward_pre_hook(lambda module, _: module.weight_hh_l0.data.mul_(0.5))
    return module


def random_cell(x_t, state):
    return torch.tanh(state + torch.randn_like(state))


def batch_bound_cell(x_t, state):
    return state + torch.ones(2, 3)


SYSTEMS = [
    (lambda: rnn(bidirectional=True), INPUTS, None, "bidirectional.*no single forward map"),
    (lambda: OwnForward(3, 4), INPUTS, None, "replaces the forward.*callable"),
    (hooked, INPUTS, None, "forward pre-hook.*remove the hook.*parametrize.*callable"),
    (lambda: "rnn", INPUTS, None, "recurrent module, a cell, or a callable.*not a str"),
    (Model, INPUTS, torch.zeros(2, 4), "pass the recurrent module itself"),
    (lambda: random_cell, INPUTS, torch.zeros(2, 3), "random, or the rows.*eval"),
    (lambda: batch_bound_cell, INPUTS, torch.zeros(2, 3), "any batch size"),
    (lambda: lambda x, h: (h, h, h), INPUTS, torch.zeros(2, 3), r"must return the next state"),
    (lambda: lambda x, h: h[:, :2], INPUTS, torch.zeros(2, 3), r"\(2, 3\).*returned.*\(2, 2\)"),
]


@pytest.mark.parametrize(("system", "inputs", "state", "message"), SYSTEMS)
def test_systems(system, inputs, state, message):
    with pytest.raises(UnsupportedSystemError, match=f"(?s){message}"):
        flossing.lyapunov_spectrum(system(), inputs, state)


BAD_INPUTS = [
    (rnn(), None, {}, "takes inputs: pass inputs"),
    (rnn(), torch.zeros(10, 2, 5), {}, "3 features, not 5"),
    (rnn(), torch.zeros(3), {}, r"\(steps, batch, features\).*\(3,\)"),
    (rnn(), torch.zeros(10, 2, 3, 1), {}, r"not of shape \(10, 2, 3, 1\)"),
    (rnn(), [1, 2], {}, "must be a tensor.*not a list"),
    (rnn(), torch.zeros(10, 2, 3, dtype=torch.long), {}, "floating point, not torch.int64"),
    (
        rnn(),
        torch.zeros(10, 2, 3, dtype=torch.complex64),
        {},
        "real, not torch.complex64",
    ),
    (rnn(), INPUTS.double(), {}, r"torch.float64 but the system works in torch.float32.*dtype="),
    (rnn(), with_nan(INPUTS), {}, "infinite or NaN"),
    (rnn(), INPUTS + torch.inf, {}, "infinite or NaN"),
    (rnn(), torch.zeros(0, 2, 3), {}, "empty.*(0, 2, 3)"),
    (rnn(), torch.zeros(10, 0, 3), {}, "empty.*(10, 0, 3)"),
    (rnn(), INPUTS, {"state_transient": 10}, "10 steps, which leaves none.*state_transient=10"),
    (rnn(), INPUTS, {"frame_transient": 10}, "leaves none to count.*frame_transient=10"),
    (
        rnn(),
        pack_padded_sequence(INPUTS, [10, 4], enforce_sorted=False),
        {"frame_transient": 4},
        "shortest trajectory has 4 steps",
    ),
    (lambda h: h, None, {"state": torch.zeros(2, 3)}, "number of steps is unknown.*steps="),
    (rnn(), INPUTS.to("meta"), {}, "inputs are on the meta device"),
]


@pytest.mark.parametrize(("system", "inputs", "options", "message"), BAD_INPUTS)
def test_inputs(system, inputs, options, message):
    with pytest.raises(InvalidInputError, match=message):
        flossing.lyapunov_spectrum(system, inputs, **options)


BAD_STATES = [
    (rnn(), torch.zeros(2, 4), r"\(1, 2, 4\) for a batch of 2.*tensor \(2, 4\)"),
    (rnn(), torch.zeros(1, 3, 4), r"\(1, 2, 4\).*\(1, 3, 4\)"),
    (nn.LSTM(3, 4), torch.zeros(1, 2, 4), r"\(1, 2, 4\) and \(1, 2, 4\)"),
    (nn.GRUCell(3, 4), torch.zeros(1, 2, 4), r"\(2, 4\).*\(1, 2, 4\)"),
    (rnn(), torch.zeros(1, 2, 4, dtype=torch.long), "floating point, not torch.int64"),
    (rnn(), torch.zeros(1, 2, 4).double(), "state is torch.float64 but.*torch.float32"),
    (rnn(), torch.full((1, 2, 4), torch.nan), "infinite or NaN"),
    (lambda x, h: h, None, "needs an initial state.*NoneType.*state="),
    (lambda x, h: h, torch.zeros(3, 3), r"batch of 2 as its first dimension.*\(3, 3\)"),
    (lambda x, h: h, torch.zeros(2, 0), "the state is empty"),
]


@pytest.mark.parametrize(("system", "state", "message"), BAD_STATES)
def test_states(system, state, message):
    with pytest.raises(InvalidStateError, match=message):
        flossing.lyapunov_spectrum(system, INPUTS, state)


BAD_OPTIONS = [
    ({"k": 5}, "k=5 .*4 dimensions.*from 1 to 4"),
    ({"k": 0}, "k is 0 .*int of at least 1"),
    ({"k": 2.0}, r"k is 2.0 \(float\).*int of at least 1"),
    ({"state_transient": -1}, "state_transient is -1 .*at least 0"),
    ({"frame_transient": 1.5}, r"frame_transient is 1.5 \(float\)"),
    ({"reorthonormalize": 0}, "reorthonormalize is 0 .*at least 1"),
    ({"reorthonormalize": "often"}, "'auto' or a number of steps, not 'often'"),
    ({"state_gradient": "half"}, "'full', 'detach' or a window in steps, not 'half'"),
    ({"state_gradient": 0}, "state_gradient is 0 .*at least 1"),
    ({"checkpoint_interval": 0}, "checkpoint_interval is 0 .*at least 1"),
    ({"dt": 0.0}, "dt must be a positive duration"),
    ({"dt": float("nan")}, "dt must be a positive duration"),
    ({"dtype": torch.bfloat16}, "torch.float32 or torch.float64.*bfloat16"),
    ({"dtype": torch.int64}, "torch.float32 or torch.float64.*int64"),
    ({"rounding_tolerance": 1e-12}, "from 1.2e-07 to 3.5e-04 in torch.float32"),
    ({"rounding_tolerance": 0.1}, "from 1.2e-07 to 3.5e-04 in torch.float32"),
    ({"rounding_tolerance": 1e-5, "reorthonormalize": 3}, "a fixed interval of 3: leave one"),
    ({"backend": "fast"}, "'auto', 'compiled', 'torch', 'reference'.*'fast'"),
    ({"generator": 7}, r"generator is 7 .*manual_seed\(7\)"),
    ({"layer": 1}, r"from 0 to 0 .*1 layer\(s\), or None.*not 1"),
    ({"steps": 11}, "steps=11, but the inputs have 10 steps"),
    ({"k": 2, "frame": torch.eye(4)[:, :3].expand(2, 4, 3)}, "k=2, but the frame has 3 vectors"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_options(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        flossing.lyapunov_spectrum(rnn(), INPUTS, **options)


def test_layer_of_a_callable():
    with pytest.raises(InvalidOptionError, match="layer=0 selects a layer of an nn.RNN"):
        flossing.lyapunov_spectrum(lambda x, h: h, INPUTS, torch.zeros(2, 3), layer=0)


def test_steps_of_an_autonomous_map():
    with pytest.raises(InvalidOptionError, match="steps is 0 .*at least 1"):
        flossing.lyapunov_spectrum(lambda h: h, state=torch.zeros(2, 3), steps=0)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.zeros(2, 3, 2), r"\(2, 4, k\), not \(2, 3, 2\)"),
        (torch.ones(2, 4, 2), "columns must be orthonormal.*qr"),
        (torch.full((2, 4, 2), torch.nan), "columns must be orthonormal"),
    ],
)
def test_frames(frame, message):
    with pytest.raises(InvalidStateError, match=message):
        flossing.lyapunov_spectrum(rnn(), INPUTS, frame=frame)


def test_diverging_trajectory():
    with pytest.raises(NonFiniteError, match=r"infinite or NaN at step [1-9]\d*.*diverges"):
        flossing.lyapunov_spectrum(lambda h: h * h + 1, state=torch.ones(2, 1), steps=50)


def test_infinite_jacobian():
    with pytest.raises(NonFiniteError, match="tangent vectors became infinite or NaN"):
        flossing.lyapunov_spectrum(
            lambda h: torch.sqrt(h), state=torch.zeros(1, 1), steps=5, reorthonormalize=1
        )


def test_step_without_a_second_derivative():
    def step(x_t, state):
        return nn.functional.hardsigmoid(state + x_t)

    with pytest.raises(UnsupportedSystemError, match="cannot be differentiated twice.*hardsigmoid"):
        flossing.lyapunov_spectrum(step, INPUTS, torch.zeros(2, 3, requires_grad=True), k=1)


@pytest.mark.parametrize(
    ("jacobians", "message"),
    [
        (torch.zeros(5, 3, 4), r"\(steps, batch, n, n\).*not \(5, 3, 4\)"),
        (torch.zeros(3, 3), r"not \(3, 3\)"),
        (torch.zeros(0, 3, 3), r"not \(0, 3, 3\)"),
        (torch.zeros(5, 3, 3, dtype=torch.long), "floating point, not torch.int64"),
        (torch.full((5, 3, 3), torch.inf), "infinite or NaN"),
    ],
)
def test_jacobians(jacobians, message):
    with pytest.raises(InvalidInputError, match=message):
        flossing.log_growth_rates(jacobians)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": [0.0, 1.0, 2.0]}, r"\(k,\) = \(2,\) or \(B, k\) = \(2, 2\), not \(3,\)"),
        ({"target": torch.inf}, "target must be finite"),
        ({"reduction": "median"}, "'mean', 'sum', 'none' or a function.*'median'"),
    ],
)
def test_losses(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        flossing.flossing_loss(rnn(), INPUTS, k=2, **options)


FLOSS_OPTIONS = [
    ({"steps": 0}, "steps is 0 .*at least 1"),
    ({"lr": 0.0}, "lr must be a positive step size"),
    ({"lr": float("nan")}, "lr must be a positive step size"),
    ({"max_gradient_norm": 0.0}, "max_gradient_norm must be positive"),
    ({"parameters": []}, "nothing to floss"),
]


@pytest.mark.parametrize(("options", "message"), FLOSS_OPTIONS)
def test_floss_options(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        flossing.floss(rnn(), INPUTS, k=2, **{"steps": 1, **options})


def test_floss_without_a_module():
    with pytest.raises(InvalidOptionError, match="nothing to floss.*parameters="):
        flossing.floss(lambda x, h: h, INPUTS, k=2, steps=1, state=torch.zeros(2, 3))


def test_floss_of_parameters_of_another_module():
    with pytest.raises(InvalidOptionError, match="do not depend on any of the parameters"):
        flossing.floss(rnn(), INPUTS, k=2, steps=1, parameters=rnn().parameters())


def test_floss_of_parameters_without_influence():
    with pytest.raises(InvalidOptionError, match="do not depend on any of the parameters"):
        flossing.floss(
            lambda x, h: torch.tanh(h + x),
            INPUTS,
            k=2,
            steps=1,
            state=torch.zeros(2, 3),
            parameters=[nn.Parameter(torch.zeros(2))],
        )


def test_floss_with_optimizer_and_parameters():
    module = rnn()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(InvalidOptionError, match="either an optimizer.*or parameters"):
        flossing.floss(
            module, INPUTS, k=2, steps=1, optimizer=optimizer, parameters=module.parameters()
        )


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (iter([INPUTS]), "ran out after 1.*endless"),
        ([], "ran out after 0"),
        ([(INPUTS, INPUTS)], "not a tuple: from pairs, take the inputs"),
        (5, "an iterable of inputs, a function.*not a int"),
    ],
)
def test_floss_batches(batches, message):
    with pytest.raises(InvalidInputError, match=message):
        flossing.floss(rnn(), batches, k=2, steps=3)


@pytest.mark.parametrize(
    "step",
    [
        lambda x, h: 0.5 * h.detach() + x,
        torch.no_grad()(lambda x, h: 0.5 * h + x),
        lambda x, h: (h > 0).to(h.dtype) + x,
        lambda x, h: x,
    ],
)
def test_step_without_a_derivative(step):
    with pytest.raises(UnsupportedSystemError, match="does not depend on the state.*surrogate"):
        flossing.lyapunov_spectrum(step, INPUTS, torch.zeros(2, 3))
