"""What results and manifests say of a run: its sums, its privacy, the ledgers that vouch for it."""

from __future__ import annotations

from typing import Any

from privacy import notes
from privacy.accounting import Epsilon
from secagg.roster import Roster
from secagg.thresholds import threshold
from strategies.accounts import Witness
from strategies.settings import RunSettings
from strategies.state import RunState


def ledger_ranges(rows: list[dict[str, Any]], state: RunState, witness: Witness) -> dict[str, Any]:
    """Per department: the checkpoint of its ledger that covers the run, and its rounds that are in the model."""
    ranges = {}
    for name in sorted(state.asked):
        if note := witness.newest(name):
            checkpoint = notes.parse(note)
            ranges[name] = {
                "origin": checkpoint.origin,
                "size": checkpoint.size,
                "root": checkpoint.root.hex(),
                "rounds": [
                    row["round"] for row in rows if row["trained"] and not row["abandoned"] and name in row["answered"]
                ],
            }
    return ranges


def sealing_record(settings: RunSettings, roster: Roster | None) -> dict[str, Any]:
    """How a run's sums are sealed, as results print it: for a cohort of the whole roster."""
    if settings.secagg.clear or roster is None:
        return {"mode": "clear", "n": None, "threshold": None, "min_honest_sum": None, "legs_per_round": 1}
    n = len(roster.members)
    return {
        "mode": roster.mode,
        "n": n,
        "threshold": threshold(roster.mode, n, roster.colluders, roster.min_honest),
        "colluders": roster.colluders,
        "min_honest_sum": roster.min_honest,
        "legs_per_round": 3 if roster.mode == "strict" else 2,
    }


def epsilon_record(department: str, figure: Epsilon) -> dict[str, Any]:
    """A department's epsilon as results print it."""
    return {
        "department": department,
        "opacus_rdp": figure.opacus_rdp,
        "opacus_prv": figure.opacus_prv,
        "pld": figure.pld,
    }


def privacy_label(settings: RunSettings, spent: list[dict[str, Any]], private: str) -> dict[str, Any]:
    """What a model's manifest says of its privacy."""
    privacy = settings.privacy
    if not privacy.on:
        return {"mode": "off", "statement": "trained WITHOUT differential privacy"}
    return {
        "mode": privacy.mode,
        "unit": privacy.unit,
        "adjacency": "zero-out",
        "delta": privacy.delta,
        "departments": spent,
        "noise_multiplier": privacy.noise_multiplier,
        "metric_noise": privacy.metric_noise,
        "max_grad_norm": privacy.max_grad_norm,
        "sampling_rate": settings.training.sampling_rate,
        "statement": private,
    }
