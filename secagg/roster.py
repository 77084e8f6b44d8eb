"""Rosters and permits: who may take part, on what terms, and which run may be trained.

Both are JSON texts signed by the governance key, which the server does not hold (``docs/secagg-spec.md``,
"Identities, roster, permit").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.envelope import MAX_ENVELOPE, Fields, seal, unseal
from secagg.errors import ClockError, PermitError, RosterError
from secagg.primitives import HASH_BYTES, SERVER, digest, permit_hash, roster_hash
from secagg.thresholds import MIN_HONEST, Mode

SUITE = "x25519-mlkem768-ed25519-aes256ctr-sha256"
MAX_MEMBERS = 100_000
# Clocks of an organisation's machines differ by minutes, not more.
MAX_SKEW = 300

_ROSTER = (
    *("type", "federation", "version", "issued", "expires", "mode"),
    *("colluders", "min_honest", "range_max", "suite", "members"),
)
_PERMIT = (
    *("type", "federation", "serial", "run", "roster_version"),
    *("issued", "expires", "max_rounds", "policy"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A member of a federation.

    Attributes:
        id: integer in [0, 2^32 - 1), never given to anybody else.
        name: what people call it, unique in the roster.
        key: its Ed25519 public key, 32 bytes, unique in the roster.
    """

    id: int
    name: str
    key: bytes


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The members of a federation and the terms of its sealed sums.

    Attributes:
        version: at least 1, higher in every new roster.
        federation: :func:`federation_id` of the governance key.
        issued, expires: Unix seconds; the roster holds until just before ``expires``.
        mode: "sealed" or "strict".
        colluders: ``c``, how many members of a cohort may collude with the server.
        min_honest: ``m``, the smallest number of honest members whose sum may be revealed.
        range_max: largest bound that a lane of an update may have.
        members: strictly increasing by id.

    Raises:
        RosterError: a field, or a combination of fields, is refused.
    """

    version: int
    federation: bytes
    issued: int
    expires: int
    mode: Mode
    colluders: int
    min_honest: int
    range_max: float
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        for field, value, least in (
            ("version", self.version, 1),
            ("issued", self.issued, 0),
            ("expires", self.expires, self.issued + 1),
            ("colluders", self.colluders, 0),
            ("min_honest", self.min_honest, MIN_HONEST),
        ):
            if value < least:
                raise RosterError(f"{field} = {value}: must be at least {least}; have the roster signed anew")
        if self.mode not in ("sealed", "strict"):
            raise RosterError(f'mode = {self.mode!r}: must be "sealed" or "strict"; have the roster signed anew')
        if not (math.isfinite(self.range_max) and self.range_max > 0):
            raise RosterError(f"range_max = {self.range_max}: must be positive and finite; have the roster signed anew")
        self._check_members()

    def _check_members(self) -> None:
        """Refuse members that could be taken for one another."""
        if len(self.members) > MAX_MEMBERS:
            raise RosterError(f"members = {len(self.members)}: at most {MAX_MEMBERS}")
        ids = [member.id for member in self.members]
        if any(not 0 <= i < SERVER for i in ids) or any(a >= b for a, b in pairwise(ids)):
            raise RosterError("members: ids must be strictly increasing within [0, 2^32 - 1); sort them")
        if len(self._by_name) < len(ids) or "" in self._by_name:
            raise RosterError("members: names must be unique and not empty; rename one")
        if len({member.key for member in self.members}) < len(ids):
            raise RosterError("members: two have the same key; each machine needs an identity of its own")

    @cached_property
    def _by_id(self) -> dict[int, Member]:
        return {member.id: member for member in self.members}

    @cached_property
    def _by_name(self) -> dict[str, Member]:
        return {member.name: member for member in self.members}

    def member(self, id_: int) -> Member | None:
        """Return the member with this id, or None."""
        return self._by_id.get(id_)

    def named(self, name: str) -> Member | None:
        """Return the member with this name, or None."""
        return self._by_name.get(name)


@dataclass(frozen=True, kw_only=True)
class Permit:
    """Leave to train one run.

    Attributes:
        serial: at least 1, higher in every new permit.
        federation: :func:`federation_id` of the governance key.
        run: the run's name.
        roster_version: version of the roster it goes with.
        issued, expires: Unix seconds; the permit holds until just before ``expires``.
        max_rounds: no round has a higher number.
        policy: ``policy_hash`` of the run's public settings, 32 bytes.

    Raises:
        PermitError: a field, or a combination of fields, is refused.
    """

    serial: int
    federation: bytes
    run: str
    roster_version: int
    issued: int
    expires: int
    max_rounds: int
    policy: bytes

    def __post_init__(self) -> None:
        for field, value, least in (
            ("serial", self.serial, 1),
            ("roster_version", self.roster_version, 1),
            ("issued", self.issued, 0),
            ("expires", self.expires, self.issued + 1),
            ("max_rounds", self.max_rounds, 1),
        ):
            if value < least:
                raise PermitError(f"{field} = {value}: must be at least {least}; have the permit signed anew")
        if self.max_rounds >= SERVER:
            raise PermitError(f"max_rounds = {self.max_rounds}: must lie below 2^32 - 1; have the permit signed anew")
        if not self.run:
            raise PermitError("run: must not be empty; name the run that is permitted")


def federation_id(governance: bytes) -> bytes:
    """Return what names a federation: the hash of its governance public key (32 bytes)."""
    return digest("confide/federation/v1", governance)


def sign_roster(roster: Roster, key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of a roster: JSON, at most 1 MiB.

    Raises:
        RosterError: the roster is another federation's than the key, or too large.
    """
    if roster.federation != federation_id(key.public_key().public_bytes_raw()):
        raise RosterError("federation: not that of the governance key; sign with the federation's own key")
    envelope = seal(
        "roster",
        {
            "type": "roster",
            "federation": roster.federation.hex(),
            "version": roster.version,
            "issued": roster.issued,
            "expires": roster.expires,
            "mode": roster.mode,
            "colluders": roster.colluders,
            "min_honest": roster.min_honest,
            "range_max": roster.range_max,
            "suite": SUITE,
            "members": [{"id": member.id, "name": member.name, "key": member.key.hex()} for member in roster.members],
        },
        key,
    )
    if len(envelope) > MAX_ENVELOPE:
        raise RosterError(f"members = {len(roster.members)}: the roster takes {len(envelope)} bytes, more than 1 MiB")
    return envelope


