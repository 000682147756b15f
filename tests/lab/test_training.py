import contextlib
import math
from dataclasses import replace

import pytest
import torch

import flossing
from flossing.errors import DamagedRunWarning
from flossing.tasks import AddingProblem, CopyMemory, DelayedCopy, Digits, TemporalXor
from flossing_lab.networks.ensemble import clip
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.schedules import PUBLISHED, SCHEDULES
from flossing_lab.training.member import STREAMS, initial_network, stream_seed
from flossing_lab.training.trainer import may_run_together, run, run_together

FLOSSING = Flossing(
    k=8,
    time_steps=20,
    state_transient=2,
    frame_transient=2,
    schedule=PUBLISHED | {"before": 6, "every": 3, "steps": 2, "times": 3},
)
XOR = Configuration(
    task=TemporalXor(delay=4, steps=20),
    architecture=Architecture(size=12, form="rate"),
    training=Training(epochs=12),
    flossing=FLOSSING,
    evaluate_every=5,
    evaluation_batch_size=16,
    final_batch_size=32,
)
MEASURED = replace(XOR, measured_exponents=3, gradients=True)
DIGITS = replace(
    XOR,
    task=Digits(hold=12, rows=True),
    architecture=Architecture(size=12),
    training=Training(epochs=6, max_gradient_norm=1.0),
)
ADDING = replace(XOR, task=AddingProblem(steps=20), architecture=Architecture(cell="gru", size=12))


@pytest.mark.parametrize(
    "configuration", [MEASURED, DIGITS, ADDING], ids=["xor", "digits", "adding"]
)
def test_a_configuration_decides_its_records(configuration):
    first = run(configuration)
    torch.rand(3)
    assert run(configuration) == first
    assert run(replace(configuration, seed=1)) != first


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    run(MEASURED)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_recorded():
    record = run(MEASURED)
    assert [each.epoch for each in record.epochs] == list(range(1, 13))
    assert [each.epoch for each in record.evaluations] == [0, 5, 10, 12]
    assert [(each.epoch, len(each.loss)) for each in record.episodes] == [
        (0, 6), (3, 2), (6, 2), (9, 2),
    ]  # fmt: skip
    assert all(each.largest_exponent >= each.smallest_exponent for each in record.episodes)
    assert all(len(each.exponents) == 3 for each in record.evaluations)
    assert len(record.gradient_norm_by_lag) == 20
    assert record.flossing_seconds > 0
    assert record.training_seconds > 0


def test_regressions_have_no_accuracy():
    assert run(ADDING).final.accuracy is None
    assert math.isfinite(run(ADDING).final.loss)


def test_all_arms_start_from_the_same_weights_and_batches():
    plain = replace(XOR, flossing=None)
    flossed, unflossed = initial_network(XOR).state_dict(), initial_network(plain).state_dict()
    assert all(torch.equal(flossed[name], unflossed[name]) for name in flossed)
    # Flossing with a step size of next to nothing runs, but changes nothing that is noticed.
    idle = {"lr": 1e-30, "training_lr": 1e-30}
    records = run(replace(XOR, flossing=replace(FLOSSING, schedule=FLOSSING.schedule | idle)))
    assert records.epochs == run(plain).epochs


def test_flossing_moves_the_exponents_towards_zero():
    schedule = FLOSSING.schedule | {"before": 40, "lr": 1e-2, "training_lr": 1e-2}
    (before, *_) = run(replace(XOR, flossing=replace(FLOSSING, schedule=schedule))).episodes
    assert before.loss[-1] < before.loss[0]


def test_an_easy_task_is_learned():
    training = Training(epochs=300, learning_rate=1e-2, max_gradient_norm=1.0)
    easy = replace(XOR, task=TemporalXor(delay=2, steps=20), training=training, flossing=None)
    assert run(easy).final.accuracy > 0.9


