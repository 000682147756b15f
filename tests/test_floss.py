"""Flossing before training and during it."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import flossing


def network(size=12, **options):
    rnn = nn.RNN(1, size, **options)
    nn.init.normal_(rnn.weight_hh_l0, std=size**-0.5)
    return rnn


def batches(seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(40, batch, 1, generator=generator)


def weights(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


class TestLoss:
    def test_is_the_mean_squared_deviation(self):
        rnn, inputs = network(dtype=torch.float64), torch.randn(30, 3, 1, dtype=torch.float64)
        exponents = flossing.lyapunov_spectrum(rnn, inputs, k=4).exponents
        target = torch.tensor([0.1, 0.0, -0.2, -0.4], dtype=torch.float64)
        expected = (exponents - target).square()
        for reduction, reduced in [
            ("mean", expected.mean()),
            ("sum", expected.sum()),
            ("none", expected),
            (torch.amax, expected.amax()),
        ]:
            found = flossing.flossing_loss(rnn, inputs, k=4, target=target, reduction=reduction)
            torch.testing.assert_close(found, reduced)
        per_trajectory = torch.randn(3, 4, dtype=torch.float64)
        found = flossing.flossing_loss(rnn, inputs, k=4, target=per_trajectory, reduction="none")
        torch.testing.assert_close(found, (exponents - per_trajectory).square())

    def test_k_none_means_all(self):
        rnn, inputs = network(5), torch.randn(30, 2, 1)
        assert flossing.flossing_loss(rnn, inputs, k=None, reduction="none").shape == (2, 5)


class TestFloss:
    @pytest.mark.parametrize("target", [0.0, -0.5])
    @pytest.mark.parametrize("k", [1, 6, 12])
    def test_drives_exponents_to_their_target(self, target, k):
        rnn = network()
        history = flossing.floss(rnn, batches(), k=k, steps=80, target=target, lr=1e-2)
        assert history.loss.shape == (80,)
        assert history.exponents.shape == (80, 1, k)
        assert float(history.loss[-10:].mean()) < 0.15 * float(history.loss[0])
        fresh = flossing.lyapunov_spectrum(rnn, torch.randn(200, 1, 1), k=k).exponents
        assert float((fresh.detach() - target).abs().mean()) < 0.25

    @pytest.mark.parametrize("module", [nn.GRU, nn.LSTM])
    def test_gated_networks_and_stacks(self, module):
        rnn = module(1, 6, num_layers=2)
        history = flossing.floss(rnn, batches(), k=4, steps=30, lr=2e-2)
        assert history.exponents.shape == (30, 2, 4)
        assert float(history.loss[-5:].mean()) < 0.6 * float(history.loss[0])

    def test_changes_recurrent_parameters_and_no_readout(self):
        class Cell(nn.Module):
            def __init__(self):
                super().__init__()
                self.recurrent = nn.Linear(3, 3)
                self.readout = nn.Linear(3, 1)

            def forward(self, inputs, state):
                state = torch.tanh(self.recurrent(state) + inputs)
                return self.readout(state), state

        cell = Cell()
        readout = weights(cell.readout)
        recurrent = weights(cell.recurrent)
        # Weight decay would move a parameter whose gradient is zero instead of absent.
        flossing.floss(
            cell,
            lambda: torch.randn(20, 2, 3),
            k=2,
            steps=3,
            state=torch.zeros(2, 3),
            optimizer=lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.5),
        )
        assert all(map(torch.equal, readout, cell.readout.parameters()))
        assert not any(map(torch.equal, recurrent, cell.recurrent.parameters()))

    def test_chosen_parameters_only(self):
        rnn = network()
        before = {name: p.detach().clone() for name, p in rnn.named_parameters()}
        flossing.floss(rnn, batches(), k=3, steps=2, parameters=[rnn.weight_hh_l0])
        changed = [n for n, p in rnn.named_parameters() if not torch.equal(p, before[n])]
        assert changed == ["weight_hh_l0"]

    def test_leaves_the_gradients_of_training_alone(self):
        rnn = network()
        rnn(torch.randn(5, 1, 1))[0].sum().backward()
        rnn.bias_hh_l0.grad = None
        before = [None if p.grad is None else p.grad.clone() for p in rnn.parameters()]
        flossing.floss(rnn, batches(), k=3, steps=2)
        for parameter, gradient in zip(rnn.parameters(), before, strict=True):
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(parameter.grad, gradient)

    def test_tolerance_stops_early(self):
        rnn = network()
        history = flossing.floss(rnn, batches(), k=4, steps=500, lr=1e-2, tolerance=0.05)
        assert history.converged
        assert 1 < len(history.loss) < 500
        assert float(history.loss[-1]) < 0.05 <= float(history.loss[:-1].min())
        unchanged = weights(rnn)
        again = flossing.floss(rnn, batches(), k=4, steps=5, tolerance=1e9)
        assert again.converged
        assert len(again.loss) == 1
        assert all(map(torch.equal, unchanged, rnn.parameters()))

    def test_clipping_bounds_the_step(self):
        rnn = network()
        before = weights(rnn)
        history = flossing.floss(
            rnn,
            batches(),
            k=8,
            steps=1,
            max_gradient_norm=1e-3,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        )
        moved = torch.cat([(a - b).flatten() for a, b in zip(before, weights(rnn), strict=True)])
        assert float(history.gradient_norm[0]) > 1e-2
        assert float(torch.linalg.vector_norm(moved)) == pytest.approx(1e-3, rel=1e-3)

    def test_a_gradient_that_is_not_finite_changes_nothing(self):
        rnn = network()
        parameter = rnn.weight_hh_l0
        parameter.register_hook(lambda gradient: gradient * torch.nan)
        before = weights(rnn)
        with pytest.warns(flossing.SkippedStepWarning, match=r"changed nothing.*norm nan") as seen:
            history = flossing.floss(rnn, batches(), k=3, steps=4)
        assert len(seen) == 1
        assert bool(history.skipped.all())
        assert all(map(torch.equal, before, rnn.parameters()))

    def test_a_warning_comes_once_in_all_episodes(self):
        rnn = network()
        rnn.weight_hh_l0.register_hook(lambda gradient: gradient * torch.nan)
        flosser = flossing.Flosser(rnn, k=3, before=2, every=1)
        with pytest.warns(flossing.SkippedStepWarning):
            flosser.before_training(batches())
        # A second one would be an error.
        for epoch in (1, 2):
            assert bool(flosser.step(epoch, batches()).skipped.all())

    def test_every_form_of_batches(self):
        inputs = torch.randn(30, 2, 1)

        class Item:
            def __init__(self):
                self.inputs = inputs

        packed = pack_padded_sequence(inputs, [30, 20], enforce_sorted=False)
        forms = [
            inputs,
            [inputs],
            itertools.repeat(inputs),
            lambda: inputs,
            [Item()],
        ]
        losses = [flossing.floss(network_at(1), form, k=3, steps=3).loss for form in forms]
        for loss in losses[1:]:
            assert torch.equal(loss, losses[0])
        assert len(flossing.floss(network(), packed, k=3, steps=3).loss) == 3

    def test_autonomous_maps(self):
        weight = nn.Parameter(torch.randn(4, 4) / 2)
        history = flossing.floss(
            lambda state: torch.tanh(state @ weight.T),
            itertools.repeat(50),
            k=4,
            steps=60,
            lr=1e-2,
            parameters=[weight],
            state=torch.randn(1, 4),
        )
        assert float(history.loss[-1]) < 0.5 * float(history.loss[0])

    def test_state_may_depend_on_the_inputs(self):
        seen = []

        def state(inputs):
            seen.append(inputs.shape)
            return torch.zeros(1, inputs.shape[1], 12)

        flossing.floss(network(), batches(batch=3), k=2, steps=2, state=state)
        assert seen == [(40, 3, 1)] * 2

    def test_callback_and_determinism(self):
        seen = []
        first = flossing.floss(
            network_at(3),
            batches(),
            k=4,
            steps=5,
            callback=lambda step, loss: seen.append((step, loss)),
        )
        second = flossing.floss(network_at(3), batches(), k=4, steps=5)
        assert [step for step, _ in seen] == [1, 2, 3, 4, 5]
        assert torch.tensor([loss for _, loss in seen]).equal(first.loss)
        assert torch.equal(first.loss, second.loss)
        other = flossing.floss(
            network_at(3), batches(), k=4, steps=5, generator=torch.Generator().manual_seed(9)
        )
        assert not torch.equal(first.loss, other.loss)


def network_at(seed):
    torch.manual_seed(seed)
    return network()


def step_size(flosser):
    return flosser.state_dict()["optimizer"]["param_groups"][0]["lr"]


class TestFlosser:
    OPTIONS = {
        "k": 4, "before": 4, "every": 3, "steps": 2, "times": 2, "lr": 1e-2, "tolerance": None,
        "drift": None,
    }  # fmt: skip

    def test_schedule(self):
        flosser = flossing.Flosser(network(), **self.OPTIONS)
        assert len(flosser.before_training(batches()).loss) == 4
        assert flosser.before_training(batches()) is None
        flossed = [epoch for epoch in range(12) if flosser.step(epoch, batches()) is not None]
        assert flossed == [3, 6]
        assert flosser.step(6, batches()) is None

    @pytest.mark.parametrize(
        ("option", "epochs"), [({"times": None}, [2, 4, 6, 8]), ({"every": 0}, [])]
    )
    def test_open_ended_and_never(self, option, epochs):
        flosser = flossing.Flosser(network(), **{**self.OPTIONS, "every": 2, "before": 0, **option})
        assert flosser.before_training(batches()) is None
        assert [e for e in range(9) if flosser.step(e, batches()) is not None] == epochs

    def test_one_optimizer_for_all_episodes(self):
        made = []

        def make(parameters):
            made.append(torch.optim.Adam(parameters, lr=1e-2))
            return made[-1]

        flosser = flossing.Flosser(network(), **self.OPTIONS, optimizer=make)
        flosser.before_training(batches())
        flosser.step(3, batches())
        assert len(made) == 1
        (moments, *_) = made[0].state.values()
        assert int(moments["step"]) == 6

    def test_step_size_shrinks_before_training(self):
        flosser = flossing.Flosser(network(), **self.OPTIONS | {"training_lr": 1e-4})
        sizes = [step_size(flosser)]
        flosser.before_training(batches(), callback=lambda *_: sizes.append(step_size(flosser)))
        assert sizes == pytest.approx([1e-2, 1e-2 * 10**-0.5, 1e-3, 1e-3 * 10**-0.5, 1e-4])
        flosser.step(3, batches())
        assert step_size(flosser) == pytest.approx(1e-4)

    def test_step_size_of_training_without_flossing_before(self):
        flosser = flossing.Flosser(network(), **self.OPTIONS | {"before": 0, "training_lr": 1e-4})
        flosser.step(3, batches())
        assert step_size(flosser) == pytest.approx(1e-4)

    def test_an_optimizer_of_ones_own_keeps_its_step_size(self):
        module = network()
        own = torch.optim.SGD(module.parameters(), lr=0.5)
        flosser = flossing.Flosser(module, **self.OPTIONS, optimizer=own)
        flosser.before_training(batches())
        assert own.param_groups[0]["lr"] == 0.5

    def test_idle_episodes_become_rare_and_change_nothing(self):
        module = network()
        before = copy.deepcopy(module.state_dict())
        flosser = flossing.Flosser(module, **self.OPTIONS | {"every": 1, "tolerance": 1e9})
        due = [epoch for epoch in range(1, 80) if flosser.step(epoch, batches()) is not None]
        assert due == [1, 3, 7, 15, 31, 47, 63, 79]
        assert all(torch.equal(before[name], each) for name, each in module.state_dict().items())

    def test_after_its_episodes_it_acts_rarely_and_on_drift_alone(self):
        module = network()
        options = self.OPTIONS | {"every": 1, "times": 2, "drift": 1e-3}
        flosser = flossing.Flosser(module, **options)
        with torch.no_grad():
            module.weight_hh_l0.copy_(0.01 * torch.eye(len(module.weight_hh_l0)))
        drifted = {epoch: flosser.step(epoch, batches()) for epoch in range(1, 12)}
        acted = [epoch for epoch, history in drifted.items() if history and not history.converged]
        assert acted == [1, 2, 3, 5, 9]
        assert step_size(flosser) == pytest.approx(1e-4)
        # Where every exponent is what it should be there is nothing to do.
        flosser = flossing.Flosser(module, **options | {"drift": 1e9})
        acted = [not flosser.step(epoch, batches()).converged for epoch in range(1, 4)]
        assert acted == [True, True, False]

    def test_a_network_that_learns_is_flossed_for_drift_alone(self):
        module = network()
        options = self.OPTIONS | {"every": 1, "times": 2, "steps": 1, "drift": 1e9}
        flosser = flossing.Flosser(module, **options)
        learned = [True, True, True, False, True, False, False, False]
        acted = []
        for epoch, each in enumerate(learned, start=1):
            history = flosser.step(epoch, batches(), learned=each)
            acted.append(history is not None and not history.converged)
        # One idle episode at epoch 1; the next is due at 3, and, idle again, the one after it at 7.
        # An episode in a network that learns is none of the `times`.
        assert acted == [False, False, False, False, False, False, True, True]
        assert flosser.step(9, batches()).converged

    def test_without_drift_a_network_that_learns_is_left_alone(self):
        flosser = flossing.Flosser(network(), **self.OPTIONS)
        assert flosser.step(3, batches(), learned=True) is None
        assert flosser.step(6, batches()) is not None

    def test_the_step_size_follows_that_of_training(self):
        flosser = flossing.Flosser(network(), **self.OPTIONS | {"training_lr": 1e-3})
        flosser.step(3, batches(), scale=0.25)
        assert step_size(flosser) == pytest.approx(2.5e-4)
        with pytest.raises(
            flossing.InvalidOptionError, match=r"scale is 0.0 \(float\); expected a pos"
        ):
            flosser.step(6, batches(), scale=0.0)

    @pytest.mark.parametrize("interrupted_at", [0, 1, 4, 7])
    def test_a_resumed_run_is_the_same_run(self, interrupted_at):
        def run(epochs, flosser, module, source):
            for epoch in epochs:
                flosser.before_training(source)
                flosser.step(epoch, source)
                with torch.no_grad():
                    module.bias_hh_l0.add_(0.01)

        straight = network_at(5)
        generator = torch.Generator().manual_seed(1)
        run(
            range(9),
            flossing.Flosser(straight, **self.OPTIONS, generator=generator),
            straight,
            batches(),
        )

        broken, source = network_at(5), batches()
        flosser = flossing.Flosser(
            broken, **self.OPTIONS, generator=torch.Generator().manual_seed(1)
        )
        run(range(interrupted_at), flosser, broken, source)
        saved = copy.deepcopy((flosser.state_dict(), broken.state_dict()))
        resumed = network_at(77)
        resumed.load_state_dict(saved[1])
        flosser = flossing.Flosser(resumed, **self.OPTIONS)
        flosser.load_state_dict(saved[0])
        run(range(interrupted_at, 9), flosser, resumed, source)
        assert all(map(torch.equal, straight.parameters(), resumed.parameters()))

    def test_foreign_state_is_refused(self):
        flosser = flossing.Flosser(network(), **self.OPTIONS)
        with pytest.raises(
            flossing.InvalidOptionError, match="not the state of a Flosser.*episodes"
        ):
            flosser.load_state_dict({"optimizer": {}})

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"before": -1}, "before is -1 .*at least 0"),
            ({"every": 1.5}, "every is 1.5 .*float"),
            ({"steps": 0}, "steps is 0 .*at least 1"),
            ({"times": -1}, "times is -1 .*at least 0"),
            ({"training_lr": 0.0}, "training_lr is 0.0 .*positive"),
        ],
    )
    @pytest.mark.usefixtures("own_checks_only")
    def test_bad_options(self, option, message):
        with pytest.raises(flossing.InvalidOptionError, match=message):
            flossing.Flosser(network(), **{**self.OPTIONS, **option})


class TestPrinting:
    def test_history(self):
        history = flossing.floss(network_at(1), batches(), k=2, steps=3)
        first, last = (f"{float(history.loss[index]):.3g}" for index in (0, -1))
        assert (
            repr(history)
            == str(history)
            == (
                f"FlossHistory(steps=3, first_loss={first}, last_loss={last}, converged=False, "
                "skipped=0)"
            )
        )

    @pytest.mark.parametrize("option", [{}, {"drift": 0.2}, {"every": 1}, {"times": 0}])
    def test_the_next_epoch_is_the_one_at_which_an_episode_comes(self, option):
        options = TestFlosser.OPTIONS | {"times": 2, "tolerance": 1e9} | option
        flosser = flossing.Flosser(network(), **options)
        assert "before=due, episodes=0" in repr(flosser)
        flosser.before_training(batches())
        for epoch in range(30):
            named = f"next_due={epoch})" in repr(flosser)
            assert named == (flosser.step(epoch, batches()) is not None)
        assert "before=done" in repr(flosser)

    def test_no_more_episodes(self):
        flosser = flossing.Flosser(network(), **TestFlosser.OPTIONS | {"times": 0, "before": 0})
        assert repr(flosser) == "Flosser(before=none, episodes=0, next_due=None)"