def sign_permit(permit: Permit, key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of a permit: JSON.

    Raises:
        PermitError: the permit is another federation's than the key.
    """
    if permit.federation != federation_id(key.public_key().public_bytes_raw()):
        raise PermitError("federation: not that of the governance key; sign with the federation's own key")
    return seal(
        "permit",
        {
            "type": "permit",
            "federation": permit.federation.hex(),
            "serial": permit.serial,
            "run": permit.run,
            "roster_version": permit.roster_version,
            "issued": permit.issued,
            "expires": permit.expires,
            "max_rounds": permit.max_rounds,
            "policy": permit.policy.hex(),
        },
        key,
    )


def open_roster(envelope: bytes, governance: bytes, now: int) -> tuple[Roster, bytes]:
    """Check a roster and return it with its hash.

    Args:
        envelope: JSON of :func:`sign_roster`, from anywhere.
        governance: the federation's governance public key, 32 bytes, as pinned at enrolment.
        now: Unix seconds.

    Raises:
        FormatError: not an envelope with a roster of exactly the specified fields.
        SignatureError: not signed by this governance key.
        RosterError: of another federation, or it contradicts itself.
        ClockError: expired, or issued more than five minutes in the future.
    """
    roster, hashed = _read_roster(bytes(envelope), governance)
    _check_clock("roster", roster.issued, roster.expires, now)
    return roster, hashed


def open_permit(envelope: bytes, governance: bytes, now: int) -> tuple[Permit, bytes]:
    """Check a permit and return it with its hash; arguments as for :func:`open_roster`.

    Raises:
        FormatError: not an envelope with a permit of exactly the specified fields.
        SignatureError: not signed by this governance key.
        PermitError: of another federation, or it contradicts itself.
        ClockError: expired, or issued more than five minutes in the future.
    """
    permit, hashed = _read_permit(bytes(envelope), governance)
    _check_clock("permit", permit.issued, permit.expires, now)
    return permit, hashed


# In one process n members read the same document.
@lru_cache(maxsize=8)
def _read_roster(envelope: bytes, governance: bytes) -> tuple[Roster, bytes]:
    """A roster that is sound but for its dates."""
    payload, document = unseal("roster", envelope, governance)
    fields = Fields("roster", document, _ROSTER)
    fields.constant("type", "roster")
    fields.constant("suite", SUITE)
    roster = Roster(
        version=fields.integer("version"),
        federation=fields.hexadecimal("federation", HASH_BYTES),
        issued=fields.integer("issued"),
        expires=fields.integer("expires"),
        mode=cast("Mode", fields.text("mode")),  # the roster checks it
        colluders=fields.integer("colluders"),
        min_honest=fields.integer("min_honest"),
        range_max=fields.number("range_max"),
        members=tuple(_member(entry) for entry in fields.items("members")),
    )
    if roster.federation != federation_id(governance):
        raise RosterError("federation: another than the one this machine is enrolled in; ask for the right roster")
    return roster, roster_hash(payload)


@lru_cache(maxsize=8)
def _read_permit(envelope: bytes, governance: bytes) -> tuple[Permit, bytes]:
    """A permit that is sound but for its dates."""
    payload, document = unseal("permit", envelope, governance)
    fields = Fields("permit", document, _PERMIT)
    fields.constant("type", "permit")
    permit = Permit(
        serial=fields.integer("serial"),
        federation=fields.hexadecimal("federation", HASH_BYTES),
        run=fields.text("run"),
        roster_version=fields.integer("roster_version"),
        issued=fields.integer("issued"),
        expires=fields.integer("expires"),
        max_rounds=fields.integer("max_rounds"),
        policy=fields.hexadecimal("policy", HASH_BYTES),
    )
    if permit.federation != federation_id(governance):
        raise PermitError("federation: another than the one this machine is enrolled in; ask for the right permit")
    return permit, permit_hash(payload)


def _member(entry: object) -> Member:
    """One entry of a roster's list."""
    fields = Fields("member", entry, ("id", "name", "key"))
    return Member(id=fields.integer("id"), name=fields.text("name"), key=fields.hexadecimal("key", 32))


def _check_clock(what: str, issued: int, expires: int, now: int) -> None:
    """Refuse a document outside its dates."""
    if now >= expires:
        raise ClockError(f"{what}: expired {now - expires} s ago; ask for a new one")
    if issued > now + MAX_SKEW:
        raise ClockError(f"{what}: issued {issued - now} s in the future; set this machine's clock, or the signer's")
