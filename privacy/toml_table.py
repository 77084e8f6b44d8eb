"""Reading one TOML table strictly: every key known, every value of the one type and range it may have.

Errors are one line: the key as it stands in the file, its value, and what to write instead.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from privacy.errors import PolicyError

REAL = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?")
MAX_REAL = 64
MAX_NAME = 128
MAX_INTEGER = 10**18 - 1
SHOWN = 60


class Table:
    """A table of a policy: ``where`` is its place in the file, empty for the top."""

    def __init__(
        self, raw: Mapping[str, object], where: str, known: Collection[str] | None, elsewhere: Collection[str] = ()
    ) -> None:
        self._raw, self._where = raw, where
        for key in raw:
            if known is not None and key not in known:
                raise self.error(key, _suggestion(key, known, elsewhere))

    def __contains__(self, key: str) -> bool:
        return key in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def path(self, key: str) -> str:
        """The key as it is found in the file."""
        return f"{self._where}.{quoted(key)}" if self._where else quoted(key)

    def error(self, key: str, fix: str) -> PolicyError:
        """What is wrong with a key."""
        if key not in self._raw:
            return PolicyError(f"{self.path(key)} is missing: {fix}")
        return PolicyError(f"{self.path(key)} = {shown(self._raw[key])}: {fix}")

    def required(self, key: str, example: str) -> object:
        """The raw value of a key that must be there."""
        if key not in self._raw:
            raise self.error(key, f"add {key} = {example}")
        return self._raw[key]

    def get(self, key: str, default: object) -> object:
        """A value as it stands."""
        return self._raw.get(key, default)

    def table(self, key: str, known: Collection[str] | None) -> Table:
        """A table in this one, which must be there; its keys are ``known``, or any where that is None."""
        value = self._raw[key]
        if not isinstance(value, Mapping):
            keys = f"with the keys {', '.join(known)}" if known else 'of tables, each [dataset."NAME"]'
            raise self.error(key, f"must be a table {keys}")
        return Table(value, self.path(key), known)

    def text(self, key: str) -> str:
        """The text of a string read before."""
        return str(self._raw[key])

    def real(self, key: str, *, example: str, least: float = 0.0, most: float = math.inf) -> float | None:
        """A real above 0, written as a string; None where it is not there."""
        if key not in self._raw:
            return None
        value = self._raw[key]
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            raise self.error(key, f'numbers with a fraction are strings here; write {key} = "{value!r}"')
        if not isinstance(value, str):
            raise self.error(key, f'must be a number in quotes; write, for example, {key} = "{example}"')
        if len(value) > MAX_REAL or not REAL.fullmatch(value):
            raise self.error(
                key,
                f"must be a plain decimal number, not negative, at most {MAX_REAL} characters; "
                f'write, for example, {key} = "{example}"',
            )
        number = float(value)
        if math.isinf(number):
            raise self.error(key, f'is beyond what a computer can count with; write, for example, {key} = "{example}"')
        if not least <= number <= most or number == 0:
            low = f"at least {least:g}" if least else "above 0"
            high = f" and at most {most:g}" if math.isfinite(most) else ""
            raise self.error(key, f'must be {low}{high}; write, for example, {key} = "{example}"')
        return number

    def integer(self, key: str, *, least: int, example: int, most: int = MAX_INTEGER) -> int | None:
        """An integer; None where it is not there."""
        if key not in self._raw:
            return None
        value = self._raw[key]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"must be a whole number without quotes; write, for example, {key} = {example}")
        if not least <= value <= most:
            bounds = f"at least {least}" if most == MAX_INTEGER and value < least else f"in {least} to {most}"
            raise self.error(key, f"must be {bounds}; write, for example, {key} = {example}")
        return value

    def choice(self, key: str, choices: Collection[str]) -> str | None:
        """One of a few words; None where it is not there."""
        if key not in self._raw:
            return None
        value = self._raw[key]
        if isinstance(value, str) and value in choices:
            return value
        near = get_close_matches(str(value), choices, n=1)
        every = " or ".join(json.dumps(choice) for choice in choices)
        raise self.error(key, f"must be {every}" + (f"; did you mean {json.dumps(near[0])}?" if near else ""))

    def flag(self, key: str) -> bool | None:
        """True or false; None where it is not there."""
        value = self._raw.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, "must be true or false, without quotes")
        return value

    def name(self, key: str, example: str) -> str | None:
        """A name; None where it is not there."""
        value = self._raw.get(key)
        if value is not None and not (isinstance(value, str) and 1 <= len(value) <= MAX_NAME):
            raise self.error(key, f'must be a name of 1 to {MAX_NAME} characters; write {key} = "{example}"')
        return value

    def names(self, key: str, example: str) -> tuple[str, ...] | None:
        """A list of names, at least one; None where it is not there."""
        value = self._raw.get(key)
        if value is None:
            return None
        listed = value if isinstance(value, list) else []
        if listed and all(isinstance(one, str) and 1 <= len(one) <= MAX_NAME for one in listed):
            return tuple(str(one) for one in listed)
        raise self.error(key, f'must list one name or more; write {key} = ["{example}"], or remove it to allow all')


def quoted(key: str) -> str:
    """A key as TOML writes it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def shown(value: object) -> str:
    """A value nearly as TOML writes it, on one line and not for ever."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        inner = ", ".join(f"{quoted(str(key))} = {shown(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if len(inner) <= SHOWN else "{ ... }"
    try:
        text = json.dumps(value) if isinstance(value, str | list) else str(value)
    except (TypeError, ValueError):  # a list that holds dates, or an integer of thousands of digits
        text = f"({type(value).__name__})"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _suggestion(key: str, known: Collection[str], elsewhere: Collection[str]) -> str:
    """What to do about a key that does not exist."""
    if near := get_close_matches(key, known, n=1):
        return f"there is no such key; did you mean {near[0]}?"
    if key in elsewhere:
        return 'it belongs in a data set\'s table, [dataset."NAME"]'
    return f"there is no such key; remove it (keys here: {', '.join(known)})"
