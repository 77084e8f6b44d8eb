"""What stands in the ledger: thirteen fields an entry, ten kinds of them (``docs/ledger-spec.md``, "Entries").

A :class:`Draft` is what a kind says; an :class:`Entry` is a draft in its place in a ledger. Reading is strict
(:meth:`Entry.parse`) or, for the machine's own file at every start, quick (:meth:`Entry.replay`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from privacy import canonical
from privacy.canonical import CanonicalError, integer, write_integer
from privacy.costs import Cost, Mechanism
from privacy.errors import LedgerDamaged

VERSION = "1"
ENTRY_LABEL = b"confide/ledger-entry/v1\n"
KEY_LABEL = b"confide/ledger-key/v1\n"
NO_HASH = "0" * 64
MOST_NAME_CHARACTERS = 128

_quickly = json.JSONDecoder().raw_decode
_FIELDS = frozenset(
    "v origin seq prev kind id time policy_digest dataset run mechanism cost ref".split()  # noqa: SIM905 - one line
)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINEAGE = re.compile(r"[0-9a-f]{32}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_ORIGIN = re.compile(r"confide\.ledger/[A-Za-z0-9._-]{1,128}/[0-9a-f]{16}")


def is_name(value: object) -> bool:
    """Tell whether a value can name a data set, a run or a department."""
    return isinstance(value, str) and 1 <= len(value) <= MOST_NAME_CHARACTERS


def is_digest(value: object) -> bool:
    """Tell whether a value is a SHA-256, or a key, as the ledger writes them."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_integer(value: object) -> bool:
    """Tell whether a value is an integer as the ledger writes it."""
    try:
        integer(value)
    except CanonicalError:
        return False
    return True


def _is_base64(value: object) -> bool:
    """Tell whether a value is base64 as it is usually written."""
    try:
        return isinstance(value, str) and base64.b64encode(base64.b64decode(value, validate=True)).decode() == value
    except (binascii.Error, ValueError):
        return False


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    """Return a check against a pattern."""
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_flag(value: object) -> bool:
    """Tell whether a value is true or false."""
    return isinstance(value, bool)


def _is_digest_or_none(value: object) -> bool:
    """Tell whether a value is a digest or null."""
    return value is None or is_digest(value)


@dataclass(frozen=True)
class _Kind:
    """What a kind of entry uses, and what stands in its ``ref``."""

    uses: frozenset[str]
    ref: Mapping[str, Callable[[object], bool]]
    id: str


_RUN = frozenset({"dataset", "run"})
_PAID = frozenset({"dataset", "run", "mechanism", "cost"})

