"""Verifier, part 1 of 5: how values are read. What is not as ``docs/ledger-spec.md`` has it raises :class:`Refused`.

Schemas, canonical JSON, signatures, Merkle trees and signed notes ("Encodings", "Checkpoints and witnesses").
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, Literal, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Json = dict[str, Any]
Severity = Literal["violation", "incomplete"]


class Refused(Exception):
    """Why something is not what the specification allows."""

    severity: Severity = "violation"


class Missing(Refused):
    """What there is to compare with is not in the bundle."""

    severity = "incomplete"


def demand(holds: bool, otherwise: str) -> None:
    """Refuse what does not hold."""
    if not holds:
        raise Refused(otherwise)


@contextmanager
def noted(say: Callable[[str, Severity], None]) -> Iterator[None]:
    """Say what is refused, missing or cannot be read, in place of raising it."""
    try:
        yield
    except Refused as error:
        say(str(error), error.severity)
    except OSError as error:
        say(f"cannot be read: {error.strerror}", "incomplete")


def shown(value: object) -> str:
    """Return a hostile value as it may stand in a message: short, and without control characters."""
    if isinstance(value, str):
        return ascii(value[:80])
    # What is nested deeply, or has thousands of digits, cannot even be written.
    plain = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**18)
    return str(value) if plain else f"a value of type {type(value).__name__}"


def fit(schema: Any, value: Any) -> Any:
    """Return a value as a schema reads it.

    A dict is an object with these fields and no other, ``[one]`` a list of such values, ``(one, None)`` one or null, a
    range an integer (of JSON or TOML) in it, a type any value of it; a function reads; what is left stands for itself.
    """
    if isinstance(schema, FunctionType):
        return schema(value)
    match schema:
        case dict():
            if wrong := schema.keys() ^ fit(dict, value).keys():
                raise Refused(f"field {shown(min(wrong))} is {'unknown' if min(wrong) in value else 'missing'}")
            read = {}
            for name, inner in schema.items():
                try:
                    one = value[name]
                    read[name] = inner(one) if isinstance(inner, FunctionType) else fit(inner, one)
                except Refused as error:
                    raise Refused(f"{name}: {error}") from None
            return read
        case range():
            whole = type(value) is int and value in schema  # true is no integer
            demand(whole, f"{shown(value)} is not an integer from {schema.start} to {schema[-1]}")
        case [one]:
            return [fit(one, each) for each in fit(list, value)]
        case (one, None):
            return None if value is None else fit(one, value)
        case type():
            if not isinstance(value, schema):
                kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
                raise Refused(f"{shown(value)} is not {kinds[schema]}")
        case _:
            if type(value) is not type(schema) or value != schema:
                raise Refused(f"{shown(value)} is not {schema or 'null, as what its kind does not use must be'}")
    return value


def form(
    pattern: str, what: str, make: Callable[[str], Any] = str, holds: Callable[[Any], bool] = lambda made: True
) -> Callable[[Any], Any]:
    """Return a schema of text that matches, and of which something can be made that holds."""
    matches = re.compile(pattern, re.ASCII).fullmatch

    def read(value: Any) -> Any:
        try:
            if isinstance(value, str) and matches(value) and holds(made := make(value)):
                return made
        except ValueError:
            pass
        raise Refused(f"{shown(value)} is not {what}")

    return read


_DECIMAL = r"(?=.{1,64}\Z)(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?"
_HEXADECIMAL = "{} lower-case hexadecimal digits"
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
_BASE64 = "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"  # no bit without a meaning
integer = form(r"0|[1-9][0-9]{0,17}", "an integer in decimal", int)
positive = form(r"[1-9][0-9]{0,17}", "an integer from 1, in decimal", int)
real = form(_DECIMAL, "a finite real", float, math.isfinite)
above_0 = form(_DECIMAL, "a finite real above 0", float, lambda x: 0 < x < math.inf)
rate = form(_DECIMAL, "a finite real in (0, 1]", float, lambda x: 0 < x <= 1)
delta = form(_DECIMAL, "a finite real in [1e-10, 1)", float, lambda x: 1e-10 <= x < 1)
lineage = form("[0-9a-f]{32}", _HEXADECIMAL.format(32))
digest = form("[0-9a-f]{64}", _HEXADECIMAL.format(64))
bytes_32 = form("[0-9a-f]{64}", _HEXADECIMAL.format(64), bytes.fromhex)
bytes_64 = form("[0-9a-f]{128}", _HEXADECIMAL.format(128), bytes.fromhex)
unbase64 = form(_BASE64, "base64", base64.b64decode)
time = form(_TIME, "a time", lambda text: int(datetime.fromisoformat(text).timestamp()))
name = form(r"(?s:.{1,128})", "a name of 1 to 128 characters")
signer = form(r"[^\s+]{1,128}", "the name of a witness")
ledger_name = form(r"confide\.ledger/[\w.-]{1,128}/[0-9a-f]{16}", "the name of a ledger")


def slug(text: str) -> str:
    """Return a name as it stands in names of ledgers and files."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)


