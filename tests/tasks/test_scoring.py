"""Loss and accuracy against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flossing.errors import InvalidOptionError
from flossing.tasks import (
    AddingProblem,
    Batch,
    CopyMemory,
    DelayedCopy,
    accuracy,
    constant_loss,
    task_loss,
)

NAN, INF = float("nan"), float("inf")


def batch_of(targets, mask):
    """A batch of one sequence; the inputs play no part in scoring."""
    steps = len(mask)
    return Batch(torch.zeros(steps, 1, 1), targets, torch.tensor(mask).reshape(steps, 1))


def binary(logits, targets, mask):
    outputs = torch.tensor(logits).reshape(-1, 1, 1)
    return outputs, batch_of(torch.tensor(targets).reshape(-1, 1, 1), mask)


def categorical(logits, targets, mask):
    outputs = torch.tensor(logits).unsqueeze(1)
    return outputs, batch_of(torch.tensor(targets).reshape(-1, 1), mask)


def test_binary_loss():
    outputs, batch = binary([math.log(3), 0.0, -math.log(4)], [1.0, 0.0, 1.0], [True] * 3)
    # σ(log 3) = 3/4, σ(0) = 1/2, σ(−log 4) = 1/5.
    expected = -(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 5)) / 3
    assert task_loss("binary", outputs, batch).item() == pytest.approx(expected, rel=1e-6)


def test_categorical_loss():
    logits = [[0.0, math.log(2), 0.0], [0.0, 0.0, math.log(6)]]
    outputs, batch = categorical(logits, [1, 0], [True] * 2)
    expected = -(math.log(2 / 4) + math.log(1 / 8)) / 2
    assert task_loss("categorical", outputs, batch).item() == pytest.approx(expected, rel=1e-6)


def test_regression_loss():
    outputs, batch = binary([0.5, 3.0, 1.0], [1.0, 1.0, 0.0], [True] * 3)
    assert task_loss("regression", outputs, batch).item() == pytest.approx(
        (0.25 + 4.0 + 1.0) / 3, rel=1e-6
    )


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 5.0])
@pytest.mark.parametrize(
    ("kind", "expected"), [("binary", -math.log(3 / 4)), ("regression", (math.log(3) - 1) ** 2)]
)
def test_masked_out_entries_change_neither_loss_nor_gradient(kind, expected, bad):
    outputs, batch = binary([bad, math.log(3), bad], [0.0, 1.0, 1.0], [False, True, False])
    outputs.requires_grad_()
    loss = task_loss(kind, outputs, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    gradient = outputs.grad.flatten()
    assert gradient[[0, 2]].tolist() == [0.0, 0.0]
    slope = 3 / 4 - 1 if kind == "binary" else 2 * (math.log(3) - 1)
    assert gradient[1].item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 5.0])
def test_masked_out_entries_of_a_categorical_task(bad):
    logits = [[bad, 0.0], [math.log(3), 0.0], [bad, bad]]
    # A class that does not exist may stand where no class counts.
    outputs, batch = categorical(logits, [1, 0, 99], [False, True, False])
    outputs.requires_grad_()
    loss = task_loss("categorical", outputs, batch)
    assert loss.item() == pytest.approx(-math.log(3 / 4), rel=1e-6)
    loss.backward()
    assert not outputs.grad[[0, 2]].any()
    assert outputs.grad[1].flatten().tolist() == pytest.approx([-1 / 4, 1 / 4], rel=1e-5)
    assert accuracy("categorical", outputs, batch) == 1.0


def test_outputs_in_double_precision():
    outputs, batch = binary([math.log(3)], [1.0], [True])
    for kind in ("binary", "regression"):
        loss = task_loss(kind, outputs.double(), batch)
        assert loss.dtype == torch.float64
        assert loss.item() == pytest.approx(task_loss(kind, outputs, batch).item(), rel=1e-6)


def test_binary_accuracy():
    logits = [0.1, -0.1, 2.0, -3.0, 0.0, 0.0, INF, -INF]
    targets = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    # Right, wrong, wrong, right; a logit of zero says 0, twice right; right, right.
    outputs, batch = binary(logits, targets, [True] * 8)
    assert accuracy("binary", outputs, batch) == 6 / 8


def test_binary_accuracy_leaves_out_what_does_not_count():
    outputs, batch = binary([NAN, 1.0, -1.0, INF], [0.0, 1.0, 1.0, 0.0], [False, True, True, False])
    assert accuracy("binary", outputs, batch) == 1 / 2


def test_categorical_accuracy():
    logits = [[1.0, 2.0, 0.0], [1.0, 2.0, 3.0], [3.0, 2.0, -1.0], [0.0, 9.0, 0.0]]
    outputs, batch = categorical(logits, [1, 0, 0, 1], [True, True, True, False])
    assert accuracy("categorical", outputs, batch) == 2 / 3


def test_nan_is_a_wrong_answer():
    outputs, batch = binary([NAN, NAN, 1.0, -1.0], [0.0, 1.0, 1.0, 0.0], [True] * 4)
    assert accuracy("binary", outputs, batch) == 1 / 2
    outputs, batch = categorical([[NAN, 0.0], [1.0, NAN], [1.0, 0.0]], [0, 1, 0], [True] * 3)
    assert accuracy("categorical", outputs, batch) == 1 / 3


@settings(deadline=None, max_examples=40)
@given(steps=st.integers(2, 9), batch_size=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_scores_against_loops(steps, batch_size, seed):
    source = torch.Generator().manual_seed(seed)
    mask = torch.rand(steps, batch_size, generator=source) < 0.5
    mask[-1, 0] = True
    outputs = torch.randn(steps, batch_size, 3, generator=source)
    classes = torch.randint(3, (steps, batch_size), generator=source)
    batch = Batch(torch.zeros(steps, batch_size, 1), classes, mask)
    losses, right = [], []
    for t in range(steps):
        for b in range(batch_size):
            if mask[t, b]:
                z, y = outputs[t, b].tolist(), int(classes[t, b])
                losses.append(math.log(sum(math.exp(value) for value in z)) - z[y])
                right.append(max(z) == z[y])
    expected = sum(losses) / len(losses)
    assert task_loss("categorical", outputs, batch).item() == pytest.approx(expected, abs=1e-5)
    assert accuracy("categorical", outputs, batch) == sum(right) / len(right)


@pytest.mark.parametrize(
    "task", [DelayedCopy(delay=2, steps=9), AddingProblem(steps=9), CopyMemory(delay=5, length=2)]
)
def test_a_task_stands_for_its_kind(task):
    batch = task.sample(4)
    outputs = torch.randn(9, 4, task.output_size)
    assert task_loss(task, outputs, batch).equal(task_loss(task.kind, outputs, batch))
    if task.kind != "regression":
        assert accuracy(task, outputs, batch) == accuracy(task.kind, outputs, batch)


@pytest.mark.parametrize("task", ["regression", AddingProblem(steps=4)])
def test_regression_has_no_accuracy(task):
    batch = AddingProblem(steps=4).sample(2)
    message = "kind is 'regression', which has no accuracy; expected 'binary' or 'categorical': "
    with pytest.raises(InvalidOptionError, match=message + "measure a regression with task_loss"):
        accuracy(task, torch.zeros(4, 2, 1), batch)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(["binary", "categorical", "regression"]))
def test_no_constant_answer_has_a_smaller_loss(seed, kind):
    draw = torch.Generator().manual_seed(seed)
    steps, batch_size, classes = 6, 3, 4
    mask = torch.rand(steps, batch_size, generator=draw) < 0.7
    mask[0, 0] = True
    if kind == "categorical":
        targets = torch.randint(classes, (steps, batch_size), generator=draw)
        targets[~mask] = 0
    else:
        targets = torch.randn(steps, batch_size, 1, generator=draw)
        targets = (targets > 0).float() if kind == "binary" else targets
    batch = Batch(torch.zeros(steps, batch_size, 1), targets, mask)
    best = constant_loss(kind, batch)
    outputs = torch.zeros(classes if kind == "categorical" else 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([outputs], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = task_loss(kind, outputs.expand(steps, batch_size, -1), batch)
        value.backward()
        return value

    optimizer.step(loss)
    assert best == pytest.approx(loss().item(), abs=1e-3)
    assert best <= loss().item() + 1e-6


@pytest.mark.usefixtures("own_checks_only")
@pytest.mark.parametrize("score", [task_loss, accuracy])
@pytest.mark.parametrize("kind", ["ternary", None, 1])
def test_unknown_kind(score, kind):
    outputs, batch = binary([0.0], [1.0], [True])
    message = rf"kind is {kind!r} \(\w+\); pass one of 'binary', 'categorical', 'regression'"
    with pytest.raises(InvalidOptionError, match=message):
        score(kind, outputs, batch)


@pytest.mark.parametrize("score", [task_loss, accuracy])
def test_empty_mask(score):
    outputs, batch = binary([0.0, 1.0], [1.0, 0.0], [False, False])
    message = (
        r"the mask of shape \(2, 1\) is true nowhere, .*expected at least one true entry: pass"
    )
    with pytest.raises(InvalidOptionError, match=message):
        score("binary", outputs, batch)


INTEGERS = torch.zeros(5, 2, dtype=torch.int64)
FLOATS = torch.zeros(5, 2, 1)
MASK = torch.ones(5, 2, dtype=torch.bool)


@pytest.mark.parametrize("score", [task_loss, accuracy])
@pytest.mark.parametrize(
    ("kind", "outputs", "targets", "mask", "message"),
    [
        # Batch first; one output too many; steps missing: broadcasting would take some of them.
        ("binary", torch.zeros(2, 5, 1), FLOATS, MASK, r"outputs \(2, 5, 1\) torch\.float32"),
        ("binary", torch.zeros(5, 2, 3), FLOATS, MASK, r"outputs \(5, 2, 3\) torch\.float32"),
        ("binary", torch.zeros(4, 2, 1), FLOATS, MASK, r"outputs \(4, 2, 1\) torch\.float32"),
        ("binary", FLOATS, FLOATS.long(), MASK, r"targets \(5, 2, 1\) torch\.int64"),
        ("binary", FLOATS, INTEGERS, MASK, r"targets \(5, 2\) torch\.int64"),
        ("binary", FLOATS, FLOATS, MASK[:3], r"mask \(3, 2\) torch\.bool"),
        ("binary", FLOATS, FLOATS, MASK.long(), r"mask \(5, 2\) torch\.int64"),
        ("categorical", torch.zeros(2, 5, 3), INTEGERS, MASK, r"outputs \(2, 5, 3\)"),
        ("categorical", torch.zeros(5, 2, 3), FLOATS, MASK, r"targets \(5, 2, 1\) torch\.float32"),
        ("categorical", torch.zeros(5, 2, 3), INTEGERS.float(), MASK, r"targets \(5, 2\) torch\.f"),
        ("categorical", torch.zeros(5, 2, 3), INTEGERS, MASK[:, :1], r"mask \(5, 1\) torch\.bool"),
    ],
)
def test_outputs_and_batch_that_do_not_fit(score, kind, outputs, targets, mask, message):
    expected = rf"{message}.* do not fit a {kind} task; expected outputs \(T, B, C\), .*: pass"
    with pytest.raises(InvalidOptionError, match=expected):
        score(kind, outputs, Batch(torch.zeros(5, 2, 1), targets, mask))


@pytest.mark.parametrize("score", [task_loss, accuracy])
# −100 is what torch's cross-entropy would silently ignore.
@pytest.mark.parametrize(("label", "span"), [(3, "0 to 3"), (-1, "-1 to 0"), (-100, "-100 to 0")])
def test_classes_without_a_logit(score, label, span):
    outputs, batch = categorical([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0, label], [True, True])
    message = (
        f"the targets that count are classes {span}, but the outputs have 3 logits; "
        "expected classes 0 to 2: give the readout as many outputs as the task's output_size"
    )
    with pytest.raises(InvalidOptionError, match=message):
        score("categorical", outputs, batch)
