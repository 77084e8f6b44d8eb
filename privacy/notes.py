"""Checkpoints as signed notes: what a department signs about its ledger, and what a witness adds.

Formats: c2sp.org/signed-note, c2sp.org/tlog-checkpoint and c2sp.org/tlog-cosignature (``cosignature/v1``), all with
Ed25519. A witness that behaves never cosigns two ledgers of one name that do not grow from one another; that is what
shows a department, and an auditor, a ledger that was cut short, restored or forked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy import merkle
from privacy.canonical import CanonicalError, integer
from privacy.errors import LedgerBehind, LedgerDamaged

MOST_BYTES = 16 * 1024
HASH_BYTES = 32
HINT_BYTES = 4
TIME_BYTES = 8
SIGNATURE_BYTES = 64

_SIGNED, _COSIGNED = b"\x01", b"\x04"  # signature types of signed-note and tlog-cosignature
_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, kw_only=True)
class Note:
    """A checkpoint as read: the first ``size`` entries of ledger ``origin`` have the Merkle root ``root``.

    ``signatures`` are all pairs of key name and bytes (hint and signature) below it, not verified.
    """

    origin: str
    size: int
    root: bytes
    signatures: tuple[tuple[str, bytes], ...] = ()

    @property
    def body(self) -> bytes:
        """The bytes that signatures cover."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n".encode()

    def text(self) -> str:
        """The whole note."""
        lines = (f"— {name} {_base64(blob)}\n" for name, blob in self.signatures)
        return f"{self.body.decode()}\n{''.join(lines)}"

    def signature(self, keys: Collection[bytes]) -> bytes:
        """Return the ledger's own signature, hint included; ``keys`` are the public keys it may be by.

        Raises:
            LedgerDamaged: there is none, or it does not hold.
        """
        for name, blob in self.signatures:
            for key in keys:
                if name == self.origin and blob[:HINT_BYTES] == _hint(name, _SIGNED, key):
                    _verify(key, blob[HINT_BYTES:], self.body, f"checkpoint of {self.origin}: signature")
                    return blob
        raise LedgerDamaged(f"checkpoint of {self.origin}: not signed by a key of that ledger")

    def cosignature(self, name: str, key: bytes) -> bytes:
        """Return witness ``name``'s cosignature (hint, time and signature, 76 bytes); ``key`` is its public key.

        Raises:
            LedgerDamaged: there is none, or it does not hold.
        """
        for signer, blob in self.signatures:
            if signer == name and blob[:HINT_BYTES] == _hint(name, _COSIGNED, key):
                verify_cosignature(self, name, key, blob)
                return blob
        raise LedgerDamaged(f"checkpoint of {self.origin}: not cosigned by {name}, or by another key than was pinned")


def sign(origin: str, size: int, root: bytes, key: Ed25519PrivateKey) -> str:
    """Return the checkpoint of a ledger, signed by its key; ``root`` is 32 bytes."""
    note = Note(origin=origin, size=size, root=root)
    blob = _hint(origin, _SIGNED, key.public_key().public_bytes_raw()) + key.sign(note.body)
    return _with(note, (origin, blob)).text()


def parse(text: str) -> Note:
    """Read a note; nothing but its form is checked.

    Raises:
        LedgerDamaged: it is not a checkpoint's.
    """
    if len(text) > MOST_BYTES:
        raise LedgerDamaged(f"checkpoint: {len(text)} characters; at most {MOST_BYTES}")
    body, blank, lines = text.partition("\n\n")
    parts = body.split("\n")
    if not blank or len(parts) != 3 or not lines.endswith("\n") or not parts[0].isprintable():
        raise LedgerDamaged("checkpoint: not three lines, a blank one and signatures")
    try:
        size = integer(parts[1])
    except CanonicalError as error:
        raise LedgerDamaged(f"checkpoint: size {error}") from None
    signatures = []
    for line in lines[:-1].split("\n"):
        found = _LINE.fullmatch(line)
        if found is None:
            raise LedgerDamaged(f"checkpoint of {parts[0]}: a line below it is not a signature")
        signatures.append((found[1], _bytes(found[2])))
    note = Note(origin=parts[0], size=size, root=_bytes(parts[2]), signatures=tuple(signatures))
    if len(note.root) != HASH_BYTES or note.text() != text:
        raise LedgerDamaged(f"checkpoint of {note.origin}: not written as checkpoints are")
    return note


