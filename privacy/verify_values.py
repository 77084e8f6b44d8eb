"""Verifier, part 1 of 7: how values are read. Every reader returns a value, or raises :class:`Refused`.

Canonical JSON, hashes, signatures, Merkle trees and signed notes, after ``docs/ledger-spec.md``, "Encodings" and
"Checkpoints and witnesses". Needs Python 3.11 and ``cryptography``, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Json = dict[str, Any]
Check = Callable[[Any], Any]


class Refused(Exception):
    """Why a value is not what the specification allows."""


def shown(value: object) -> str:
    """Return a hostile value as it may stand in a message: short, and without control characters."""
    if isinstance(value, str):
        return ascii(value[:80])
    # What is nested deeply, or has thousands of digits, cannot even be written.
    plain = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**18)
    return str(value) if plain else f"a value of type {type(value).__name__}"


# --- Checks of JSON and TOML values ----------------------------------------------------------------------------------


def that(check: Check, holds: Callable[[Any], bool], what: str) -> Check:
    """Return a check that demands more: what ``check`` reads must fulfil ``holds``."""

    def narrowed(value: Any) -> Any:
        read = check(value)
        if not holds(read):
            raise Refused(f"{shown(value)} is not {what}")
        return read

    return narrowed


def typed(kind: type, what: str) -> Check:
    """Return a check for a type; true is no integer."""
    return that(lambda value: value, lambda value: type(value) is kind, what)


def one_of(*allowed: str) -> Check:
    """Return a check for some texts and no other."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in allowed:
            return value
        raise Refused(f"{shown(value)} is not {' or '.join(allowed)}")

    return check


def matches(pattern: str, what: str) -> Check:
    """Return a check for text of a form."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: Any) -> Any:
        if isinstance(value, str) and compiled.fullmatch(value):
            return value
        raise Refused(f"{shown(value)} is not {what}")

    return check


def or_null(check: Check) -> Check:
    """Return a check that lets null pass, too."""
    return lambda value: None if value is None else check(value)


def each(check: Check) -> Check:
    """Return a check for lists."""
    return lambda value: [check(one) for one in _list(value)]


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return a check for an object with these fields and no other."""
    known = {**required, **(optional or {})}

    def check(value: Any) -> Json:
        if not isinstance(value, dict):
            raise Refused(f"{shown(value)} is not an object")
        if not required.keys() <= value.keys() <= known.keys():
            wrong = next(name for name in [*required, *value] if name not in value or name not in known)
            raise Refused(f"field {shown(wrong)} is {'unknown' if wrong in value else 'missing'}")
        read = {}
        for name, one in value.items():
            try:
                read[name] = known[name](one)
            except Refused as error:
                raise Refused(f"{name}: {error}") from None
        return read

    return check


_list = typed(list, "a list")
_digits = matches(r"0|[1-9][0-9]{0,17}", "an integer in decimal")
_decimal = matches(r"(?=.{1,64}\Z)(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?", "a real in decimal")
_stamp = matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "a time")
flag, number, text = typed(bool, "true or false"), typed(int, "an integer"), typed(str, "text")
name = that(text, lambda value: 1 <= len(value) <= 128, "a name of 1 to 128 characters")
signer = matches(r"[^\s+]{1,128}", "the name of a witness")
lineage, digest, hex64 = (matches(f"[0-9a-f]{{{n}}}", f"{n} lower-case hexadecimal digits") for n in (32, 64, 128))
ledger_name = matches(r"confide\.ledger/[\w.-]{1,128}/[0-9a-f]{16}", "the name of a ledger")
integer = lambda value: int(_digits(value))  # noqa: E731 - one of a row of checks
real = that(lambda value: float(_decimal(value)), math.isfinite, "a finite real")
above_0 = that(real, lambda x: x > 0, "above 0")
rate = that(real, lambda x: 0 < x <= 1, "in (0, 1]")
delta = that(real, lambda x: 1e-10 <= x < 1, "in [1e-10, 1)")


def at_least(least: int, check: Check = integer) -> Check:
    """Return a check for an integer, written as text or as ``check`` has it; no larger than text can have it."""
    return that(check, lambda n: least <= n < 10**18, f"an integer from {least} to 10^18 - 1")


def time(value: Any) -> int:
    """Return the Unix seconds of a time."""
    return _seconds(_stamp(value))


@lru_cache(maxsize=4096)
def _seconds(stamp: str) -> int:
    """The same, of text that has the form of a time."""
    try:
        return int(datetime.fromisoformat(stamp).timestamp())
    except ValueError:
        raise Refused(f"{shown(stamp)} is not a time") from None


# --- JSON and base64 -------------------------------------------------------------------------------------------------


