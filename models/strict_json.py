"""JSON read strictly and written in one way: what is signed must mean the same to every reader."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeGuard

from models.errors import BundleError


def parse(data: bytes, what: str) -> Any:
    """Return the value of JSON text in which no key stands twice and every number is finite.

    Args:
        data: UTF-8 text.
        what: what it is, for the error message.

    Raises:
        BundleError: it is anything else, or nested beyond what can be read. The text is not quoted.
    """
    try:
        value = _DECODER.decode(data.decode())
        encode(value)  # a lone surrogate can be read but not written
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what}: not JSON as it is specified ({type(error).__name__}); get it again") from None
    return value


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Return the object that strict JSON says; raises :class:`BundleError` for any other value."""
    value = parse(data, what)
    if not isinstance(value, dict):
        raise BundleError(f"{what}: must hold one JSON object; get it again")
    return value


def encode(value: object) -> bytes:
    """Return a value as JSON for people and diffs: two spaces, sorted keys, a line feed at the end.

    Raises:
        ValueError: it holds a NaN, an infinity or a lone surrogate.
        TypeError: it holds something that JSON has not.
    """
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def is_number(value: object) -> TypeGuard[int | float]:
    """True for finite numbers that are not truth values."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _finite(text: str) -> float:
    """A number; ``1e999`` would be read as infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is not finite")
    return value


def _no_number(text: str) -> NoReturn:
    """NaN and infinity are no JSON."""
    raise ValueError(f"{text} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number)