def cosign(key: Ed25519PrivateKey, name: str, note: str, now: int) -> str:
    """Return the note with one more line: the witness ``name`` has seen it at ``now`` (Unix seconds).

    What a witness must check first is in :func:`observe`.

    Raises:
        ValueError: a note cannot carry such a name.
        LedgerDamaged: it is no checkpoint.
    """
    if not name or _LINE.fullmatch(f"— {name} AA==") is None:
        raise ValueError(f"name={name!r}: the name of a witness has no spaces and no +")
    read = parse(note)
    blob = _hint(name, _COSIGNED, key.public_key().public_bytes_raw()) + now.to_bytes(TIME_BYTES, "big")
    return _with(read, (name, blob + key.sign(_cosigned(read, now)))).text()


def observe(
    previous: str | None,
    note: str,
    proof: Sequence[bytes],
    *,
    origin_key: bytes,
    witness_key: Ed25519PrivateKey,
    witness_name: str,
    now: int,
) -> str:
    """Return a department's checkpoint with a witness's cosignature, if it may have one.

    Args:
        previous: the note of this ledger that the witness cosigned last, as it keeps it; None for the first.
        note: the checkpoint, signed by the department.
        proof: RFC 6962 consistency proof from ``previous`` to ``note``; empty for the first.
        origin_key: the department's public ledger key (32 bytes).
        witness_key: the witness's own key.
        witness_name: its name; no spaces, no ``+``.
        now: Unix seconds.

    Raises:
        LedgerBehind: the checkpoint is of fewer entries than the witness has seen.
        LedgerDamaged: it is not signed by the department, of another ledger, or did not grow from ``previous``.
    """
    new = parse(note)
    own = new.signature([origin_key])
    if previous is not None:
        old = parse(previous)
        if new.origin != old.origin:
            raise LedgerDamaged(f"checkpoint of {new.origin}: this department's ledger has been {old.origin} so far")
        if new.size < old.size:
            raise LedgerBehind(
                f"checkpoint of {new.origin}: {new.size} entries, but {old.size} were witnessed; the department has "
                "restored its ledger from a backup, or forked it"
            )
        if not merkle.verify_consistency(old.size, new.size, old.root, new.root, proof):
            raise LedgerDamaged(
                f"checkpoint of {new.origin}: its {new.size} entries do not begin with the {old.size} witnessed"
            )
    elif proof:
        raise LedgerDamaged(f"checkpoint of {new.origin}: a proof, but nothing was witnessed before")
    bare = Note(origin=new.origin, size=new.size, root=new.root, signatures=((new.origin, own),))
    return cosign(witness_key, witness_name, bare.text(), now)


def verify_cosignature(note: Note, name: str, key: bytes, blob: bytes) -> int:
    """Return when (Unix seconds) witness ``name`` cosigned a checkpoint; ``blob`` is hint, time and signature.

    Raises:
        LedgerDamaged: the cosignature is not of this checkpoint by this key.
    """
    what = f"checkpoint of {note.origin}: cosignature of {name}"
    if len(blob) != HINT_BYTES + TIME_BYTES + SIGNATURE_BYTES or blob[:HINT_BYTES] != _hint(name, _COSIGNED, key):
        raise LedgerDamaged(f"{what}: not one of this witness's key")
    time = int.from_bytes(blob[HINT_BYTES : HINT_BYTES + TIME_BYTES], "big")
    _verify(key, blob[HINT_BYTES + TIME_BYTES :], _cosigned(note, time), what)
    return time


def _with(note: Note, signature: tuple[str, bytes]) -> Note:
    """The note with one more signature."""
    return Note(origin=note.origin, size=note.size, root=note.root, signatures=(*note.signatures, signature))


def _cosigned(note: Note, time: int) -> bytes:
    """What a witness signs."""
    return f"cosignature/v1\ntime {time}\n".encode() + note.body


def _hint(name: str, kind: bytes, key: bytes) -> bytes:
    """What a signature line begins with, so that a reader finds its key."""
    return hashlib.sha256(f"{name}\n".encode() + kind + key).digest()[:HINT_BYTES]


def _verify(key: bytes, signature: bytes, message: bytes, what: str) -> None:
    """Check one signature."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise LedgerDamaged(f"{what} does not hold") from None


def _base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    """The bytes of standard base64; other spellings of them are found when the note is written again."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise LedgerDamaged("checkpoint: not base64") from None
