"""What a variant costs and what it is worth, measured on the very file that is published."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from models import export
from models.compress.plan import Steps, file_of, name_of
from models.files import read_bounded
from models.public import PublicRecords
from models.task import Task
from models.zoo import MAX_PARAMETERS

Metric: TypeAlias = Literal["accuracy", "mae"]

_CHUNK: Final = 256
_LIMIT: Final = 8 * MAX_PARAMETERS
_TURNS: Final = 200
_SECONDS: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One variant: a file and its figures, or the reason why there is none.

    Attributes:
        name: its steps joined by ``+``.
        steps: as in the plan.
        file: within the bundle, ``variants/NAME.onnx``; None if the variant was dropped.
        bytes, sha256: of the file.
        ratio: ``bytes`` over those of float32.
        parameters: numbers the model has.
        metric: ``"accuracy"`` or, for values, ``"mae"`` in the targets' own units; None without targets.
        score: of the metric on the evaluation records.
        score_change: ``score`` minus float32's.
        agreement: classes: share of public records with float32's predicted class; values: 1 minus the mean
            absolute difference on the scale of [-1, 1].
        latency_ms_b1, latency_ms_b32: median milliseconds for a batch of 1 and of 32, ONNX Runtime, one thread.
        kept: whether it is published.
        reason: why not, or how it was found good.

    Figures of a variant that could not be made are None.
    """

    name: str
    steps: Steps
    file: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    ratio: float | None = None
    parameters: int | None = None
    metric: Metric | None = None
    score: float | None = None
    score_change: float | None = None
    agreement: float | None = None
    latency_ms_b1: float | None = None
    latency_ms_b32: float | None = None
    kept: bool
    reason: str

    def to_dict(self) -> dict[str, object]:
        """Return the keys of a variant in ``bundle.json``; of a dropped one also ``reason``."""
        accuracy = self.metric == "accuracy"
        told: dict[str, object] = {
            "name": self.name,
            "file": self.file,
            "format": "onnx",
            "steps": list(self.steps),
            "bytes": self.bytes,
            "sha256": self.sha256,
            "ratio": self.ratio,
            "parameters": self.parameters,
            "metric": self.metric,
            "score": self.score,
            "score_change": self.score_change,
            "accuracy": self.score if accuracy else None,
            "accuracy_change": self.score_change if accuracy else None,
            "agreement": self.agreement,
            "latency_ms_b1": self.latency_ms_b1,
            "latency_ms_b32": self.latency_ms_b32,
        }
        return told if self.kept else {**told, "reason": self.reason}


class Bench:
    """Measures files against float32, the first of them, on the same public records."""

    def __init__(self, task: Task, records: PublicRecords, *, tolerance: float) -> None:
        self.task, self.records, self.tolerance = task, records, tolerance
        self._metric: Metric | None = None
        if records.targets is not None:
            self._metric = "accuracy" if task.signature.target == "classes" else "mae"
        self._full: tuple[Measured, NDArray[np.float32]] | None = None

    def measure(self, folder: Path, steps: Steps, *, parameters: int) -> Measured:
        """Return the figures of ``folder/variants/NAME.onnx``, and whether they are within the tolerance.

        Raises:
            CompressionError: ONNX Runtime cannot run the file.
            StoreError: it cannot be read.
        """
        file = file_of(steps)
        encoded = read_bounded(folder / file, _LIMIT)
        ready = export.session(encoded)
        inputs = self.records.inputs
        scores = np.concatenate(
            [export.run(ready, inputs[start : start + _CHUNK]) for start in range(0, len(inputs), _CHUNK)]
        )
        score = self._score(scores)
        full, full_scores = self._full or (None, scores)
        change = None if score is None else 0.0 if full is None or full.score is None else score - full.score
        agreement = self._agreement(scores, full_scores)
        reason = self._fault(scores, change, agreement, None if full is None else full.score)
        found = Measured(
            name=name_of(steps),
            steps=steps,
            file=None if reason else file,
            bytes=len(encoded),
            sha256=hashlib.sha256(encoded).hexdigest(),
            ratio=1.0 if full is None or full.bytes is None else len(encoded) / full.bytes,
            parameters=parameters,
            metric=self._metric,
            score=score,
            score_change=change,
            agreement=agreement,
            latency_ms_b1=latency_ms(lambda: export.run(ready, inputs[:1])),
            latency_ms_b32=latency_ms(lambda: export.run(ready, _batch(inputs, 32))),
            kept=not reason,
            reason=reason or "within the tolerance",
        )
        if self._full is None:
            self._full = found, scores
        return found

    def _score(self, scores: NDArray[np.float32]) -> float | None:
        """The metric, as a run computes it."""
        if self.records.targets is None or self._metric is None:
            return None
        lanes = self.task.lanes(torch.from_numpy(scores), torch.tensor(self.records.targets))
        return self.task.metrics(lanes.numpy())[self._metric]

    def _agreement(self, scores: NDArray[np.float32], full: NDArray[np.float32]) -> float:
        """How often, or how nearly, the scores say what float32's say."""
        if self.task.signature.target == "classes":
            return float((scores.argmax(axis=1) == full.argmax(axis=1)).mean())
        return float(1 - np.abs(scores.clip(-1, 1) - full.clip(-1, 1)).mean(dtype=np.float64))

    def _fault(self, scores: NDArray[Any], change: float | None, agreement: float, full: float | None) -> str:
        """Why a variant is not good enough; nothing if it is."""
        if not np.isfinite(scores).all():
            return "its scores are not all finite numbers"
        if change is None:
            least = 1 - self.tolerance
            return (
                ""
                if agreement >= least
                else f"agrees with float32 on {agreement:.4f} of records, less than {least:.4f}"
            )
        if self._metric == "mae":
            most = self.tolerance * (full or 0)
            return "" if change <= most else f"its mean absolute error is {change:.4g} higher, more than {most:.4g}"
        return "" if change >= -self.tolerance else f"its accuracy is {-change:.4f} lower, more than {self.tolerance:g}"


def latency_ms(action: Callable[[], object]) -> float:
    """Return the median milliseconds of up to 200 turns, or as many as a quarter of a second holds, after five."""
    taken: list[float] = []
    for _ in range(5):
        action()
    end = time.perf_counter() + _SECONDS
    while len(taken) < _TURNS and (not taken or time.perf_counter() < end):
        start = time.perf_counter()
        action()
        taken.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(taken), 4)


def _batch(inputs: NDArray[Any], size: int) -> NDArray[Any]:
    """So many records, repeated if there are fewer."""
    return np.ascontiguousarray(inputs[np.arange(size) % len(inputs)])
