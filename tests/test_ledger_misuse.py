"""What an attacker tried against ledgers in use, by coordinator, department and operator: each went through once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import test_ledger_power as power
from account_cases import account, enrolled_machine, kinds
from federation_cases import PRIVATE, settings_of, toy_csv
from flwr.app import Message
from ledger_run_cases import Federation
from sealed_cases import hurry

from client import config, datasets, policies
from client.enrol import enrol
from client.errors import ConfigError
from client.identity import load_key
from privacy.errors import LedgerBehind, PolicyRefusal
from privacy.ledger import Ledger
from privacy.reservation import Reservation
from server.errors import GovernanceError
from server.federation import FederationSettings, found
from server.membership import admit
from server.witness import DiskWitness
from strategies import accounts
from strategies.agreement import read_spec, write_spec
from strategies.errors import MessageError
from strategies.introduction import read_request
from strategies.wire import LedgerStep

LOCAL = settings_of(privacy=PRIVATE)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(accounts, "PAUSE_SECONDS", 0.0)


class Liar(power.Machine):
    """A coordinator that asks again after a power cut, and now says that nothing was to be trained."""

    def tap(self, name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        try:
            return deliver()
        except power.PowerCut:
            for node, (who, site) in self.grid._sites.items():
                if who == power.VICTIM:
                    self.grid._sites[node] = who, self.restarted(site)
            asked = message.content.config_records["instruction"]
            asked["train"], asked["evaluate"] = False, False
            return deliver()


def test_what_left_is_not_written_down_as_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    power.cut(monkeypatch, Reservation, "release", after=False, seen=seen)
    machine = Liar(tmp_path, mode="sealed")
    directory = machine.run("run-1", machine.tap)
    assert seen
    entries = [json.loads(line)["entry"] for line in Ledger.open(tmp_path / power.VICTIM).lines()]
    rounds = {int(e["ref"]["round"]): e["ref"]["train"] for e in entries if e["kind"] == "release"}
    summed = [r["round"] for r in directory.metrics() if r["trained"] and power.VICTIM in r["answered"]]
    assert summed
    assert all(rounds[number] for number in summed)


def test_a_policy_that_denies_stops_an_open_run(tmp_path: Path) -> None:
    own, spec = account(tmp_path / "north"), write_spec(LOCAL, run="run-1")
    own.reserve(LOCAL, "run-1", spec)
    own.ledger.sign_policy(b'version = 1\nunit = "record"\nadjacency = "zero-out"\n')
    with pytest.raises(PolicyRefusal, match="no table for it"):
        own.reserve(LOCAL, "run-1", spec)


def test_another_data_set_does_not_pay(tmp_path: Path) -> None:
    federation = Federation(tmp_path, mode="clear")
    size, key = federation.data["south"].declared_size, federation.keys["south"]
    federation.accounts["south"] = account(
        tmp_path / "south", key=key, name="south", dataset="junk", declared_size=size
    )
    directory = federation.run("run-1")
    assert all("south" not in row["answered"] for row in directory.metrics())
    assert federation.witness.newest("south") == ""  # what is refused is not cosigned


@pytest.mark.parametrize("how", ["gone", "another"])
def test_a_ledger_is_not_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    folder = enrolled_machine(toy_csv(tmp_path / "toy.csv", 40), declared_size=40)
    shutil.rmtree(folder / "ledger")
    if how == "another":
        account(folder / "ledger", name="north", key=load_key(config.load_settings()))
    policies._open.clear()
    for act in (
        lambda: datasets.update("toy", run=None),
        policies.ledger_to_read,
        lambda: policies.sign(config.load_settings(), config.policy_file()),
        lambda: policies.open_ledger(config.load_settings()),
    ):
        with pytest.raises(LedgerBehind):
            act()


def test_a_split_key_is_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    folder = enrolled_machine(toy_csv(tmp_path / "toy.csv", 40), declared_size=40)
    (folder / "split.key").unlink()
    with pytest.raises(ConfigError, match="restore it from a backup"):
        datasets.update("toy", run=None)


def test_the_same_data_have_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    file = toy_csv(tmp_path / "toy.csv", 40)
    enrolled_machine(file, declared_size=40)
    copy = shutil.copy(file, tmp_path / "copy.csv")
    with pytest.raises(ConfigError, match="these are the data of toy"):
        datasets.add("again", str(copy), declared_size=40, labels_path=None, person=None, run=None)


def test_two_names_are_not_one_file(tmp_path: Path) -> None:
    governance = found(tmp_path / "federation", FederationSettings(name="acme", server="localhost:9092"))
    requests = []
    for name in ("north a", "North-A"):
        folder = tmp_path / f"machine {name}"
        folder.mkdir()
        requests.append(Path(enrol(folder, name=name, invitation=governance.invitation)["request"]))
    admit(governance, read_request(requests[0]))
    with pytest.raises(GovernanceError, match="too like north a"):
        admit(governance, read_request(requests[1]))


def test_two_runs_at_once_are_no_restored_backup(tmp_path: Path) -> None:
    """A department that proved itself to another run meanwhile is asked again, and not accused."""
    federation = Federation(tmp_path, mode="clear")
    overtaken: set[str] = set()

    def tap(name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        reply = deliver()
        if "ledger-step" in message.content.config_records and name not in overtaken:
            overtaken.add(name)
            witness = DiskWitness.at(tmp_path / "witness")
            asked = LedgerStep(
                run="run-2",
                spec=write_spec(federation.settings, run="run-2"),
                witness=witness.name,
                key=witness.key,
                note=witness.newest(name),
                closing=False,
            )
            witness.observe(name, federation.accounts[name].state(asked, federation.settings), run="run-2")
        return reply

    directory = federation.run("run-1", tap)
    assert overtaken == set(federation.data)
    assert all(set(row["answered"]) == set(federation.data) for row in directory.metrics())
    assert all(kinds(own.ledger).count("settle") == 1 for own in federation.accounts.values())


@pytest.mark.parametrize("name", ["../x", "a\x1b[2J", "", "x" * 129, ".hidden"])
def test_a_runs_name_is_one_before_anything_is_done_by_it(name: str) -> None:
    with pytest.raises(MessageError):
        read_spec(write_spec(LOCAL, run=name))
