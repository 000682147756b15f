"""The set-up of the released code, against a plain script written from its description."""

from dataclasses import replace

import pytest
import torch

import flossing
from flossing.tasks import CopyMemory, Digits, SpatialXor, TemporalXor
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.differences import flossing_in_words
from flossing_lab.runs.grid import grid, read_grid
from flossing_lab.runs.schedules import PUBLISHED, SCHEDULES
from flossing_lab.runs.setups import as_released
from flossing_lab.training.member import stream_seed
from flossing_lab.training.trainer import _Trainer, run

N, B, T, DELAY, K, SEED = 5, 3, 24, 4, 4, 3
WINDOW, NOT_COUNTED = 20, 6


def tiny(task, **schedule):
    (configuration,) = grid(
        {
            "setup": "released",
            "task": task,
            "seeds": [SEED],
            "floss": "published",
            "evaluate_every": 100,
            "architecture": {"size": N, "initial_states": B},
            "training": {"batch_size": B, "epochs": 3},
            "flossing": {"k": K, "time_steps": WINDOW, "frame_transient": NOT_COUNTED, **schedule},
        }
    )
    return configuration


class Script:
    """x ← J tanh(x) + b + w s with logits r x + c, trained and flossed by autograd."""

    def __init__(self, network):
        state = {name: value.clone() for name, value in network.state_dict().items()}
        self.w = state["recurrence.weight_ih_l0"].requires_grad_()
        self.J = state["recurrence.weight_hh_l0"].requires_grad_()
        self.b = state["recurrence.bias_ih_l0"].requires_grad_()
        self.r = state["readout.weight"].requires_grad_()
        self.c = state["readout.bias"].requires_grad_()
        self.x = state["initial_potential"].requires_grad_()
        assert not state["recurrence.bias_hh_l0"].any()
        self.all = [self.w, self.J, self.b, self.r, self.c, self.x]
        self.flossed = [self.w, self.J, self.b]
        self.moments = {id(each): [0.0, 0.0, 0] for each in self.all}
        self.flossing_moments = {id(each): [0.0, 0.0, 0] for each in self.flossed}

    def adam(self, loss, parameters, moments, clip):
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            if clip and g.square().sum().sqrt() > 0.03:
                g = g * 0.03 / g.square().sum().sqrt()
            m, v, count = moments[id(p)]
            m, v, count = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, count + 1
            moments[id(p)] = [m, v, count]
            step = m / (1 - 0.9**count) / ((v / (1 - 0.999**count)).sqrt() + 1e-8)
            p.data = p.data - 1e-3 * step

    def train(self, bits, answers):
        """Take a step on bits (T, B, D) and the answers (T, B), which count from step d on."""
        x, loss, counted = self.x.T, 0.0, 0
        for t in range(1, T + 1):
            x = self.J @ x.tanh() + self.b[:, None] + self.w @ bits[t - 1].T / bits.shape[2]
            if t >= DELAY:
                z, y = self.r @ x + self.c, answers[t - 1]
                loss = loss - (y * z.sigmoid().log() + (1 - y) * (1 - z.sigmoid()).log()).sum()
                counted += B
        self.adam(loss / counted, self.all, self.moments, clip=True)

    def floss(self, bits, frame):
        """Take a step on bits (T, D), from a frame (N, k)."""
        x, q, growth = self.x[0].detach(), frame, 0.0
        for t in range(1, WINDOW + 1):
            x = self.J @ x.tanh() + self.b + self.w @ bits[t - 1] / bits.shape[1]
            q, r = torch.linalg.qr(torch.diag(1 / x.cosh() ** 2) @ self.J @ q)
            if t > NOT_COUNTED:
                growth = growth + r.diag().abs().log()
        exponents = growth / (WINDOW - NOT_COUNTED)
        self.adam((exponents**2).mean(), self.flossed, self.flossing_moments, clip=False)


class Bits:
    """Bits of a stream, with the one before the first, on which the first target depends."""

    def __init__(self, stream, channels):
        self.generator = torch.Generator().manual_seed(stream_seed(SEED, stream))
        self.channels = channels

    def draw(self, batch):
        return torch.randint(2, (T + 1, batch, self.channels), generator=self.generator)


