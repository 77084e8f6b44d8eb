"""Each gate is passed by what it should be, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger_cases import Department, Witness, honest, key_of, manifest, public, sealing, write
from verify_cases import without_pld

from models.public import PublicRecords
from server.publishing.check import Check
from server.publishing.gates import evaluation_gate, run_gates
from server.runs import RunDirectory

GOVERNANCE = public(key_of("governance"))
LABEL = {
    "mode": "local",
    "delta": 1e-5,
    "statement": "local differential privacy",
    "departments": [{"department": "north", "opacus_rdp": 3.2, "opacus_prv": 3.0, "pld": 2.9}],
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pld(monkeypatch)


def run(path: Path, *, engine: str = "federation", status: str = "finished") -> RunDirectory:
    directory = RunDirectory(path / "run-1")
    directory.create(spec="{}", settings={}, engine=engine, private="on")
    directory.update(status=status)
    return directory


def evidence(folder: Path, made: Department, **more: Any) -> Path:
    rosters = {"run-1": sealing("run-1", {made.name: public(made.keys[0][1])})}
    models = {"run-1": {"model": "cnn", "ledgers": {made.name: manifest(made)}}}
    return write(folder, made, **({"rosters": rosters, "models": models} | more))


def model(made: Department, **changes: Any) -> dict[str, Any]:
    return {"privacy": LABEL, "ledgers": {made.name: manifest(made)}} | changes


def judged(
    directory: RunDirectory, described: dict[str, Any], folder: Path | None = None, **more: Any
) -> dict[str, Check]:
    gates = run_gates(directory, described, evidence=folder, governance=more.pop("governance", GOVERNANCE), **more)
    return {gate.name: gate for gate in gates}


def failed(gates: dict[str, Check]) -> set[str]:
    return {name for name, gate in gates.items() if not gate.passed}


def test_a_run_that_may_be_published(tmp_path: Path) -> None:
    made = honest()
    directory = run(tmp_path)
    evidence(directory.path / "evidence", made)
    gates = judged(directory, model(made))
    assert failed(gates) == set()
    assert "epsilon 3.200" in gates["privacy"].detail
    assert " of 8" in gates["caps"].detail


@pytest.mark.parametrize("status", ["created", "running", "stopped", "failed"])
def test_a_run_that_is_not_over(tmp_path: Path, status: str) -> None:
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    assert failed(judged(run(tmp_path, status=status), model(made), folder)) == {"finished"}


def test_a_model_without_privacy_only_where_that_is_wanted(tmp_path: Path) -> None:
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    open_model = model(made, privacy={"mode": "off", "statement": "trained WITHOUT differential privacy"})
    directory = run(tmp_path)
    assert failed(judged(directory, open_model, folder)) == {"privacy"}
    wanted = judged(directory, open_model, folder, without_privacy=True)
    assert failed(wanted) == set()
    assert "WITHOUT" in wanted["privacy"].detail


def test_a_model_without_a_label(tmp_path: Path) -> None:
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    assert "privacy" in failed(judged(run(tmp_path), {"ledgers": {made.name: manifest(made)}}, folder))


def test_a_real_run_needs_evidence(tmp_path: Path) -> None:
    gates = judged(run(tmp_path), model(honest()))
    assert failed(gates) == {"ledgers", "caps"}
    assert "confide audit bundle" in gates["ledgers"].detail


def test_a_ledger_that_was_tampered_with(tmp_path: Path) -> None:
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    ledger = folder / "ledgers" / "north.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"noise_multiplier":"', b'"noise_multiplier":"9', 1))
    gates = judged(run(tmp_path), model(made), folder)
    assert "ledgers" in failed(gates)
    assert "ledgers/north.jsonl" in gates["ledgers"].detail


def test_evidence_of_another_federation(tmp_path: Path) -> None:
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    assert "ledgers" in failed(judged(run(tmp_path), model(made), folder, governance=public(key_of("other"))))


def test_a_department_of_the_model_whose_ledger_is_missing(tmp_path: Path) -> None:
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    more = model(made)["ledgers"] | {"south": manifest(honest("south"))}
    gates = judged(run(tmp_path), model(made, ledgers=more), folder)
    assert failed(gates) == {"ledgers"}
    assert "south" in gates["ledgers"].detail


@pytest.mark.parametrize(
    "changes",
    [{"rounds": [1, 2]}, {"rounds": [1, 2, 3, 4]}, {"size": 3}, {"origin": "confide.ledger/south/" + "0" * 32}],
)
def test_evidence_of_another_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The manifest in the evidence is signed by nobody: it must be the model's own."""
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    mine = model(made, ledgers={made.name: manifest(made) | changes})
    assert "ledgers" in failed(judged(run(tmp_path), mine, folder))


