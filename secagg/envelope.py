"""Signed JSON documents, read strictly: exactly the fields that are specified, each of its type, none twice."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.errors import FormatError
from secagg.primitives import SERVER, SIGNATURE_BYTES, sign, verify

MAX_ENVELOPE = 1 << 20

_NOWHERE = bytes(32)


class Fields:
    """A JSON object whose field names have been checked; its methods check and return one field each.

    Args:
        what: what the object is, for error messages.
        document: a parsed JSON value.
        names: the fields it must have, and no others.

    Raises:
        FormatError: no object, a field missing or unknown; from the methods: a field of another type.
    """

    def __init__(self, what: str, document: object, names: tuple[str, ...]) -> None:
        if not isinstance(document, dict):
            raise FormatError(f"{what}: must be a JSON object")
        if wrong := sorted(set(names) ^ document.keys()):
            raise FormatError(f"{what}: field {wrong[0]!r} is {'missing' if wrong[0] in names else 'unknown'}")
        self._what = what
        self._document: dict[str, Any] = document

    def integer(self, name: str) -> int:
        """A whole number; neither a truth value nor a float is one."""
        value = self._document[name]
        if type(value) is not int or abs(value) >= 1 << 63:
            raise self._refusal(name, "a whole number below 2^63")
        return value

    def number(self, name: str) -> float:
        """A number."""
        value = self._document[name]
        if type(value) is float:
            return value
        return float(self.integer(name))

    def text(self, name: str) -> str:
        """Text that can be written as UTF-8."""
        value = self._document[name]
        if type(value) is not str or not _encodable(value):
            raise self._refusal(name, "text")
        return value

    def hexadecimal(self, name: str, size: int) -> bytes:
        """``size`` bytes as lower-case hexadecimal digits."""
        value = self._document[name]
        if type(value) is not str or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", value):
            raise self._refusal(name, f"{2 * size} lower-case hexadecimal digits")
        return bytes.fromhex(value)

    def items(self, name: str) -> list[object]:
        """A list of anything."""
        value = self._document[name]
        if type(value) is not list:
            raise self._refusal(name, "a list")
        return value

    def constant(self, name: str, expected: str) -> None:
        """One text and no other."""
        if self._document[name] != expected:
            raise self._refusal(name, repr(expected))

    def _refusal(self, name: str, wanted: str) -> FormatError:
        """The value stays out of the text: it may be long."""
        return FormatError(f"{self._what}: {name} must be {wanted}")


def seal(what: str, fields: dict[str, object], key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of a document: its JSON text and the signature over that text's bytes."""
    payload = _dump(fields)
    signature = sign(key, _label(what), _NOWHERE, 0, SERVER, payload.encode())
    return _dump({"payload": payload, "signature": signature.hex()}).encode()


def unseal(what: str, envelope: bytes, governance: bytes) -> tuple[bytes, object]:
    """Return the payload of an envelope, as bytes and parsed, once its signature has been checked.

    Raises:
        FormatError: more than 1 MiB, or not such an envelope.
        SignatureError: not signed by ``governance`` (32 bytes).
    """
    if len(envelope) > MAX_ENVELOPE:
        raise FormatError(f"{what}: {len(envelope)} bytes, more than 1 MiB")
    outer = Fields(f"envelope of the {what}", _parse(what, envelope), ("payload", "signature"))
    payload = outer.text("payload").encode()
    signature = outer.hexadecimal("signature", SIGNATURE_BYTES)
    verify(governance, signature, _label(what), _NOWHERE, 0, SERVER, payload)
    return payload, _parse(what, payload)


def _label(what: str) -> str:
    """What a signature of this kind of document is labelled with."""
    return f"confide/{what}/v1"


def _dump(fields: dict[str, object]) -> str:
    """Compact JSON."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _parse(what: str, text: bytes) -> object:
    """A JSON value in which no key stands twice and every number is finite."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        # Neither type's text is passed on: it may quote the document.
        raise FormatError(f"{what}: not the JSON that is specified ({type(error).__name__})") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, unless a key stands twice."""
    document = dict(pairs)
    if len(document) < len(pairs):
        raise FormatError("JSON: a field stands twice in one object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    """NaN and infinity are no JSON."""
    raise FormatError(f"JSON: {name} is no number")


def _encodable(text: str) -> bool:
    """Whether the text is free of lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
