"""What a member never forgets: the newest documents it accepted, and how far it went in every run.

Nothing in it is secret, but all of it must outlast crashes and updates: a member that forgets which round it
answered can be asked twice. How the bytes are kept: a line naming kind and checksum, then JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from secagg.errors import ReplayError, RosterError, StateError
from secagg.primitives import digest
from secagg.roster import Permit, Roster

KIND = "confide-records-1"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """How far a member went in one run; rounds and epochs count from 1, and 0 means none yet.

    Attributes:
        serial: of the newest permit accepted for this run.
        epoch: newest epoch entered.
        uploaded_round: newest round in which a masked vector was made.
        answered_round: newest round in which masks were revealed.
        confirmed_round: newest round whose survivors were confirmed (strict mode).
        confirmed_hash: what was confirmed in that round, 32 bytes.
    """

    serial: int
    epoch: int = 0
    uploaded_round: int = 0
    answered_round: int = 0
    confirmed_round: int = 0
    confirmed_hash: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Pins:
    """What a member remembers beside the state of an epoch.

    Attributes:
        roster_version: highest accepted.
        roster_hash: of that version.
        serial: highest of any permit accepted.
        runs: by the run's 32 bytes.
    """

    roster_version: int = 0
    roster_hash: bytes = b""
    serial: int = 0
    runs: Mapping[bytes, RunRecord] = field(default_factory=dict)

    def accept(self, roster: Roster, roster_hash: bytes, permit: Permit, run: bytes) -> Pins:
        """Return the pins after a roster and a permit for ``run`` whose signatures and dates were checked.

        Raises:
            ReplayError: a roster or permit older than one accepted before.
            RosterError: two rosters with the same version.
        """
        if roster.version < self.roster_version:
            raise ReplayError(
                f"roster version = {roster.version}: version {self.roster_version} is known; send the newest roster"
            )
        if roster.version == self.roster_version and roster_hash != self.roster_hash:
            raise RosterError(f"roster version = {roster.version}: signed twice, with different contents; sign a newer")
        record = self.runs.get(run)
        # Every serial up to the highest was another run's, or an older one of this run.
        if permit.serial <= self.serial and (record is None or permit.serial != record.serial):
            raise ReplayError(
                f"permit serial = {permit.serial}: serial {self.serial} is known; have a new permit signed"
            )
        pins = replace(
            self,
            roster_version=roster.version,
            roster_hash=roster_hash,
            serial=max(permit.serial, self.serial),
        )
        record = RunRecord(serial=permit.serial) if record is None else replace(record, serial=permit.serial)
        return pins.updated(run, record)

    def record(self, run: bytes) -> RunRecord:
        """Return the record of a run.

        Raises:
            StateError: there is none.
        """
        if run not in self.runs:
            raise StateError("records: this run is not among them; wait for a new epoch")
        return self.runs[run]

    def updated(self, run: bytes, record: RunRecord) -> Pins:
        """Return the pins with another record of a run."""
        return replace(self, runs={**self.runs, run: record})

    def to_bytes(self) -> bytes:
        """Return what :meth:`from_bytes` reads."""
        runs = {
            run.hex(): [
                *(record.serial, record.epoch, record.uploaded_round, record.answered_round),
                *(record.confirmed_round, record.confirmed_hash.hex()),
            ]
            for run, record in self.runs.items()
        }
        return pack(
            KIND,
            {
                "roster_version": self.roster_version,
                "roster_hash": self.roster_hash.hex(),
                "serial": self.serial,
                "runs": runs,
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Pins:
        """Read pins.

        Raises:
            StateError: damaged. There is no way on without them: an operator has to look.
        """
        document = unpack(KIND, data)
        try:
            runs = {
                bytes.fromhex(run): RunRecord(
                    serial=serial,
                    epoch=epoch,
                    uploaded_round=uploaded,
                    answered_round=answered,
                    confirmed_round=confirmed,
                    confirmed_hash=bytes.fromhex(confirmed_hash),
                )
                for run, (serial, epoch, uploaded, answered, confirmed, confirmed_hash) in document["runs"].items()
            }
            return cls(
                roster_version=document["roster_version"],
                roster_hash=bytes.fromhex(document["roster_hash"]),
                serial=document["serial"],
                runs=runs,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise StateError(f"{KIND}: written by another version; restore the file from a backup") from None


def pack(kind: str, document: dict[str, Any]) -> bytes:
    """Return a document under its kind and checksum."""
    body = json.dumps(document, separators=(",", ":")).encode()
    return b"%s %s\n%s" % (kind.encode(), _checksum(kind, body), body)


def unpack(kind: str, data: bytes) -> Any:
    """Return the document of :func:`pack`.

    Raises:
        StateError: another kind, or damaged.
    """
    head, _, body = data.partition(b"\n")
    if head != b"%s %s" % (kind.encode(), _checksum(kind, body)):
        raise StateError(f"{kind}: damaged, cut short, or not such a file")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise StateError(f"{kind}: no JSON") from None


def _checksum(kind: str, body: bytes) -> bytes:
    """What tells a damaged file from a whole one; it is no protection against who may write the file."""
    return digest(kind, body).hex().encode()