# A loop over steps in Python, for layers of PyTorch are not run together.
CELL = Architecture(cell="leaky", size=12, leak=0.5)
LOOP = replace(XOR, architecture=CELL)
SEEDS = [replace(LOOP, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def uninterrupted():
    """What comes of these runs, in either order."""
    runs = run_together(SEEDS)
    return {False: runs, True: run_together(SEEDS[::-1])}


def assert_close(together, alone):
    assert together.configuration == alone.configuration
    for ours, theirs in zip(together.epochs, alone.epochs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)
    assert [each.epoch for each in together.episodes] == [each.epoch for each in alone.episodes]
    assert together.final.loss == pytest.approx(alone.final.loss, rel=1e-4)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(size=12, form="rate", initialisation="orthogonal", orthogonal=True),
        Architecture(cell="lem", size=12, initialisation="stock"),
        Architecture(cell="modrelu", size=12, initialisation="orthogonal", orthogonal=True),
        CELL,
    ],
    ids=["tanh", "lem", "modrelu", "leaky"],
)
def test_together_is_as_alone(architecture):
    # Silent units cost a modReLU network the smaller exponents.
    flossing = replace(FLOSSING, k=2)
    configurations = [replace(each, architecture=architecture, flossing=flossing) for each in SEEDS]
    for together, configuration in zip(run_together(configurations), configurations, strict=True):
        assert_close(together, run(configuration))


def test_together_over_delays():
    far = replace(LOOP, task=TemporalXor(delay=8, steps=20), seed=4)
    for together, configuration in zip(run_together([LOOP, far]), [LOOP, far], strict=True):
        assert_close(together, run(configuration))


def test_a_network_that_is_done_leaves_the_others_as_they_are():
    # The copy of the last bit is learned soon, the parity of bits long gone is not.
    training = Training(epochs=400, learning_rate=1e-2, max_gradient_norm=1.0, patience=2)
    easy = replace(
        LOOP,
        task=DelayedCopy(delay=1, steps=20),
        training=training,
        flossing=None,
    )
    hard = replace(easy, task=DelayedCopy(delay=12, steps=20))
    configurations = [easy, hard, replace(easy, seed=1)]
    together = run_together(configurations)
    assert len(together[0].epochs) < len(together[1].epochs) == 400
    assert all(each.accuracy >= 0.995 for each in together[0].evaluations[-2:])
    for one, configuration in zip(together, configurations, strict=True):
        alone = run(configuration)
        assert [e.loss for e in one.epochs[:30]] == pytest.approx(
            [e.loss for e in alone.epochs[:30]], rel=1e-3
        )


class KilledError(Exception):
    pass


def killed_at(epoch):
    def report(phase, done, total):
        if phase == "training" and done == epoch:
            raise KilledError

    return report


@pytest.mark.parametrize("epoch", [2, 5, 11])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path, epoch, uninterrupted):
    checkpoint = tmp_path / "runs" / "some.checkpoint"
    with pytest.raises(KilledError):
        run_together(SEEDS, checkpoint=checkpoint, checkpoint_every=2, report=killed_at(epoch))
    begun = []
    resumed = run_together(
        SEEDS, checkpoint=checkpoint, checkpoint_every=2, report=lambda *step: begun.append(step)
    )
    assert resumed == uninterrupted[False]
    assert not checkpoint.exists()
    first = min(done for phase, done, _ in begun if phase == "training")
    assert first == (epoch - 1) // 2 * 2 + 1


@pytest.mark.parametrize("damage", ["truncated", "changed", "foreign", "empty", "of other runs"])
def test_a_checkpoint_that_is_not_whole_is_not_trusted(tmp_path, damage, uninterrupted):
    checkpoint = tmp_path / "some.checkpoint"
    with pytest.raises(KilledError):
        run_together(SEEDS, checkpoint=checkpoint, checkpoint_every=2, report=killed_at(7))
    content = checkpoint.read_bytes()
    middle = len(content) // 2
    match damage:
        case "truncated":
            checkpoint.write_bytes(content[:middle])
        case "changed":
            changed = bytes([content[middle] ^ 255])
            checkpoint.write_bytes(content[:middle] + changed + content[middle + 1 :])
        case "foreign":
            torch.save({"epoch": 3}, checkpoint)
        case "empty":
            checkpoint.write_bytes(b"")
    other = damage == "of other runs"
    configurations = SEEDS[::-1] if other else SEEDS
    told = contextlib.nullcontext() if other else pytest.warns(DamagedRunWarning, match="set aside")
    with told:
        runs = run_together(configurations, checkpoint=checkpoint)
    assert runs == uninterrupted[other]


