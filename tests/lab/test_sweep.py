"""Many runs: each once, whatever happens to the workers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from flossing.errors import DamagedRunWarning, InvalidOptionError
from flossing.tasks import DelayedCopy
from flossing_lab.runs.configuration import Architecture, Configuration, Flossing, Training
from flossing_lab.runs.files import read_run
from flossing_lab.runs.records import Epoch, Evaluation, Run
from flossing_lab.runs.store import Group, Store
from flossing_lab.sweeps.planning import plan
from flossing_lab.sweeps.sweep import WorkerTraceback, sweep
from flossing_lab.sweeps.workers import Processes
from flossing_lab.training.trainer import run

EPOCHS = 6
BASE = Configuration(
    task=DelayedCopy(delay=4, steps=20),
    architecture=Architecture(size=4),
    training=Training(epochs=EPOCHS),
)


def seeds(count, **changes):
    return [replace(BASE, seed=seed, **changes) for seed in range(count)]


def alike(first, second):
    return replace(first, seed=0) == replace(second, seed=0)


def never(first, second):
    return False


def result(configuration):
    return Run(
        configuration=configuration,
        epochs=tuple(
            Epoch(epoch=epoch, loss=1 / (configuration.seed + epoch), gradient_norm=1.0)
            for epoch in range(1, EPOCHS + 1)
        ),
        episodes=(),
        evaluations=(Evaluation(epoch=0, loss=1.0, accuracy=0.5),),
        final=Evaluation(epoch=EPOCHS, loss=0.5, accuracy=0.75),
        flossing_seconds=0.0,
        training_seconds=time.monotonic(),
    )


@dataclass(frozen=True)
class Fake:
    """Counts epochs in the checkpoint, leaves marks of what it did, and dies where it is told."""

    marks: Path
    pause: float = 0.0
    kill_once: int = -1
    kill_always: int = -1
    fail: int = -1

    def mark(self, kind, content):
        (self.marks / f"{kind}-{uuid.uuid4().hex}").write_text(json.dumps(content))

    def marked(self, kind):
        return [json.loads(path.read_text()) for path in self.marks.glob(f"{kind}-*")]

    def __call__(self, configurations, *, checkpoint, report):
        own = [configuration.seed for configuration in configurations]
        begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
        self.mark("begin", [own, begin])
        for epoch in range(begin, EPOCHS):
            checkpoint.write_text(str(epoch + 1))
            report("training", epoch + 1, EPOCHS)
            time.sleep(self.pause)
            if epoch >= EPOCHS // 2:
                self.harm(own)
        checkpoint.unlink()
        self.mark("end", own)
        return [result(configuration) for configuration in configurations]

    def harm(self, seeds):
        if self.fail in seeds:
            raise ZeroDivisionError(f"seed {self.fail}")
        if self.kill_always in seeds:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kill_once in seeds and not self.marked("kill"):
            self.mark("kill", self.kill_once)
            os.kill(os.getpid(), signal.SIGKILL)

    def endings(self):
        """How often each seed was run to its end."""
        return Counter(seed for own in self.marked("end") for seed in own)


@pytest.fixture
def marks(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs"


class Threads(Processes):
    """Spares the tests that no process need die in the seconds that processes take to start."""

    @contextlib.contextmanager
    def executor(self, most):
        with ThreadPoolExecutor(self.count) as pool:
            yield pool


THREAD = Threads(1)


def swept(configurations, folder, fake, may_run_together=alike, **options):
    return sweep(
        configurations,
        folder,
        run_together=fake,
        may_run_together=may_run_together,
        **options,
    )


def test_runs_come_in_order_each_once_and_are_found_again(folder, marks):
    fake, seen = Fake(marks), []
    asked = [*seeds(5), BASE]
    runs = swept(asked, folder, fake, workers=2, on_progress=seen.append)
    assert runs == [result(configuration) for configuration in asked]
    assert fake.endings() == dict.fromkeys(range(5), 1)
    assert sorted(len(own) for own in fake.marked("end")) == [2, 3]
    phases = [(len(each.configurations), each.phase) for each in seen]
    assert phases[:2] == [(3, "waiting"), (2, "waiting")]
    assert {(3, "finished"), (2, "finished")} <= set(phases)
    # Nothing but the runs is left.
    assert {read_run(path).configuration.seed for path in folder.iterdir()} == set(range(5))
    again = swept(asked, folder, fake, workers=2)
    assert again == runs
    assert [run.training_seconds for run in again] == [run.training_seconds for run in runs]
    assert fake.endings() == dict.fromkeys(range(5), 1)


def test_processes_give_what_this_process_gives(folder):
    flossing = Flossing(k=2, time_steps=20, schedule={"before": 3, "every": 2, "steps": 1})
    configurations = [*seeds(2, measured_exponents=2), replace(BASE, flossing=flossing)]
    seen = []
    runs = sweep(configurations, folder, workers=2, on_progress=seen.append)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Two workers get something to do: the seeds are not run together.
        assert runs == [run(configuration) for configuration in configurations]
    finally:
        torch.set_num_threads(threads)
    assert {each.phase for each in seen} >= {"waiting", "finished"}
    assert sweep(configurations, folder) == runs


def test_without_a_folder_nothing_is_kept(marks, tmp_path):
    fake = Fake(marks)
    assert swept([BASE], None, fake, place=THREAD) == [result(BASE)]
    assert list(tmp_path.iterdir()) == [marks]


def test_a_damaged_or_renamed_file_is_set_aside_and_run_again(folder, marks):
    fake, store = Fake(marks), Store(folder)
    swept(seeds(3), folder, fake, place=THREAD)
    first, second, third = (store.path(configuration) for configuration in seeds(3))
    first.write_bytes(first.read_bytes()[:-30])
    second.write_bytes(third.read_bytes())
    with pytest.warns(DamagedRunWarning) as warned:
        runs = swept(seeds(3), folder, fake, place=THREAD)
    assert runs == [result(configuration) for configuration in seeds(3)]
    assert "cut off" in str(warned[0].message)
    assert "not what its name ends in" in str(warned[1].message)
    assert fake.endings() == {0: 2, 1: 2, 2: 1}
    assert len(list(folder.glob("*.damaged"))) == 2
    assert len(store.runs()[0]) == 3
    assert store.runs()[1] == []


def test_runs_whose_architectures_tell_more_or_less_are_put_in_order(folder):
    store = Store(folder)
    plain = BASE.architecture
    architectures = [
        replace(plain, bias_scale=0.5),
        replace(plain, size=16),
        plain,
        replace(plain, input_gain=0.3),
        replace(plain, size=100),
    ]
    for each in architectures:
        store.write(result(replace(BASE, architecture=each)))
    runs, refused = store.runs()
    found = [run.configuration.architecture for run in runs]
    assert not refused
    assert len(found) == 5
    assert [each.size for each in found] == sorted(each.size for each in architectures)
    assert found.index(plain) < found.index(architectures[0])


def test_a_failure_names_its_run_and_loses_no_other(folder, marks):
    fake = Fake(marks, fail=1)
    with pytest.raises(ZeroDivisionError, match="seed 1") as caught:
        swept(seeds(4), folder, fake, place=THREAD)
    assert "seed 1" in caught.value.__notes__[0]
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in harm" in str(caught.value.__cause__)
    assert {run.configuration.seed for run in Store(folder).runs()[0]} == {0, 2, 3}
    swept(seeds(4), folder, Fake(marks), place=THREAD)
    assert fake.endings() == dict.fromkeys(range(4), 1)


def test_a_killed_process_loses_nothing(folder, marks):
    fake = Fake(marks, kill_once=1, pause=0.05)
    runs = swept(seeds(4), folder, fake, never, workers=2)
    assert runs == [result(configuration) for configuration in seeds(4)]
    assert fake.marked("kill") == [1]
    # The other process goes on.
    assert fake.endings() == dict.fromkeys(range(4), 1)
    resumed = [begin for own, begin in fake.marked("begin") if own == [1]]
    assert sorted(resumed) == [0, EPOCHS // 2 + 1]


@pytest.mark.slow
def test_a_run_that_always_kills_its_process_is_found_out(folder, marks):
    fake = Fake(marks, kill_always=0)
    with pytest.raises(Exception, match="terminated|killed|crash") as caught:
        swept(seeds(2), folder, fake, never, place=Processes(1, attempts=2))
    assert "seed 0" in caught.value.__notes__[0]
    assert [own for own, _ in fake.marked("begin")].count([0]) == 2
    assert [run.configuration.seed for run in Store(folder).runs()[0]] == [1]


@pytest.fixture
def cluster():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_of_a_cluster_loses_nothing(folder, marks, cluster):
    fake = Fake(marks, kill_once=1, pause=0.05)
    runs = swept(seeds(5), folder, fake, never, dask=cluster.scheduler_address)
    assert runs == [result(configuration) for configuration in seeds(5)]
    assert fake.marked("kill") == [1]
    assert fake.endings() == dict.fromkeys(range(5), 1)
    assert len(list(folder.glob("*.jsonl"))) == 5


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sweep import Fake, alike, seeds, swept
folder, marks = map(Path, sys.argv[1:3])
swept(seeds(5), folder, Fake(marks, pause=float(sys.argv[4])), workers=int(sys.argv[3]))
"""


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def script(*arguments):
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_where_it_was_whatever_the_workers(folder, marks):
    process = script(folder, marks, 2, 100.0)
    wait_for(lambda: len(list(folder.glob("unfinished/*.checkpoint"))) == 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(240) != 0
    fake = Fake(marks)
    assert fake.marked("end") == []
    runs = swept(seeds(5), folder, fake, place=THREAD)
    assert runs == [result(configuration) for configuration in seeds(5)]
    resumed = {len(own): begin for own, begin in fake.marked("begin") if begin}
    assert resumed.keys() == {2, 3}
    assert all(begin >= 1 for begin in resumed.values())


@pytest.mark.slow
def test_two_sweeps_of_one_folder_do_not_run_a_group_twice(folder, marks):
    fake = Fake(marks)
    process = script(folder, marks, 1, 0.5)
    wait_for(lambda: fake.marked("begin"))
    runs = swept(seeds(5), folder, fake, place=THREAD)
    assert process.wait(240) == 0
    assert runs == [result(configuration) for configuration in seeds(5)]
    assert fake.endings() == dict.fromkeys(range(5), 1)


def test_the_longest_come_first_and_every_worker_gets_some(folder):
    long, short = seeds(4, training=Training(epochs=900)), seeds(4)

    def sizes(configurations, workers):
        groups = plan(configurations, Store(folder), workers=workers, may_run_together=alike)
        return [
            (each.configurations[0].training.epochs, len(each.configurations)) for each in groups
        ]

    assert sizes(short + long, 1) == [(900, 4), (6, 4)]
    assert sizes(short + long, 2) == [(900, 2), (900, 2), (6, 4)]
    assert sizes(seeds(5), 2) == [(6, 3), (6, 2)]
    assert sizes(seeds(2), 8) == [(6, 1), (6, 1)]
    assert max(size for _, size in sizes(seeds(100), 1)) <= 32


def test_a_checkpoint_is_not_used_for_other_members(folder):
    store, five = Store(folder), seeds(5)
    begun = Group(store, tuple(five[1:3]))
    with begun.claimed():
        begun.checkpoint.write_text("3")
    members = [each.configurations for each in groups_of(store, five)]
    assert members[0] == (five[0], five[3], five[4])
    assert members[1] == begun.configurations
    # One of its two is not asked for.
    assert [len(each.configurations) for each in groups_of(store, five[:2])] == [2]


def groups_of(store, configurations):
    return plan(configurations, store, workers=1, may_run_together=alike)


def test_bad_options_are_refused(folder):
    with pytest.raises(InvalidOptionError, match="workers is 0"):
        sweep([BASE], folder, workers=0)
    with pytest.raises(InvalidOptionError, match="pass one of the two"):
        sweep([BASE], folder, workers=2, dask="tcp://localhost:1")


@pytest.mark.parametrize(
    ("module", "options", "extra"),
    [
        ("joblib", {}, "sweep"),
        ("distributed", {"dask": "tcp://x"}, "dask"),
    ],
)
def test_missing_extras_are_named(module, options, extra, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "flossing\[{extra}\]"'):
        swept([BASE], folder, None, **options)
