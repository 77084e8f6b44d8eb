"""Verify a bundle of evidence, offline, and believe nobody: ``python privacy/verify.py BUNDLE [--json]``.

What is checked is ``docs/ledger-spec.md``. This file and its parts import nothing else of Confide, so that they can be
read, and run, by themselves (Python 3.11, ``cryptography``; ``dp_accounting`` for PLD figures, if it is there):

1. ``verify_values``: how values are read: schemas, canonical JSON, signatures, trees and notes.
2. ``verify_spending``: what mechanisms cost, and what policies say.
3. ``verify_ledger``: a ledger, entry by entry: form, place, clock, signature, policy, and what its kind demands. Every
   reservation is judged by what was spent at that moment, under the policy then in force; costs are computed anew.
4. ``verify_evidence``: files (known, bounded, no links), and whether they agree: policies' signatures; checkpoints and
   witnesses (the same entries, and none missing); rosters (is the key the department's?); models (are their rounds in
   the ledgers?).
5. This file: what was spent, the verdict, and what no bundle can prove.

``docs/recompute.py`` adds the figures up once more, with dp-accounting alone.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

if not __package__:  # run as a file: its parts are found as they are where Confide is installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from privacy import verify_spending as spending
from privacy.verify_evidence import Evidence, Problem
from privacy.verify_ledger import Ledger
from privacy.verify_spending import PER_MILLION, compartments
from privacy.verify_values import Json, shown

NOT_PROVEN = (
    "That noise was really added, gradients clipped and batches drawn at random: see `confide audit test`.",
    "That departments run the software that was audited.",
    "That no private record was read before its reservation, and that nothing left a machine but what its ledger says.",
    "Anything against a department that colludes with all of its witnesses: together they can keep two ledgers.",
    "When things happened: times are the departments' and the witnesses' own clocks.",
    "That the same data are not registered under another name, in another ledger or by another department.",
    "That a person has one record: who has k records in a data set pays for each of them.",
    "The epsilon of a person with records in several data sets or departments: each pays on its own.",
    "That hyper-parameters and preprocessing were chosen without private data: such searches are in no epsilon here.",
    "That the status codes of abandoned rounds say nothing about data: no noise covers them.",
    "That entries after the last one which a witness has seen will stay: they can still be removed.",
    "What a model's manifest says but for its ledgers: nobody signs it. Compare its digest with the model's weights.",
    "That declared sizes and commitments are those of the data: only the department can tell.",
    "When the bundle was made: nobody signs bundle.json.",
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found, as rows of JSON. An epsilon is None where nothing bounds it, or nothing here can compute it."""

    datasets: list[Json]
    ledgers: list[Json]
    models: list[Json]
    problems: list[Problem]
    not_proven: list[str]

    @property
    def exit_code(self) -> int:
        """0: pass, 1: violation, 2: incomplete evidence."""
        found = {problem.severity for problem in self.problems}
        return 1 if "violation" in found else 2 if found else 0

    def to_dict(self) -> Json:
        """Return the verdict as JSON has it."""
        word = ("pass", "violation", "incomplete")[self.exit_code]
        return {"verdict": word, "exit_code": self.exit_code, **asdict(self)}


def verify(
    folder: Path, *, witness_keys: Mapping[str, bytes] | None = None, governance: bytes | str | None = None
) -> Verdict:
    """Return the verdict on a bundle; whatever it holds, nothing is raised.

    Args:
        folder: the bundle.
        witness_keys: Ed25519 keys (32 bytes) of witnesses by name, from elsewhere than the bundle. Each of them must
            then have seen every ledger.
        governance: the governance key (32 bytes, or hexadecimal) or its fingerprint, from elsewhere than the bundle.
            Every ledger's key must then be in a roster that it signed.
    """
    told = governance.hex() if isinstance(governance, bytes) else governance
    evidence = Evidence(Path(folder), dict(witness_keys or {}), told)
    models = evidence.read_models()
    datasets, ledgers = [], []
    for name, ledger in evidence.ledgers.items():
        datasets += [_row(evidence, name, dataset) for dataset, mine in ledger.datasets.items() if mine.entries]
        row = {
            "file": f"{name}.jsonl",
            "origin": ledger.origin,
            "department": ledger.department,
            "key": ledger.keys[-1][1].hex() if ledger.keys else None,
            "entries": len(ledger.tree),
            "size_witnessed": max(evidence.witnessed[ledger.origin].values(), default=0),
            "in_roster": ledger.origin in evidence.vouched,
        }
        ledgers.append(row)
    not_proven = [*NOT_PROVEN, *_unproven(evidence, datasets)]
    return Verdict(datasets=datasets, ledgers=ledgers, models=models, problems=evidence.problems, not_proven=not_proven)


