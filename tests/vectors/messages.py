"""Vectors of the ten messages: each as its fields and as its bytes, and bytes that are no such message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import secagg_reference as ref
from fixed import EPHEMERAL, IDENTITIES, Vector, seed, seed64
from formulas import Files, vector

RUN, EPOCH = ref.run_id("digits"), 3
CTX = seed("ctx")
CIPHERTEXT = {j: (seed64(f"ciphertext {j}") * 17) for j in (2, 5)}
SEALED = {j: (seed64(f"sealed {j}"))[:49] for j in (0, 2, 5)}
SIGNATURES = {j: seed64(f"signature {j}") for j in (0, 2, 5)}
HASHES = {j: seed(f"hash {j}") for j in (0, 2, 5)}
SHARE = b"\x00" + seed("share")


def pairs(entries: Sequence[tuple[int, bytes]], count: int | None = None) -> bytes:
    """A list as it is given, sorted or not."""
    return ref.u32(len(entries) if count is None else count) + b"".join(ref.u32(i) + entry for i, entry in entries)


def from_member(name: str, body: bytes, attachments: bytes = b"", sender: int = 2) -> bytes:
    return ref.signed_message(IDENTITIES[sender], name, RUN, EPOCH, sender, body, attachments)


def from_server(name: str, body: bytes) -> bytes:
    return ref.server_message(name, RUN, EPOCH, body)


def invite(roster: bytes = b"roster", permit: bytes = b"{permit}") -> bytes:
    return from_server("invite", ref.u32(4) + ref.with_length(roster) + ref.with_length(permit))


def advertise(sender: int = 2) -> bytes:
    return from_member("advertise", EPHEMERAL[sender].public, sender=sender)


def directory(*messages: bytes, count: int | None = None) -> bytes:
    return from_server("directory", ref.u32(len(messages) if count is None else count) + b"".join(messages))


Hashed = Sequence[tuple[int, bytes]]


def encapsulate(entries: Hashed, ciphertexts: bytes, count: int | None = None, sender: int = 0) -> bytes:
    return from_member("encapsulate", seed("setup hash") + pairs(entries, count), ciphertexts, sender=sender)


def part(sender: int) -> bytes:
    """The signed part of an encapsulate message."""
    return encapsulate([(j, HASHES[j]) for j in (2, 5) if j > sender], b"", sender=sender)


def opening(
    *,
    cohort: bytes = b"".join(map(ref.u32, (3, 0, 2, 5))),
    parts: bytes = ref.u32(2) + ref.with_length(part(2)) + ref.with_length(part(5)),
    ciphertexts: Hashed = ((2, CIPHERTEXT[2]),),
    count: int | None = None,
) -> bytes:
    return from_server("open", ref.u32(7) + ref.u32(0) + cohort + parts + pairs(ciphertexts, count))


def upload(commitments: Hashed, sealed: bytes, y: bytes, count: int | None = None) -> bytes:
    return from_member("upload", CTX + seed("h"), seed("H_b") + pairs(commitments, count) + sealed + y)


def survivors(uploads: Hashed, count: int | None = None) -> bytes:
    return from_server("survivors", CTX + pairs(uploads, count))


def confirm() -> bytes:
    return from_member("confirm", CTX + seed("H_U"))


def unmask(uploads: Hashed, confirmed: Hashed, shares: Hashed, counts: Sequence[int | None] = (None,) * 3) -> bytes:
    lists = zip((uploads, confirmed, shares), counts, strict=True)
    return from_server("unmask", CTX + b"".join(pairs(entries, count) for entries, count in lists))


def answer(entries: Hashed, count: int | None = None) -> bytes:
    return from_member("answer", CTX + pairs(entries, count))


SIGNED_H = [(i, HASHES[i] + SIGNATURES[i]) for i in (0, 2, 5)]
CONFIRMED = [(i, SIGNATURES[i]) for i in (0, 2)]
SHARES = [(i, HASHES[i] + SEALED[i]) for i in (0, 5)]
COMMITTED = [(i, HASHES[i]) for i in (0, 2, 5)]
BOTH_SEALED = SEALED[0] + SEALED[5]
Y = ref.vector_bytes([1, 2**31, 2**32 - 1])
ENTRIES = [(0, b"\x01" + SHARE), (2, b"\x00" + bytes(33)), (5, b"\x02\x00" + seed("s"))]
TARGETS = [(2, HASHES[2]), (5, HASHES[5])]
BOTH = CIPHERTEXT[2] + CIPHERTEXT[5]


def signature(message: bytes, body: int) -> bytes:
    return message[45 + body : 45 + body + 64]


def by_id(entries: Hashed, cut: int | None = None) -> dict[int, object]:
    """A list as JSON; with `cut`, every entry in two."""
    return {i: entry if cut is None else [entry[:cut], entry[cut:]] for i, entry in entries}


def good() -> list[tuple[str, str, bytes, Mapping[str, object]]]:
    """Name, comment, bytes and fields."""
    own, sent, given = advertise(), upload(COMMITTED, BOTH_SEALED, Y), answer(ENTRIES)
    packed, confirmed = encapsulate(TARGETS, BOTH), confirm()
    parts = [part(i) for i in (2, 5)]
    answers = {i: [entry[0], entry[1:]] for i, entry in ENTRIES}
    none: dict[int, object] = {}
    return [
        (
            "invite",
            "documents are not looked at",
            invite(),
            {"first_round": 4, "roster": b"roster", "permit": b"{permit}"},
        ),
        (
            "advertise",
            "X25519, then ML-KEM",
            own,
            {"x25519": own[45:77], "mlkem": own[77:1261], "signature": signature(own, 1216)},
        ),
        ("directory", "of two", directory(advertise(0), own), {"messages": [advertise(0), own]}),
        (
            "encapsulate",
            "to two",
            packed,
            {
                "setup_hash": seed("setup hash"),
                "hashes": by_id(TARGETS),
                "signature": signature(packed, 108),
                "ciphertexts": CIPHERTEXT,
            },
        ),
        (
            "encapsulate",
            "the highest id sends to nobody",
            part(5),
            {
                "setup_hash": seed("setup hash"),
                "hashes": none,
                "signature": signature(part(5), 36),
                "ciphertexts": none,
            },
        ),
        (
            "open",
            "a member's first",
            opening(),
            {"round": 7, "attempt": 0, "cohort": [0, 2, 5], "parts": parts, "ciphertexts": {2: CIPHERTEXT[2]}},
        ),
        (
            "open",
            "a later one",
            opening(parts=bytes(4), ciphertexts=()),
            {"round": 7, "attempt": 0, "cohort": [0, 2, 5], "parts": [], "ciphertexts": none},
        ),
        (
            "upload",
            "three elements",
            sent,
            {
                "ctx": CTX,
                "h": seed("h"),
                "signature": signature(sent, 64),
                "self_seed_hash": seed("H_b"),
                "commitments": by_id(COMMITTED),
                "ciphertexts": {0: SEALED[0], 5: SEALED[5]},
                "y": Y,
            },
        ),
        ("survivors", "of three", survivors(SIGNED_H), {"ctx": CTX, "uploads": by_id(SIGNED_H, 32)}),
        ("confirm", "", confirmed, {"ctx": CTX, "survivors_hash": seed("H_U"), "signature": signature(confirmed, 64)}),
        (
            "unmask",
            "strict",
            unmask(SIGNED_H, CONFIRMED, SHARES),
            {
                "ctx": CTX,
                "uploads": by_id(SIGNED_H, 32),
                "confirmations": by_id(CONFIRMED),
                "shares": by_id(SHARES, 32),
            },
        ),
        (
            "unmask",
            "sealed: no confirmation",
            unmask(SIGNED_H, [], SHARES),
            {"ctx": CTX, "uploads": by_id(SIGNED_H, 32), "confirmations": none, "shares": by_id(SHARES, 32)},
        ),
        (
            "answer",
            "of every kind",
            given,
            {"ctx": CTX, "entries": answers, "signature": signature(given, 36 + 3 * 38)},
        ),
    ]


def swapped(entries: Hashed) -> Hashed:
    return [entries[1], entries[0], *entries[2:]]


def twice(entries: Hashed) -> Hashed:
    return [entries[0], entries[0], *entries[2:]]


def listed(name: str, what: str, entries: Hashed, make: Callable[..., bytes]) -> list[tuple[str, str, bytes]]:
    """What can be wrong with a list: its order, repetition, and a count that its bytes do not bear out."""
    return [
        (name, f"{what} not sorted", make(swapped(entries))),
        (name, f"{what}: an id twice", make(twice(entries))),
        (name, f"{what}: count one too many", make(entries, len(entries) + 1)),
        (name, f"{what}: count one too few", make(entries, len(entries) - 1)),
        (name, f"{what}: count 2^32 - 1", make(entries, 2**32 - 1)),
    ]


def bad() -> list[tuple[str, str, bytes]]:
    """Name, comment and bytes of what is refused as no such message."""
    made: list[tuple[str, str, bytes]] = []
    seen = set()
    for name, _, message, _ in good():
        if name in seen:
            continue
        seen.add(name)
        other = ref.TYPES[name] % 10 + 1
        made += [
            (name, "a byte too few", message[:-1]),
            (name, "a byte too many", message + b"\x00"),
            (name, "the header alone", message[:45]),
            (name, "44 bytes", message[:44]),
            (name, "nothing", b""),
            (name, "version CFS2", b"CFS2" + message[4:]),
            (name, "another type", message[:4] + ref.u8(other) + message[5:]),
            (name, "type 0", message[:4] + b"\x00" + message[5:]),
        ]
    long = from_server("invite", ref.u32(4) + ref.u32(2**32 - 1) + b"roster" + ref.with_length(b""))
    short = advertise(5)
    made += [
        ("invite", "a length past the end", long),
        ("directory", "not sorted", directory(advertise(5), advertise(2))),
        ("directory", "a member twice", directory(short, short)),
        ("directory", "count one too many", directory(short, count=2)),
        ("directory", "count 2^32 - 1", directory(short, count=2**32 - 1)),
        ("directory", "holds another message", directory(short[:4] + b"\x08" + short[5:])),
        ("encapsulate", "one ciphertext for two", encapsulate(TARGETS, CIPHERTEXT[2])),
        ("encapsulate", "a ciphertext too many", encapsulate(TARGETS[:1], BOTH)),
        ("open", "cohort not sorted", opening(cohort=b"".join(map(ref.u32, (3, 2, 0, 5))))),
        ("open", "cohort: an id twice", opening(cohort=b"".join(map(ref.u32, (3, 0, 5, 5))))),
        ("open", "cohort: count 2^32 - 1", opening(cohort=b"".join(map(ref.u32, (2**32 - 1, 0, 2, 5))))),
        ("open", "parts not sorted", opening(parts=ref.u32(2) + b"".join(ref.with_length(part(i)) for i in (5, 2)))),
        (
            "open",
            "parts: a sender twice",
            opening(parts=ref.u32(2) + b"".join(ref.with_length(part(i)) for i in (5, 5))),
        ),
        ("open", "a part with a byte too many", opening(parts=ref.u32(1) + ref.with_length(part(5) + b"\x00"))),
        ("open", "a part past the end", opening(parts=ref.u32(1) + ref.u32(2**31) + part(5))),
        ("open", "parts: count 2^32 - 1", opening(parts=ref.u32(2**32 - 1) + ref.with_length(part(5)))),
        ("upload", "a ciphertext too few", upload(COMMITTED, SEALED[0], Y)),
        ("upload", "y is no whole number of words", upload(COMMITTED, BOTH_SEALED, Y[:-2])),
        ("upload", "the sender deals to others alone", upload([(0, HASHES[0]), (5, HASHES[5])], SEALED[0], Y)),
    ]
    made += listed("encapsulate", "list", TARGETS, lambda e, n=None: encapsulate(e, BOTH, n))
    made += listed(
        "open",
        "ciphertexts",
        [(0, CIPHERTEXT[2]), (2, CIPHERTEXT[2])],
        lambda e, n=None: opening(parts=bytes(4), ciphertexts=e, count=n),
    )
    made += listed("upload", "commitments", COMMITTED, lambda e, n=None: upload(e, BOTH_SEALED, b"", n))
    made += listed("survivors", "list", SIGNED_H, survivors)
    made += listed("unmask", "uploads", SIGNED_H, lambda e, n=None: unmask(e, CONFIRMED, SHARES, (n, None, None)))
    made += listed("unmask", "confirmations", CONFIRMED, lambda e, n=None: unmask(SIGNED_H, e, SHARES, (None, n, None)))
    made += listed("unmask", "shares", SHARES, lambda e, n=None: unmask(SIGNED_H, CONFIRMED, e, (None, None, n)))
    return made + listed("answer", "entries", ENTRIES, answer)


FILES = {
    "join": ("invite", "advertise", "directory"),
    "open": ("encapsulate", "open"),
    "round": ("upload", "survivors", "confirm", "unmask", "answer"),
}


def files() -> Files:
    made: list[Vector] = []
    for name, comment, message, fields in good():
        head = {"run": RUN, "epoch": EPOCH, "sender": int.from_bytes(message[41:45], "big")}
        made.append(vector("message", comment, name=name, message=message, **head, fields=dict(fields)))
    made += [vector("message", comment, name=name, message=message, error="format") for name, comment, message in bad()]
    about = "Messages as bytes and as fields (signatures and hashes are not looked at)"
    return {
        f"messages-{file}": (f"{about}: {', '.join(names)}", [v for v in made if v["name"] in names])
        for file, names in FILES.items()
    }
