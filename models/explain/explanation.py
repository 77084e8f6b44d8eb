"""What an explanation holds, and its form as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FORMAT: Final = "confide-explanation/1"
METHOD: Final = "integrated gradients (Sundararajan, Taly and Yan 2017, arXiv 1703.01365)"

Parts = dict[str, float] | NDArray[np.float64]
"""Attributions by column or token, or as a map: ``(H, W)`` of an image, ``(T, D)`` of a sequence."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributed:
    """Why one record got its score.

    Attributes:
        record: its place in the request; the first is 1.
        answer: what the model says of it, as ``models.answers`` puts it.
        output: the index of the output explained, and ``name`` its class, or "value".
        score, baseline_score: that output for the record and for the baseline; for values in the targets'
            own units, without clipping.
        parts: what each part of the record adds; positive speaks for the output.
        words: texts only: the tokens read, in order, and ``weights`` what each adds: float64 ``(tokens,)``.
        cells: what the record said, by column, where it is known.
        picture: images only: the record as the model sees it, float32 ``(C, H, W)`` in [0, 1].
        residual: sum of all parts minus ``score - baseline_score``, which completeness says is 0.
        complete: the residual is within tolerance.
    """

    record: int
    answer: Mapping[str, Any]
    output: int
    name: str
    score: float
    baseline_score: float
    parts: Parts
    words: tuple[str, ...] = ()
    weights: NDArray[np.float64] | None = None
    cells: Mapping[str, str] | None = None
    picture: NDArray[np.float32] | None = None
    residual: float
    complete: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Overall:
    """What matters to the model over many records.

    Attributes:
        origin: where the records come from.
        records: how many there were.
        parts: the mean absolute attribution of each part; of a token, per record, over all its places.
        largest_residual: over the records.
    """

    origin: str
    records: int
    parts: Parts
    largest_residual: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Why records got their scores, and what matters overall.

    Attributes:
        kind: as the data specification has it: "tabular", "text", "image" or "sequence".
        unit: what attributions are measured in.
        baseline: the record they are measured against, in words.
        records: one for each record explained.
        left_out: how many further records the request held.
        overall: over public records, or those of the request.
    """

    kind: str
    unit: str
    baseline: str
    records: tuple[Attributed, ...]
    left_out: int
    overall: Overall

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON can hold it; numbers have six significant digits."""
        return {
            "format": FORMAT,
            "method": METHOD,
            "kind": self.kind,
            "unit": self.unit,
            "baseline": self.baseline,
            "records": [_record(each) for each in self.records],
            "left_out": self.left_out,
            "overall": {
                "over": self.overall.origin,
                "records": self.overall.records,
                "mean_absolute_attributions": _json(self.overall.parts),
                "largest_residual": _short(self.overall.largest_residual),
            },
        }


def _record(each: Attributed) -> dict[str, Any]:
    """Return one record's explanation."""
    parts: Any = _json(each.parts)
    if each.weights is not None:
        weights = each.weights.tolist()
        parts = [{"token": w, "attribution": _short(a)} for w, a in zip(each.words, weights, strict=True)]
    return {
        "record": each.record,
        "answer": dict(each.answer),
        "explains": each.name,
        "score": _short(each.score),
        "baseline_score": _short(each.baseline_score),
        "attributions": parts,
        "residual": _short(each.residual),
        "complete": each.complete,
    }


def _json(parts: Parts) -> Any:
    """Return attributions as objects or nested lists."""
    if isinstance(parts, dict):
        return {name: _short(value) for name, value in parts.items()}
    return [[_short(value) for value in row] for row in parts.tolist()]


def _short(value: float) -> float:
    """Round to six significant digits, more than the method is worth."""
    return float(f"{value:.6g}")