def parse_json(data: bytes) -> Any:
    """Return what strict JSON says: no key twice, no NaN, no lone surrogate."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
        _ENCODER.encode(value).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"is not JSON in UTF-8 ({type(error).__name__})") from None
    return value


def parse_canonical(data: bytes) -> Any:
    """Return what canonical JSON says: without numbers, and byte for byte as it would be written again."""
    try:
        value = _DECODER.decode(data.decode())
        again = _ENCODER.encode(value).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"is not JSON in UTF-8 ({type(error).__name__})") from None
    if again != data:
        raise Refused("is not canonical: white space, keys out of order or twice, or an escape that need not be")
    return value


def _no_number(value: str) -> NoReturn:
    """Neither NaN nor, in canonical JSON, any number is written as one."""
    raise Refused(f"has {shown(value)} where no number may stand")


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    """An object in which no key stands twice."""
    if len(found := dict(pairs)) < len(pairs):
        raise Refused("a field stands twice in an object")
    return found


_DECODER = json.JSONDecoder(parse_int=_no_number, parse_float=_no_number, parse_constant=_no_number)
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def from_base64(value: Any) -> bytes:
    """Return the bytes of base64 as it is usually written, padding and all."""
    try:
        data = base64.b64decode(text(value), validate=True)
    except ValueError:
        data = b""
    if base64.b64encode(data).decode() != value:
        raise Refused(f"{shown(value)} is not base64")
    return data


# --- Hashes, signatures, trees, notes --------------------------------------------------------------------------------


def sha(*parts: bytes) -> bytes:
    """Return the SHA-256 of bytes one after the other."""
    return hashlib.sha256(b"".join(parts)).digest()


@lru_cache(maxsize=4096)
def _public(key: bytes) -> Ed25519PublicKey:
    """Loading a key takes as long as using it."""
    return Ed25519PublicKey.from_public_bytes(key)


def signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether an Ed25519 signature holds."""
    try:
        _public(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Tree:
    """An RFC 6962 tree that remembers every whole subtree: ``_levels[k]`` are those of 2^k leaves, from the left."""

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Take the next leaf's hash."""
        whole, k = leaf, 0
        self._levels[0].append(leaf)
        while len(self._levels[k]) % 2 == 0:
            whole, k = sha(b"\1", *self._levels[k][-2:]), k + 1
            if k == len(self._levels):
                self._levels.append([])
            self._levels[k].append(whole)

    def root(self, size: int) -> bytes:
        """Return the root of the first ``size`` leaves, at least one."""
        peaks, start = [], 0
        for k in reversed(range(size.bit_length())):
            if size >> k & 1:
                peaks.append(self._levels[k][start >> k])
                start += 1 << k
        root = peaks.pop()
        while peaks:
            root = sha(b"\1", peaks.pop(), root)
        return root


@dataclass(frozen=True, kw_only=True)
class Note:
    """A checkpoint: the first ``size`` entries of ledger ``origin`` have this root. Signatures are name to bytes."""

    origin: str
    size: int
    root: bytes
    signatures: Mapping[str, bytes]

    @property
    def body(self) -> bytes:
        """What the department signs."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    @staticmethod
    def parse(data: bytes) -> Note:
        """Read a signed note."""
        found = re.fullmatch(rb"([^\n]+)\n([^\n]+)\n([^\n]+)\n\n((?:\xe2\x80\x94 [^\n ]+ [^\n ]+\n)+)", data)
        if found is None:
            raise Refused("is not three lines, a blank one and signatures")
        try:
            origin, size, root, below = (part.decode() for part in found.groups())
        except ValueError:
            raise Refused("is not UTF-8") from None
        lines = [line.split(" ")[1:] for line in below[:-1].split("\n")]
        if len({who for who, _ in lines}) < len(lines):
            raise Refused("has two signatures of one name")
        signatures = {signer(who): from_base64(blob) for who, blob in lines}
        note = Note(origin=ledger_name(origin), size=at_least(1)(size), root=from_base64(root), signatures=signatures)
        if len(note.root) != 32:
            raise Refused("has a root that is not 32 bytes")
        return note

    def signed_by(self, key: bytes) -> bool:
        """Return whether the department's signature, by this ledger key, holds."""
        blob = self.signatures.get(self.origin, b"")
        return blob[:4] == sha(self.origin.encode(), b"\n\1", key)[:4] and signed(key, blob[4:], self.body)

    def cosigned(self, witness: str, key: bytes, blob: bytes) -> int:
        """Return when a witness cosigned the checkpoint, Unix seconds; ``blob`` is hint, time and signature."""
        when = int.from_bytes(blob[4:12], "big")
        message = f"cosignature/v1\ntime {when}\n".encode() + self.body
        if blob[:4] != sha(witness.encode(), b"\n\4", key)[:4] or not signed(key, blob[12:], message):
            raise Refused(f"the cosignature of witness {shown(witness)} does not hold under its key")
        return when
