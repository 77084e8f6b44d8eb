"""The messages of a round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FormatError
from secagg.messages_setup import Encapsulate, check_order
from secagg.primitives import (
    CIPHERTEXT_BYTES,
    HASH_BYTES,
    SEALED_SHARE_BYTES,
    SHARE_BYTES,
    SIGNATURE_BYTES,
    u8,
    u32,
)
from secagg.transcript import masked_hash, share_ciphertext_hash, upload_hash
from secagg.wire import Message, Reader, Signed, counted, sized

# What an entry of an answer is.
COMPLAINT, SELF_SHARE, PAIR_SEED = 0, 1, 2
# Stands for the hash of the share that a member does not send to itself.
_NO_SHARE = bytes(HASH_BYTES)


class Uploaded(NamedTuple):
    """One of the survivors: who uploaded, and the hash under the upload's signature."""

    member: int
    h: bytes
    signature: bytes


class DealtShare(NamedTuple):
    """A share for the receiver of an unmask message: its dealer, commitment and ciphertext (49 bytes)."""

    dealer: int
    commitment: bytes
    ciphertext: bytes


class Entry(NamedTuple):
    """What an answer says about one member of the cohort: ``kind`` and 33 bytes."""

    member: int
    kind: int
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Open(Message):
    """Server to member: a round begins.

    Until a member has uploaded once in an epoch there also come everybody's encapsulate messages without their
    ciphertexts (``lists``), and the ciphertexts for this member as ``(i, ciphertext)``.
    """

    TYPE, NAME = 5, "open"
    round: int
    attempt: int = 0
    cohort: tuple[int, ...]
    lists: tuple[Encapsulate, ...] = ()
    ciphertexts: tuple[tuple[int, bytes], ...] = ()

    def body(self) -> bytes:
        """Return what follows the header."""
        cohort = counted([u32(member) for member in self.cohort])
        return u32(self.round) + u32(self.attempt) + cohort + self.setup_part()

    def setup_part(self) -> bytes:
        """Return lists and ciphertexts as they stand in the message."""
        lists = counted([sized(message.signed_part()) for message in self.lists])
        return lists + counted([u32(i) + ciphertext for i, ciphertext in self.ciphertexts])

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "round": r.u32("round"),
            "attempt": r.u32("attempt"),
            "cohort": tuple(r.ids(4, "cohort")),
        }
        lists = tuple(
            Encapsulate.from_signed_part(r.take(r.count(1, "list"), "list")) for _ in range(r.count(4, "lists"))
        )
        check_order(cls.NAME, lists)
        ciphertexts = tuple((i, r.take(CIPHERTEXT_BYTES, "ciphertext")) for i in r.ids(4 + CIPHERTEXT_BYTES, "senders"))
        return fields | {"lists": lists, "ciphertexts": ciphertexts}


@dataclass(frozen=True, kw_only=True)
class Upload(Signed):
    """Member to server: the masked vector, and shares of the seed of its mask.

    Attributes:
        h: hash of all that is attached.
        seed_hash: ``H_b``.
        commitments: ``(j, C_ij)`` for every member of the cohort.
        shares: ciphertexts (49 bytes) for every member of the cohort but the sender, in the same order.
        y: the masked vector, little-endian uint32; a view of the message it was read from.
    """

    TYPE, NAME = 6, "upload"
    context: bytes
    h: bytes
    seed_hash: bytes = b""
    commitments: tuple[tuple[int, bytes], ...] = ()
    shares: tuple[bytes, ...] = ()
    y: bytes | memoryview = field(default=b"", repr=False)

    def body(self) -> bytes:
        """Return what the signature covers."""
        return self.context + self.h

    def head(self) -> bytes:
        """Return all but the masked vector."""
        commitments = counted([u32(j) + commitment for j, commitment in self.commitments])
        return b"".join((self.signed_part(), self.seed_hash, commitments, *self.shares))

    def to_bytes(self) -> bytes:
        """Return the whole message, attachments and all; the masked vector is copied once."""
        return b"".join((self.head(), self.y))

    def parts_hash(self) -> bytes:
        """Return what ``h`` must be, from all that is attached."""
        sealed = iter(self.shares)
        listed = [
            (j, commitment, _NO_SHARE if j == self.sender else share_ciphertext_hash(next(sealed)))
            for j, commitment in self.commitments
        ]
        return upload_hash(self.context, masked_hash(self.y), self.seed_hash, listed)

    def vector(self) -> NDArray[np.uint32]:
        """Return the masked vector, uint32 (d,): read-only, not aligned, a view of the message."""
        return np.frombuffer(self.y, dtype="<u4")

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        return {"context": r.take(HASH_BYTES, "ctx"), "h": r.take(HASH_BYTES, "h")}

    @classmethod
    def _read_attachments(cls, r: Reader, fields: dict[str, Any]) -> dict[str, Any]:
        seed_hash = r.take(HASH_BYTES, "H_b")
        commitments = tuple((j, r.take(HASH_BYTES, "C_ij")) for j in r.ids(4 + HASH_BYTES, "cohort"))
        shares = tuple(r.take(SEALED_SHARE_BYTES, "share") for _ in commitments[1:])
        y = r.rest()
        if fields["sender"] not in dict(commitments):
            raise FormatError(f"upload: member {fields['sender']} deals no share to itself; list the whole cohort")
        if not y.nbytes or y.nbytes % 4:
            raise FormatError(f"upload: {y.nbytes} bytes are no masked vector")
        return {"seed_hash": seed_hash, "commitments": commitments, "shares": shares, "y": y}


