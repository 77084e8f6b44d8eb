"""Permits: where the governance key is, from another machine, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from federation_cases import document
from governance_cases import admitted, command, founded, moved, now, succeeded

from secagg.primitives import policy_hash
from secagg.roster import open_permit
from server import permits
from server.cli import run_app
from server.errors import GovernanceError, RunError
from server.federation import DAY, Governance
from server.federation_cli import federation_app
from server.membership import renew
from server.place import runs_directory
from server.planning import create, prepare
from server.runs import RunDirectory, find, read_sealing, sealing_bytes
from strategies.runfile import parse


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The platform team's machine."""
    return moved(tmp_path / "home", monkeypatch)


@pytest.fixture
def governance(home: Path) -> Governance:
    return founded(home)


# --- permits ------------------------------------------------------------------------------------------


def new_run(**secagg: Any) -> RunDirectory:
    settings = prepare(parse(document(secagg={"mode": "sealed"} | secagg)), real=True)
    return create(settings, runs_directory(), engine="federation")


@pytest.fixture
def three(governance: Governance, tmp_path: Path) -> Governance:
    """A federation of three."""
    admitted(governance, tmp_path, "north", "south", "east")
    return governance


def test_a_run_is_permitted_where_the_governance_is(three: Governance) -> None:
    run = new_run()
    permits.grant(run)
    kept = run.sealing()
    assert kept is not None
    assert (kept.governance, kept.roster) == (three.public_key(), three.envelope())
    permit, _ = open_permit(kept.permit, three.public_key(), now())
    assert (permit.serial, permit.run, permit.roster_version) == (1, run.name, 3)
    assert permit.max_rounds == run.document()["settings"]["training"]["rounds"] + 1
    assert permit.policy == policy_hash(run.document()["spec"].encode())
    assert permit.expires - permit.issued == 30 * DAY
    assert (three.directory / "permits" / "1.json").read_bytes() == kept.permit
    assert permits.permitted(run)


def test_a_serial_is_used_once(three: Governance) -> None:
    runs = [new_run(), new_run()]
    serials = []
    for run in (*runs, *runs):
        permits.grant(run)
        kept = run.sealing()
        assert kept is not None
        serials.append(open_permit(kept.permit, three.public_key(), now())[0].serial)
    assert serials == [1, 2, 3, 4]


def test_a_run_in_the_clear_has_no_permit(three: Governance) -> None:
    run = new_run(mode="clear")
    permits.grant(run)
    assert run.sealing() is None
    with pytest.raises(GovernanceError, match="needs no permit"):
        permits.permit(three, run.document()["spec"])


def test_without_the_governance_key_it_is_said_how_to_get_a_permit() -> None:
    with pytest.raises(RunError, match=r"spec\.json.*confide federation permit.*--permit"):
        permits.grant(new_run())


@pytest.mark.parametrize(
    ("secagg", "said"),
    [
        ({"mode": "strict"}, 'the federation\'s mode is "sealed"'),
        ({"update_range": 100.0}, "allows 64; lower it"),
    ],
)
def test_what_departments_would_refuse_is_not_permitted(three: Governance, secagg: dict[str, Any], said: str) -> None:
    with pytest.raises(GovernanceError) as caught:
        permits.grant(new_run(**secagg))
    assert said in str(caught.value)
    assert three.numbered("permits") == 0


def test_a_federation_of_two_permits_nothing(governance: Governance, tmp_path: Path) -> None:
    admitted(governance, tmp_path, "north", "south")
    with pytest.raises(GovernanceError, match="too few for a sealed sum"):
        permits.grant(new_run())


def test_an_expired_roster_permits_nothing(three: Governance, monkeypatch: pytest.MonkeyPatch) -> None:
    later = now() + 400 * DAY
    monkeypatch.setattr(permits, "time", SimpleNamespace(time=lambda: later))
    with pytest.raises(GovernanceError, match="confide federation renew"):
        permits.grant(new_run())


