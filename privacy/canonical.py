"""The one way in which the ledger writes a value down, so that two machines hash and sign the same bytes.

RFC 8785 (JSON Canonicalization Scheme) restricted to objects, arrays, strings, true, false and null; a number is
a string of a fixed form. ``docs/ledger-spec.md``, section "Encodings", is the reference.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any, NoReturn

MOST_REAL_CHARACTERS = 64

_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")
_REAL = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class CanonicalError(ValueError):
    """A value cannot be written, or bytes are not what writing their value gives."""


def encode(value: object) -> bytes:
    """Return a value's canonical JSON.

    Args:
        value: ``dict`` with ASCII keys, ``list``, ``str``, ``bool`` or None, nested.

    Raises:
        CanonicalError: it holds anything else, or text with a lone surrogate.
    """
    try:
        _check(value)
    except RecursionError:
        raise CanonicalError("nested too deeply") from None
    return _dump(value)


def decode(data: bytes) -> Any:
    """Return the value whose canonical JSON ``data`` is.

    Raises:
        CanonicalError: it is not JSON, holds a number, or is not byte for byte what :func:`encode` writes.
    """
    try:
        text = data.decode()
        value = json.loads(text, parse_int=_refuse, parse_float=_refuse, parse_constant=_refuse)
        # Keys of ASCII bytes that are not ASCII were escaped, and encoding finds that.
        again = _dump(value) if text.isascii() else encode(value)
    except CanonicalError:
        raise
    except (ValueError, RecursionError) as error:
        raise CanonicalError(f"not canonical JSON: {error}") from None
    if again != data:
        raise CanonicalError("not canonical JSON: keys out of order or twice, white space, or an escape too many")
    return value


def write_integer(value: int) -> str:
    """Return an integer in [0, 10**18) as the ledger writes it.

    Raises:
        CanonicalError: it is out of range, or no integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**18:
        raise CanonicalError(f"{value!r}: not an integer from 0 to 10**18 - 1")
    return str(value)


def integer(text: object) -> int:
    """Return the integer that a text stands for; raises :class:`CanonicalError` for any other form."""
    if not (isinstance(text, str) and _INTEGER.fullmatch(text)):
        raise CanonicalError(f"{text!r}: not an integer as the ledger writes it")
    return int(text)


def write_real(value: float) -> str:
    """Return a real as the shortest decimal that reads back the same.

    Raises:
        CanonicalError: it is negative, infinite or not a number.
    """
    value = float(value)
    if not (math.isfinite(value) and math.copysign(1.0, value) > 0):
        raise CanonicalError(f"{value!r}: only finite reals from 0 can be written")
    return repr(value)


def real(text: object) -> float:
    """Return the real that a text stands for; raises :class:`CanonicalError` for any other form, and for 1e400."""
    if not (isinstance(text, str) and len(text) <= MOST_REAL_CHARACTERS and _REAL.fullmatch(text)):
        raise CanonicalError(f"{text!r}: not a real as the ledger writes it")
    value = float(text)
    if math.isinf(value):
        raise CanonicalError(f"{text!r}: larger than any double")
    return value


def timestamp(unix: int) -> str:
    """Return Unix seconds as ``YYYY-MM-DDTHH:MM:SSZ``."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(text: object) -> int:
    """Return the Unix seconds of a :func:`timestamp`; raises :class:`CanonicalError` for any other form."""
    if not (isinstance(text, str) and _TIME.fullmatch(text)):
        raise CanonicalError(f"{text!r}: not a time as the ledger writes it")
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError as error:
        raise CanonicalError(f"{text!r}: {error}") from None


def _check(value: object) -> None:
    """Refuse what has no canonical form here."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not (isinstance(key, str) and key.isascii()):
                raise CanonicalError(f"key {key!r}: only ASCII text")
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif not (value is None or isinstance(value, str | bool)):
        raise CanonicalError(f"{type(value).__name__} has no canonical form; write numbers as strings")


def _dump(value: object) -> bytes:
    """Write a value that holds nothing but what it may; its keys are ASCII, so Python sorts them as RFC 8785 does."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise CanonicalError("text with a lone surrogate") from None


def _refuse(number: str) -> NoReturn:
    """Refuse a JSON number."""
    raise CanonicalError(f"{number[:MOST_REAL_CHARACTERS]}: numbers are written as strings")
