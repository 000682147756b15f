"""Diagnose and floss the LSTM of a character-level language model, on packed sequences.

The texts are nested brackets of four kinds, such as `([{}])<()>`, which the script makes itself.
"""

# %% The texts, of different lengths; kind i opens as character i and closes as 4 + i.
import random

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import flossing

KINDS = 4
random.seed(0)
torch.manual_seed(0)


def random_text() -> Tensor:
    """Return nests such as `([{}])`, one after another, 24 to 80 characters in all."""
    nests = [torch.randint(KINDS, (random.randint(2, 5),)) for _ in range(random.randint(6, 8))]
    return torch.cat([torch.cat([nest, KINDS + nest.flip(0)]) for nest in nests])


# %% The model. Flossing concerns its recurrent layer, `model.rnn`.
class LanguageModel(nn.Module):
    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2 * KINDS, 8)
        self.rnn = nn.LSTM(8, size)
        self.readout = nn.Linear(size, 2 * KINDS)

    def embed(self, texts: list[Tensor]) -> PackedSequence:
        return pack_sequence([self.embedding(text[:-1]) for text in texts], enforce_sorted=False)

    def loss(self, count: int) -> Tensor:
        texts = [random_text() for _ in range(count)]
        targets = pack_sequence([text[1:] for text in texts], enforce_sorted=False).data
        logits = self.readout(self.rnn(self.embed(texts))[0].data)
        return nn.functional.cross_entropy(logits, targets)


model = LanguageModel()


# %% Diagnose on embedded texts, the inputs of the LSTM. Its exponents lie far below zero, and a
# gradient has shrunk to a hundredth after some ten steps: the vanishing lag.
@torch.no_grad()
def embedded_texts(count: int = 4) -> PackedSequence:
    return model.embed([random_text() for _ in range(count)])


def diagnose(when: str) -> tuple[Tensor, float]:
    with torch.no_grad():
        exponents = flossing.lyapunov_spectrum(model.rnn, embedded_texts(), k=8).exponents.mean(0)
    horizon = flossing.gradient_horizon(model.rnn, embedded_texts(1), threshold=0.01)
    lag = float(horizon.random.vanishing_lag)
    print(f"{when}: exponents {exponents[0]:.2f} to {exponents[-1]:.2f}, vanishing lag {lag:.0f}")
    return exponents, lag


before = diagnose("at initialisation")

# %% Floss 8 of the 64 exponents of the state (h, c): gradients then reach the start of a text.
flosser = flossing.Flosser(model.rnn, k=8, before=100)
history = flosser.before_training(embedded_texts)
flossed = diagnose("after flossing")

# %% Train, and floss gently while training.
first_loss = float(model.loss(64).detach())
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(120):
    optimizer.zero_grad()
    model.loss(16).backward()
    optimizer.step()
    flosser.step(step, embedded_texts)
last_loss = float(model.loss(64).detach())
print(f"cross-entropy of new texts: {first_loss:.2f} -> {last_loss:.2f} nats per character")
