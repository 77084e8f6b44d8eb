"""Has the traffic moved away from what the model was judged on? Tests on a window of recent records.

* numbers: two-sample Kolmogorov-Smirnov (Massey, JASA 1951) against the reference's order statistics;
* features that are 0 or 1, and the predicted classes: Pearson's chi-square test of homogeneity, classes with
  fewer than 5 expected records pooled;
* all of a kind together: Holm's step-down correction (Scandinavian Journal of Statistics, 1979).

A statistic has drifted if its corrected p-value is below ``significance`` *and* it moved by ``effect`` or
more: the largest difference between the two cumulative distributions, or half the sum of the differences of
the shares; both say what share of the records is not where it was. Without the second condition a busy server
would raise an alarm over differences that matter to nobody. Windows do not overlap, so that the same
records are not tested twice.

Records are summarised as they pass; the window holds numbers, never a record, and only on this machine.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import BundleError
from models.reference import POINTS, Reference, Statistic, summaries
from models.signature import Signature
from server.errors import ServingError


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """When a window is judged, and what counts as drift.

    Attributes:
        window: records in a window; a full window is judged, then a new one begins.
        significance: of the tests, after correction for their number.
        effect: the least share of the records that must have moved.

    Raises:
        ServingError: a field is out of range.
    """

    window: int = 1000
    significance: float = 0.001
    effect: float = 0.1

    def __post_init__(self) -> None:
        if not 100 <= self.window <= 100_000:
            raise ServingError(f"drift window = {self.window}: give 100 to 100000 records")
        if not 0 < self.significance < 1:
            raise ServingError(f"drift significance = {self.significance}: give a number between 0 and 1")
        if not 0 <= self.effect < 1:
            raise ServingError(f"drift effect = {self.effect}: give a share in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one test."""

    subject: str  # "input" or "prediction"
    name: str
    test: str
    moved: float
    p_value: float  # corrected
    drifted: bool


class Drift:
    """The window of one version of a model; ``observe`` from any thread, ``judge`` from one.

    Args:
        reference: of this version.
        signature: of the model.
        settings: when to judge.

    Raises:
        BundleError: the reference is of another model.
    """

    def __init__(self, reference: Reference, signature: Signature, settings: DriftSettings) -> None:
        _check(reference, signature)
        self.reference = reference
        self.settings = settings
        self._kind = signature.kind
        self._lock = threading.Lock()
        self._draw = np.random.default_rng(0)
        self._rows: list[tuple[NDArray[np.float32], NDArray[Any]]] = []
        self._records = 0
        self._windows = 0
        self._findings: tuple[Finding, ...] = ()

    def observe(self, inputs: NDArray[Any], scores: NDArray[np.float32]) -> None:
        """Note a request's records: inputs ``(N, *shape)`` or ``(N, T)`` and scores ``(N, outputs)``."""
        # A window that nobody came to judge yet is left as it is: records beyond it are not needed.
        if self.reference.unjudged or self._records >= self.settings.window:
            return
        # No request is more than a tenth of a window, or one caller's file would be taken for the traffic.
        most = self.settings.window // 10
        if len(inputs) > most:
            with self._lock:
                chosen = self._draw.choice(len(inputs), most, replace=False)
            inputs, scores = inputs[chosen], scores[chosen]
        given = summaries(self._kind, inputs)[1][:, self.reference.positions]
        predicted = scores.argmax(1) if self.reference.classes is not None else scores[:, : len(self.reference.outputs)]
        with self._lock:
            self._rows.append((given.copy(), predicted.copy()))
            self._records += len(given)

    def judge(self) -> bool:
        """Judge the window if it is full and begin the next; returns whether it was."""
        with self._lock:
            if self._records < self.settings.window:
                return False
            rows, self._rows, self._records = self._rows, [], 0
        given = np.concatenate([row[0] for row in rows])
        predicted = np.concatenate([row[1] for row in rows])
        findings = (*self._inputs(given), *self._predictions(predicted))
        with self._lock:
            self._findings = findings
            self._windows += 1
        return True

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the last full window showed; empty before there was one."""
        return self._findings

    @property
    def drifted(self) -> tuple[Finding, ...]:
        """The findings of the last full window that are drift."""
        return tuple(finding for finding in self._findings if finding.drifted)

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON: no record, only tests of at least a whole window."""
        with self._lock:
            findings, windows, records = self._findings, self._windows, self._records
        found = [vars(finding) for finding in findings]
        status = "drift" if any(finding.drifted for finding in findings) else "steady" if windows else "waiting"
        return {
            "status": "not judged" if self.reference.unjudged else status,
            "reason": self.reference.unjudged,
            "reference": {"origin": self.reference.origin, "records": self.reference.records},
            "window": self.settings.window,
            "records": min(records, self.settings.window),
            "windows": windows,
            "significance": self.settings.significance,
            "effect": self.settings.effect,
            "findings": found,
        }

    def _inputs(self, given: NDArray[np.float32]) -> list[Finding]:
        """Test every input statistic."""
        tests = [
            _compare(statistic, given[:, k], self.reference.records)
            for k, statistic in enumerate(self.reference.inputs)
        ]
        return self._decided("input", [statistic.name for statistic in self.reference.inputs], tests)

    def _predictions(self, predicted: NDArray[Any]) -> list[Finding]:
        """Test the predicted classes, or each output."""
        counts = self.reference.classes
        if counts is not None:
            found = np.bincount(predicted, minlength=len(counts))
            return self._decided("prediction", ["classes"], [chi_square(counts, found)])
        tests = [
            _compare(statistic, predicted[:, k], self.reference.records)
            for k, statistic in enumerate(self.reference.outputs)
        ]
        return self._decided("prediction", [statistic.name for statistic in self.reference.outputs], tests)

    def _decided(self, subject: str, names: Sequence[str], tests: Sequence[tuple[str, float, float]]) -> list[Finding]:
        """Correct the p-values for their number and decide."""
        corrected = holm([p_value for _, _, p_value in tests])
        return [
            Finding(
                subject=subject,
                name=name,
                test=test,
                moved=moved,
                p_value=p_value,
                drifted=p_value < self.settings.significance and moved >= self.settings.effect,
            )
            for name, (test, moved, _), p_value in zip(names, tests, corrected, strict=True)
        ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method, in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    stepped = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(value) for value in corrected]


