"""Metrics of sums that may carry noise: kept within their natural range, and None where undefined."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ratio(total: float, count: float, scale: float = 1.0) -> float | None:
    """Return ``total / count`` clipped to [0, 1], times ``scale``."""
    return float(min(max(total / count, 0.0), 1.0)) * scale if count > 0 else None


def macro_f1(hits: NDArray[np.float64], guessed: NDArray[np.float64], actual: NDArray[np.float64]) -> float | None:
    """Return the mean of ``2 TP / (predicted + actual)`` over the classes where that is defined."""
    both = guessed + actual
    seen = both > 0
    if not seen.any():
        return None
    return float(np.clip(2 * hits[seen] / both[seen], 0.0, 1.0).mean())


def binary_auroc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float | None:
    """Return the chance that a positive scores above a negative, a tie within a bin counting one half.

    ``positive`` and ``negative`` are histograms over the same bins, in ascending order of score.
    """
    positive, negative = positive.clip(min=0.0), negative.clip(min=0.0)
    pairs = positive.sum() * negative.sum()
    if pairs <= 0:
        return None
    below = np.cumsum(negative) - negative
    return float(np.clip((positive * (below + negative / 2)).sum() / pairs, 0.0, 1.0))
