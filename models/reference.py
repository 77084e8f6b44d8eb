"""What inputs and predictions look like on public records: the yardstick that live traffic is held against.

Written into a bundle when it is published, from public or synthetic records alone, and read by the monitor of
a model server (``server.serving.drift``). Its size is bounded whatever the model: at most ``MAX_FEATURES``
features, each as ``POINTS`` evenly spaced order statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import BundleError
from models.inputs.tokens import PADDING, UNKNOWN

FORMAT: Final = "confide-reference/1"
MAX_FEATURES: Final = 128
POINTS: Final = 256
SYNTHETIC: Final = "synthetic"


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistic:
    """One number a record is summarised by, and its distribution on the reference's records.

    Attributes:
        name: the feature's public name.
        points: float32 ``(K,)`` ascending. ``K`` is the number of records where there are at most ``POINTS``:
            then these are the values themselves; else evenly spaced order statistics of them.
        share: of records at 1, where every value is 0 or 1 (a category, "is missing"); else None.
    """

    name: str
    points: NDArray[np.float32]
    share: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A reference as the monitor uses it; ``inputs`` and ``outputs`` are empty where nothing can be judged.

    Attributes:
        records: how many it was made from.
        origin: of those records, as ``models.public.PublicRecords`` has it.
        positions: of the input features, int64 ``(F,)``, among what ``summaries`` returns.
        inputs: one statistic for each of ``positions``.
        classes: int64 ``(outputs,)`` how often each class was predicted; None for values.
        outputs: one statistic for each of the first outputs; empty for classes.
        unjudged: why nothing can be judged; empty if it can.
    """

    records: int
    origin: str
    positions: NDArray[np.int64]
    inputs: tuple[Statistic, ...]
    classes: NDArray[np.int64] | None
    outputs: tuple[Statistic, ...]
    unjudged: str


def reference(
    inputs: NDArray[Any],
    scores: NDArray[Any],
    *,
    origin: str,
    features: Sequence[str] | None,
    task: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the reference of a model as JSON can hold it (a few 100 kB at most).

    Args:
        inputs: float32 ``(N, *shape)`` or, for tokens, int64 ``(N, T)``; public or synthetic records alone.
        scores: float32 ``(N, outputs)``, the model's raw scores of them.
        origin: of the records. ``"synthetic"`` ones resemble no traffic, so that nothing is held against them.
        features: names of a vector's positions (``models.inputs.resolve.feature_names``), where they have any.
        task: ``models.task.Task.to_dict()``.

    Raises:
        BundleError: no records, scores that are not one finite row a record, or names that do not fit.
    """
    classes = task["signature"]["target"] == "classes"
    if not len(inputs) or scores.shape != (len(inputs), task["signature"]["outputs"]):
        raise BundleError(
            f"reference: {len(inputs)} records and scores of shape {scores.shape}; "
            f"needs at least one record, and ({len(inputs)}, {task['signature']['outputs']}) scores"
        )
    if not np.isfinite(scores).all():
        raise BundleError("reference: a score is not a finite number; the model is of no use as it is")
    names, values = summaries(task["signature"]["kind"], inputs, features)
    kept = _spread(len(names))
    outputs = [] if classes else [_described(f"output {k}", column) for k, column in enumerate(scores.T[:MAX_FEATURES])]
    return {
        "format": FORMAT,
        "origin": origin,
        "records": len(inputs),
        "kind": task["signature"]["kind"],
        "inputs": [{"position": int(k), **_described(names[k], values[:, k])} for k in kept],
        "classes": np.bincount(scores.argmax(1), minlength=scores.shape[1]).tolist() if classes else None,
        "outputs": outputs,
    }


def read_reference(document: Mapping[str, Any]) -> Reference:
    """Return what :func:`reference` wrote.

    Raises:
        BundleError: the document is not one.
    """
    if document.get("format") != FORMAT:
        raise BundleError(f"reference.json: format {document.get('format')!r}; this version reads {FORMAT!r}")
    try:
        origin, counts = str(document["origin"]), document["classes"]
        if origin == SYNTHETIC:
            return _unjudged(
                int(document["records"]), "the reference records are synthetic, which no traffic resembles"
            )
        return Reference(
            records=int(document["records"]),
            origin=origin,
            positions=np.array([int(entry["position"]) for entry in document["inputs"]], np.int64),
            inputs=tuple(_statistic(entry) for entry in document["inputs"]),
            classes=None if counts is None else np.array(counts, np.int64),
            outputs=tuple(_statistic(entry) for entry in document["outputs"]),
            unjudged="",
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BundleError(f"reference.json: malformed ({type(error).__name__}); publish the run again") from None


def summaries(
    kind: str, inputs: NDArray[Any], features: Sequence[str] | None = None
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the names and float32 ``(N, F)`` values of the numbers that records are summarised by.

    A vector's are its features; an image's and a sequence's the mean and standard deviation of its values; a
    text's the number of its tokens and the share of them that are unknown.

    Raises:
        BundleError: the names do not fit a vector's features.
    """
    if kind == "vector":
        names = list(features) if features is not None else [f"feature {k}" for k in range(inputs.shape[1])]
        if len(names) != inputs.shape[1]:
            raise BundleError(f"reference: {len(names)} feature names for {inputs.shape[1]} features; give all")
        return names, inputs.astype(np.float32, copy=False)
    if kind == "tokens":
        length = (inputs != PADDING).sum(1)
        unknown = (inputs == UNKNOWN).sum(1) / np.maximum(length, 1)
        return ["tokens", "share of unknown tokens"], np.stack([length, unknown], 1).astype(np.float32)
    flat = inputs.reshape(len(inputs), -1)
    moments = np.stack([flat.mean(1, dtype=np.float64), flat.std(1, dtype=np.float64)], 1)
    return ["mean of the values", "standard deviation of the values"], moments.astype(np.float32)


def _spread(count: int) -> NDArray[np.int64]:
    """Return at most ``MAX_FEATURES`` positions, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_FEATURES)).round().astype(np.int64))


def _described(name: str, values: NDArray[Any]) -> dict[str, Any]:
    """Return a statistic as JSON, with the shortest digits that give the same float32 back."""
    ordered = np.sort(values.astype(np.float32))
    at = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), POINTS)).round().astype(np.int64))
    flag = bool(np.isin(ordered, (0.0, 1.0)).all())
    return {
        "name": name,
        "share": float(ordered.mean(dtype=np.float64)) if flag else None,
        "points": [] if flag else [float(str(value)) for value in ordered[at]],
    }


def _statistic(entry: Mapping[str, Any]) -> Statistic:
    """Read one statistic; ValueError if it cannot be one."""
    points = np.array(entry["points"], np.float32)
    share = None if entry["share"] is None else float(entry["share"])
    if points.ndim != 1 or not np.isfinite(points).all() or (np.diff(points) < 0).any():
        raise ValueError("points")
    if (share is None) != bool(len(points)) or (share is not None and not 0 <= share <= 1):
        raise ValueError("share")
    return Statistic(name=str(entry["name"]), points=points, share=share)


def _unjudged(records: int, why: str) -> Reference:
    """A reference that nothing is held against."""
    nothing = np.zeros(0, np.int64)
    return Reference(
        records=records, origin=SYNTHETIC, positions=nothing, inputs=(), classes=None, outputs=(), unjudged=why
    )