def test_a_model_that_names_no_ledgers(tmp_path: Path) -> None:
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    assert {"ledgers", "caps"} <= failed(judged(run(tmp_path), model(made, ledgers={}), folder))


def test_a_department_that_ran_without_privacy(tmp_path: Path) -> None:
    made = Department()
    made.genesis()
    made.policy(
        'version = 1\nunit = "record"\nadjacency = "zero-out"\n[dataset.claims]\n'
        'lifetime = { epsilon = "8", delta = "1e-5" }\nallow_without_privacy = true\n'
    )
    made.dataset()
    made.run("run-1")
    made.override("run-2")
    made.witnessed(Witness())
    folder = evidence(tmp_path / "evidence", made)
    gates = judged(run(tmp_path), model(made), folder)
    assert {"ledgers", "caps"} <= failed(gates)
    assert "claims" in gates["caps"].detail


def test_a_simulation_has_no_ledgers_and_says_so(tmp_path: Path) -> None:
    gates = judged(run(tmp_path, engine="simulation"), {"privacy": LABEL})
    assert failed(gates) == set()
    assert "simulation" in gates["ledgers"].detail
    assert gates["privacy"].detail.startswith("simulation: ")


# --- Worth ------------------------------------------------------------------------------------------------


def records(targets: object) -> PublicRecords:
    values = np.asarray(targets)
    inputs = np.zeros((len(values), 2), np.float32)
    return PublicRecords.declared(inputs, values, origin="test set", source="test")


SEVEN_OF_TEN = records(np.array([0] * 7 + [1] * 3, np.int64))


@pytest.mark.parametrize(
    ("score", "floor", "passed"),
    [(0.71, None, True), (0.70, None, False), (0.3, None, False), (0.9, 0.9, True), (0.89, 0.9, False)],
)
def test_better_than_a_constant_answer_and_the_floor(score: float, floor: float | None, passed: bool) -> None:
    gate = evaluation_gate("accuracy", score, records=SEVEN_OF_TEN, released={}, floor=floor)
    assert gate.passed is passed, gate.detail
    assert "0.7000" in gate.detail


def test_released_metrics_where_there_are_no_public_records() -> None:
    gate = evaluation_gate(None, None, records=None, released={"loss": 1.0, "accuracy": 0.8}, floor=0.7)
    assert gate.passed
    assert "released" in gate.detail
    assert not evaluation_gate(None, None, records=None, released={"accuracy": 0.6}, floor=0.7).passed
    assert not evaluation_gate(None, None, records=None, released={}, floor=None).passed


def test_a_floor_of_accuracy_is_not_for_values() -> None:
    values = records(np.arange(4, dtype=np.float32)[:, None])
    assert evaluation_gate("mae", 0.4, records=values, released={}, floor=None).passed
    assert not evaluation_gate("mae", 0.4, records=values, released={}, floor=0.5).passed


def test_gates_are_json() -> None:
    gate = Check(name="a", passed=True, detail="b")
    assert json.loads(json.dumps(gate.to_dict())) == {"name": "a", "passed": True, "detail": "b"}
