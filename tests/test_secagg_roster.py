"""Rosters and permits: signed, read strictly, dated, and of one federation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.envelope import MAX_ENVELOPE
from secagg.errors import ClockError, FormatError, PermitError, RosterError, SecaggError, SignatureError
from secagg.primitives import SERVER, sign
from secagg.roster import (
    Member,
    Permit,
    Roster,
    federation_id,
    open_permit,
    open_roster,
    sign_permit,
    sign_roster,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
NOW = 1_800_000_000
ROSTER = Roster(
    version=3,
    federation=federation_id(PUBLIC),
    issued=NOW,
    expires=NOW + 1000,
    mode="sealed",
    colluders=1,
    min_honest=2,
    range_max=64.0,
    members=tuple(Member(id=i, name=f"Klinik {i} ü", key=hashlib.sha256(bytes([i])).digest()) for i in (0, 2, 7, 9)),
)
PERMIT = Permit(
    serial=5,
    federation=federation_id(PUBLIC),
    run="digits",
    roster_version=3,
    issued=NOW,
    expires=NOW + 1000,
    max_rounds=11,
    policy=bytes(32),
)
Document = dict[str, Any]


def envelope(payload: str, kind: str = "roster", key: Ed25519PrivateKey = KEY) -> bytes:
    signature = sign(key, f"confide/{kind}/v1", bytes(32), 0, SERVER, payload.encode(errors="surrogatepass"))
    return json.dumps({"payload": payload, "signature": signature.hex()}).encode()


def payload_of(sealed: bytes) -> str:
    return str(json.loads(sealed)["payload"])


def resigned(change: Callable[[Document], object], kind: str = "roster") -> bytes:
    """A document that the governance key signed although it is not as specified."""
    sealed = sign_roster(ROSTER, KEY) if kind == "roster" else sign_permit(PERMIT, KEY)
    document = json.loads(payload_of(sealed))
    change(document)
    return envelope(json.dumps(document), kind)


def test_what_was_signed_is_what_is_read() -> None:
    roster, hashed = open_roster(sign_roster(ROSTER, KEY), PUBLIC, NOW)
    assert roster == ROSTER
    permit, _ = open_permit(sign_permit(PERMIT, KEY), PUBLIC, NOW)
    assert permit == PERMIT
    text = payload_of(sign_roster(ROSTER, KEY)).encode()
    label = b"confide/roster-hash/v1"
    fields = len(label).to_bytes(8, "big") + label + len(text).to_bytes(8, "big") + text
    assert hashed == hashlib.sha256(fields).digest()


def test_members_are_found_by_id_and_by_name() -> None:
    assert ROSTER.member(2) is ROSTER.named("Klinik 2 ü") is ROSTER.members[1]
    assert ROSTER.member(1) is None
    assert ROSTER.named("nobody") is None


def test_the_hash_is_of_the_text_and_not_of_what_it_says() -> None:
    spaced = envelope(json.dumps(json.loads(payload_of(sign_roster(ROSTER, KEY))), indent=1))
    roster, hashed = open_roster(spaced, PUBLIC, NOW)
    assert roster == ROSTER
    assert hashed != open_roster(sign_roster(ROSTER, KEY), PUBLIC, NOW)[1]


@pytest.mark.parametrize("byte", range(0, 700, 23))
def test_no_byte_can_be_changed(byte: int) -> None:
    sealed = bytearray(sign_roster(ROSTER, KEY))
    sealed[byte] ^= 1
    with pytest.raises(SecaggError):
        open_roster(bytes(sealed), PUBLIC, NOW)


def test_a_signature_is_by_the_governance_key_and_for_one_kind_of_document() -> None:
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(SignatureError, match="governance key"):
        open_roster(envelope(payload_of(sign_roster(ROSTER, KEY)), key=stranger), PUBLIC, NOW)
    with pytest.raises(SignatureError):
        open_roster(envelope(payload_of(sign_roster(ROSTER, KEY)), kind="permit"), PUBLIC, NOW)
    with pytest.raises(SignatureError):
        open_roster(sign_permit(PERMIT, KEY), PUBLIC, NOW)
    with pytest.raises(SignatureError):
        open_roster(sign_roster(ROSTER, KEY), stranger.public_key().public_bytes_raw(), NOW)


def test_only_documents_of_the_own_federation_are_signed_and_read() -> None:
    with pytest.raises(RosterError, match="federation"):
        sign_roster(replace(ROSTER, federation=bytes(32)), KEY)
    with pytest.raises(PermitError, match="federation"):
        sign_permit(replace(PERMIT, federation=bytes(32)), KEY)
    foreign = {"federation": "00" * 32}
    with pytest.raises(RosterError, match="federation"):
        open_roster(resigned(lambda d: d.update(foreign)), PUBLIC, NOW)
    with pytest.raises(PermitError, match="federation"):
        open_permit(resigned(lambda d: d.update(foreign), "permit"), PUBLIC, NOW)


@pytest.mark.parametrize(
    ("now", "message"), [(NOW - 301, "future"), (NOW + 1000, "expired 0 s ago"), (NOW + 4000, "expired 3000 s ago")]
)
def test_documents_hold_between_their_dates(now: int, message: str) -> None:
    for moment in (NOW - 300, NOW, NOW + 999):
        open_roster(sign_roster(ROSTER, KEY), PUBLIC, moment)
        open_permit(sign_permit(PERMIT, KEY), PUBLIC, moment)
    with pytest.raises(ClockError, match=f"roster: .*{message}"):
        open_roster(sign_roster(ROSTER, KEY), PUBLIC, now)
    with pytest.raises(ClockError, match=f"permit: .*{message}"):
        open_permit(sign_permit(PERMIT, KEY), PUBLIC, now)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "permit"},
        {"suite": "none"},
        {"version": True},
        {"version": 3.0},
        {"version": "3"},
        {"version": None},
        {"version": 1 << 63},
        {"colluders": 0.5},
        {"range_max": "64"},
        {"range_max": True},
        {"range_max": 10**400},
        {"mode": ["sealed"]},
        {"federation": "00" * 31},
        {"federation": federation_id(PUBLIC).hex().upper()},
        {"federation": " " + federation_id(PUBLIC).hex()},
        {"members": {}},
        {"members": [[]]},
        {"members": [{"id": 1, "name": "a"}]},
        {"members": [{"id": 1, "name": "a", "key": "00" * 32, "role": "admin"}]},
        {"members": [{"id": 1, "name": "\ud800", "key": "00" * 32}]},
        {"members": [{"id": True, "name": "a", "key": "00" * 32}]},
        {"threshold": 1},
    ],
    ids=str,
)
def test_fields_of_other_types_are_refused(change: Document) -> None:
    with pytest.raises(FormatError, match=r"roster|member"):
        open_roster(resigned(lambda d: d.update(change)), PUBLIC, NOW)


@pytest.mark.parametrize("field", json.loads(payload_of(sign_roster(ROSTER, KEY))))
def test_no_field_of_a_roster_may_be_missing(field: str) -> None:
    with pytest.raises(FormatError, match=f"'{field}' is missing"):
        open_roster(resigned(lambda d: d.pop(field)), PUBLIC, NOW)


@pytest.mark.parametrize("field", json.loads(payload_of(sign_permit(PERMIT, KEY))))
def test_no_field_of_a_permit_may_be_missing(field: str) -> None:
    with pytest.raises(FormatError, match=f"'{field}' is missing"):
        open_permit(resigned(lambda d: d.pop(field), "permit"), PUBLIC, NOW)


def test_no_field_may_stand_twice() -> None:
    """Two readers of such a document could each take another of the two."""
    text = payload_of(sign_roster(ROSTER, KEY))
    with pytest.raises(FormatError, match="twice"):
        open_roster(envelope(text.replace('"colluders":1', '"colluders":1,"colluders":0')), PUBLIC, NOW)
    sealed = sign_roster(ROSTER, KEY)
    with pytest.raises(FormatError, match="twice"):
        open_roster(b'{"payload": "{}",' + sealed[1:], PUBLIC, NOW)


@pytest.mark.parametrize(
    "sealed",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"payload": 1, "signature": ""}',
        b'{"payload": "{}", "signature": "00"}',
        b'{"payload": "{}"}',
        b'{"payload": "\\ud800", "signature": "' + b"00" * 64 + b'"}',
        b'{"payload": "{}", "signature": NaN}',
        b"[" * 100_000,
        b"9" * 10_000,
        b" " * (MAX_ENVELOPE + 1),
    ],
    ids=lambda sealed: f"{len(sealed)} bytes, {bytes(sealed[:12])!r}",
)
def test_other_bytes_are_refused(sealed: bytes) -> None:
    with pytest.raises(FormatError):
        open_roster(sealed, PUBLIC, NOW)
    with pytest.raises(FormatError):
        open_permit(sealed, PUBLIC, NOW)


def test_a_signed_text_that_is_no_json_is_refused() -> None:
    for text in ("", "{", "[" * 50_000, '{"a": Infinity}', "1"):
        with pytest.raises(FormatError):
            open_roster(envelope(text), PUBLIC, NOW)


def member(**changed: Any) -> Member:
    return Member(**{"id": 1, "name": "a", "key": bytes(32)} | changed)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 0}, "version"),
        ({"issued": -1}, "issued"),
        ({"expires": NOW}, "expires"),
        ({"colluders": -1}, "colluders"),
        ({"min_honest": 1}, "min_honest"),
        ({"mode": "clear"}, "mode"),
        ({"range_max": 0.0}, "range_max"),
        ({"range_max": float("inf")}, "range_max"),
        ({"range_max": float("nan")}, "range_max"),
        ({"members": (member(), member(name="b", key=b"b" * 32))}, "ids"),
        ({"members": (member(id=2), member(name="b", key=b"b" * 32))}, "ids"),
        ({"members": (member(id=SERVER),)}, "ids"),
        ({"members": (member(id=-1),)}, "ids"),
        ({"members": (member(), member(id=2, key=b"b" * 32))}, "names"),
        ({"members": (member(name=""),)}, "names"),
        ({"members": (member(), member(id=2, name="b"))}, "same key"),
        ({"members": tuple(member(id=i, name=str(i), key=i.to_bytes(32, "big")) for i in range(100_001))}, "100001"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_roster_that_contradicts_itself_is_refused(change: Document, field: str) -> None:
    with pytest.raises(RosterError, match=field):
        replace(ROSTER, **change)


def test_a_signed_roster_is_checked_all_the_same() -> None:
    with pytest.raises(RosterError, match="version"):
        open_roster(resigned(lambda d: d.update(version=-4)), PUBLIC, NOW)
    with pytest.raises(PermitError, match="serial"):
        open_permit(resigned(lambda d: d.update(serial=0), "permit"), PUBLIC, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"serial": 0},
        {"roster_version": 0},
        {"issued": -1},
        {"expires": NOW},
        {"max_rounds": 0},
        {"max_rounds": 2**32 - 1},
        {"run": ""},
    ],
    ids=str,
)
def test_a_permit_that_permits_nothing_is_refused(change: Document) -> None:
    with pytest.raises(PermitError, match=next(iter(change))):
        replace(PERMIT, **change)


def test_a_roster_that_no_member_would_read_is_not_signed() -> None:
    members = tuple(member(id=i, name="n" * 80 + str(i), key=i.to_bytes(32, "big")) for i in range(6000))
    with pytest.raises(RosterError, match="1 MiB"):
        sign_roster(replace(ROSTER, members=members), KEY)
