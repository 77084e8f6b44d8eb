"""What operators see of a model server: figures for Prometheus, and one log line when traffic drifts.

Figures are sums over requests; none is labelled with anything that a caller sent. Classes are public, and only
the first ``MOST_CLASSES`` have a counter of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from server.errors import ServingError

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
except ImportError:
    raise ServingError("serving needs its extra packages: pip install 'confide[serve]'") from None

if TYPE_CHECKING:
    from server.serving.active import ActiveModel

logger = logging.getLogger("confide.serving")

MOST_CLASSES: Final = 100
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RECORDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Monitor:
    """The figures of one server, in a registry of their own; every method may be called from any thread."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self._requests = Counter("confide_requests", "Requests to /invocations.", ["status"], registry=own)
        self._seconds = Histogram(
            "confide_request_seconds", "Time from head to answer.", buckets=_SECONDS, registry=own
        )
        self._records = Histogram(
            "confide_request_records", "Records in an answered request.", buckets=_RECORDS, registry=own
        )
        self._in_hand = Gauge("confide_requests_in_hand", "Requests being answered or waiting.", registry=own)
        self._predicted = Counter("confide_predictions", "Predicted classes.", ["version", "predicted"], registry=own)
        self._bad = Counter("confide_scores_not_finite", "Records without a finite score.", registry=own)
        self._active = Gauge(
            "confide_model", "The version that answers.", ["name", "version", "variant", "digest"], registry=own
        )
        self._swaps = Counter("confide_version_changes", "Versions that began to answer.", registry=own)
        self._refusals = Counter("confide_version_failures", "Failures to follow the alias.", ["reason"], registry=own)
        self._rollbacks = Counter("confide_version_rollbacks", "Versions taken back by rule.", registry=own)
        self._moved = Gauge(
            "confide_drift_moved", "Share that moved in the last window.", ["subject", "name"], registry=own
        )
        self._p_value = Gauge(
            "confide_drift_p_value", "Corrected p-value of the last window.", ["subject", "name"], registry=own
        )
        self._drifted = Gauge("confide_drift", "Statistics that drifted in the last window.", ["subject"], registry=own)
        self._windows = Counter("confide_drift_windows", "Windows judged.", registry=own)
        self._alarmed: set[tuple[str, str]] = set()

    def answered(self, status: int, seconds: float, records: int) -> None:
        """Count a request to ``/invocations``, whatever became of it."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)
        if records:
            self._records.observe(records)

    def watch_in_hand(self, count: Callable[[], float]) -> None:
        """Ask ``count`` how many requests are in hand whenever somebody reads the figures."""
        self._in_hand.set_function(count)

    def predicted(self, model: ActiveModel, scores: NDArray[np.float32], finite: NDArray[np.bool_]) -> None:
        """Count the answers of a request: scores ``(N, outputs)``, of which the rows ``finite`` ``(N,)`` count."""
        if not finite.all():
            self._bad.inc(int(len(scores) - finite.sum()))
        if model.signature.target != "classes":
            return
        counts = np.bincount(scores[finite].argmax(1))
        for index in np.flatnonzero(counts):
            label = "other" if index >= MOST_CLASSES else model.classes[int(index)] if model.classes else str(index)
            self._predicted.labels(str(model.version), label).inc(int(counts[index]))

    def swapped(self, model: ActiveModel) -> None:
        """Another version answers from now on."""
        self._swaps.inc()
        self._active.clear()
        self._active.labels(model.name, str(model.version), model.variant, model.digest).set(1)
        for gauge in (self._moved, self._p_value, self._drifted, self._predicted):
            gauge.clear()
        self._alarmed = set()

    def refused(self, reason: str) -> None:
        """A version could not be looked up, loaded or taken back; ``reason`` is an exception's name."""
        self._refusals.labels(reason).inc()

    def rolled_back(self) -> None:
        """A version was taken back by rule."""
        self._rollbacks.inc()

    def judge(self, model: ActiveModel) -> None:
        """Judge a model's window if it is full; a statistic that begins to drift is logged once."""
        if not model.drift.judge():
            return
        self._windows.inc()
        findings = model.drift.findings
        for finding in findings:
            self._moved.labels(finding.subject, finding.name).set(finding.moved)
            self._p_value.labels(finding.subject, finding.name).set(finding.p_value)
        for subject in ("input", "prediction"):
            self._drifted.labels(subject).set(sum(f.drifted for f in findings if f.subject == subject))
        drifted = {(finding.subject, finding.name): finding for finding in findings if finding.drifted}
        for key in drifted.keys() - self._alarmed:
            finding = drifted[key]
            logger.warning(
                "drift of %s %d: %s %r: %.0f %% of the records moved (%s, corrected p = %.2g)",
                *(model.name, model.version, finding.subject, finding.name),
                *(100 * finding.moved, finding.test, finding.p_value),
            )
        for subject, name in self._alarmed - drifted.keys():
            logger.warning("drift of %s %d: %s %r is steady again", model.name, model.version, subject, name)
        self._alarmed = set(drifted)

    def text(self) -> bytes:
        """All figures in Prometheus' text format, version 0.0.4."""
        return bytes(generate_latest(self._registry))