def kolmogorov_smirnov(points: NDArray[np.float32], values: NDArray[np.float32], records: int) -> tuple[float, float]:
    """Return the largest difference of the cumulative distributions, and the p-value.

    ``points`` stand for ``records`` reference records. Where they are order statistics of more, what they
    leave out (at most two of their steps) is taken off before the test, so that it errs towards no drift.
    """
    from scipy.stats import kstwo  # noqa: PLC0415  (a second to load, and many servers never fill a window)

    ordered = np.sort(values)
    at = np.concatenate([points, ordered])
    shares = [np.searchsorted(sample, at, side="right") / len(sample) for sample in (points, ordered)]
    moved = float(np.abs(shares[0] - shares[1]).max())
    slack = 2 / (POINTS - 1) if records > len(points) else 0.0
    effective = records * len(values) / (records + len(values))
    return moved, float(kstwo.sf(max(moved - slack, 0.0), max(round(effective), 1)))


def chi_square(expected: NDArray[Any], found: NDArray[Any]) -> tuple[str, float, float]:
    """Return the test's name, half the sum of the differences of the shares, and the p-value of homogeneity.

    Args:
        expected, found: counts ``(K,)`` of the same classes in two samples, neither of them empty.
    """
    from scipy.stats import chi2  # noqa: PLC0415  (as above)

    table = np.stack([expected, found]).astype(np.float64)
    sizes = table.sum(1, keepdims=True)
    moved = float(np.abs(np.subtract(*(table / sizes))).sum() / 2)
    wanted = table.sum(0) * sizes / sizes.sum()
    rare = wanted.min(0) < 5
    pooled = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], 1)
    wanted = np.concatenate([wanted[:, ~rare], wanted[:, rare].sum(1, keepdims=True)], 1)
    pooled, wanted = pooled[:, wanted[0] > 0], wanted[:, wanted[0] > 0]
    if pooled.shape[1] < 2:
        return "chi-square", moved, 1.0
    statistic = float(((pooled - wanted) ** 2 / wanted).sum())
    return "chi-square", moved, float(chi2.sf(statistic, pooled.shape[1] - 1))


def _check(reference: Reference, signature: Signature) -> None:
    """Refuse a reference that does not fit the model."""
    if reference.unjudged:
        return
    features = signature.elements if signature.kind == "vector" else 2
    if not ((reference.positions >= 0) & (reference.positions < features)).all():
        raise BundleError(f"reference.json: inputs: a position outside [0, {features}); publish the run again")
    counts = reference.classes
    fits = counts is None and 1 <= len(reference.outputs) <= signature.outputs
    if signature.target == "classes":
        fits = counts is not None and len(counts) == signature.outputs and counts.sum() > 0 <= counts.min()
    if not fits:
        raise BundleError(f"reference.json: not of {signature.outputs} {signature.target}; publish the run again")


def _compare(statistic: Statistic, values: NDArray[np.float32], records: int) -> tuple[str, float, float]:
    """Test one number; one that was always 0 or 1 by its shares, unless it now takes other values."""
    if statistic.share is None:
        return "Kolmogorov-Smirnov", *kolmogorov_smirnov(statistic.points, values, records)
    ones = round(statistic.share * records)
    zero, one = int((values == 0).sum()), int((values == 1).sum())
    return chi_square(np.array([records - ones, ones, 0]), np.array([zero, one, len(values) - zero - one]))
