"""The coordinator as a witness: it cosigns departments' checkpoints and keeps the newest of each.

::

    CONFIDE_HOME/server/witness/
      key.pem            its signing key, 0600
      key.pub            the public key, hexadecimal, for auditors
      name               its name in cosignatures
      notes/NAME.note    the newest checkpoint of each department, cosigned
      notes/NAME.json    whose it is, when it was seen, how many rounds it has left
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from filelock import FileLock

from models.files import read_bounded, write_atomic
from privacy.notes import observe, parse
from server.errors import ServerError
from server.runs import now
from strategies.jsonfile import read_object
from strategies.wire import Statement

MOST_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class DiskWitness:
    """A witness whose memory is a folder; safe with several runs at once. ``clock`` gives unix seconds."""

    folder: Path
    signing_key: Ed25519PrivateKey
    clock: Callable[[], float] = time.time

    @classmethod
    def at(cls, folder: Path) -> DiskWitness:
        """The witness of this folder, made if there is none; raises :class:`ServerError` if its key is damaged."""
        (folder / "notes").mkdir(parents=True, exist_ok=True, mode=0o700)
        file = folder / "key.pem"
        with FileLock(folder / "lock", mode=0o600):
            if not file.exists():
                key = Ed25519PrivateKey.generate()
                pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                write_atomic(folder / "key.pub", f"{key.public_key().public_bytes_raw().hex()}\n".encode())
                write_atomic(folder / "name", f"{_named(key)}\n".encode())
                write_atomic(file, pem, secret=True)
        try:
            loaded = load_pem_private_key(file.read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ServerError(f"{file}: cannot be read ({type(error).__name__}); restore it from a backup") from None
        if not isinstance(loaded, Ed25519PrivateKey):
            raise ServerError(f"{file}: no Ed25519 private key; restore it from a backup")
        return cls(folder=folder, signing_key=loaded)

    @property
    def name(self) -> str:
        """Its name in cosignatures."""
        return _named(self.signing_key)

    @property
    def key(self) -> bytes:
        """Its public key."""
        return self.signing_key.public_key().public_bytes_raw()

    def newest(self, department: str) -> str:
        """The newest checkpoint of a department; empty if there is none."""
        file = self._file(department, "note")
        return read_bounded(file, MOST_BYTES).decode() if file.exists() else ""

    def observe(self, department: str, statement: Statement, *, run: str) -> None:
        """Cosign what continues the newest checkpoint; see :class:`strategies.accounts.Witness`."""
        with FileLock(self.folder / "lock", mode=0o600):
            previous = self.newest(department)
            cosigned = observe(
                previous or None,
                statement.checkpoint,
                list(statement.proof),
                origin_key=statement.key,
                witness_key=self.signing_key,
                witness_name=self.name,
                now=int(self.clock()),
            )
            seen = {
                "department": department,
                "key": statement.key.hex(),
                "run": run,
                "rounds_left": statement.rounds_left,
                "size": parse(cosigned).size,
                "time": now(),
            }
            write_atomic(self._file(department, "note"), cosigned.encode())
            write_atomic(self._file(department, "json"), json.dumps(seen, sort_keys=True).encode())

    def _file(self, department: str, suffix: str) -> Path:
        """A department's file; its name comes from the roster, but must not choose the folder."""
        return self.folder / "notes" / f"{slug(department)}.{suffix}"


def seen(folder: Path) -> dict[str, dict[str, Any]]:
    """What the witness of this folder knows of each department's ledger: entries, when, and rounds left.

    Raises :class:`strategies.errors.SettingsError` for a damaged file.
    """
    rows = [read_object(file, MOST_BYTES) for file in sorted((folder / "notes").glob("*.json"))]
    return {str(row.get("department")): row for row in rows}


def slug(name: str) -> str:
    """A department's name as a file's: docs/ledger-spec.md, SLUG."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _named(key: Ed25519PrivateKey) -> str:
    """A witness is named by its key, so that nobody can pin another key to its name."""
    return f"confide.witness/{key.public_key().public_bytes_raw().hex()[:32]}"
