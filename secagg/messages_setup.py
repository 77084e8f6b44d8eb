"""The messages of the set-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secagg.errors import FormatError
from secagg.primitives import (
    CIPHERTEXT_BYTES,
    HASH_BYTES,
    PUBLIC_BYTES,
    SIGNATURE_BYTES,
    X25519_BYTES,
    u32,
)
from secagg.wire import HEADER_BYTES, Message, Reader, Signed, counted, sized, strictly_increasing

ADVERTISE_BYTES = HEADER_BYTES + PUBLIC_BYTES + SIGNATURE_BYTES


@dataclass(frozen=True, kw_only=True)
class Invite(Message):
    """Server to member: an epoch begins. Roster and permit are the signed envelopes as they were published."""

    TYPE, NAME = 1, "invite"
    first_round: int
    roster: bytes
    permit: bytes

    def body(self) -> bytes:
        """Return what follows the header."""
        return u32(self.first_round) + sized(self.roster) + sized(self.permit)

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        return {
            "first_round": r.u32("first_round"),
            "roster": r.take(r.count(1, "roster"), "roster"),
            "permit": r.take(r.count(1, "permit"), "permit"),
        }


@dataclass(frozen=True, kw_only=True)
class Advertise(Signed):
    """Member to server: fresh public keys, X25519 (32 bytes) and ML-KEM-768 (1184 bytes)."""

    TYPE, NAME = 2, "advertise"
    keys: bytes

    def body(self) -> bytes:
        """Return what the signature covers."""
        return self.keys

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        return {"keys": r.take(PUBLIC_BYTES, "public keys")}

    @property
    def x25519(self) -> bytes:
        """The X25519 public key."""
        return self.keys[:X25519_BYTES]

    @property
    def mlkem(self) -> bytes:
        """The ML-KEM-768 public key."""
        return self.keys[X25519_BYTES:]


@dataclass(frozen=True, kw_only=True)
class Directory(Message):
    """Server to member: everybody's advertise message, strictly increasing by sender."""

    TYPE, NAME = 3, "directory"
    entries: tuple[Advertise, ...]

    def body(self) -> bytes:
        """Return what follows the header."""
        return counted([entry.to_bytes() for entry in self.entries])

    def advertisements(self) -> bytes:
        """Return the messages one after another, as the hash of the set-up wants them."""
        return b"".join(entry.to_bytes() for entry in self.entries)

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        number = r.count(ADVERTISE_BYTES, "members")
        entries = tuple(Advertise.from_bytes(r.take(ADVERTISE_BYTES, "member")) for _ in range(number))
        check_order(cls.NAME, entries)
        return {"entries": entries}


@dataclass(frozen=True, kw_only=True)
class Encapsulate(Signed):
    """Member to server: ``(j, H_ct)`` for every member after the sender, and, attached, their ciphertexts."""

    TYPE, NAME = 4, "encapsulate"
    setup_hash: bytes
    hashes: tuple[tuple[int, bytes], ...]
    ciphertexts: tuple[bytes, ...] = ()

    def body(self) -> bytes:
        """Return what the signature covers."""
        return self.setup_hash + counted([u32(j) + h_ct for j, h_ct in self.hashes])

    def to_bytes(self) -> bytes:
        """Return the whole message, attachments and all."""
        return b"".join((self.signed_part(), *self.ciphertexts))

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        return {
            "setup_hash": r.take(HASH_BYTES, "setup_hash"),
            "hashes": tuple((j, r.take(HASH_BYTES, "H_ct")) for j in r.ids(4 + HASH_BYTES, "members")),
        }

    @classmethod
    def _read_attachments(cls, r: Reader, fields: dict[str, Any]) -> dict[str, Any]:
        return {"ciphertexts": tuple(r.take(CIPHERTEXT_BYTES, "ciphertext") for _ in fields["hashes"])}


def check_order(name: str, messages: tuple[Message, ...]) -> None:
    """Refuse messages that do not strictly increase by sender.

    Raises:
        FormatError: they do not.
    """
    if not strictly_increasing(message.sender for message in messages):
        raise FormatError(f"{name}: senders must strictly increase")
