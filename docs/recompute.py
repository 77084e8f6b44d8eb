"""Recompute every data set's epsilon from a bundle with Google's dp-accounting alone: ``python recompute.py BUNDLE``.

An auditor's second opinion on ``confide audit verify``: nothing of Confide is used, and nothing is verified here, only
added up. Prints a JSON object a data set: the epsilon that the privacy filter enforces (at the orders of the policy in
force; null after an override; not for mode "pinned") and the PLD epsilon, both at the largest delta ever signed.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

DEFAULT_ORDERS = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
ZERO_OUT = NeighboringRelation.REPLACE_SPECIAL
Steps = Counter[tuple[float, float]]


def spend(entries: list[dict[str, Any]], names: list[str]) -> list[Steps]:
    """Steps by (sampling rate, noise multiplier) of training and validation; runs that are open count in full."""
    mine = [entry for entry in entries if entry["dataset"] in names]
    paid = {entry["run"]: entry for entry in mine if entry["kind"] in ("reserve", "settle")}
    training, validation = Steps(), Steps()
    for used in (entry["mechanism"] for entry in paid.values()):
        setting = float(used["sampling_rate"]), float(used["noise_multiplier"])
        training[setting] += int(used["steps_per_round"]) * int(used["rounds"])
        if used["metric_noise"] is not None:
            validation[1.0, float(used["metric_noise"])] += int(used["evaluations"])
    splits = {entry["ref"]["split"] for entry in mine if entry["kind"] == "dataset"}
    return [+training, +validation] if len(splits) < 2 else [training + validation]


def composed(accountant: Any, part: Steps) -> Any:
    """The accountant, having composed a compartment's releases."""
    for (q, sigma), count in part.items():
        one = GaussianDpEvent(sigma) if q == 1 else PoissonSampledDpEvent(q, GaussianDpEvent(sigma))
        accountant.compose(SelfComposedDpEvent(one, count))
    return accountant


def enforced(part: Steps, orders: list[int], delta: float) -> float:
    """The filter's epsilon: the best order's, each order having its share of delta."""
    rdp, order = composed(RdpAccountant(orders, ZERO_OUT), part).rdp, np.asarray(orders, float)
    conversion = (np.log(len(orders) / delta) - np.log(order)) / (order - 1) + np.log1p(-1 / order)
    return max(0.0, float((rdp + conversion).min()))


def main(bundle: Path) -> None:
    """Print every data set of every ledger."""
    for file in sorted((bundle / "ledgers").glob("*.jsonl")):
        entries = [json.loads(line)["entry"] for line in file.read_text("utf-8").splitlines()]
        digests = [entry["ref"]["digest"] for entry in entries if entry["kind"] == "policy"]
        policies = [tomllib.loads((bundle / "policies" / f"{digest}.toml").read_text("utf-8")) for digest in digests]
        orders, tables = policies[-1].get("orders", DEFAULT_ORDERS), policies[-1].get("dataset", {})
        overridden = {entry["dataset"] for entry in entries if entry["kind"] == "override"}
        for name in dict.fromkeys(entry["dataset"] for entry in entries if entry["dataset"]):
            group = tables.get(name, {}).get("group")
            names = [name] if group is None else [one for one in tables if tables[one].get("group") == group]
            delta = max(float(p["dataset"][name]["lifetime"]["delta"]) for p in policies if name in p["dataset"])
            parts = [part for part in spend(entries, names) if part]
            row: dict[str, Any] = {"file": file.name, "dataset": name, "delta": delta, "enforced": None, "pld": None}
            if not overridden & set(names):
                row["enforced"] = max((enforced(part, orders, delta) for part in parts), default=0.0)
                plds = (composed(PLDAccountant(ZERO_OUT), part).get_epsilon(delta) for part in parts)
                row["pld"] = max(plds, default=0.0)
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
