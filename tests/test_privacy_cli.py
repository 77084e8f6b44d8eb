"""What an operator does for privacy, and every mistake that can be made at it: one clear error, nothing half-done."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from account_cases import GENEROUS, enrolled_machine, identity, kinds, policy_text
from federation_cases import PRIVATE, clear_vector, settings_of, toy_csv
from flwr.app import Context, RecordDict
from typer.testing import CliRunner

from client import config, rotation
from client import site as sites
from client.enrol import enrol
from client.errors import ConfigError, RefusalError
from client.policies import ledger_to_read, open_ledger
from client.privacy_cli import privacy_app
from client.site import site_for
from client.statuses import status_of
from models.vector import to_vector
from privacy.errors import LedgerError, LedgerVersion, PolicyError, PrivacyError
from server.federation import FederationSettings, found
from strategies.agreement import model_of, write_spec
from strategies.settings import RunSettings
from strategies.status import Status
from strategies.wire import Instruction

LOCAL = settings_of(privacy=PRIVATE)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An enrolled machine with one registered data set and a policy; returns its client folder."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    return enrolled_machine(toy_csv(tmp_path / "toy.csv", 60), declared_size=40)


def command(*arguments: str) -> Any:
    return CliRunner().invoke(privacy_app, list(arguments))


def said(*arguments: str) -> Any:
    """What a command says with --json."""
    result = command(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def instruction(settings: RunSettings = LOCAL, run: str = "run-1", number: int = 1) -> Instruction:
    return Instruction(
        run=run,
        round=number,
        spec=write_spec(settings, run=run),
        train=True,
        evaluate=True,
        model=to_vector(model_of(settings, seed=3)),
    )


def ask(settings: RunSettings = LOCAL, run: str = "run-1", number: int = 1) -> None:
    """Answer a round as this machine would."""
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    clear_vector(instruction(settings, run, number), site_for(write_spec(settings, run=run), context))


def refusal(settings: RunSettings = LOCAL, run: str = "run-1") -> Status:
    with pytest.raises((PrivacyError, RefusalError)) as caught:
        ask(settings, run)
    return status_of(caught.value)


# --- What works -------------------------------------------------------------------------------------------


def test_from_nothing_to_a_policy_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    folder = config.directory()
    (folder / config.FILE).write_text('name = "north"\nserver = "localhost:9092"\n')
    identity(folder)
    data = toy_csv(tmp_path / "toy.csv", 60)
    assert not said("dataset", "add", "toy", str(data), "--declared-size", "40")["allowed"]
    assert said("policy", "init")["policy"] == str(folder / "policy.toml")
    checked = said("policy", "check")
    assert checked["datasets"]["toy"]["epsilon"] == "8"
    assert said("policy", "sign")["digest"] == checked["digest"]
    assert said("dataset", "list")["toy"]["allowed"]
    (row,) = said("status")["datasets"]
    assert (row["dataset"], row["cap"], row["spent"], row["remaining"]) == ("toy", 8.0, 0.0, 8.0)


def test_a_round_is_paid_for_and_shown(machine: Path) -> None:
    ask()
    told = said("status")
    (row,) = told["datasets"]
    assert row["spent"] == 0
    assert row["reserved"] > 0
    assert row["remaining"] == pytest.approx(row["cap"] - row["reserved"])
    assert row["rounds_left"] > 0
    assert told["open"] == [{"run": "run-1", "dataset": "toy"}]
    assert said("settle", "run-1") == {"run": "run-1", "rounds": 1, "reserved_rounds": 3}
    (after,) = said("status")["datasets"]
    assert 0 < after["spent"] < row["reserved"]
    assert after["reserved"] == 0
    assert refusal() is Status.REFUSED_BY_POLICY  # a settled run is over


def test_a_run_is_judged_before_it_comes(machine: Path, tmp_path: Path) -> None:
    from test_client_config import _toml  # a run file out of a nested document

    file = tmp_path / "run.toml"
    file.write_text(_toml(_document(epsilon=4.0)))
    assert said("policy", "check", "--run", str(file))["run"] == {"admitted": True, "reason": None}
    tight = policy_text('lifetime = { epsilon = "3", delta = "1e-5" }')
    config.policy_file().write_bytes(tight)
    said("policy", "sign")
    result = command("policy", "check", "--run", str(file), "--json")
    assert result.exit_code == 2
    reason = json.loads(result.stdout)["run"]["reason"]
    assert "lifetime" in reason
    assert "more than its cap of 3" in reason
    assert "1 round instead of 3 would fit, or noise_multiplier" in reason


def _document(epsilon: float) -> dict[str, Any]:
    from federation_cases import document

    return document(privacy={"mode": "local", "epsilon": epsilon, "delta": 1e-5})


def test_new_data_are_a_new_version_of_the_same_budget(machine: Path, tmp_path: Path) -> None:
    ask()
    toy_csv(tmp_path / "toy.csv", 90)
    sites._load.cache_clear()
    before = said("dataset", "list")["toy"]
    assert refusal(run="run-2") is Status.DATASET_CHANGED
    assert said("dataset", "update", "toy") == {
        "dataset": "toy",
        "lineage": before["lineage"],
        "version": 2,
        "changed": True,
    }
    ask(run="run-3")
    assert said("dataset", "update", "toy")["changed"] is False
    entries = kinds(ledger_to_read())
    assert entries.count("reserve") == 3
    assert "abandon" in entries  # what the changed data said was a release that no noise covers


def test_keys_are_rotated_and_a_rotation_that_was_interrupted_is_finished(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    governance = found(tmp_path / "federation", FederationSettings(name="acme", server="localhost:9092"))
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "second"))
    enrol(config.directory(), name="north", invitation=governance.invitation)
    data = toy_csv(tmp_path / "more.csv", 60)
    said("dataset", "add", "toy", str(data), "--declared-size", "40")
    before = ledger_to_read().key
    told = said("rotate-key")
    after = ledger_to_read().key
    assert after != before
    assert json.loads(Path(told["request"]).read_text())["identity"] == after.hex()
    assert not list(config.directory().glob("*.next"))
    config.policy_file().write_bytes(policy_text())
    said("policy", "sign")

    # The power goes after the ledger changed hands, before the key's file did.
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(rotation, "load_node_key", cut)
        with pytest.raises(KeyboardInterrupt):
            rotation.rotate(config.load_settings())
    with pytest.raises(LedgerError):
        open_ledger(config.load_settings())
    rotation.finish(config.load_settings())
    open_ledger(config.load_settings()).check_all()
    assert kinds(ledger_to_read()).count("key") == 2


# --- What does not ------------------------------------------------------------------------------------------


def test_without_a_ledger_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    folder = config.directory()
    identity(folder)
    data = toy_csv(tmp_path / "toy.csv", 60)
    (folder / config.FILE).write_text(
        f'name = "north"\nserver = "h:1"\n[dataset.toy]\npath = "{data}"\ndeclared_size = 40\n'
    )
    assert refusal() is Status.REFUSED_BY_POLICY
    for arguments in (["status"], ["settle", "run-1"]):
        assert isinstance(command(*arguments).exception, PrivacyError | ConfigError)


def test_without_a_policy_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    folder = config.directory()
    (folder / config.FILE).write_text('name = "north"\nserver = "localhost:9092"\n[sealing]\nallow_clear = true\n')
    identity(folder)
    said("dataset", "add", "toy", str(toy_csv(tmp_path / "toy.csv", 60)), "--declared-size", "40")
    sites._load.cache_clear()
    assert refusal() is Status.REFUSED_BY_POLICY
    config.policy_file().write_bytes(policy_text())  # written, but not signed
    assert refusal() is Status.REFUSED_BY_POLICY
    assert kinds(ledger_to_read()) == ["genesis", "dataset"]
    said("policy", "sign")
    ask()


def test_an_edited_policy_changes_nothing_until_it_is_signed(machine: Path) -> None:
    config.policy_file().write_bytes(policy_text('lifetime = { epsilon = "0.001", delta = "1e-5" }'))
    ask()
    said("policy", "sign")
    assert refusal(run="run-2") is Status.REFUSED_BY_POLICY


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('lifetime = { epsilon = 8, delta = "1e-5" }', "epsilon"),
        ('lifetime = { epsilon = "NaN", delta = "1e-5" }', "NaN"),
        ('lifetime = { epsilon = "-1", delta = "1e-5" }', "-1"),
        ('lifetime = { epsilon = "1e400", delta = "1e-5" }', "1e400"),
        ('lifetime = { epsilon = "8", delta = "1e-5" }\nper_run = { epsilon = "9" }', "per_run"),
        ('lifetime = { epsilon = "8", delta = "1e-5" }\nsigma = "1"', "sigma"),
        ('lifetime = { epsilon = "8", delta = "1e-5" }\nsigma_min = "NaN"', "sigma_min"),
        ("", "lifetime"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_and_the_old_one_stays(machine: Path, table: str, complaint: str) -> None:
    before = ledger_to_read().policy().digest
    config.policy_file().write_bytes(policy_text(table))
    for action in ("check", "sign"):
        result = command("policy", action)
        assert isinstance(result.exception, PolicyError)
        assert complaint in str(result.exception)
        assert "\n" not in str(result.exception)
    assert ledger_to_read().policy().digest == before


def test_a_policy_is_signed_by_this_machine_alone(machine: Path) -> None:
    identity(machine)  # somebody put another key there
    config.policy_file().write_bytes(policy_text(GENEROUS + "\n# another\n"))
    result = command("policy", "sign")
    assert isinstance(result.exception, LedgerError)
    assert refusal() is Status.STATE_NOT_DURABLE
    assert kinds(ledger_to_read()) == ["genesis", "dataset", "policy"]


def test_a_ledger_of_another_version_stops_everything(machine: Path) -> None:
    with sqlite3.connect(machine / "ledger" / "ledger.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    from client import policies

    policies._open.clear()  # a new process
    assert refusal() is Status.STATE_NOT_DURABLE
    assert isinstance(command("status").exception, LedgerVersion)


@pytest.mark.parametrize(
    ("change", "what"),
    [("declared_size = 41", "declared_size = 40"), ('person = "a"\nlabels', "labels")],
)
def test_a_size_or_a_split_that_was_edited_is_a_changed_data_set(machine: Path, change: str, what: str) -> None:
    file = machine / config.FILE
    text = file.read_text()
    file.write_text(text.replace(what, change) if what in text else text + 'person = "a"\n')
    assert refusal() is Status.DATASET_CHANGED


def test_a_data_set_is_added_once_and_only_if_it_can_be_read(machine: Path, tmp_path: Path) -> None:
    again = command("dataset", "add", "toy", str(tmp_path / "toy.csv"), "--declared-size", "40")
    assert "offered already" in str(again.exception)
    absent = command("dataset", "add", "more", "absent.csv", "--declared-size", "40")
    assert "no such file" in str(absent.exception)
    unknown = command("dataset", "update", "more")
    assert "not offered here" in str(unknown.exception)
    assert kinds(ledger_to_read()) == ["genesis", "dataset", "policy"]
