"""Raw scores to what a person reads: a class with its probability, or a value in its own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import SignatureMismatch
from models.signature import Signature

MOST_CLASSES: Final = 100
"""An answer lists the probabilities of at most so many classes, the likeliest."""


def answers(
    scores: NDArray[np.float32], task: Mapping[str, Any], signature: Signature, classes: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Return one answer per record, as JSON can hold it.

    - cross-entropy: ``{"prediction": CLASS, "probability": p, "probabilities": {CLASS: p, ...}}``, the
      softmax of the scores;
    - hinge: ``{"prediction": CLASS, "score": s, "scores": {CLASS: s, ...}}``; margins are no probabilities;
    - mse: ``{"prediction": VALUE}`` in the targets' own units, clipped to their public range, as
      ``Task.unscale`` has it; a list where there are several targets.

    Where a record's scores are not all finite, ``{"prediction": None, "reason": TEXT}``.

    Args:
        scores: float32 ``(N, outputs)``, as a model returns them.
        task: ``loss_name`` and ``target_bounds``, as ``Task.to_dict`` gives them.
        signature: what the model returns.
        classes: names of the outputs, in order; "0", "1", … if None. Not used for values.

    Raises:
        SignatureMismatch: scores of another shape, or another number of classes.
    """
    scores = np.asarray(scores, np.float32)
    if scores.ndim != 2 or scores.shape[1] != signature.outputs:
        raise SignatureMismatch(f"scores of shape {scores.shape}: this model returns (N, {signature.outputs})")
    finite = np.asarray(np.isfinite(scores).all(axis=1))
    if signature.target == "value":
        found = _values(scores, task)
    else:
        names = [str(index) for index in range(signature.outputs)] if classes is None else list(classes)
        if len(names) != signature.outputs:
            raise SignatureMismatch(f"classes: {len(names)} names for {signature.outputs} outputs; give one for each")
        found = _classes(np.where(finite[:, None], scores, 0), names, soft=task["loss_name"] == "cross-entropy")
    for record in np.flatnonzero(~finite):
        found[record] = {"prediction": None, "reason": "the model's scores for this record are not finite"}
    return found


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities ``(N, outputs)``, computed in float64 and shifted so that nothing overflows."""
    exact = scores.astype(np.float64)
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def unscale(scores: NDArray[np.float32], bounds: Sequence[float]) -> NDArray[np.float32]:
    """Return outputs in [-1, 1] in the targets' own units: the numbers of ``Task.unscale``, bit for bit."""
    low, high = (float(bound) for bound in bounds)
    return (np.clip(scores, -1, 1) + 1) * np.float32((high - low) / 2) + np.float32(low)


def _values(scores: NDArray[np.float32], task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answer with values."""
    bounds = task.get("target_bounds")
    if bounds is None:
        raise SignatureMismatch("task.target_bounds: missing; values cannot be told from scores without them")
    rows = unscale(scores, bounds).tolist()
    return [{"prediction": row[0] if len(row) == 1 else row} for row in rows]


def _classes(scores: NDArray[np.float32], names: list[str], *, soft: bool) -> list[dict[str, Any]]:
    """Answer with classes."""
    one, many = ("probability", "probabilities") if soft else ("score", "scores")
    figures = softmax(scores) if soft else scores.astype(np.float64)
    # The class is read off the scores: two of them may differ by less than their probabilities can show.
    best = scores.argmax(axis=1).tolist()
    if len(names) <= MOST_CLASSES:
        listed = [dict(zip(names, row, strict=True)) for row in figures.tolist()]
    else:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :MOST_CLASSES]
        values = np.take_along_axis(figures, order, axis=1)
        listed = [
            dict(zip([names[index] for index in row], each, strict=True))
            for row, each in zip(order.tolist(), values.tolist(), strict=True)
        ]
    return [
        {"prediction": names[index], one: row[names[index]], many: row} for index, row in zip(best, listed, strict=True)
    ]
