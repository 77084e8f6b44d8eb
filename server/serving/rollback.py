"""A new version's first requests: if too many of them fail, it is taken back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import ServingError


@dataclass(frozen=True, kw_only=True)
class RollbackRule:
    """When a version that a running server changed to is taken back.

    Attributes:
        requests: that are watched, from its first one on.
        threshold: more than this share of ``requests`` failing takes it back, at once when it is passed.

    A request fails if the model could not be run or a score was not finite; what a caller sent wrongly, and
    answers that were late because there were many callers, say nothing about a model.

    Raises:
        ServingError: a field is out of range.
    """

    requests: int = 100
    threshold: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.requests <= 1_000_000:
            raise ServingError(f"rollback requests = {self.requests}: give 1 to 1000000")
        if not 0 <= self.threshold < 1:
            raise ServingError(f"rollback threshold = {self.threshold}: give a share in [0, 1)")


class Probation:
    """Counts one version's first requests, from any thread.

    Args:
        rule: when it has failed.
        wake: called once, when it has.
    """

    def __init__(self, rule: RollbackRule, wake: Callable[[], None]) -> None:
        self.failed = False
        self._rule, self._wake = rule, wake
        self._lock = threading.Lock()
        self._seen = self._bad = 0

    def note(self, *, failed: bool) -> None:
        """Count one request."""
        with self._lock:
            if self.failed or self._seen >= self._rule.requests:
                return
            self._seen += 1
            self._bad += failed
            if self._bad <= self._rule.threshold * self._rule.requests:
                return
            self.failed = True
        self._wake()
