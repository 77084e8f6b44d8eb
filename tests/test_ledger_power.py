"""A department's machine loses power at each step of a round: what left is in its ledger, and nothing left twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from account_cases import kinds
from flwr.app import Message
from ledger_run_cases import Federation, is_ledger_step
from sealed_cases import hurry

from client.state import DiskJournal
from client.train import Site
from client.vault import DiskVault
from privacy.dpsgd import PrivateTrainer
from privacy.ledger import Ledger
from privacy.reservation import Reservation
from strategies import accounts

VICTIM = "north"


class PowerCut(BaseException):
    """Nothing after it happens."""


class Machine(Federation):
    """A federation of which one department is on disk, and whose power is cut at one call of one function."""

    def change(self, who: str, site: Site) -> Site:
        return self.restarted(site) if who == VICTIM else site

    def restarted(self, site: Site) -> Site:
        """The same machine after a start: only what is on disk is left of it."""
        account = self.accounts[VICTIM]
        opened = Ledger.open(self.folder / VICTIM, key=account.ledger._log.key)
        self.accounts[VICTIM] = replace(account, ledger=opened)
        sealing = site.sealing and replace(site.sealing, vault=DiskVault(self.folder / "sealing"))
        journal = DiskJournal(self.folder / "journal")
        return replace(site, sealing=sealing, journal=journal, account=self.accounts[VICTIM])

    def tap(self, name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        """Ask again after a power cut, as a coordinator does whose message was not acknowledged."""
        try:
            return deliver()
        except PowerCut:
            sites = self.grid._sites
            for node, (who, site) in sites.items():
                if who == VICTIM:
                    sites[node] = who, self.restarted(site)
            return deliver()


def cut(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, *, after: bool, seen: list[str]) -> None:
    """Cut the power once, before or after the first call of a method by the victim."""
    original = getattr(owner, name)

    def method(self: Any, *given: Any, **named: Any) -> Any:
        due = not seen and _of_victim(self)
        if due:
            seen.append(name)
        if due and not after:
            raise PowerCut
        result = original(self, *given, **named)
        if due:
            raise PowerCut
        return result

    monkeypatch.setattr(owner, name, method)


def _of_victim(thing: Any) -> bool:
    """Whether an object is the victim's: its ledger, its vault, its journal; a trainer is the first one's."""
    log = getattr(thing, "_log", None) or getattr(thing, "log", None)
    if log is not None:
        return VICTIM in str(log.store.folder)
    return isinstance(thing, DiskVault | DiskJournal | PrivateTrainer)


STEPS = [
    (Ledger, "reserve", "sealed"),
    (DiskJournal, "begin", "sealed"),
    (PrivateTrainer, "train", "sealed"),
    (DiskVault, "keep", "sealed"),
    (Reservation, "release", "sealed"),
    (Reservation, "settle", "sealed"),
    # A run in clear caches nothing: an answer that was lost stays lost.
    (PrivateTrainer, "train", "clear"),
    (Reservation, "release", "clear"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name", "mode"), STEPS, ids=[f"{name}-{mode}" for _, name, mode in STEPS])
def test_a_power_cut_loses_no_cost_and_repeats_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, after: bool, mode: str
) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(accounts, "PAUSE_SECONDS", 0.0)
    seen: list[str] = []
    cut(monkeypatch, owner, name, after=after, seen=seen)
    machine = Machine(tmp_path, mode=mode)
    directory = machine.run("run-1", machine.tap)
    assert seen == [name]

    left: dict[int, set[str]] = {}
    for who, reply in machine.grid.replies:
        config = reply.content.config_records["answer"]
        update = config.get("sealed", config.get("vector"))
        if who == VICTIM and isinstance(update, bytes) and _is_update(reply):
            left.setdefault(_round(machine, reply), set()).add(hashlib.sha256(update).hexdigest())
    ledger = Ledger.open(tmp_path / VICTIM)
    ledger.check_all()
    entries = [json.loads(line)["entry"] for line in ledger.lines()]
    released = {int(e["ref"]["round"]): e["ref"]["update"] for e in entries if e["kind"] == "release"}
    for number, updates in left.items():
        assert updates == {released[number]}  # once, and written down
    assert kinds(ledger).count("reserve") == 1
    assert ledger.statuses()[0].open_runs == ()
    answered = {row["round"] for row in directory.metrics() if VICTIM in row["answered"]}
    assert answered <= set(released)


def _is_update(reply: Message) -> bool:
    """Whether a reply answers an instruction."""
    return reply.metadata.reply_to_message_id in _asked


def _round(machine: Machine, reply: Message) -> int:
    """The round that a reply answers."""
    return _asked[reply.metadata.reply_to_message_id]


_asked: dict[str, int] = {}


@pytest.fixture(autouse=True)
def _note_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember which message asked for which round."""
    from simulations import engine

    original = engine.respond

    def respond(message: Message, site: Any) -> Message:
        if not is_ledger_step(message) and "instruction" in message.content.config_records:
            _asked[message.metadata.message_id] = int(str(message.content.config_records["instruction"]["round"]))
        return original(message, site)

    _asked.clear()
    monkeypatch.setattr(engine, "respond", respond)