@pytest.fixture
def elsewhere(three: Governance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The coordinator's machine, which has no governance; call it to go to the governance's."""
    here = os.environ["CONFIDE_HOME"]
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "coordinator"))
    return lambda: monkeypatch.setenv("CONFIDE_HOME", here)


def test_a_permit_from_another_machine(three: Governance, elsewhere: Callable[[], None], tmp_path: Path) -> None:
    run, other = new_run(), new_run()
    file = tmp_path / "permit.json"
    file.write_bytes(sealing_bytes(permits.permit(three, run.document()["spec"], days=2)))
    with pytest.raises(RunError, match=f"the permit is for run {run.name}"):
        permits.accept(other, file)
    assert other.sealing() is None
    permits.accept(run, file)
    assert run.sealing() == read_sealing(file)
    run.update(spec=run.document()["spec"] + " ")
    with pytest.raises(RunError, match="other settings"):
        permits.accept(run, file)


@pytest.mark.parametrize("damage", ["expired", "forged", "another roster", "no JSON", "no fields", "no text"])
def test_a_permit_that_cannot_be_used_is_not_kept(
    three: Governance,
    elsewhere: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    run, file = new_run(), tmp_path / "permit.json"
    file.write_bytes(sealing_bytes(permits.permit(three, run.document()["spec"])))
    fields, later = json.loads(file.read_text()), now() + 40 * DAY
    if damage == "expired":
        monkeypatch.setattr(permits, "time", SimpleNamespace(time=lambda: later))
    elif damage == "forged":
        file.write_text(json.dumps(fields | {"permit": fields["permit"].replace("2", "3")}))
    elif damage == "another roster":
        renew(three)
        file.write_text(json.dumps(fields | {"roster": three.envelope().decode()}))
    else:
        file.write_text({"no JSON": "", "no fields": "{}", "no text": json.dumps(fields | {"roster": 3})}[damage])
    with pytest.raises(RunError):
        permits.accept(run, file)
    assert run.sealing() is None


def test_prepared_permitted_and_ready_to_start(
    three: Governance, elsewhere: Callable[[], None], tmp_path: Path
) -> None:
    run_file = tmp_path / "toy.toml"
    run_file.write_text(TOML)
    nothing = command(run_app, "start", str(run_file))
    assert "no coordinator was started here" in str(nothing.exception)
    made = succeeded(run_app, "prepare", str(run_file), "--set", "training.rounds=4")
    spec, out = tmp_path / "spec.json", tmp_path / "permit.json"
    spec.write_bytes(Path(made["request"]).read_bytes())

    elsewhere()
    told = succeeded(federation_app, "permit", str(spec), "--out", str(out), "--days", "3", "--yes")
    assert (told["run"], told["model"], told["rounds"]) == (made["run"], "logistic", 4)
    permit, _ = open_permit(read_sealing(out).permit, three.public_key(), now())
    assert (permit.run, permit.max_rounds) == (made["run"], 5)
    assert permit.expires - permit.issued == 3 * DAY
    run = RunDirectory(Path(made["run_dir"]))
    permits.accept(run, out)
    assert find(Path(made["run_dir"]).parent, "toy").sealing() == read_sealing(out)


TOML = """
name = "toy"
privacy = "off"
[model]
name = "logistic"
[data]
kind = "tabular"
name = "toy"
label = "y"
classes = ["0", "1"]
columns = {a = {bounds = [-1, 1]}, b = {bounds = [-1, 1]}}
"""


@pytest.mark.parametrize("kind", ["no spec", "no text", "a spec of the future"])
def test_what_is_no_request_is_not_permitted(three: Governance, tmp_path: Path, kind: str) -> None:
    run = new_run()
    spec = tmp_path / "spec.json"
    content_ = {
        "no spec": b"{}",
        "no text": b"\xff\xfe",
        "a spec of the future": run.document()["spec"].replace('"version":', '"version":9').encode(),
    }
    spec.write_bytes(content_[kind])
    result = command(federation_app, "permit", str(spec), "--out", str(tmp_path / "permit.json"))
    assert result.exit_code != 0
    assert three.numbered("permits") == 0
    assert not (tmp_path / "permit.json").exists()


def test_what_start_refuses_before_it_asks_the_coordinator(three: Governance, home: Path, tmp_path: Path) -> None:
    (home / "server").mkdir(exist_ok=True)
    for file in ("address", "control.token"):
        (home / "server" / file).write_text("127.0.0.1:9")
    run_file = tmp_path / "toy.toml"
    run_file.write_text(TOML)
    result = command(run_app, "start", str(run_file), "--permit", "permit.json")
    assert "is for a prepared run" in str(result.exception)
    made = succeeded(run_app, "prepare", str(run_file))
    assert "prepared already" in str(command(run_app, "start", made["run"], "--set", "a=1").exception)
    RunDirectory(Path(made["run_dir"])).update(status="running")
    assert "running already" in str(command(run_app, "start", made["run"]).exception)
