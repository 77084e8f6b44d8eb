"""The ledger's file: SQLite in one file, every transaction on the disk before it counts.

A rollback journal rather than a write-ahead log: between transactions the database is *one* file, which an operator
can copy. ``synchronous=EXTRA`` makes the end of a transaction durable too, not just its pages.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from privacy.errors import LedgerDamaged, LedgerError, LedgerUnwritable, LedgerVersion

FORMAT = 1
FILE = "ledger.sqlite"
NOTES = "witness-notes.json"
BUSY_SECONDS = 30.0
MOST_NOTES_BYTES = 1 << 20

_SCHEMA = (
    "CREATE TABLE entries"
    " (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, raw BLOB NOT NULL, signature BLOB NOT NULL)",
    "CREATE TABLE policies (digest TEXT PRIMARY KEY, text BLOB NOT NULL, signature BLOB NOT NULL)",
    "CREATE TABLE witnesses (name TEXT PRIMARY KEY, key BLOB NOT NULL, size INTEGER NOT NULL, note TEXT NOT NULL)",
    f"PRAGMA user_version = {FORMAT}",
)
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_REFUSED = {
    sqlite3.SQLITE_READONLY: "it, or its folder, is read-only",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk failed",
    sqlite3.SQLITE_CANTOPEN: "it, or its folder, cannot be opened for writing",
    sqlite3.SQLITE_PERM: "permission was denied",
    sqlite3.SQLITE_BUSY: f"another process has held it for {BUSY_SECONDS:.0f} seconds",
    sqlite3.SQLITE_LOCKED: f"another process has held it for {BUSY_SECONDS:.0f} seconds",
}
RESTORE = "restore the folder from a backup, then compare with the coordinator's newest checkpoint"


class Store:
    """The file ``folder/ledger.sqlite``; a connection a use, so that threads and processes share nothing."""

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        self.folder = folder
        self.file = folder / FILE
        self.readonly = readonly

    def create(self) -> None:
        """Make the folder and an empty file that only its owner reads; an existing file stays as it is."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
            _sync_folder(self.folder)
        except OSError as error:
            raise LedgerUnwritable(f"{self.file}: cannot be made ({error.strerror}); choose another folder") from None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the file."""
        with self._connected() as connection:
            connection.execute("BEGIN")
            self._require_version(connection)
            yield connection

    @contextmanager
    def writing(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction that nobody else writes in; durable once this returns, undone if it raises."""
        if self.readonly:
            raise LedgerUnwritable(f"{self.file}: was opened for reading only")
        with self._connected() as connection:
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("BEGIN IMMEDIATE")
            if create:
                if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    raise LedgerError(f"{self.file}: there is a ledger already; open that one")
                for statement in _SCHEMA:
                    connection.execute(statement)
            self._require_version(connection)
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection: SQLite's errors become ours, and what was begun and not ended is undone."""
        if not self.file.is_file():
            raise LedgerError(f"{self.file}: there is no ledger")
        address = f"{self.file.absolute().as_uri()}?mode={'ro' if self.readonly else 'rw'}"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise _ours(self.file, error) from None

    def _require_version(self, connection: sqlite3.Connection) -> None:
        """Refuse a file of another version, or of something else."""
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == FORMAT:
            return
        if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise LedgerError(f"{self.file}: there is no ledger in it yet; create one")
        raise LedgerVersion(
            f"{self.file}: written in format {version}, and this Confide reads format {FORMAT}; "
            "install the version that wrote it"
        )


def rows(connection: sqlite3.Connection, first: int = 0) -> Iterator[tuple[int, str, bytes, bytes]]:
    """Yield number, id, canonical JSON and signature of the entries from ``first`` on.

    Raises:
        LedgerDamaged: a row holds something else.
    """
    query = "SELECT seq, id, raw, signature FROM entries WHERE seq >= ? ORDER BY seq"
    for seq, name, raw, signature in connection.execute(query, (first,)):
        if not (isinstance(raw, bytes) and isinstance(signature, bytes)):
            raise LedgerDamaged(f"entry {seq} of the ledger is not stored as bytes; {RESTORE}")
        yield seq, name, raw, signature


def chain(connection: sqlite3.Connection, first: int) -> list[tuple[bytes, bytes]]:
    """Return canonical JSON and signature of the entries from ``first`` on, as bytes whatever they are stored as."""
    query = "SELECT CAST(raw AS BLOB), CAST(signature AS BLOB) FROM entries WHERE seq >= ? ORDER BY seq"
    return connection.execute(query, (first,)).fetchall()


def insert(connection: sqlite3.Connection, seq: int, name: str, raw: bytes, signature: bytes) -> None:
    """Add an entry."""
    connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (seq, name, raw, signature))


def policies(connection: sqlite3.Connection) -> dict[str, tuple[bytes, bytes]]:
    """Every policy: digest to text and signature."""
    return {name: (bytes(text), bytes(signed)) for name, text, signed in connection.execute("SELECT * FROM policies")}


def witnesses(connection: sqlite3.Connection) -> dict[str, tuple[bytes, str]]:
    """The newest note that each witness cosigned: name to key and note."""
    return {name: (bytes(key), note) for name, key, note in connection.execute("SELECT name, key, note FROM witnesses")}


def write_notes(folder: Path, notes: dict[str, tuple[bytes, str]]) -> None:
    """Keep the newest notes beside the database, too: one that is restored alone is then noticed at the next start.

    Raises:
        LedgerUnwritable: the disk refused, or there is more than would be read again.
    """
    data = json.dumps({name: {"key": key.hex(), "note": note} for name, (key, note) in sorted(notes.items())}, indent=1)
    if len(data) > MOST_NOTES_BYTES:  # ASCII, so as many bytes; what could not be read again must not replace a file
        raise LedgerUnwritable(f"{folder / NOTES}: {len(data)} bytes of notes; at most {MOST_NOTES_BYTES} are kept")
    temporary = folder / f".{NOTES}.{secrets.token_hex(8)}.tmp"
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / NOTES)
        _sync_folder(folder)
    except OSError as error:
        raise LedgerUnwritable(f"{folder / NOTES}: cannot be written ({error.strerror}); free space first") from None
    finally:
        with suppress(OSError):  # gone already if all went well
            temporary.unlink()


def read_notes(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Return what :func:`write_notes` kept; nothing if it never did.

    Raises:
        LedgerDamaged: the file is there and cannot be read.
    """
    file = folder / NOTES
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_NOTES_BYTES + 1)
        found = json.loads(data[:MOST_NOTES_BYTES])
        return {name: (bytes.fromhex(kept["key"]), str(kept["note"])) for name, kept in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LedgerDamaged(f"{file}: cannot be read ({type(error).__name__}); {RESTORE}") from None


def _ours(file: Path, error: sqlite3.Error) -> LedgerError:
    """The error that stands for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _REFUSED:
        return LedgerUnwritable(f"{file}: {_REFUSED[code]} ({error}); put that right and start again")
    if code in _DAMAGED:
        return LedgerDamaged(f"{file}: damaged ({error}); {RESTORE}")
    return LedgerDamaged(f"{file}: not a ledger's file, or one that was changed ({error}); {RESTORE}")


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
