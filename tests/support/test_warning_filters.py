"""The library leaves the filters of warnings as they are, in several threads at once, too."""

import ast
import threading
import time
import warnings
from pathlib import Path

import torch

import flossing
from flossing.support.warning_filters import ignored_warnings, recorded_warnings

SOURCE = Path(flossing.__file__).parent


def in_threads(function, count=8):
    barrier, errors = threading.Barrier(count), []

    def call():
        barrier.wait()
        try:
            function()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def a_warning_is_seen():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("here", stacklevel=1)
    return [str(each.message) for each in caught] == ["here"]


def test_flossing_in_several_threads_leaves_filters_alone():
    def floss():
        rnn, generator = torch.nn.RNN(1, 6), torch.Generator().manual_seed(0)
        inputs = torch.randn(12, 1, 1, generator=generator)
        flossing.floss(rnn, inputs, k=2, steps=4)
        with torch.no_grad():
            flossing.long_term_jacobian(rnn, inputs, horizons=[2])

    # The first call imports modules that have filters of their own.
    floss()
    filters, show = list(warnings.filters), warnings.showwarning
    in_threads(floss)
    assert list(warnings.filters) == filters
    assert warnings.showwarning is show
    assert a_warning_is_seen()


def test_threads_that_leave_in_another_order_leave_filters_alone():
    filters, show, turn = list(warnings.filters), warnings.showwarning, iter(range(100))

    def enter_and_leave():
        with recorded_warnings(), ignored_warnings(UserWarning):
            # The first one in is the first one out.
            time.sleep(0.05 + 0.01 * next(turn))

    in_threads(enter_and_leave)
    assert list(warnings.filters) == filters
    assert warnings.showwarning is show


def test_the_main_thread_records_and_ignores():
    with recorded_warnings(UserWarning) as caught:
        warnings.warn("recorded", UserWarning, stacklevel=1)
    with ignored_warnings(UserWarning):
        warnings.warn("ignored", UserWarning, stacklevel=1)
    assert [str(each.message) for each in caught] == ["recorded"]


def test_no_other_file_catches_warnings():
    users = {
        path.name
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "catch_warnings"
    }
    assert users == {"warning_filters.py"}
