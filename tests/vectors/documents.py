"""Vectors of signed documents: roster and permit as envelopes, good and refused."""

from __future__ import annotations

import json
from typing import Any

import secagg_reference as ref
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fixed import GOVERNANCE, IDENTITIES, Vector, seed
from formulas import Files, vector

ISSUED, EXPIRES = 1_800_000_000, 1_900_000_000
NOW = 1_850_000_000
GOVERNOR = ref.public(GOVERNANCE)
MEMBERS = [
    {"id": i, "name": name, "key": ref.public(IDENTITIES[i]).hex()}
    for i, name in zip(IDENTITIES, ["cardiology", "Kinderklinik Zürich", "lab-3"], strict=True)
]
ROSTER: dict[str, Any] = {
    "type": "roster",
    "federation": ref.federation(GOVERNOR).hex(),
    "version": 4,
    "issued": ISSUED,
    "expires": EXPIRES,
    "mode": "sealed",
    "colluders": 0,
    "min_honest": 3,
    "range_max": 8.5,
    "suite": ref.SUITE,
    "members": MEMBERS,
}
PERMIT: dict[str, Any] = {
    "type": "permit",
    "federation": ref.federation(GOVERNOR).hex(),
    "serial": 17,
    "run": "digits",
    "roster_version": 4,
    "issued": ISSUED,
    "expires": EXPIRES,
    "max_rounds": 20,
    "policy": ref.policy_hash(b'{"rounds":20}').hex(),
}


def text(payload: dict[str, Any]) -> bytes:
    return json.dumps(payload, ensure_ascii=False).encode()


def envelope(kind: str, payload: bytes, key: Ed25519PrivateKey = GOVERNANCE) -> bytes:
    """A document as it travels."""
    signature = ref.sign_document(key, kind, payload)
    return json.dumps({"payload": payload.decode(), "signature": signature.hex()}).encode()


def written(change: dict[str, Any], base: dict[str, Any]) -> bytes:
    """The payload with fields changed; those set to None are left out."""
    return text({name: value for name, value in {**base, **change}.items() if value is not None})


def member(position: int, **change: object) -> list[dict[str, Any]]:
    """The members with one of them changed."""
    return [{**m, **change} if at == position else m for at, m in enumerate(MEMBERS)]


SHARED: list[tuple[str, dict[str, Any], str]] = [
    ("a field too many", {"comment": "x"}, "format"),
    ("a field missing", {"expires": None}, "format"),
    ("a number as text", {"issued": str(ISSUED)}, "format"),
    ("a number with a fraction", {"issued": ISSUED + 0.5}, "format"),
    ("a whole number written as a real", {"issued": float(ISSUED)}, "format"),
    ("true for a number", {"issued": True}, "format"),
    ("the other type", {"type": "ledger"}, "format"),
    ("federation is no hex", {"federation": "z" * 64}, "format"),
    ("expires when it is issued", {"expires": ISSUED}, "{kind}"),
    ("issued before 1970", {"issued": -1}, "{kind}"),
    ("federation in upper case", {"federation": ref.federation(GOVERNOR).hex().upper()}, "format"),
    ("federation is short", {"federation": "00" * 31}, "format"),
]
ROSTERS: list[tuple[str, dict[str, Any], str]] = [
    ("another governance key's federation", {"federation": ref.federation(seed("other")).hex()}, "roster"),
    ("version 0", {"version": 0}, "roster"),
    ("negative version", {"version": -1}, "roster"),
    ("unknown mode", {"mode": "open"}, "roster"),
    ("unknown suite", {"suite": "x25519-ed25519"}, "format"),
    ("range_max 0", {"range_max": 0}, "roster"),
    ("negative range_max", {"range_max": -1.0}, "roster"),
    ("range_max true", {"range_max": True}, "format"),
    ("negative colluders", {"colluders": -1}, "roster"),
    ("min_honest 1", {"min_honest": 1}, "roster"),
    ("version 2^63", {"version": 2**63}, "format"),
    ("range_max as text", {"range_max": "8.5"}, "format"),
    ("a name is empty", {"members": member(2, name="")}, "roster"),
    ("members are no list", {"members": {}}, "format"),
    ("members not sorted", {"members": [MEMBERS[1], MEMBERS[0], MEMBERS[2]]}, "roster"),
    ("an id twice", {"members": member(2, id=2)}, "roster"),
    ("a name twice", {"members": member(2, name="cardiology")}, "roster"),
    ("a key twice", {"members": member(2, key=MEMBERS[0]["key"])}, "roster"),
    ("the server's id", {"members": member(2, id=ref.SERVER)}, "roster"),
    ("an id that no u32 holds", {"members": member(2, id=2**32)}, "roster"),
    ("a negative id", {"members": member(0, id=-1)}, "roster"),
    ("an id as text", {"members": member(1, id="2")}, "format"),
    ("a member's field too many", {"members": member(1, site="x")}, "format"),
    ("a member's field missing", {"members": [MEMBERS[0], {"id": 2, "name": "b"}]}, "format"),
    ("a member's key of 31 bytes", {"members": member(1, key="00" * 31)}, "format"),
    ("a member's key in upper case", {"members": member(1, key=ref.public(IDENTITIES[2]).hex().upper())}, "format"),
    ("a member's key is no hex", {"members": member(1, key="zz" * 32)}, "format"),
]
PERMITS: list[tuple[str, dict[str, Any], str]] = [
    ("another governance key's federation", {"federation": ref.federation(seed("other")).hex()}, "permit"),
    ("serial 0", {"serial": 0}, "permit"),
    ("negative roster_version", {"roster_version": -1}, "permit"),
    ("negative max_rounds", {"max_rounds": -1}, "permit"),
    ("run is a number", {"run": 3}, "format"),
    ("policy of 31 bytes", {"policy": "00" * 31}, "format"),
    ("policy is no hex", {"policy": "zz" * 32}, "format"),
]


