"""The way of a newcomer: a tagger of words in sentences of unequal lengths, with an LSTM inside.

Embedding, two layers with dropout, packed sequences, a head; flossed, trained, watched, saved, and
analysed, all in train mode, as README.md and docs/guide.md describe it.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import flossing
from flossing.cli import main

WORDS, TAGS, PADDING = 30, 5, -100


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8, padding_idx=0)
        self.rnn = nn.LSTM(8, 12, num_layers=2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(12, TAGS)

    def packed(self, sentences, lengths):
        return pack_padded_sequence(
            self.embedding(sentences), lengths, batch_first=True, enforce_sorted=False
        )

    def forward(self, sentences, lengths):
        outputs, _ = pad_packed_sequence(
            self.rnn(self.packed(sentences, lengths))[0], batch_first=True
        )
        return self.head(outputs)


def loader(count, seed=0):
    """Return batches of (sentences, lengths, tags)."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        lengths = torch.randint(18, 30, (4,), generator=generator)
        sentences = torch.randint(1, WORDS, (4, int(lengths.max())), generator=generator)
        tags = (sentences + sentences.roll(5, dims=1)) % TAGS
        past = torch.arange(sentences.shape[1]) >= lengths.unsqueeze(1)
        sentences[past], tags[past] = 0, PADDING
        batches.append((sentences, lengths, tags))
    return batches


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tagger()


def inputs_of(model, batches):
    return [model.packed(sentences, lengths) for sentences, lengths, _ in batches]


@pytest.fixture(autouse=True)
def modes_stay(model):
    before = [(each.training, getattr(each, "dropout", None)) for each in model.modules()]
    assert model.rnn.training
    yield
    assert [(each.training, getattr(each, "dropout", None)) for each in model.modules()] == before


def in_eval_mode(model, measure):
    """Return what a function measures in eval mode, which this leaves on."""
    model.eval()
    try:
        return measure()
    finally:
        model.train()


def assert_same(first, second):
    for name in ("exponents", "local", "standard_error"):
        pair = getattr(first, name), getattr(second, name)
        torch.testing.assert_close(*pair, rtol=0, atol=0, equal_nan=True)


def test_measures_are_those_of_eval_mode(model):
    (inputs,) = inputs_of(model, loader(1))

    def spectrum():
        with torch.no_grad():
            return flossing.lyapunov_spectrum(model.rnn, inputs, k=4)

    def loss():
        model.zero_grad()
        flossing.flossing_loss(model.rnn, model.packed(*loader(1)[0][:2]), k=4).backward()
        return [parameter.grad.clone() for parameter in model.rnn.parameters()]

    assert_same(spectrum(), in_eval_mode(model, spectrum))
    assert all(map(torch.equal, loss(), in_eval_mode(model, loss)))
    # The inputs came with a graph: as a term of the training loss it reaches the embedding, too.
    assert bool(model.embedding.weight.grad.any())


def test_gradient_horizon(model):
    sentences = loader(1)[0][0][:, :18]

    def horizon():
        with torch.no_grad():
            return flossing.gradient_horizon(
                model.rnn, model.embedding(sentences), loss=lambda out: out[:, -1].square().mean()
            )

    found, expected = horizon(), in_eval_mode(model, horizon)
    for kind in ("error", "random", "worst"):
        assert torch.equal(getattr(found, kind).log_norm, getattr(expected, kind).log_norm)


def test_flossing_before_training(model):
    batches = loader(3)
    others = [p.clone() for p in (*model.embedding.parameters(), *model.head.parameters())]
    before = {name: p.clone() for name, p in model.rnn.state_dict().items()}

    def floss():
        model.rnn.load_state_dict(before)
        return flossing.floss(model.rnn, inputs_of(model, batches), k=3, steps=6, lr=3e-3)

    history, expected = floss(), in_eval_mode(model, floss)
    assert torch.equal(history.loss, expected.loss)
    assert history.loss[-1] < history.loss[0]
    assert not history.skipped.any()
    after = (*model.embedding.parameters(), *model.head.parameters())
    assert all(map(torch.equal, others, after))
    assert all(p.grad is None for p in model.parameters())


def test_training_with_everything(model, tmp_path, capsys):
    batches = loader(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    criterion = nn.CrossEntropyLoss(ignore_index=PADDING)
    flosser = flossing.Flosser(model.rnn, k=3, before=4, every=2)
    watcher = flossing.watch(model.rnn, k=3, every=5, share=None)
    flosser.before_training(lambda: model.packed(*batches[0][:2]))
    losses, seen, episodes = [], [], 0
    for step in range(16):
        sentences, lengths, tags = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = criterion(model(sentences, lengths).flatten(0, 1), tags.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        inputs = model.packed(sentences, lengths)
        episodes += flosser.step(step, inputs) is not None
        if numbers := watcher(inputs):
            seen.append(numbers["flossing/exponent_1"])
            again = partial(flossing.watch(model.rnn, k=3, share=None), inputs)
            expected = in_eval_mode(model, again)
            assert numbers["flossing/exponent_1"] == expected["flossing/exponent_1"]
    assert len(seen) == 4
    assert episodes
    assert sum(losses[-4:]) < sum(losses[:4])

    path, page, data = (tmp_path / name for name in ("model.pt", "page.html", "inputs.pt"))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    torch.save(model.embedding(batches[0][0][:, :18]).detach(), data)
    arguments = ["--inputs", str(data), "--layout", "batch-first", "--output", str(page)]
    main(["analyze", str(path), *arguments, "--horizon", "10", "--k", "4"])
    assert "rnn" in page.read_text(encoding="utf-8")
    assert "4 sequences of 18 steps" in capsys.readouterr().out
