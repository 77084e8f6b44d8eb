"""A small transformer encoder made of linear, layer-norm and embedding layers alone.

Attention is written out on plain linear layers rather than taken from ``nn.MultiheadAttention``: every
trainable parameter then sits in a layer whose per-record gradient is known in closed form, for hooks,
book-keeping and ``torch.func`` alike. Positions are a constant, since a bare ``nn.Parameter`` belongs to no
such layer.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from models.errors import BadHyperparameter
from models.hyperparameters import Depth, Width
from models.signature import Signature


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2): ``(B, T, width) -> (B, T, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)

    def forward(self, steps: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from every step to the steps where ``mask`` (bool ``(B, T)``) is true."""
        batch, length, width = steps.shape
        split = self.inward(steps).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        # Written out: torch's fused kernel for the CPU is no faster at these sizes, and has no batching rule,
        # so that vmap would run it record by record.
        scores = query @ key.transpose(2, 3) * key.shape[3] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        mixed = scores.softmax(dim=3) @ value
        return cast(Tensor, self.outward(mixed.transpose(1, 2).reshape(batch, length, width)))


class Block(nn.Module):
    """One pre-norm encoder layer (Xiong et al. 2020): ``(B, T, width) -> (B, T, width)``."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, feedforward), nn.GELU(), nn.Linear(feedforward, width)
        )

    def forward(self, steps: Tensor, mask: Tensor | None) -> Tensor:
        """Return the steps after attention and feed-forward, each with a residual."""
        steps = steps + self.attention(self.before_attention(steps), mask)
        return cast(Tensor, steps + self.feedforward(steps))


class Encoder(nn.Module):
    """Embed, add positions, encode, average over the steps, classify.

    ``forward``: float32 ``(B, T, D)``, or int64 ``(B, T)`` for tokens, ``-> (B, outputs)`` float32. Padding
    (id 0) is neither attended to nor averaged; a record of padding alone is treated as if nothing were
    padding.
    """

    positions: Tensor

    def __init__(self, signature: Signature, width: int, heads: int, layers: int, feedforward: int) -> None:
        super().__init__()
        self.tokens = signature.vocabulary is not None
        self.embedding = (
            nn.Linear(signature.shape[1], width)
            if signature.vocabulary is None
            else nn.Embedding(signature.vocabulary, width)
        )
        # Not persistent: a constant that both sides compute, and no part of what is exchanged or stored.
        self.register_buffer("positions", sinusoids(signature.shape[0], width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, feedforward) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, signature.outputs)

    def forward(self, records: Tensor) -> Tensor:
        """Return the scores ``(B, outputs)`` of a batch."""
        mask = None
        if self.tokens:
            real = records != 0
            # Without a single key to attend to, the softmax would be 0/0.
            mask = real | ~real.any(dim=1, keepdim=True)
        steps = self.embedding(records) + self.positions
        for block in self.blocks:
            steps = block(steps, mask)
        steps = self.norm(steps)
        if mask is None:
            return cast(Tensor, self.head(steps.mean(dim=1)))
        weights = mask.to(steps.dtype).unsqueeze(2)
        return cast(Tensor, self.head((steps * weights).sum(dim=1) / weights.sum(dim=1)))


def sinusoids(length: int, width: int) -> Tensor:
    """Return the position code of Vaswani et al. 2017, section 3.5: float32 ``(length, width)``."""
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    angle = torch.arange(length, dtype=torch.float32)[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)[:, :width].contiguous()


def transformer(
    signature: Signature, *, width: Width = 64, heads: Width = 4, layers: Depth = 2, feedforward: Width = 128
) -> nn.Module:
    """Build a transformer encoder; see :class:`Encoder` for shapes.

    Args:
        signature: a sequence or tokens signature.
        width: size of a step; a multiple of ``heads``.
        heads: attention heads of each layer.
        layers: number of encoder layers.
        feedforward: hidden width of each layer's feed-forward part.

    Raises:
        BadHyperparameter: ``width`` is no multiple of ``heads``.
    """
    if width % heads:
        raise BadHyperparameter(
            f"transformer.width={width}: must be a multiple of heads={heads}; "
            f"try {heads * max(1, round(width / heads))}"
        )
    return Encoder(signature, width, heads, layers, feedforward)