def wrappings(kind: str, payload: bytes) -> list[tuple[str, bytes, str]]:
    """Envelopes that are wrong around a good payload."""
    good = envelope(kind, payload)
    outer = json.loads(good)
    other = "permit" if kind == "roster" else "roster"
    other_key = Ed25519PrivateKey.from_private_bytes(seed("other governance"))
    # A payload changed in one digit after it was signed.
    altered = {**outer, "payload": outer["payload"].replace(str(EXPIRES), str(EXPIRES + 1))}
    spaced = {**outer, "payload": outer["payload"] + " "}
    made = ref.sign(GOVERNANCE, f"confide/{kind}/v1", bytes(32), 0, 0, payload)

    def with_signature(signature: str) -> bytes:
        return json.dumps({**outer, "signature": signature}).encode()

    doubled = good[:-1] + b', "signature": ' + json.dumps(outer["signature"]).encode() + b"}"
    twice = payload[:-1] + b', "issued": ' + str(ISSUED).encode() + b"}"
    return [
        ("payload altered", json.dumps(altered).encode(), "signature"),
        ("payload with one space more", json.dumps(spaced).encode(), "signature"),
        ("signed by another key", envelope(kind, payload, other_key), "signature"),
        ("signed as the other document", envelope(other, payload), "signature"),
        ("signed with sender 0", with_signature(made.hex()), "signature"),
        ("signature of zeros", with_signature("00" * 64), "signature"),
        ("signature of 63 bytes", with_signature(outer["signature"][:126]), "format"),
        ("signature in upper case", with_signature(outer["signature"].upper()), "format"),
        ("signature is no hex", with_signature("zz" * 64), "format"),
        ("signature is a number", json.dumps({**outer, "signature": 0}).encode(), "format"),
        ("payload is an object", json.dumps({**outer, "payload": json.loads(payload)}).encode(), "format"),
        ("signature missing", json.dumps({"payload": outer["payload"]}).encode(), "format"),
        ("a field too many", json.dumps({**outer, "key": GOVERNOR.hex()}).encode(), "format"),
        ("a field of the envelope twice", doubled, "format"),
        ("a field of the payload twice", envelope(kind, twice), "format"),
        ("payload is no object", envelope(kind, b"[]"), "format"),
        ("payload is no JSON", envelope(kind, payload[:-1]), "format"),
        ("payload holds NaN", envelope(kind, payload.replace(str(ISSUED).encode(), b"NaN")), "format"),
        ("payload nested deeply", envelope(kind, b"[" * 1400 + b"]" * 1400), "format"),
        ("envelope is no JSON", good[:-1], "format"),
        ("envelope is no UTF-8", good.replace(b"payload", b"pay\xffoad"), "format"),
        ("envelope is a list", b"[" + good + b"]", "format"),
        ("envelope is empty", b"", "format"),
    ]


def document(kind: str, comment: str, data: bytes, now: int = NOW, **outcome: object) -> Vector:
    return vector(f"open_{kind}", comment, envelope=data, governance=GOVERNOR, now=now, **outcome)


def accepted(kind: str, comment: str, payload: bytes, now: int = NOW) -> Vector:
    """A good document, with its hash and fields."""
    hash_of = ref.roster_hash if kind == "roster" else ref.permit_hash
    signed = envelope(kind, payload)
    return document(
        kind,
        comment,
        signed,
        now,
        expected={"hash": hash_of(payload), "payload": payload, "fields": json.loads(payload)},
    )


def both(kind: str, base: dict[str, Any], own: list[tuple[str, dict[str, Any], str]]) -> list[Vector]:
    """Vectors of one kind of document."""
    good = text(base)
    indented = json.dumps(dict(sorted(base.items())), indent=2).encode()
    envelope_ = envelope(kind, good)
    return [
        accepted(kind, "as a document is", good),
        accepted(kind, "other order, spaces and escapes: what is signed is the text", indented),
        accepted(kind, "clock 300 s behind", good, ISSUED - 300),
        accepted(kind, "the second before it expires", good, EXPIRES - 1),
        document(kind, "in the second it expires", envelope_, EXPIRES, error="clock"),
        document(kind, "clock 301 s behind", envelope_, ISSUED - 301, error="clock"),
        {
            **document(
                kind, "padded to 1 MiB: as long as it may be", envelope_, expected=accepted(kind, "", good)["expected"]
            ),
            "pad_to": 2**20,
        },
        {**document(kind, "padded past 1 MiB", envelope_, error="format"), "pad_to": 2**20 + 1},
        *(document(kind, comment, data, error=code) for comment, data, code in wrappings(kind, good)),
        *(
            document(kind, comment, envelope(kind, written(change, base)), error=code.format(kind=kind))
            for comment, change, code in SHARED + own
        ),
    ]


def files() -> Files:
    strict = {**ROSTER, "mode": "strict", "colluders": 0, "min_honest": 2, "range_max": 1, "version": 1}
    rosters = [*both("roster", ROSTER, ROSTERS), accepted("roster", "strict; range_max a whole number", text(strict))]
    about = "envelopes; `now` in Unix seconds; where `pad_to` stands, spaces follow the envelope up to that length"
    return {
        "roster": (f"Roster {about}", rosters),
        "permit": (f"Permit {about}", both("permit", PERMIT, PERMITS)),
    }
