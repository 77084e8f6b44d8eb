"""Small models, batches and a one-record-at-a-time reference for the privacy tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# These models are far too small to gain from threads, and lose much to them on a busy machine.
torch.set_num_threads(1)


class Recurrent(nn.Module):
    """Embedding, a recurrent layer and a head on the last step."""

    def __init__(self, layer: nn.LSTM | nn.GRU | nn.RNN, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, layer.input_size, padding_idx=padding_idx)
        self.recurrent = layer
        self.head = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 3)

    def forward(self, tokens: Tensor) -> Tensor:
        steps = self.embedding(tokens)
        if not self.recurrent.batch_first:
            steps = steps.transpose(0, 1)
        out = self.recurrent(steps)[0]
        return cast(Tensor, self.head(out[:, -1] if self.recurrent.batch_first else out[-1]))


class Transformer(nn.Module):
    """One encoder block of linear layers, with padding masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.inward = nn.Linear(8, 24)
        self.outward = nn.Linear(8, 8)
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.feedforward = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length = tokens.shape
        steps = self.embedding(tokens)
        mask = (tokens != 0)[:, None, None, :]
        q, k, v = self.inward(self.before(steps)).view(batch, length, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        steps = steps + self.outward(mixed.transpose(1, 2).reshape(batch, length, 8))
        steps = steps + self.feedforward(self.after(steps))
        return cast(Tensor, self.head(steps.mean(1)))


class TorchAttention(nn.Module):
    """A layer of torch's own transformer encoder."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(8, 3)
        self.batch_first = batch_first

    def forward(self, tokens: Tensor) -> Tensor:
        steps = self.embedding(tokens)
        if not self.batch_first:
            steps = steps.transpose(0, 1)
        steps = self.encoder(steps)
        return cast(Tensor, self.head(steps.mean(1 if self.batch_first else 0)))


class Twice(nn.Module):
    """One linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.layer(self.layer(x).relu()).relu()))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, stride=2, bias=False),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), dilation=(1, 2)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 2 * 2, 3),
    )


def cnn_grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 3),
    )


def cnn1d() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7, 3))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "cnn": cnn,
    "cnn-grouped": cnn_grouped,
    "cnn1d": cnn1d,
    "mlp": mlp,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)),
    "twice": Twice,
    "lstm": lambda: Recurrent(nn.LSTM(5, 7, batch_first=True)),
    "lstm-time-first": lambda: Recurrent(nn.LSTM(5, 7)),
    "lstm-deep": lambda: Recurrent(nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True)),
    "lstm-padding": lambda: Recurrent(nn.LSTM(5, 7, batch_first=True), padding_idx=0),
    "lstm-no-bias": lambda: Recurrent(nn.LSTM(5, 4, bias=False, batch_first=True)),
    "gru": lambda: Recurrent(nn.GRU(5, 7, batch_first=True)),
    "gru-deep": lambda: Recurrent(nn.GRU(5, 4, num_layers=2, bidirectional=True, bias=False, batch_first=True)),
    "rnn": lambda: Recurrent(nn.RNN(5, 4, batch_first=True)),
    "transformer": Transformer,
    "torch-attention": TorchAttention,
    "torch-attention-time-first": lambda: TorchAttention(batch_first=False),
}


def make(name: str, seed: int = 0) -> nn.Module:
    """Build a model of MODELS with weights fixed by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MODELS[name]()


def batch(name: str, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Records of very different gradient norms, some with padding, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (size,), generator=generator)
    if takes_tokens(name):
        tokens = torch.randint(1, 11, (size, 6), generator=generator)
        tokens[::2, 4:] = 0
        return tokens, targets
    shape = {"cnn": (1, 8, 8), "cnn-grouped": (1, 8, 8), "cnn1d": (2, 7)}.get(name, (6,))
    scale = torch.logspace(-1, 1, max(size, 1))[:size].view(-1, *[1] * len(shape))
    return torch.randn(size, *shape, generator=generator) * scale, targets


def takes_tokens(name: str) -> bool:
    """Whether records are token ids."""
    return name.startswith(("lstm", "gru", "rnn", "transformer", "torch-attention"))


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each record, (B,)."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def one_by_one(model: nn.Module, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> list[Tensor]:
    """The clipped sum in the plainest way: one backward pass a record."""
    trained = [p for p in model.parameters() if p.requires_grad]
    total = {id(p): torch.zeros_like(p) for p in model.parameters()}
    for row in range(len(inputs)):
        loss = losses(model(inputs[row : row + 1]), targets[row : row + 1]).sum()
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
        if not norm.isfinite() or not loss.isfinite():
            continue
        factor = min(1.0, max_grad_norm / (float(norm) + 1e-6))
        for p, g in zip(trained, gradients, strict=True):
            if g is not None:
                total[id(p)].add_(g, alpha=factor)
    return [total[id(p)] for p in model.parameters()]


def gap(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest absolute difference of two sums of the same shapes."""
    assert [f.shape for f in found] == [e.shape for e in expected]
    return max(float((f - e).abs().max()) for f, e in zip(found, expected, strict=True))
