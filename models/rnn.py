"""Recurrent networks over sequences of vectors or of tokens."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.hyperparameters import Depth, Width
from models.signature import Signature


class Recurrent(nn.Module):
    """A recurrent layer, read at its last step, and a linear head.

    ``forward``: float32 ``(B, T, D)``, or int64 ``(B, T)`` for tokens, ``-> (B, outputs)`` float32. Tokens
    are read at the last step that is not padding (id 0), so padding at the end changes nothing; a record of
    padding alone is read at its first step.
    """

    def __init__(self, signature: Signature, recurrent: nn.LSTM | nn.GRU, embedding: nn.Embedding | None) -> None:
        super().__init__()
        self.embedding = embedding
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size, signature.outputs)

    def forward(self, records: Tensor) -> Tensor:
        """Return the scores ``(B, outputs)`` of a batch."""
        if self.embedding is None:
            steps = cast(Tensor, self.recurrent(records)[0])
            return cast(Tensor, self.head(steps[:, -1]))
        steps = cast(Tensor, self.recurrent(self.embedding(records))[0])
        positions = torch.arange(records.shape[1], device=records.device)
        last = ((records != 0) * positions).amax(dim=1)
        read = last[:, None, None].expand(-1, 1, steps.shape[2])
        return cast(Tensor, self.head(steps.gather(1, read).squeeze(1)))


def lstm(signature: Signature, *, hidden: Width = 64, layers: Depth = 1, embedding: Width = 32) -> nn.Module:
    """Build a long short-term memory network; see :class:`Recurrent` for shapes.

    Args:
        signature: a sequence or tokens signature.
        hidden: size of the hidden state.
        layers: number of stacked layers.
        embedding: width of a token's embedding; sequences have none.
    """
    table, width = _embedding(signature, embedding)
    return Recurrent(signature, nn.LSTM(width, hidden, layers, batch_first=True), table)


def gru(signature: Signature, *, hidden: Width = 64, layers: Depth = 1, embedding: Width = 32) -> nn.Module:
    """Build a gated recurrent unit network; see :class:`Recurrent` for shapes.

    Args:
        signature: a sequence or tokens signature.
        hidden: size of the hidden state.
        layers: number of stacked layers.
        embedding: width of a token's embedding; sequences have none.
    """
    table, width = _embedding(signature, embedding)
    return Recurrent(signature, nn.GRU(width, hidden, layers, batch_first=True), table)


def _embedding(signature: Signature, width: int) -> tuple[nn.Embedding | None, int]:
    """Return the token table, if the signature has tokens, and the width of one step."""
    if signature.vocabulary is None:
        return None, signature.shape[1]
    return nn.Embedding(signature.vocabulary, width), width
