"""A ledger that is not what it was: edited, replaced, of another version, on a disk that fails."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_home import (
    KEY,
    START,
    WITNESS,
    WITNESS_PUBLIC,
    cosigned,
    key_of,
    make,
    register,
    release,
    reserve,
    witness,
)

from privacy import canonical, merkle, notes
from privacy.entries import ENTRY_LABEL, Draft, Entry
from privacy.errors import LedgerBehind, LedgerDamaged, LedgerError, LedgerVersion
from privacy.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger in whose life something has happened."""
    ledger = make(tmp_path / "ledger")
    release(reserve(ledger), 1)
    witness(ledger)
    register(ledger, "other")
    return ledger


def folder_of(ledger: Ledger) -> Path:
    return ledger._log.store.folder


def sql(ledger: Ledger, *statements: tuple[Any, ...]) -> None:
    """Change the file behind the ledger's back."""
    with sqlite3.connect(folder_of(ledger) / "ledger.sqlite") as connection:
        for statement in statements:
            connection.execute(*statement)
    connection.close()


def raw_of(ledger: Ledger, seq: int) -> bytes:
    return canonical.encode(json.loads(ledger.entry(seq))["entry"])


def set_raw(ledger: Ledger, seq: int, raw: bytes, *, sign: bool = True) -> None:
    """Put other bytes in an entry's place, signed by the ledger's own key."""
    signature = KEY.sign(ENTRY_LABEL + raw) if sign else bytes(64)
    sql(ledger, ("UPDATE entries SET raw = ?, signature = ? WHERE seq = ?", (raw, signature, seq)))


def reopened(ledger: Ledger) -> None:
    """What a service does when it starts."""
    Ledger.open(folder_of(ledger), key=KEY).check_all()


def test_nothing_is_wrong(ledger: Ledger) -> None:
    ledger.check_all()
    reopened(ledger)
    assert ledger.size == 7


def swap(ledger: Ledger) -> None:
    sql(
        ledger,
        ("UPDATE entries SET seq = 99 WHERE seq = 3",),
        ("UPDATE entries SET seq = 3 WHERE seq = 4",),
        ("UPDATE entries SET seq = 4 WHERE seq = 99",),
    )


def duplicate(ledger: Ledger) -> None:
    sql(ledger, ("INSERT INTO entries SELECT 7, 'x', raw, signature FROM entries WHERE seq = 6",))


def foreign(ledger: Ledger) -> None:
    other = make(folder_of(ledger).parent / "other")
    reserve(other)
    set_raw(ledger, 3, raw_of(other, 3))


EDITS: dict[str, Callable[[Ledger], None]] = {
    "signature": lambda ledger: set_raw(ledger, 6, raw_of(ledger, 6), sign=False),
    "edited": lambda ledger: set_raw(ledger, 3, raw_of(ledger, 3).replace(b'"rounds":"5"', b'"rounds":"4"')),
    "last edited": lambda ledger: set_raw(ledger, 6, raw_of(ledger, 6).replace(b'"other"', b'"ether"'), sign=False),
    "white space": lambda ledger: set_raw(ledger, 6, b" " + raw_of(ledger, 6)),
    "removed": lambda ledger: sql(ledger, ("DELETE FROM entries WHERE seq = 4",)),
    "first removed": lambda ledger: sql(ledger, ("DELETE FROM entries WHERE seq = 0",)),
    "all removed": lambda ledger: sql(ledger, ("DELETE FROM entries",)),
    "swapped": swap,
    "duplicated": duplicate,
    "foreign": foreign,
    "id": lambda ledger: sql(ledger, ("UPDATE entries SET id = 'x' WHERE seq = 5",)),
    "text": lambda ledger: sql(ledger, ("UPDATE entries SET raw = CAST(raw AS TEXT) WHERE seq = 5",)),
    "no JSON": lambda ledger: set_raw(ledger, 5, b"{"),
    "a list": lambda ledger: set_raw(ledger, 5, b"[]"),
    "policy lost": lambda ledger: sql(ledger, ("DELETE FROM policies",)),
    "policy swapped": lambda ledger: sql(ledger, ("UPDATE policies SET text = ?", (b"version = 1",))),
    "policy unsigned": lambda ledger: sql(ledger, ("UPDATE policies SET signature = ?", (bytes(64),))),
    "table lost": lambda ledger: sql(ledger, ("DROP TABLE policies",)),
    "a note swapped": lambda ledger: sql(ledger, ("UPDATE witnesses SET note = ?", (ledger.checkpoint(),))),
    "notes unreadable": lambda ledger: (folder_of(ledger) / "witness-notes.json").write_text("[]") and None,
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_are_found(ledger: Ledger, edit: str) -> None:
    EDITS[edit](ledger)
    with pytest.raises(LedgerDamaged):
        reopened(ledger)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"noise_multiplier":"2.0"', '"noise_multiplier":"NaN"'),
        ('"noise_multiplier":"2.0"', '"noise_multiplier":"-2.0"'),
        ('"noise_multiplier":"2.0"', '"noise_multiplier":"1e400"'),
        ('"noise_multiplier":"2.0"', '"noise_multiplier":"0"'),
        ('"noise_multiplier":"2.0"', '"noise_multiplier":2.0'),
        ('"sampling_rate":"0.05"', '"sampling_rate":"1.05"'),
        ('"delta":"1e-06"', '"delta":"1e-11"'),
        ('"unit":"record"', '"unit":"client"'),
        ('"evaluations":"6"', '"evaluations":"-6"'),
        ('"rounds":"5"', '"rounds":"5","runs":"5"'),
        ('"metric_noise":"20.0"', '"metric_noise":null'),
        ('"rdp":{', '"rdp":{"test":[],'),
        ('"orders":["2",', '"orders":['),
        ('"kind":"reserve"', '"kind":"reverse"'),
        ('"model":"cnn"', '"model":""'),
        ('"v":"1"', '"v":"2"'),
        ('"run":"run"', '"run":null'),
        ('"policy_digest":"', '"policy_digest":"0'),
        ('"id":"reserve:run"', '"id":"reserve:runs"'),
        ('"dataset_version":"1"', '"dataset_version":"01"'),
        ('"seq":"3"', '"seq":"3","seq":"3"'),
        ("confide.ledger/Cardiology", "confide.ledger/Car diology"),
    ],
)
def test_no_nonsense_is_read(ledger: Ledger, old: str, new: str) -> None:
    raw = raw_of(ledger, 3).decode()
    assert old in raw
    with pytest.raises(LedgerDamaged):
        Entry.parse(raw.replace(old, new, 1).encode())


