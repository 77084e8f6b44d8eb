"""What must hold before a run's model is published. Every gate is judged, so that all that is wrong is said at once.

1. ``finished``: the run is over and its model is the one its manifest names.
2. ``privacy``: the model was trained with differential privacy.
3. ``ledgers``: every department that is in the model has reserved it, as its own verified ledger says.
4. ``caps``: none of them is over its cap, and none ran without privacy.
5. ``evaluation``: the model is worth publishing: better than a constant answer, and than the floor that was asked for.

A simulation spends nobody's budget, and has no ledgers: gates 3 and 4 then say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.public import PublicRecords
from models.strict_json import is_number
from privacy.verify import verify
from server.publishing.check import Check
from server.runs import RunDirectory

FIGURES = ("opacus_rdp", "opacus_prv", "pld")  # of a department, by every accountant


def run_gates(
    directory: RunDirectory,
    manifest: Mapping[str, Any],
    *,
    evidence: Path | None,
    governance: bytes | None,
    without_privacy: bool = False,
) -> list[Check]:
    """Judge what can be judged before anything is measured.

    Args:
        directory: the run.
        manifest: of its model.
        evidence: a bundle of every department's ledgers; by default ``evidence/`` in the run's folder.
        governance: the governance's public key, 32 bytes, where it is known.
        without_privacy: a model without differential privacy is wanted, and said to be one.
    """
    document = directory.document()
    # Whatever is not known to be a simulation spent somebody's budget.
    simulated = document["engine"] == "simulation"
    return [
        _finished(document),
        _privacy(manifest, simulated=simulated, without_privacy=without_privacy),
        *_audit(directory, manifest, evidence, governance, simulated=simulated),
    ]


def _finished(document: Mapping[str, Any]) -> Check:
    """A run that stopped early has a model, but not the one that was agreed on."""
    status = document["status"]
    said = "finished" if status == "finished" else f'{status}; let it finish ("confide run resume")'
    return Check(name="finished", passed=status == "finished", detail=f"the run is {said}")


def _privacy(manifest: Mapping[str, Any], *, simulated: bool, without_privacy: bool) -> Check:
    """What the label says."""
    label = manifest.get("privacy", {})
    private = label.get("mode", "off") != "off"
    said = str(label.get("statement", "no privacy label"))
    rows = label.get("departments") or ()
    # The largest figure of all accountants is the one that meets a target, and the one that is quoted.
    spent = [max(found) for row in rows if (found := _figures(row))]
    if private and not (spent and len(spent) == len(rows) and is_number(label.get("delta"))):
        return Check(name="privacy", passed=False, detail=f"the label does not say what every department spent: {said}")
    if private:
        said = f"epsilon {max(spent):.3f} at delta {label['delta']:g}, the most of any department: {said}"
    if not private and not without_privacy:
        said += "; --without-privacy publishes it all the same, labelled so"
    return Check(name="privacy", passed=private or without_privacy, detail=f"simulation: {said}" if simulated else said)


def _figures(row: object) -> list[float]:
    """What the accountants say that a department spent; not each of them can tell of every plan."""
    return [row[name] for name in FIGURES if is_number(row.get(name))] if isinstance(row, Mapping) else []


def _audit(
    directory: RunDirectory,
    manifest: Mapping[str, Any],
    evidence: Path | None,
    governance: bytes | None,
    *,
    simulated: bool,
) -> list[Check]:
    """What the departments' own ledgers say."""
    if simulated:
        said = "a simulation: no department's budget was spent, so there is no ledger"
        return [Check(name="ledgers", passed=True, detail=said), Check(name="caps", passed=True, detail=said)]
    folder = evidence or directory.path / "evidence"
    if not folder.is_dir():
        said = (
            f'{folder}: no evidence; collect it with "confide audit bundle --out {folder} --include …", or name it '
            "with --evidence"
        )
        return [
            Check(name="ledgers", passed=False, detail=said),
            Check(name="caps", passed=False, detail="not known without evidence"),
        ]
    verdict = verify(folder, governance=governance).to_dict()
    return [_ledgers(directory.name, manifest, verdict), _caps(manifest, verdict)]