_KINDS = {
    "genesis": _Kind(frozenset(), {"name": is_name, "key": is_digest}, "genesis"),
    "key": _Kind(frozenset(), {"key": is_digest, "proof": _matches(_SIGNATURE)}, "key:{key}"),
    "policy": _Kind(frozenset(), {"digest": is_digest, "supersedes": _is_digest_or_none}, "policy:{seq}"),
    "dataset": _Kind(
        frozenset({"dataset"}),
        {
            "lineage": _matches(_LINEAGE),
            "version": _is_integer,
            "declared_size": _is_integer,
            "commitment": is_digest,
            "split": is_digest,
        },
        "dataset:{dataset}:{version}",
    ),
    "reserve": _Kind(_PAID, {"spec": is_digest, "model": is_name, "dataset_version": _is_integer}, "reserve:{run}"),
    "release": _Kind(
        _RUN,
        {"round": _is_integer, "train": _is_flag, "evaluate": _is_flag, "model": is_digest, "update": is_digest},
        "release:{run}:{round}",
    ),
    "settle": _Kind(_PAID, {"reservation": _is_integer}, "settle:{run}"),
    "abandon": _Kind(_RUN, {"round": _is_integer, "reason": is_name}, "abandon:{run}:{round}"),
    "override": _Kind(_RUN, {"spec": is_digest, "reason": lambda value: value == "privacy-off"}, "override:{run}"),
    "checkpoint": _Kind(
        frozenset(),
        {"size": _is_integer, "root": is_digest, "witness": is_name, "key": is_digest, "cosignature": _is_base64},
        "checkpoint:{size}:{witness}",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What an entry says, before it has its place; ``ref`` is a JSON object, its fields by ``kind``."""

    kind: str
    ref: Mapping[str, Any]
    dataset: str | None = None
    run: str | None = None
    mechanism: Mechanism | None = None
    cost: Cost | None = None

    def id(self, seq: int) -> str:
        """What makes the entry unique in its ledger, once it is number ``seq``."""
        names = {"seq": str(seq), "dataset": self.dataset, "run": self.run}
        return _KINDS[self.kind].id.format_map({**self.ref, **names})


@dataclass(frozen=True, kw_only=True)
class Entry(Draft):
    """One entry of a ledger; ``time`` is in Unix seconds, ``prev`` the leaf hash before it, hexadecimal."""

    origin: str
    seq: int
    prev: str
    time: int
    policy_digest: str | None

    def to_json(self) -> dict[str, Any]:
        """The entry as the JSON object that is hashed and signed."""
        return {
            "v": VERSION,
            "origin": self.origin,
            "seq": write_integer(self.seq),
            "prev": self.prev,
            "kind": self.kind,
            "id": self.id(self.seq),
            "time": canonical.timestamp(self.time),
            "policy_digest": self.policy_digest,
            "dataset": self.dataset,
            "run": self.run,
            "mechanism": self.mechanism and self.mechanism.to_json(),
            "cost": self.cost and self.cost.to_json(),
            "ref": dict(self.ref),
        }

    def raw(self) -> bytes:
        """The entry's canonical JSON, checked as a reader checks it; raises CanonicalError where that would refuse."""
        raw = canonical.encode(self.to_json())
        Entry._parse(raw)
        return raw

    @classmethod
    def parse(cls, raw: bytes) -> Entry:
        """Read an entry and refuse everything that the specification does not allow in its form.

        Raises:
            LedgerDamaged: it is not one; the message names the field.
        """
        try:
            return cls._parse(raw)
        except CanonicalError as error:
            raise LedgerDamaged(f"an entry of the ledger: {error}") from None

    @classmethod
    def replay(cls, raw: bytes) -> Entry:
        """Read an entry of a chain whose newest signature holds, and which therefore holds nothing but what was signed.

        Raises:
            LedgerDamaged: it cannot be read.
        """
        try:
            found, _ = _quickly(raw.decode())
            mechanism, cost = found["mechanism"], found["cost"]
            return cls(
                kind=found["kind"],
                ref=found["ref"],
                dataset=found["dataset"],
                run=found["run"],
                mechanism=None if mechanism is None else Mechanism.trusted(mechanism),
                cost=None if cost is None else Cost.trusted(cost),
                origin=found["origin"],
                seq=int(found["seq"]),
                prev=found["prev"],
                time=int(datetime.fromisoformat(found["time"]).timestamp()),
                policy_digest=found["policy_digest"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LedgerDamaged(f"an entry of the ledger cannot be read: {error!r}") from None

    @classmethod
    def _parse(cls, raw: bytes) -> Entry:
        """Read an entry strictly."""
        found = canonical.decode(raw)
        _check_form(found)
        mechanism, cost = found["mechanism"], found["cost"]
        entry = cls(
            kind=found["kind"],
            ref=found["ref"],
            dataset=found["dataset"],
            run=found["run"],
            mechanism=None if mechanism is None else Mechanism.from_json(mechanism),
            cost=None if cost is None else Cost.from_json(cost),
            origin=found["origin"],
            seq=integer(found["seq"]),
            prev=found["prev"],
            time=canonical.unix(found["time"]),
            policy_digest=found["policy_digest"],
        )
        if found["id"] != entry.id(entry.seq):
            raise CanonicalError(f"id {found['id']!r} in place of {entry.id(entry.seq)!r}")
        return entry


def _check_form(found: object) -> None:
    """Refuse fields too many, too few or of another form; mechanism and cost check themselves."""
    if not isinstance(found, dict) or found.keys() != _FIELDS:
        raise CanonicalError("not an object with exactly the thirteen fields")
    if found["v"] != VERSION:
        raise CanonicalError(f"v is {found['v']!r}, not {VERSION!r}: written by another version")
    kind = _KINDS.get(found["kind"]) if isinstance(found["kind"], str) else None
    if kind is None:
        raise CanonicalError(f"kind {found['kind']!r} is none of {', '.join(_KINDS)}")
    if not (isinstance(found["origin"], str) and _ORIGIN.fullmatch(found["origin"])):
        raise CanonicalError("origin is not a ledger's name")
    if not (is_digest(found["prev"]) and _is_digest_or_none(found["policy_digest"])):
        raise CanonicalError("prev or policy_digest is not a digest")
    for field in _PAID:
        value = found[field]
        if (value is not None) != (field in kind.uses):
            raise CanonicalError(
                f"{field} {'missing' if value is None else 'given'} in an entry of kind {found['kind']}"
            )
        if field in _RUN and value is not None and not is_name(value):
            raise CanonicalError(f"{field} is not a name of 1 to {MOST_NAME_CHARACTERS} characters")
    ref = found["ref"]
    if not isinstance(ref, dict) or ref.keys() != kind.ref.keys():
        raise CanonicalError(f"ref of kind {found['kind']} has not exactly the fields {', '.join(kind.ref)}")
    for field, allowed in kind.ref.items():
        if not allowed(ref[field]):
            raise CanonicalError(f"ref.{field} of kind {found['kind']} is {str(ref[field])[:80]!r}")