@pytest.mark.parametrize("what", [b"SQLite format 3", b'"kind":"reserve"', b'"signature', b"", b"lifetime"])
def test_random_bytes(ledger: Ledger, what: bytes) -> None:
    file = folder_of(ledger) / "ledger.sqlite"
    data = bytearray(file.read_bytes())
    signature = bytes.fromhex(json.loads(ledger.entry(3))["signature"])
    # The empty text stands for the first page's header, where SQLite keeps its schema.
    at = data.index(signature if what == b'"signature' else what) if what else 100
    data[at : at + 12] = b"\xa5" * 12
    file.write_bytes(data)
    with pytest.raises(LedgerError):
        reopened(ledger)


def test_no_database(ledger: Ledger) -> None:
    (folder_of(ledger) / "ledger.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(LedgerDamaged, match="damaged"):
        reopened(ledger)


@pytest.mark.parametrize("version", [0, 2])
def test_another_version(ledger: Ledger, version: int) -> None:
    sql(ledger, (f"PRAGMA user_version = {version}",))
    with pytest.raises(LedgerVersion, match=f"format {version}, and this Confide reads format 1"):
        reopened(ledger)


# --- Backups ---------------------------------------------------------------------------------------------------------


def restored(ledger: Ledger) -> tuple[Ledger, str]:
    """The ledger with its database put back to an earlier state, and the note of what was lost."""
    file, before = folder_of(ledger) / "ledger.sqlite", notes.parse(ledger.newest_witness()["coordinator"])
    assert before.size == 5
    shutil.copy(file, file.with_suffix(".backup"))
    release(ledger.reservation("run"), 2)
    note = witness(ledger, ledger.newest_witness()["coordinator"])
    file.with_suffix(".backup").replace(file)
    return Ledger.open(folder_of(ledger), key=KEY), note


def test_a_restored_database_is_noticed_at_the_next_start(ledger: Ledger) -> None:
    again, _ = restored(ledger)
    with pytest.raises(LedgerBehind, match=r"7 entries here, but witness coordinator has seen 8.*Put the newest copy"):
        again.check_all()


def test_a_restored_folder_is_noticed_when_it_meets_its_witness(ledger: Ledger) -> None:
    again, note = restored(ledger)
    (folder_of(ledger) / "witness-notes.json").unlink()
    again.check_all()
    with pytest.raises(LedgerBehind, match="7 entries here, but a witness has seen 8"):
        again.compare(note)
    with pytest.raises(LedgerBehind, match="restored from a backup"):
        again.witnessed(note, name="coordinator", key=WITNESS_PUBLIC)
    with pytest.raises(LedgerBehind, match="has seen 8"):
        again.consistency(8)
    with pytest.raises(LedgerBehind, match="the ledger has 7 entries"):
        again.inclusion(3, 8)
    register(again, "went", "on", "since")
    with pytest.raises(LedgerBehind, match=r"8 entries that are not the first 8 here.*went on, or was forked"):
        again.compare(note)
    with pytest.raises(LedgerBehind, match="not the first 8"):
        again.witnessed(note, name="coordinator", key=WITNESS_PUBLIC)


def test_a_file_that_is_replaced_while_in_use(ledger: Ledger) -> None:
    restored(ledger)
    with pytest.raises(LedgerBehind, match="replaced while in use"):
        ledger.checkpoint()
    with pytest.raises(LedgerBehind, match="replaced while in use"):
        register(ledger, "another")


# --- Witnesses -------------------------------------------------------------------------------------------------------


def test_a_witness_is_remembered(ledger: Ledger) -> None:
    first = ledger.newest_witness()["coordinator"]
    kept = folder_of(ledger) / "witness-notes.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    note = witness(ledger, first)
    size = ledger.size
    ledger.witnessed(note, name="coordinator", key=WITNESS_PUBLIC)
    ledger.witnessed(first, name="coordinator", key=WITNESS_PUBLIC)
    assert (ledger.size, ledger.newest_witness()) == (size, {"coordinator": note})
    assert json.loads(kept.read_text()) == {"coordinator": {"key": WITNESS_PUBLIC.hex(), "note": note}}
    checkpoint = json.loads(ledger.entry(size - 1))["entry"]
    assert (checkpoint["kind"], checkpoint["id"]) == ("checkpoint", "checkpoint:7:coordinator")
    ledger.compare(note)
    ledger.check_all()


def test_a_witness_has_one_key(ledger: Ledger) -> None:
    note = notes.cosign(key_of(9), "coordinator", ledger.checkpoint(), START)
    with pytest.raises(LedgerDamaged, match="another key than before"):
        ledger.witnessed(note, name="coordinator", key=key_of(9).public_key().public_bytes_raw())
    with pytest.raises(LedgerDamaged, match="not cosigned by coordinator"):
        ledger.witnessed(note, name="coordinator", key=WITNESS_PUBLIC)
    with pytest.raises(LedgerDamaged, match="not cosigned by auditor"):
        ledger.witnessed(note, name="auditor", key=WITNESS_PUBLIC)


def test_notes_of_other_ledgers_and_by_nobody(ledger: Ledger, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    with pytest.raises(LedgerBehind, match=rf"{ledger.origin}: .* has seen ledger {other.origin}.* by a new one"):
        ledger.compare(cosigned(other))
    forged = notes.sign(ledger.origin, 1000, bytes(32), WITNESS)
    with pytest.raises(LedgerDamaged, match="not signed by a key of that ledger"):
        ledger.compare(forged)


def test_proofs_hold(ledger: Ledger) -> None:
    note = notes.parse(ledger.checkpoint())
    leaf, old = merkle.leaf(raw_of(ledger, 3)), notes.parse(ledger.newest_witness()["coordinator"])
    assert merkle.verify_inclusion(leaf, 3, note.size, ledger.inclusion(3), note.root)
    assert merkle.verify_inclusion(leaf, 3, 5, ledger.inclusion(3, 5), old.root)
    assert merkle.verify_consistency(5, note.size, old.root, note.root, ledger.consistency(5))


@pytest.mark.parametrize("edit", ["edited", "last edited", "swapped", "removed", "foreign", "signature"])
def test_opening_finds_what_breaks_the_chain(ledger: Ledger, edit: str) -> None:
    EDITS[edit](ledger)
    with pytest.raises(LedgerDamaged):
        Ledger.open(folder_of(ledger))


@pytest.mark.parametrize("field", ["root", "cosignature", "key", "witness", "size"])
def test_a_checkpoint_that_does_not_hold(ledger: Ledger, field: str) -> None:
    right = json.loads(ledger.entry(5))["entry"]["ref"]
    wrong = {"root": "0" * 64, "cosignature": "AAAA", "key": "0" * 64, "witness": "auditor", "size": "4"}
    with ledger._log.writing() as transaction:
        transaction.append(Draft(kind="checkpoint", ref=right | {"witness": "second", field: wrong[field]}))
    Ledger.open(folder_of(ledger))
    with pytest.raises(LedgerDamaged, match=r"checkpoint|root"):
        reopened(ledger)


def test_a_key_that_its_owner_did_not_agree_to(ledger: Ledger) -> None:
    with ledger._log.writing() as transaction:
        ref = {"key": key_of(9).public_key().public_bytes_raw().hex(), "proof": "0" * 128}
        transaction.append(Draft(kind="key", ref=ref))
    with pytest.raises(LedgerDamaged, match=r"entry 7 \(its new key\)"):
        Ledger.open(folder_of(ledger)).check_all()


def test_what_would_contradict_the_ledger_is_not_written(ledger: Ledger) -> None:
    run = {"dataset": "claims", "run": "run"}
    ref = {"round": "1", "train": True, "evaluate": True, "model": "0" * 64, "update": "0" * 64}
    for draft in (
        Draft(kind="release", ref=ref, **run),  # the round was released
        Draft(kind="release", ref=ref, dataset="other", run="run"),
        Draft(kind="release", ref=ref, dataset="claims", run="unknown"),
        Draft(kind="policy", ref={"digest": "0" * 64, "supersedes": None}),
    ):
        with pytest.raises(LedgerDamaged, match="contradicts itself"), ledger._log.writing() as transaction:
            transaction.append(draft)
    assert ledger.size == 7
    release(ledger.reservation("run"), 2)
    reopened(ledger)
