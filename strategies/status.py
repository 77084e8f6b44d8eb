"""The fixed list of things a department may say besides its vector."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Everything a department may say besides its vector."""

    OK = "ok"
    BAD_MESSAGE = "bad-message"
    UNKNOWN_DATASET = "unknown-dataset"
    DATA_UNUSABLE = "data-unusable"
    REFUSED_BY_POLICY = "refused-by-policy"
    NEEDS_SETUP = "needs-setup"
    SEALING_REFUSED = "sealing-refused"
    ROSTER_REFUSED = "roster-refused"
    BELOW_FLOORS = "below-floors"
    CLOCK_WRONG = "clock-wrong"
    ROUND_ALREADY_ANSWERED = "round-already-answered"
    DATASET_CHANGED = "dataset-changed"
    LEDGER_BEHIND = "ledger-behind"
    STATE_NOT_DURABLE = "state-not-durable"
    TRAINING_FAILED = "training-failed"
