"""Whole runs of departments that keep ledgers, on the in-process engine: who has not paid is not asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from account_cases import account, kinds, policy_text
from flwr.app import Message
from ledger_run_cases import Federation, is_ledger_step
from sealed_cases import hurry

from client.statuses import status_of
from privacy import notes
from privacy.errors import LedgerBehind
from privacy.ledger import Ledger
from server.witness import seen
from strategies import accounts
from strategies.errors import RunFailedError
from strategies.status import Status
from strategies.wire import answer

TIGHT = 'lifetime = { epsilon = "0.001", delta = "1e-5" }'


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(accounts, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(accounts, "SECONDS", 2.0)


def test_a_run_is_reserved_released_settled_and_witnessed(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    directory = federation.run("run-1")
    rounds = federation.settings.training.rounds
    manifest = json.loads((directory.model_directory / "manifest.json").read_text())
    for name, paid_by in federation.accounts.items():
        ledger = paid_by.ledger
        # The first cosignature comes back with the request to settle, the last one at the very end.
        assert kinds(ledger) == [
            *("genesis", "dataset", "policy", "reserve"),
            *["release"] * (rounds + 1),
            *("checkpoint", "settle", "checkpoint"),
        ]
        status = ledger.statuses()[0]
        assert status.open_runs == ()
        assert 0 < status.enforced == status.settled < 1000
        ledger.check_all()
        claimed = manifest["ledgers"][name]
        note = notes.parse(federation.witness.newest(name))
        assert (claimed["origin"], claimed["size"], claimed["root"]) == (ledger.origin, note.size, note.root.hex())
        assert claimed["rounds"] == [1, 2, 3]
        assert note.size == ledger.size
    told = seen(tmp_path / "witness")
    assert set(told) == set(federation.data)
    assert all(row["rounds_left"] > 0 for row in told.values())


def test_who_cannot_pay_is_left_out_and_its_data_are_not_read(tmp_path: Path) -> None:
    federation = Federation(tmp_path, policies={"south": TIGHT})
    directory = federation.run("run-1")
    rows = directory.metrics()
    assert all("south" not in row["answered"] for row in rows)
    assert all(set(row["answered"]) == set(federation.data) - {"south"} for row in rows)
    assert kinds(federation.accounts["south"].ledger) == ["genesis", "dataset", "policy"]


def test_a_run_that_too_few_can_pay_for_fails_and_names_them(tmp_path: Path) -> None:
    federation = Federation(tmp_path, policies=dict.fromkeys(("south", "east", "west"), TIGHT))
    with pytest.raises(RunFailedError, match="refused-by-policy"):
        federation.run("run-1")
    assert all("release" not in kinds(own.ledger) for own in federation.accounts.values())


def test_the_next_run_pays_too_until_a_cap_is_reached(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.run("run-1")
    once = federation.accounts["north"].ledger.statuses()[0].enforced
    federation.run("run-2")
    twice = federation.accounts["north"].ledger.statuses()[0].enforced
    assert once < twice < 2 * once  # composed, not added up
    for who, own in federation.accounts.items():
        cap = f'lifetime = {{ epsilon = "{twice * 1.01:.6f}", delta = "1e-5" }}'
        own.ledger.sign_policy(policy_text(cap, declared_size=federation.data[who].declared_size))
    with pytest.raises(RunFailedError, match="refused-by-policy"):
        federation.run("run-3")
    assert federation.accounts["north"].ledger.statuses()[0].enforced == twice


def test_a_department_that_answers_without_a_reservation_is_not_asked(tmp_path: Path) -> None:
    """A lying department says "ok" and proves nothing, or proves another run's reservation."""
    federation = Federation(tmp_path)
    kept: dict[str, Message] = {}
    asked: list[str] = []

    def first(name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        reply = deliver()
        if is_ledger_step(message) and name == "south":
            kept.setdefault(name, reply)
        return reply

    federation.run("run-1", first)

    def second(name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        if is_ledger_step(message):
            if name == "east":
                return Message(answer(Status.OK), reply_to=message)
            if name == "south":
                return Message(kept["south"].content, reply_to=message)
        elif "instruction" in message.content.config_records:
            asked.append(name)
        return deliver()

    directory = federation.run("run-2", second)
    assert set(asked) == {"north", "west", "centre"}
    assert all(set(row["answered"]) == {"north", "west", "centre"} for row in directory.metrics())


def test_a_ledger_that_was_put_back_from_a_backup_is_noticed_at_contact(tmp_path: Path) -> None:
    """Even where the whole machine was put back, and its own copy of the witness's note with it."""
    federation = Federation(tmp_path, mode="clear")
    federation.run("run-1")
    shutil.copytree(tmp_path / "south", tmp_path / "backup")
    federation.run("run-2")
    spent = federation.accounts["south"].ledger.size
    shutil.rmtree(tmp_path / "south")
    shutil.copytree(tmp_path / "backup", tmp_path / "south")
    restored = Ledger.open(tmp_path / "south", key=federation.keys["south"])
    restored.check_all()  # by itself it looks whole
    assert restored.size < spent
    federation.accounts["south"] = replace(federation.accounts["south"], ledger=restored)
    directory = federation.run("run-3")
    assert all("south" not in row["answered"] for row in directory.metrics())
    with pytest.raises(LedgerBehind, match="backup") as caught:  # what its own log says
        restored.compare(federation.witness.newest("south"))
    assert status_of(caught.value) is Status.LEDGER_BEHIND
    assert Ledger.open(tmp_path / "south").size == restored.size


def test_a_ledger_that_forgot_is_caught_by_the_witness_even_if_its_machine_lies(tmp_path: Path) -> None:
    """A department that answers with a shorter or another ledger's checkpoint is not believed."""
    federation = Federation(tmp_path, mode="clear")
    federation.run("run-1")
    forked = account(tmp_path / "fork", 'lifetime = { epsilon = "200", delta = "1e-5" }', key=federation.keys["east"])
    federation.accounts["east"] = forked

    def tap(name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        if is_ledger_step(message) and name == "east":
            message.content.config_records["ledger-step"]["note"] = ""  # its machine does not look
        return deliver()

    directory = federation.run("run-2", tap)
    assert all("east" not in row["answered"] for row in directory.metrics())
