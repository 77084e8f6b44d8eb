"""Disks that are full, read-only or a network's, and other processes that hold on for too long."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_home import (
    KEY,
    make,
    register,
    witness,
)

from privacy import ledger_store, mounts
from privacy.errors import LedgerDamaged, LedgerError, LedgerUnwritable
from privacy.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make(tmp_path / "ledger")


def folder_of(ledger: Ledger) -> Path:
    return ledger._log.store.folder


@pytest.fixture
def full_disk(ledger: Ledger) -> Iterator[None]:
    """No file can become longer than the database is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder_of(ledger) / "ledger.sqlite").stat().st_size, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(ledger: Ledger, full_disk: None) -> None:
    with pytest.raises(LedgerUnwritable, match=r"ledger\.sqlite: the disk"):
        for number in range(20):
            register(ledger, f"one more {number}" + "x" * 90)
    size = ledger.size
    Ledger.open(folder_of(ledger), key=KEY).check_all()
    assert Ledger.open(folder_of(ledger), key=KEY).size == size


@pytest.mark.parametrize(
    ("code", "expected", "match"),
    [
        (sqlite3.SQLITE_READONLY, LedgerUnwritable, "read-only"),
        (sqlite3.SQLITE_READONLY | 8 << 8, LedgerUnwritable, "read-only"),
        (sqlite3.SQLITE_CANTOPEN, LedgerUnwritable, "cannot be opened"),
        (sqlite3.SQLITE_FULL, LedgerUnwritable, "full"),
        (sqlite3.SQLITE_BUSY, LedgerUnwritable, "another process"),
        (sqlite3.SQLITE_IOERR, LedgerUnwritable, "the disk failed"),
        (sqlite3.SQLITE_NOTADB, LedgerDamaged, "damaged"),
        (sqlite3.SQLITE_ERROR, LedgerDamaged, "not a ledger's file"),
    ],
)
def test_what_sqlite_says(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, code: int, expected: type, match: str
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        error = sqlite3.OperationalError("no")
        error.sqlite_errorcode = code
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ledger_store, "insert", refuse)
        with pytest.raises(expected, match=match):
            register(ledger, "another")
    assert ledger.size == 3
    register(ledger, "another")
    ledger.check_all()


def test_a_ledger_that_others_hold_for_too_long(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_store, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(folder_of(ledger) / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnwritable, match="another process has held it"):
        register(ledger, "another")
    holder.execute("ROLLBACK")
    holder.close()
    register(ledger, "another")


def test_kept_notes_that_cannot_be_written(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise LedgerUnwritable("witness-notes.json: cannot be written")

    size, before = ledger.size, ledger.newest_witness()
    with monkeypatch.context() as patch:
        patch.setattr(ledger_store, "write_notes", refuse)
        with pytest.raises(LedgerUnwritable):
            witness(ledger)
    assert (ledger.size, ledger.newest_witness()) == (size, before)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnwritable, match="cannot be made"):
        make(tmp_path / "file" / "ledger")
    with pytest.raises(LedgerUnwritable, match="cannot be written"):
        ledger_store.write_notes(tmp_path / "nowhere", {})


MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:27 / /home rw shared:5 - nfs4 server:/home rw
31 30 0:28 / /home/me/local\040disk rw - xfs /dev/vdb rw
32 22 0:29 / /mnt/share rw master:1 shared:7 - cifs //server/share rw
33 22 0:30 / /mnt/twice rw - nfs server:/x rw
34 33 0:31 / /mnt/twice rw - tmpfs tmpfs rw
35 22 0:32 / /mnt/ssh rw - fuse.sshfs me@host: rw
36 22 0:33 / /mnt/own rw - fuse.gocryptfs /dev/vdc rw
nonsense
"""


@pytest.mark.parametrize(
    ("folder", "kind", "refused"),
    [
        ("/var/lib/confide", "ext4", False),
        ("/home/me/ledger", "nfs4", True),
        ("/homes/me", "ext4", False),
        ("/home/me/local disk/ledger", "xfs", False),
        ("/mnt/share", "cifs", True),
        ("/mnt/twice/ledger", "tmpfs", False),
        ("/mnt/ssh/ledger", "fuse.sshfs", True),
        ("/mnt/own/ledger", "fuse.gocryptfs", False),
    ],
)
def test_network_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, kind: str, refused: bool
) -> None:
    assert mounts.file_system(MOUNTS, folder) == kind
    (tmp_path / "mountinfo").write_text(MOUNTS.replace("/ / rw", f"/ {tmp_path} rw", 1).replace("ext4", kind))
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    if refused:
        with pytest.raises(LedgerUnwritable, match=f"network file system \\({kind}\\)"):
            make(tmp_path / "ledger")
    else:
        make(tmp_path / "ledger")
        with pytest.raises(LedgerError, match="no ledger"):
            Ledger.open(tmp_path / "other", key=KEY)


def test_where_mounts_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "nothing")
    make(tmp_path / "ledger")
    assert mounts.file_system("", "/x") is None
