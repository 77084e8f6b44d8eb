"""What every message begins with, and how bytes are read: each size is checked before it is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import primitives
from secagg.errors import ConsistencyError, FormatError
from secagg.primitives import HASH_BYTES, SERVER, SIGNATURE_BYTES, u8, u32

MAGIC = b"CFS1"
HEADER_BYTES = len(MAGIC) + 1 + HASH_BYTES + 4 + 4


class Reader:
    """Reads fields off the front of a message; every complaint is a :class:`FormatError` naming message and field."""

    def __init__(self, data: bytes, name: str) -> None:
        if not isinstance(data, bytes):
            raise FormatError(f"{name}: {type(data).__name__} in place of bytes")
        self._data = data
        self._at = 0
        self._name = name

    def header(self, kind: int) -> dict[str, Any]:
        """Read the header of a message of type ``kind``; return run, epoch and sender."""
        if self.take(len(MAGIC), "version") != MAGIC:
            raise FormatError(f"{self._name}: not of version {MAGIC.decode()}; install one version on both sides")
        found = self.take(1, "type")[0]
        if found != kind:
            raise FormatError(f"{self._name}: a message of type {found} in place of {kind}")
        return {"run": self.take(HASH_BYTES, "run"), "epoch": self.u32("epoch"), "sender": self.u32("sender")}

    def take(self, size: int, field: str) -> bytes:
        """Read ``size`` bytes."""
        self._need(size, field)
        self._at += size
        return self._data[self._at - size : self._at]

    def u32(self, field: str) -> int:
        """Read a number of four bytes."""
        return int.from_bytes(self.take(4, field), "big")

    def count(self, each: int, field: str) -> int:
        """Read how many entries of at least ``each`` bytes follow, and check that they can."""
        number = self.u32(field)
        self._need(number * each, field)
        return number

    def ids(self, each: int, field: str) -> Iterator[int]:
        """Read a count, then yield the id at the front of each entry of ``each`` bytes, strictly increasing.

        The caller reads the rest of an entry before it asks for the next.
        """
        last = -1
        for _ in range(self.count(each, field)):
            member = self.u32(field)
            if not last < member < SERVER:
                raise FormatError(f"{self._name}: {field}: id {member} after {last}; ids must strictly increase")
            last = member
            yield member

    def rest(self) -> memoryview:
        """Read whatever is left, without a copy."""
        left = memoryview(self._data)[self._at :]
        self._at = len(self._data)
        return left

    def end(self) -> None:
        """Refuse bytes after the last field."""
        if self._at != len(self._data):
            raise FormatError(f"{self._name}: {len(self._data) - self._at} bytes too many")

    def _need(self, size: int, field: str) -> None:
        """Refuse a message that ends before a field does."""
        left = len(self._data) - self._at
        if size > left:
            raise FormatError(f"{self._name}: {field}: {size} bytes needed, {left} left")


def counted(entries: Sequence[bytes]) -> bytes:
    """Return entries behind their number."""
    return u32(len(entries)) + b"".join(entries)


def sized(text: bytes) -> bytes:
    """Return bytes behind their length."""
    return u32(len(text)) + text


def strictly_increasing(ids: Iterable[int]) -> bool:
    """Tell whether ids are in order, without repetition, and nobody's id is none of them."""
    last = -1
    for member in ids:
        if not last < member < SERVER:
            return False
        last = member
    return True


@dataclass(frozen=True, kw_only=True)
class Message(ABC):
    """A message: ``run`` (32 bytes), ``epoch`` and ``sender`` stand in its header."""

    TYPE: ClassVar[int]
    NAME: ClassVar[str]

    run: bytes
    epoch: int
    sender: int = SERVER

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a message of exactly this type; nothing but its form is checked.

        Raises:
            FormatError: length, version, type, or the order of ids.
        """
        r = Reader(data, cls.NAME)
        message = cls(**r.header(cls.TYPE), **cls._read(r))
        r.end()
        return message

    def to_bytes(self) -> bytes:
        """Return the whole message."""
        return self.header() + self.body()

    def header(self) -> bytes:
        """Return the 45 bytes before the body."""
        return b"".join((MAGIC, u8(self.TYPE), self.run, u32(self.epoch), u32(self.sender)))

    @abstractmethod
    def body(self) -> bytes:
        """Return what follows the header; of a member's message, what its signature covers."""

    @classmethod
    @abstractmethod
    def _read(cls, r: Reader) -> dict[str, Any]:
        """Read the body's fields."""

    def require(self, *, run: bytes, epoch: int, sender: int = SERVER) -> None:
        """Refuse a message of another run or epoch, or from another sender.

        Raises:
            ConsistencyError: it is one.
        """
        if self.run != run:
            raise ConsistencyError(f"{self.NAME}: of another run")
        if self.epoch != epoch:
            raise ConsistencyError(f"{self.NAME}: epoch {self.epoch}, but this is epoch {epoch}")
        if self.sender != sender:
            raise ConsistencyError(f"{self.NAME}: from {self.sender} in place of {sender}")


@dataclass(frozen=True, kw_only=True)
class Signed(Message):
    """A member's message; attachments may follow its signature, bound by hashes in the body."""

    signature: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a message of exactly this type; neither its signature nor its attachments are checked.

        Raises:
            FormatError: length, version, type, or the order of ids.
        """
        r = Reader(data, cls.NAME)
        fields = cls._read_signed_part(r)
        message = cls(**fields, **cls._read_attachments(r, fields))
        r.end()
        return message

    @classmethod
    def from_signed_part(cls, data: bytes) -> Self:
        """Read a message that comes without its attachments.

        Raises:
            FormatError: length, version, type, or the order of ids.
        """
        r = Reader(data, cls.NAME)
        message = cls(**cls._read_signed_part(r))
        r.end()
        return message

    @classmethod
    def _read_signed_part(cls, r: Reader) -> dict[str, Any]:
        """Read header, body and signature."""
        return r.header(cls.TYPE) | cls._read(r) | {"signature": r.take(SIGNATURE_BYTES, "signature")}

    @classmethod
    def _read_attachments(cls, r: Reader, fields: dict[str, Any]) -> dict[str, Any]:
        """Read what follows the signature of a message with these fields."""
        return {}

    def signed_part(self) -> bytes:
        """Return header, body and signature."""
        return self.header() + self.body() + self.signature

    def to_bytes(self) -> bytes:
        """Return the whole message, attachments and all."""
        return self.signed_part()

    def sign(self, key: Ed25519PrivateKey) -> Self:
        """Return the message with its signature by ``key``."""
        signature = primitives.sign(key, self._label, self.run, self.epoch, self.sender, self.body())
        return replace(self, signature=signature)

    def verify(self, public: bytes) -> None:
        """Check the signature under the sender's identity key (32 bytes).

        Raises:
            SignatureError: it does not hold.
        """
        primitives.verify(public, self.signature, self._label, self.run, self.epoch, self.sender, self.body())

    @property
    def _label(self) -> str:
        """What separates this signature from those of other messages."""
        return f"confide/{self.NAME}/v1"
