"""Integrated gradients by Captum, refined until they add up."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import ExplainError
from models.signature import Signature

TOLERANCE: Final = 0.01
"""A residual may be this share of the difference explained, or of 1 where that is less."""

_STEPS: Final = (64, 128, 256, 512, 1024)
_AT_ONCE: Final = 32
_NUMBERS_AT_ONCE: Final = 2**22


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributions:
    """What each element of each record adds to its output.

    Attributes:
        values: float64 ``(N, *shape)``; of tokens ``(N, T)``, summed over the embedding.
        scores, baselines: float64 ``(N,)``: the output for the record and for its baseline.
        residuals: float64 ``(N,)``: the sum of ``values`` minus ``scores - baselines``.
    """

    values: NDArray[np.float64]
    scores: NDArray[np.float64]
    baselines: NDArray[np.float64]

    @property
    def residuals(self) -> NDArray[np.float64]:
        """How far completeness (axiom of the paper's section 3) is missed."""
        sums = self.values.reshape(len(self.values), -1).sum(axis=1)
        return np.asarray(sums - (self.scores - self.baselines))

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Whether each record's residual is within the tolerance."""
        return np.asarray(abs(self.residuals) <= TOLERANCE * np.maximum(1, abs(self.scores - self.baselines)))


def attribute(model: nn.Module, signature: Signature, inputs: NDArray[Any], outputs: NDArray[np.int64]) -> Attributions:
    """Return integrated gradients of one output per record, against a baseline that knows nothing.

    The baseline is a record of zeros: the middle of every bound and no category, or a black image. Of tokens
    the embedding is set to zero, while the model still knows where the text ends; the gradient is taken at the
    embedding, as ids have none. The path is refined from 64 steps to 1024 for records whose sum misses.

    Args:
        model: on the CPU; neither changed nor put into another mode.
        signature: what it takes.
        inputs: ``(N, *shape)``, prepared.
        outputs: int64 ``(N,)``: the output to explain.

    Raises:
        ExplainError: Captum is missing, the model has no token embedding, or gives scores that are not finite.
    """
    method = _captum()
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    chosen = torch.from_numpy(outputs.astype(np.int64))
    pieces = _pieces(frozen, signature, torch.from_numpy(np.array(inputs)))
    values = np.zeros((len(inputs), *signature.shape))
    scores, baselines = np.zeros(len(inputs)), np.zeros(len(inputs))
    for span, function, points, given in pieces:
        extra = (chosen[span], *given)
        with torch.no_grad():
            scores[span] = function(points, *extra).double().numpy()
            baselines[span] = function(torch.zeros_like(points), *extra).double().numpy()
        if not (np.isfinite(scores[span]).all() and np.isfinite(baselines[span]).all()):
            raise ExplainError("model: its scores are not finite; publish a sound version before it is explained")
        left = np.arange(len(points))
        rows = max(len(points), _NUMBERS_AT_ONCE // points[0].numel())
        for steps in _STEPS:
            found = method(function).attribute(
                points[left],
                additional_forward_args=tuple(each[left] for each in extra),
                n_steps=steps,
                internal_batch_size=rows,
            )
            found = found.sum(dim=2) if given else found
            values[span.start + left] = found.double().numpy()
            done = Attributions(values=values[span], scores=scores[span], baselines=baselines[span]).complete
            left = np.flatnonzero(~done)
            if not len(left):
                break
    return Attributions(values=values, scores=scores, baselines=baselines)


class _Chosen(nn.Module):
    """One output per record, of records given as numbers: ``(B, *shape), (B,) -> (B,)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, points: Tensor, chosen: Tensor) -> Tensor:
        """Return the chosen output of every record."""
        return cast(Tensor, self.model(points).gather(1, chosen[:, None]).squeeze(1))


class _ChosenOfEmbedded(nn.Module):
    """One output per record, of tokens given by their embeddings: ``(B, T, width), (B,), (B, T) -> (B,)``."""

    def __init__(self, model: nn.Module, embedding: nn.Embedding) -> None:
        super().__init__()
        self.model = model
        self.embedding = embedding

    def forward(self, points: Tensor, chosen: Tensor, ids: Tensor) -> Tensor:
        """Return the chosen output of every record; the ids say what is padding."""
        handle = self.embedding.register_forward_hook(lambda *_: points)
        try:
            return cast(Tensor, self.model(ids).gather(1, chosen[:, None]).squeeze(1))
        finally:
            handle.remove()


def _pieces(
    model: nn.Module, signature: Signature, inputs: Tensor
) -> Iterator[tuple[slice, nn.Module, Tensor, tuple[Tensor, ...]]]:
    """Yield a few records at a time: where, the function to explain, where its path ends, and what else it takes."""
    embedding = None
    if signature.kind == "tokens":
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        if len(tables) != 1:
            raise ExplainError(f"model: {len(tables)} token embeddings; a model of texts is explained by its only one")
        embedding = tables[0]
    for start in range(0, len(inputs), _AT_ONCE):
        span = slice(start, min(start + _AT_ONCE, len(inputs)))
        if embedding is None:
            yield span, _Chosen(model), inputs[span], ()
        else:
            ids = inputs[span]
            yield span, _ChosenOfEmbedded(model, embedding), embedding(ids).detach(), (ids,)


def _captum() -> Any:
    """Return Captum's integrated gradients."""
    try:
        from captum.attr import IntegratedGradients  # noqa: PLC0415  (an optional package)
    except ImportError:
        raise ExplainError("captum is not installed; explanations need it: pip install 'confide[explain]'") from None
    return IntegratedGradients