def assert_same(network, script):
    ours = network.state_dict()
    for name, value in {
        "recurrence.weight_ih_l0": script.w,
        "recurrence.weight_hh_l0": script.J,
        "recurrence.bias_ih_l0": script.b,
        "readout.weight": script.r,
        "readout.bias": script.c,
        "initial_potential": script.x,
    }.items():
        torch.testing.assert_close(ours[name], value.detach(), rtol=0, atol=1e-10)


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("task", "lags"),
    [
        (f"temporal-xor:delay={DELAY},steps={T}", (2, 4)),
        (f"spatial-xor:delay={DELAY},steps={T}", (4,)),
    ],
    ids=["temporal", "spatial"],
)
def test_steps_are_those_of_a_plain_script(task, lags):
    trainer = _Trainer([tiny(task, before=1, every=2, steps=2, times=1)], lambda *_: None)
    network = trainer.members[0].network
    script = Script(network)
    channels = trainer.members[0].configuration.task.input_size
    noise = torch.randn(
        1, N, K, generator=torch.Generator().manual_seed(stream_seed(SEED, "flossing frames"))
    )
    frame = torch.linalg.qr(noise[0])[0]
    flossing_bits, training_bits = Bits("flossing inputs", channels), Bits("training", channels)

    def floss():
        script.floss(flossing_bits.draw(1)[1:, 0].double(), frame)

    def train():
        bits = training_bits.draw(B)
        answers = torch.zeros(T, B)
        for t in range(DELAY, T + 1):
            answers[t - 1] = sum(bits[t - lag].sum(-1) for lag in lags) % 2
        script.train(bits[1:].double(), answers)

    assert network.initial_potential.shape == (B, N)
    assert network.readout.bias == 0.001
    trainer.begin()
    floss()
    assert_same(network, script)
    before = script.x.detach().clone()
    trainer.step()
    train()
    assert_same(network, script)
    assert (script.x.detach() != before).all()
    # An episode of two steps before the second step of training, with the moments of the first.
    trainer.step()
    floss()
    floss()
    train()
    assert_same(network, script)
    trainer.step()
    train()
    assert_same(network, script)


def test_the_first_step_that_counts_has_an_unseen_input():
    configuration = tiny(f"temporal-xor:delay={DELAY},steps={T}")
    batch = configuration.sample(400, torch.Generator().manual_seed(0))
    inputs, targets = batch.inputs[..., 0], batch.targets[..., 0]
    assert inputs.shape == (T, 400)
    assert batch.mask.sum(0).unique().tolist() == [T - DELAY + 1]
    assert (targets[DELAY:] == (inputs[:-DELAY] - inputs[2:-2]).abs()).all()
    assert 0.4 < targets[DELAY - 1].mean() < 0.6
    assert 0.4 < (targets[DELAY - 1] == inputs[1]).double().mean() < 0.6


def test_inputs_are_divided_by_the_number_of_channels():
    batch = tiny(f"spatial-xor:delay={DELAY},steps={T}").sample(4, torch.Generator())
    torch.testing.assert_close(batch.inputs.unique(), torch.tensor([0, 1 / 3]))


def test_initial_states_are_taken_in_turn():
    network = (
        _Trainer([tiny(f"temporal-xor:delay={DELAY},steps={T}")], lambda *_: None)
        .members[0]
        .network
    )
    first = network.initial_potential.detach().tanh()
    torch.testing.assert_close(network.initial_state(7)[0], torch.cat([first, first, first[:1]]))


def test_released_is_the_published_schedule_at_full_length():
    made = as_released(
        Configuration(
            task=TemporalXor(delay=70, steps=210),
            architecture=Architecture(form="rate"),
            training=Training(epochs=10_000),
            flossing=SCHEDULES["published"](80),
            seed=2,
        )
    )
    (same,) = grid(
        {
            "setup": "released",
            "task": "temporal-xor:delay=70",
            "floss": "published",
            "seeds": [2],
            "training": {"epochs": 10_000},
        }
    )
    assert made == same == as_released(made)
    assert made.task.steps == 300
    assert (made.flossing.k, made.flossing.time_steps) == (75, 55)
    assert made.flossing.schedule == PUBLISHED
    assert flossing_in_words(made) == "published, as released"
    changed = replace(made, flossing=replace(made.flossing, k=16))
    assert flossing_in_words(changed) == "published, as released, k=16"


