"""Evidence to report on: federations that took part in the same runs, and verdicts made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ledger_cases import Department, mechanism, public, sealing, write
from ledger_cases import manifest as part_of

DAY = 86_400
PLAN = {"sampling_rate": "0.02", "steps_per_round": "25"}
# Enforced and PLD epsilon of three runs of 20 rounds; and where two rounds of the second failed.
SPENT = ((3.345818, 2.775604), (3.297145, 2.726406))


def policy_text(*datasets: str, cap: str = "8", extra: str = "", mode: str = "renyi-filter") -> str:
    """A policy with the same table for each data set."""
    table = f'declared_size = 12000\nlifetime = {{ epsilon = "{cap}", delta = "1e-6" }}\n{extra}'
    tables = "".join(f"[dataset.{json.dumps(name)}]\n{table}" for name in datasets)
    return f'version = 1\nunit = "record"\nadjacency = "zero-out"\nmode = "{mode}"\n{tables}'


def department(*datasets: str, name: str = "north", **policy: str) -> Department:
    """A department with registered data sets and a policy for them."""
    made = Department(name)
    made.genesis()
    made.policy(f"# {name}\n" + policy_text(*datasets, **policy))
    for dataset in datasets:
        made.dataset(dataset, split="1" * 64)
    return made


def train(
    made: Department,
    run: str,
    dataset: str = "claims",
    *,
    rounds: int = 20,
    failed: int = 0,
    settle: bool = True,
    **terms: str,
) -> None:
    """A run whose first rounds fail; nine days go by."""
    made.reserve(
        run, dataset, made=mechanism(**(PLAN | {"rounds": str(rounds), "evaluations": str(rounds + 1)} | terms))
    )
    for number in range(1, rounds + 1):
        if number <= failed:
            made.abandon(run, number, dataset)
        else:
            made.release(run, number, dataset)
    if settle:
        made.release(run, rounds + 1, dataset, train=False)
        made.settle(run, dataset)
    made.now += 9 * DAY


def naked(made: Department, run: str, dataset: str = "claims") -> None:
    """A run without differential privacy."""
    made.override(run, dataset)
    made.release(run, 1, dataset)


def row(made: Department, dataset: str, enforced: float | None, pld: float | None, **fields: Any) -> dict[str, Any]:
    """What the verifier says of a data set."""
    said = {"origin": made.origin, "department": made.name, "dataset": dataset, "delta": 1e-6, "cap": 8.0, "runs": 1}
    figures = {"enforced_epsilon": enforced, "pld_epsilon": pld, "cap_raised": False, "overrides": 0}
    return said | figures | {"open_reservations": 0, "entries": len(made.entries)} | fields


def verdict(rows: list[dict[str, Any]], found: str = "pass", problems: tuple[str, ...] = ()) -> dict[str, Any]:
    """A verdict as the verifier gives it."""
    return {
        "verdict": found,
        "exit_code": {"pass": 0, "violation": 1, "incomplete": 2}[found],
        "datasets": rows,
        "ledgers": [],
        "models": [],
        "problems": [{"file": "ledgers/north.jsonl", "seq": 4, "what": what, "severity": found} for what in problems],
        "not_proven": ["that noise was really added: see the conformance audit", "the times that entries state"],
    }


def model(run: str, *departments: Department, rounds: int = 20, **fields: Any) -> dict[str, Any]:
    """A model's manifest."""
    return {
        "name": f"model of {run}",
        "description": "Which claims need a second look",
        "created": "2026-03-21T10:00:00Z",
        "model": "cnn",
        "hyperparameters": {"width": 16},
        "rounds": rounds,
        "weights_sha256": "9" * 64,
        "spec_digest": "d" * 64,
        "task": {"loss_name": "cross-entropy"},
        "data": {"kind": "table", "name": "claims", "classes": ["no", "yes"]},
        "versions": {"confide": "0.1.0", "opacus": "1.6.0"},
        "privacy": {"mode": "local", "statement": "private"},
        "metrics": {"accuracy": 0.871, "auroc": 0.93},
        "ledgers": {made.name: part_of(made, rounds=range(3, rounds + 1)) for made in departments},
    } | fields


def federation(bundle: Path, names: tuple[str, ...] = ("north", "south", "west"), runs: int = 3) -> dict[str, Any]:
    """Departments that took part in the same runs, the second after raising its cap; returns the verdict."""
    departments, rows = [], []
    for index, name in enumerate(names):
        made = department("claims", name=name, cap="4" if index == 1 else "8")
        for number in range(1, runs + 1):
            if index == 1 and number == 3:
                made.policy(f"# {name}, raised\n" + policy_text("claims"))
            train(made, f"run-{number}", failed=2 if index == 2 and number == 2 else 0)
        rows.append(row(made, "claims", *SPENT[index == 2], cap_raised=index == 1, runs=runs))
        departments.append(made)
    keys = {made.name: public(made.key) for made in departments}
    numbered = [f"run-{number}" for number in range(1, runs + 1)]
    rosters = {run: sealing(run, keys, max_rounds=20) for run in numbered}
    write(bundle, *departments, rosters=rosters, models={run: model(run, *departments) for run in numbered})
    return verdict(rows)