def parse_json(data: bytes, *, canonical: bool = False) -> Any:
    """Return what strict JSON says; if canonical, without numbers, and byte for byte as it would be written again."""
    try:
        value = (_CANONICAL if canonical else _STRICT).decode(data.decode())
        again = _ENCODER.encode(value).encode()  # which takes no lone surrogate
    except (ValueError, RecursionError) as error:
        raise Refused(f"is not JSON in UTF-8 ({type(error).__name__})") from None
    same = not canonical or again == data
    demand(same, "is not canonical: white space, keys out of order or twice, or an escape that need not be")
    return value


def _no_number(value: str) -> NoReturn:
    """Neither NaN nor, in canonical JSON, any number is written as one."""
    raise Refused(f"has {shown(value)} where no number may stand")


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    """An object in which no key stands twice."""
    demand(len(found := dict(pairs)) == len(pairs), "a field stands twice in an object")
    return found


parse_canonical = partial(parse_json, canonical=True)
_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
_CANONICAL = json.JSONDecoder(parse_int=_no_number, parse_float=_no_number, parse_constant=_no_number)
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sha(*parts: bytes) -> bytes:
    """Return the SHA-256 of bytes one after the other."""
    return hashlib.sha256(b"".join(parts)).digest()


_public = lru_cache(maxsize=4096)(Ed25519PublicKey.from_public_bytes)  # loading a key takes as long as using it


def signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether an Ed25519 signature holds."""
    try:
        _public(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Tree(list[bytes]):
    """The hashes of leaves, and what RFC 6962 makes of them; whole subtrees are hashed once."""

    def __init__(self) -> None:
        self._whole: dict[tuple[int, int], bytes] = {}

    def root(self, size: int, start: int = 0) -> bytes:
        """Return the root of the first ``size`` leaves, at least one (or of as many from ``start``)."""
        if size == 1:
            return self[start]
        if (found := self._whole.get((start, size))) is None:
            left = 1 << (size - 1).bit_length() - 1
            found = sha(b"\1", self.root(left, start), self.root(size - left, start + left))
            if size == 2 * left:
                self._whole[start, size] = found
        return found


@dataclass(frozen=True, kw_only=True)
class Note:
    """A checkpoint: the first ``size`` entries of ledger ``origin`` have this root. Signatures are name to bytes."""

    origin: str
    size: int
    root: bytes
    signatures: Mapping[str, bytes] = field(default_factory=dict)

    @staticmethod
    def parse(data: bytes) -> Note:
        """Read a signed note."""
        text = data.decode("utf-8", "replace")
        found = re.fullmatch(r"([^\n]+)\n([^\n]+)\n([^\n]+)\n\n((?:\u2014 [^\n \ufffd]+ [^\n ]+\n)+)", text)
        if found is None:
            raise Refused("is not three lines, a blank one and signatures, in UTF-8")
        lines = [line.split(" ")[1:] for line in found[4][:-1].split("\n")]
        signatures = {signer(who): unbase64(blob) for who, blob in lines}
        demand(len(signatures) == len(lines), "has two signatures of one name")
        size, root = positive(found[2]), unbase64(found[3])
        demand(len(root) == 32, "has a root that is not 32 bytes")
        return Note(origin=ledger_name(found[1]), size=size, root=root, signatures=signatures)

    @property
    def body(self) -> bytes:
        """What the department signs."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    def signed_by(self, key: bytes) -> bool:
        """Return whether the department's signature, by this ledger key, holds."""
        blob = self.signatures.get(self.origin, b"")
        return blob[:4] == sha(self.origin.encode(), b"\n\1", key)[:4] and signed(key, blob[4:], self.body)

    def cosigned(self, witness: str, key: bytes, blob: bytes) -> int:
        """Return when a witness cosigned the checkpoint, Unix seconds; ``blob`` is hint, time and signature."""
        when = int.from_bytes(blob[4:12], "big")
        message = f"cosignature/v1\ntime {when}\n".encode() + self.body
        held = blob[:4] == sha(witness.encode(), b"\n\4", key)[:4] and signed(key, blob[12:], message)
        demand(held, f"the cosignature of witness {shown(witness)} does not hold under its key")
        return when