@dataclass(frozen=True, kw_only=True)
class Survivors(Message):
    """Server to member: who has uploaded, to be confirmed (strict mode)."""

    TYPE, NAME = 7, "survivors"
    context: bytes
    uploads: tuple[Uploaded, ...]

    def body(self) -> bytes:
        """Return what follows the header."""
        return self.context + counted([u32(i) + h + signature for i, h, signature in self.uploads])

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        return {"context": r.take(HASH_BYTES, "ctx"), "uploads": _read_uploads(r)}


@dataclass(frozen=True, kw_only=True)
class Confirm(Signed):
    """Member to server: these survivors, and no others, in this round (strict mode)."""

    TYPE, NAME = 8, "confirm"
    context: bytes
    survivors_hash: bytes

    def body(self) -> bytes:
        """Return what the signature covers."""
        return self.context + self.survivors_hash

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        return {"context": r.take(HASH_BYTES, "ctx"), "survivors_hash": r.take(HASH_BYTES, "H_U")}


@dataclass(frozen=True, kw_only=True)
class Unmask(Message):
    """Server to member: who has uploaded, who confirmed it as ``(i, signature)``, and the shares for this member."""

    TYPE, NAME = 9, "unmask"
    context: bytes
    uploads: tuple[Uploaded, ...]
    confirmations: tuple[tuple[int, bytes], ...] = ()
    shares: tuple[DealtShare, ...] = ()

    def body(self) -> bytes:
        """Return what follows the header."""
        uploads = counted([u32(i) + h + signature for i, h, signature in self.uploads])
        confirmations = counted([u32(i) + signature for i, signature in self.confirmations])
        shares = counted([u32(i) + commitment + ciphertext for i, commitment, ciphertext in self.shares])
        return self.context + uploads + confirmations + shares

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        context, uploads = r.take(HASH_BYTES, "ctx"), _read_uploads(r)
        confirmations = tuple((i, r.take(SIGNATURE_BYTES, "signature")) for i in r.ids(4 + SIGNATURE_BYTES, "confirm"))
        shares = tuple(
            DealtShare(i, r.take(HASH_BYTES, "C_ij"), r.take(SEALED_SHARE_BYTES, "share"))
            for i in r.ids(4 + HASH_BYTES + SEALED_SHARE_BYTES, "shares")
        )
        return {"context": context, "uploads": uploads, "confirmations": confirmations, "shares": shares}


@dataclass(frozen=True, kw_only=True)
class Answer(Signed):
    """Member to server: for every member of the cohort a share, a seed or a complaint, never two of them."""

    TYPE, NAME = 10, "answer"
    context: bytes
    entries: tuple[Entry, ...] = field(repr=False)

    def body(self) -> bytes:
        """Return what the signature covers."""
        return self.context + counted([u32(j) + u8(kind) + content for j, kind, content in self.entries])

    @classmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        context = r.take(HASH_BYTES, "ctx")
        entries = tuple(
            Entry(j, r.take(1, "kind")[0], r.take(SHARE_BYTES, "content")) for j in r.ids(4 + 1 + SHARE_BYTES, "cohort")
        )
        return {"context": context, "entries": entries}


def _read_uploads(r: Reader) -> tuple[Uploaded, ...]:
    """Read a list of survivors."""
    return tuple(
        Uploaded(i, r.take(HASH_BYTES, "h"), r.take(SIGNATURE_BYTES, "signature"))
        for i in r.ids(4 + HASH_BYTES + SIGNATURE_BYTES, "survivors")
    )
