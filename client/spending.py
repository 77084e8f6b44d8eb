"""What this machine's ledger says was spent, for its operator."""

from __future__ import annotations

import math
from typing import Any

from client import config
from client.errors import ConfigError
from client.policies import ledger_to_read, ledger_to_write
from privacy import notes
from privacy.status import DatasetStatus


def spending() -> dict[str, Any]:
    """Each data set's spent, reserved and remaining epsilon, open runs, witnesses; epsilon None where unbounded."""
    ledger = ledger_to_read()
    statuses = ledger.statuses()
    return {
        "origin": ledger.origin,
        "entries": ledger.size,
        "datasets": [_row(status) for status in statuses],
        "open": [{"run": run, "dataset": status.dataset} for status in statuses for run in status.open_runs],
        "witnesses": {name: {"size": notes.parse(note).size} for name, note in ledger.newest_witness().items()},
    }


def _row(status: DatasetStatus) -> dict[str, Any]:
    """One data set as JSON: epsilon None where there is no bound, caps None where the policy denies it."""
    return {
        "dataset": status.dataset,
        "lineage": status.lineage,
        "version": status.version,
        "group": status.group,
        "cap": None if status.cap is None else status.cap.epsilon,
        "delta": None if status.cap is None else status.cap.delta,
        "spent": _bounded(status.settled),
        "reserved": _bounded(status.enforced - status.settled) if math.isfinite(status.settled) else None,
        "remaining": _bounded(status.remaining),
        "rounds_left": status.rounds_left,
        "runs": status.runs,
        "last_run": status.last_run,
        "period": None
        if status.period is None
        else {
            "days": status.period.days,
            "epsilon": status.period.epsilon,
            "spent": None if status.period_spent is None else _bounded(status.period_spent),
        },
        "overrides": list(status.overrides),
    }


def _bounded(epsilon: float) -> float | None:
    """JSON knows no infinity."""
    return epsilon if math.isfinite(epsilon) else None


def settle_run(run: str) -> dict[str, Any]:
    """Settle an open run; raises :class:`ConfigError` if there is none of that name."""
    ledger = ledger_to_write(config.load_settings())
    reservation = ledger.reservation(run)
    if reservation is None or reservation.plan is None:
        names = ", ".join(name for status in ledger.statuses() for name in status.open_runs) or "none"
        raise ConfigError(f"run {run}: nothing is reserved for it (open: {names}); correct the name")
    reservation.settle()
    rounds = sum(reservation.released(number) is not None for number in range(1, reservation.plan.rounds + 1))
    return {"run": run, "rounds": rounds, "reserved_rounds": reservation.plan.rounds}