def _ledgers(run: str, manifest: Mapping[str, Any], verdict: Mapping[str, Any]) -> Check:
    """Whether the evidence as a whole holds, and covers all that is in the model."""
    problems = [f"{row['file']}: {row['what']}" for row in verdict["problems"]]
    rows = [row for model in verdict["models"] if model["run"] == run for row in model["departments"]]
    covered = {row["department"] for row in rows if row["covered"] and _same_rounds(row, manifest)}
    rows_of_label = manifest.get("privacy", {}).get("departments") or ()
    spent = {str(row.get("department")) for row in rows_of_label if isinstance(row, Mapping)}
    missing = sorted((spent | set(manifest.get("ledgers", {}))) - covered)
    if verdict["verdict"] != "pass":
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Check(name="ledgers", passed=False, detail=f"{verdict['verdict']}: {problems[0]}{more}")
    if missing or not covered:
        who = ", ".join(missing) or "any department"
        said = f"the evidence does not show this model's rounds in the ledger of {who}; collect it again"
        return Check(name="ledgers", passed=False, detail=said)
    return Check(name="ledgers", passed=True, detail=f"{len(covered)} ledgers verified, and they cover every round")


def _same_rounds(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether the evidence is of this very model: a manifest in a bundle is signed by nobody."""
    mine = manifest.get("ledgers", {}).get(row["department"], {})
    return (row["origin"], row["size"], row["rounds"]) == (mine.get("origin"), mine.get("size"), mine.get("rounds"))


def _caps(manifest: Mapping[str, Any], verdict: Mapping[str, Any]) -> Check:
    """Whether everybody is within what they signed."""
    origins = {entry.get("origin") for entry in manifest.get("ledgers", {}).values()}
    rows = [row for row in verdict["datasets"] if row["origin"] in origins]
    over = [
        f"{row['department']}: data set {row['dataset']}"
        for row in rows
        if row["overrides"]
        or row["cap"] is None
        or row["enforced_epsilon"] is None
        or row["enforced_epsilon"] > row["cap"] * (1 + 1e-6)
    ]
    if over or not rows:
        said = f"not within its cap: {'; '.join(over)}" if over else "no data set of this model is in the evidence"
        return Check(name="caps", passed=False, detail=said)
    most = max(row["enforced_epsilon"] for row in rows)
    cap = max(row["cap"] for row in rows)
    return Check(name="caps", passed=True, detail=f"no department has spent more than epsilon {most:.3f} of {cap:g}")


def evaluation_gate(
    metric: str | None,
    score: float | None,
    *,
    records: PublicRecords | None,
    released: Mapping[str, float],
    floor: float | None,
) -> Check:
    """Judge the model's worth.

    Args:
        metric, score: of the float32 variant on public records; None where there are none.
        records: those records.
        released: the run's last released metrics, where nothing public is there to measure on.
        floor: the accuracy that was asked for.
    """
    source = f"{0 if records is None else len(records)} public records that compression has not seen"
    if score is None:
        metric, score = next(((name, released[name]) for name in ("accuracy", "mae") if name in released), (None, None))
        source = "the run's released metrics"
    if metric is None or not is_number(score):
        return Check(
            name="evaluation",
            passed=False,
            detail="nothing to judge it by: give the run a public test set ([data.test]), or let it release metrics",
        )
    said, passed, constant = f"{metric} {score:.4f} on {source}", True, constant_score(records)
    if constant is not None:
        passed = score > constant if metric == "accuracy" else score < constant
        said += f", a constant answer would have {constant:.4f}"
    if floor is not None and metric == "accuracy":
        said, passed = f"{said}, the floor is {floor:.4f}", passed and score >= floor
    elif floor is not None:
        said, passed = f"{said}; min_accuracy = {floor:g} is for classes", False
    return Check(name="evaluation", passed=passed, detail=said)


def constant_score(records: PublicRecords | None) -> float | None:
    """The accuracy of the most frequent class, or the mean absolute error of the median; None where it is unknown."""
    if records is None or records.targets is None:
        return None
    if records.targets.dtype == np.int64:
        return float(np.bincount(records.targets).max() / len(records.targets))
    values = records.targets.astype(np.float64)
    return float(np.abs(values - np.median(values, axis=0)).mean())