def _row(evidence: Evidence, name: str, dataset: str) -> Json:
    """What a data set of a ledger has spent, and what it was allowed."""
    ledger = evidence.ledgers[name]
    mine = ledger.datasets[dataset]
    caps = [(table["lifetime"]["epsilon"], table["lifetime"]["delta"], table.get("group")) for table in mine.tables]
    # What has held all along is the largest cap that was ever signed, whatever stands there now.
    cap: float | None = max((epsilon for epsilon, _, _ in caps), default=None)
    delta: float | None = max((delta for _, delta, _ in caps), default=None)
    # It went up, its delta did, or the data set left a budget that it shared.
    raised = any(e > e0 or d > d0 or (g0 is not None and g != g0) for (e0, d0, g0), (e, d, g) in pairwise(caps))
    enforced, precise = _epsilons(ledger, dataset, delta)
    if enforced is not None and cap is not None and not enforced <= cap * PER_MILLION:
        said = f"data set {shown(dataset)}: epsilon {enforced:.6g} is above {cap:g}, the largest cap ever signed"
        evidence.say(f"ledgers/{name}.jsonl", said)
    return {
        "origin": ledger.origin,
        "department": ledger.department,
        "dataset": dataset,
        "enforced_epsilon": enforced if enforced is not None and math.isfinite(enforced) else None,
        "pld_epsilon": precise if precise is not None and math.isfinite(precise) else None,
        "delta": delta,
        "cap": cap,
        "cap_raised": raised,
        "entries": mine.entries,
        "open_reservations": sum(run.mechanism is not None and not run.settled for run in mine.runs),
        "overrides": sum(run.mechanism is None for run in mine.runs),
        "runs": len(mine.runs),
    }


def _epsilons(ledger: Ledger, dataset: str, delta: float | None) -> tuple[float | None, float | None]:
    """Enforced and PLD epsilon of a data set's budget; None where nothing bounds it, or something lacks."""
    policy = ledger.policy
    group = policy.group(dataset) if policy else [dataset]
    runs = [run for one in group if one in ledger.datasets for run in ledger.datasets[one].runs]
    if not ledger.whole or any(run.mechanism is None for run in runs):
        return None, None
    spent, add = ledger.paid(group), ledger.added(group)
    if not +spent:
        return 0.0, 0.0
    if policy is None or delta is None:
        return None, None
    precise, table = spending.pld(compartments(spent, add=add), delta), policy.tables.get(dataset)
    if policy.pinned and table and spending.bounded(spent, spending.pinned(table)):
        most = compartments(spending.pinned(table), add=add)
        figure = spending.pld(most, delta)
        return spending.renyi(most, delta) if figure is None else figure, precise
    return policy.enforced(spent, delta, add=add), precise


def _unproven(evidence: Evidence, datasets: list[Json]) -> Iterator[str]:
    """What this bundle in particular does not prove."""
    if not evidence.witness_keys:
        yield "That the witnesses are who they say: their keys are the bundle's. Give those they gave you."
    if evidence.members and not evidence.governance:
        yield "That the rosters are the federation's: the governance key is from the bundle. Give the one you have."
    for name, ledger in evidence.ledgers.items():
        file = f"ledgers/{name}.jsonl"
        if ledger.origin not in evidence.vouched:
            yield f"That the key of {file} is the department's: no roster in the bundle names it."
        elif runs := sum(run not in evidence.members for run in ledger.runs):
            yield f"That runs in {file} were the federation's: the rosters of {runs} are not in the bundle."
        if ledger.rebased:
            yield f"The filter's proof for {file}: its orders or mode changed after runs, and should be fixed before."
    for row in datasets:
        if row["cap_raised"]:
            yield f"The first cap of {shown(row['dataset'])}: it was raised later, maybe after results were seen."
        if row["pld_epsilon"] is None and row["enforced_epsilon"] is not None:
            yield f"The PLD epsilon of {shown(row['dataset'])}: it takes dp_accounting, and figures within its range."


def _lines(verdict: Json) -> Iterator[str]:
    """A verdict for people."""
    for row in verdict["datasets"]:
        figures = (row["enforced_epsilon"], row["pld_epsilon"])
        enforced, precise = ("unbounded" if figure is None else f"{figure:.4f}" for figure in figures)
        cap = "none" if row["cap"] is None else f"{row['cap']:g} at delta {row['delta']:g}"
        cap += ", raised" if row["cap_raised"] else ""
        who = f"{shown(row['department'])} {shown(row['dataset'])}"
        yield f"{who}: epsilon {enforced} enforced, {precise} by PLD; cap {cap}"
    for problem in verdict["problems"]:
        entry = "" if problem["seq"] is None else f", entry {problem['seq']}"
        yield f"{problem['severity']}: {problem['file']}{entry}: {problem['what']}"
    yield from (f"not proven: {sentence}" for sentence in verdict["not_proven"])
    yield f"verdict: {verdict['verdict']}"


def main(arguments: list[str] | None = None) -> int:
    """Print a verdict; return 0 for pass, 1 for a violation, 2 for incomplete evidence."""
    parser = argparse.ArgumentParser(description="Verify a bundle of evidence, offline, and believe nobody.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument("--witness", action="append", default=[], metavar="NAME=KEY", help="key of a witness, in hex")
    parser.add_argument("--governance", metavar="KEY", help="the governance key, hexadecimal, or its fingerprint")
    given = parser.parse_args(arguments)
    try:
        keys = {name: bytes.fromhex(key) for name, key in (one.rsplit("=", 1) for one in given.witness)}
    except ValueError:
        parser.error("--witness: NAME=KEY, the key in hexadecimal")
    verdict = verify(given.bundle, witness_keys=keys, governance=given.governance).to_dict()
    text = json.dumps(verdict, indent=1) if given.json else "\n".join(_lines(verdict))
    sys.stdout.write(text.encode("ascii", "backslashreplace").decode() + "\n")
    return int(verdict["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