def test_episodes_come_whether_or_not_the_task_is_learned():
    schedule = {"before": 1, "every": 10, "steps": 2, "times": 2}
    configuration = replace(
        tiny("delayed-copy:delay=1,steps=24", **schedule),
        architecture=Architecture(size=12, form="rate", initial_states=B),
        training=Training(
            batch_size=B, epochs=60, learning_rate=0.03, max_gradient_norm=1.0, clipping="array"
        ),
    )
    found = run(
        replace(configuration, flossing=replace(configuration.flossing, before_epoch=False))
    )
    assert [each.epoch for each in found.episodes] == [0, 10, 20]
    assert found.epochs[19].loss < 0.3
    assert [each.epoch for each in run(configuration).episodes] == [0, 9, 19]
    shy = replace(configuration, flossing=replace(configuration.flossing, despite_learning=False))
    assert [each.epoch for each in run(shy).episodes] == [0, 9]


FLOSSING = Flossing(k=1, time_steps=20, schedule={})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Architecture(initial_states=16), "initial_states is 16 and form is 'state'"),
        (lambda: Architecture(form="rate", initial_states=0), "initial_states is 0"),
        (lambda: Training(clipping="unit"), "clipping is 'unit'.*'network'"),
        (lambda: Training(solved=1.5), "solved is 1.5"),
        (lambda: replace(FLOSSING, start="one"), "start is 'one'"),
        (
            lambda: Configuration(
                task=SpatialXor(),
                architecture=Architecture(),
                flossing=replace(FLOSSING, start="trained"),
            ),
            "start is 'trained' and form is 'state'",
        ),
        (
            lambda: Configuration(task=Digits(), architecture=Architecture(), divide_inputs=True),
            "only tasks on streams of bits",
        ),
        (
            lambda: Configuration(
                task=CopyMemory(), architecture=Architecture(), unseen_input=True
            ),
            "only tasks on streams of bits",
        ),
        (lambda: grid({"task": "delayed-copy", "setup": "paper"}), "setup is 'paper'.*released"),
    ],
)
@pytest.mark.usefixtures("own_checks_only")
def test_what_is_no_setup_is_refused(make, message):
    with pytest.raises(flossing.InvalidOptionError, match=message):
        make()


def test_what_is_given_comes_before_the_set_up(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        'task = "delayed-copy:delay=4"\nfloss = ["none", "before", "default"]\n'
        "[training]\nmax_gradient_norm = 1.0\n[flossing]\nframe_transient = 6\n"
    )
    unflossed, before, default = read_grid(path, setup="released")
    assert {each.training.max_gradient_norm for each in (unflossed, before, default)} == {1.0}
    assert {each.training.clipping for each in (unflossed, before, default)} == {"array"}
    assert before.flossing.start == "trained"
    assert before.flossing.frame_transient == 6
    # Our own default is not in the released code.
    assert default.flossing.start == "zero"
    assert not default.flossing.despite_learning
    path.write_text('setup = "default"\n' + path.read_text())
    assert read_grid(path, setup="released")[0].training.clipping == "network"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_other_architectures_are_trained_as_released_from_a_state_of_zero(cell):
    made = as_released(
        Configuration(
            task=TemporalXor(delay=4, steps=60),
            architecture=Architecture(cell=cell, size=8),
            flossing=SCHEDULES["published"](8),
        )
    )
    assert made.architecture == Architecture(cell=cell, size=8)
    assert (made.flossing.start, made.flossing.same_frame) == ("zero", True)
    assert (made.training.clipping, made.task.steps) == ("array", 300)


def test_what_is_not_on_bits_has_its_own_length():
    digits = Configuration(task=Digits(hold=12), architecture=Architecture(size=8))
    made = as_released(digits)
    assert made.task == digits.task
    assert not made.unseen_input
    assert made.training.clipping == "array"