def test_a_resumed_run_has_finished_members(tmp_path):
    training = Training(epochs=120, learning_rate=1e-2, max_gradient_norm=1.0, patience=1)
    easy = replace(LOOP, task=DelayedCopy(delay=1, steps=20), training=training, flossing=None)
    pair = [easy, replace(easy, task=DelayedCopy(delay=12, steps=20))]
    straight = run_together(pair)
    assert len(straight[0].epochs) < 110
    with pytest.raises(KilledError):
        run_together(pair, checkpoint=tmp_path / "c", checkpoint_every=5, report=killed_at(115))
    assert run_together(pair, checkpoint=tmp_path / "c", checkpoint_every=5) == straight


def test_a_resumed_run_has_what_was_measured_before(tmp_path):
    with pytest.raises(KilledError):
        run_together([MEASURED], checkpoint=tmp_path / "c", checkpoint_every=2, report=killed_at(7))
    assert run_together([MEASURED], checkpoint=tmp_path / "c") == [run(MEASURED)]


def test_strangers_do_not_run_together():
    with pytest.raises(flossing.InvalidOptionError, match="nothing to run"):
        run_together([])
    other = replace(LOOP, training=Training(epochs=3))
    with pytest.raises(flossing.InvalidOptionError, match="differ in more than the seed"):
        run_together([LOOP, other])
    # A longer delay of this task makes its sequences longer.
    near, far = (replace(LOOP, task=CopyMemory(delay=delay)) for delay in (5, 6))
    assert not may_run_together(near, far)


@pytest.mark.parametrize("cell", ["tanh", "relu", "gru", "lstm"])
def test_layers_of_pytorch_are_run_one_by_one(cell):
    seeds = [replace(XOR, architecture=Architecture(cell=cell), seed=seed) for seed in (0, 1)]
    assert not may_run_together(*seeds)
    with pytest.raises(flossing.InvalidOptionError, match="run them one by one"):
        run_together(seeds)


@pytest.mark.parametrize("anywhere", [False, True])
@pytest.mark.filterwarnings("ignore::flossing.ExplodingGradientWarning")
def test_a_network_that_is_driven_to_infinity_has_a_result(anywhere):
    schedule = FLOSSING.schedule | {"before": 0, "every": 1}
    diverging = replace(
        XOR,
        task=AddingProblem(steps=200),
        architecture=Architecture(cell="relu", size=12, initialisation="identity"),
        training=Training(epochs=4, learning_rate=1.0),
        flossing=replace(FLOSSING, k=2, anywhere=anywhere, schedule=schedule),
        evaluate_every=4,
        measured_exponents=2,
    )
    record = run(diverging)
    assert not math.isfinite(record.final.loss)
    assert all(math.isnan(each) for each in record.final.exponents)
    assert len(record.epochs) == 4


def test_a_gradient_that_is_not_finite_becomes_zero_for_its_network_alone():
    gradients = [torch.tensor([[1.0, 2.0], [math.nan, 1.0], [30.0, 40.0]])]
    norms = clip(gradients, 5.0)
    assert norms[1].isnan()
    torch.testing.assert_close(
        gradients[0], torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]), rtol=1e-5, atol=0
    )


def test_every_purpose_has_a_stream_of_its_own():
    seeds = {stream_seed(seed, stream) for seed in range(3) for stream in STREAMS}
    assert len(seeds) == 3 * len(STREAMS)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fit_their_flosser(name):
    flossed = SCHEDULES[name](16, time_steps=20)
    short = {
        key: min(value, 3) for key, value in flossed.schedule.items() if key in ("before", "steps")
    }
    configuration = replace(
        XOR,
        architecture=Architecture(size=16),
        flossing=replace(flossed, schedule=flossed.schedule | short),
    )
    assert run(configuration).episodes[0].epoch == 0
