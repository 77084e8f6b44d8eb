"""Messages that a member who followed a transcript so far must refuse, and those that make it complain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import secagg_reference as ref
from computations import LOW_ORDER
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from documents import EXPIRES, MEMBERS, NOW, PERMIT, ROSTER, envelope, text
from fixed import ENCAPSULATIONS, EPHEMERAL, IDENTITIES, Ephemeral, Vector, seed, seed64
from formulas import Files, vector
from transcripts import Epoch, sealed_epoch, strict_epoch

ME = 2
STRANGER = Ed25519PrivateKey.from_private_bytes(seed("stranger"))
SEALED, STRICT = sealed_epoch(), strict_epoch()
STRICT.round(1, uploading=(0, 2), answering=(0, 2))


def refused(epoch: Epoch, request: str, comment: str, message: bytes, error: str, **more: object) -> Vector:
    """Instead of the transcript's `request` the member gets the message."""
    transcript = f"transcript-{epoch.mode}"
    return vector(
        "refuse", comment, transcript=transcript, member=ME, request=request, message=message, error=error, **more
    )


def signed(name: str, body: bytes, sender: int, key: Ed25519PrivateKey | None = None, epoch: int = 3) -> bytes:
    return ref.signed_message(key or IDENTITIES[sender], name, SEALED.run, epoch, sender, body)


# invite


def pins(**change: object) -> dict[str, Any]:
    """What the member remembers."""
    fresh = {"roster_version": 0, "roster_hash": "", "serial": 0, "runs": []}
    return {"pins": {**fresh, **change}, "now": NOW}


def used(run: str, serial: int, epoch: int) -> dict[str, Any]:
    return {"run": run, "serial": serial, "epoch": epoch}


def invite(
    roster: Mapping[str, Any] = ROSTER,
    permit: Mapping[str, Any] = PERMIT,
    run: bytes = SEALED.run,
    sender: int = ref.SERVER,
    first_round: int = 4,
) -> bytes:
    documents = [envelope("roster", text(dict(roster))), envelope("permit", text(dict(permit)))]
    body = ref.u32(first_round) + b"".join(map(ref.with_length, documents))
    return ref.header("invite", run, 3, sender) + body


def invites() -> list[Vector]:
    here = [m for m in MEMBERS if m["id"] != ME]
    another = [{**m, "key": ref.public(STRANGER).hex()} if m["id"] == ME else m for m in MEMBERS]
    good = SEALED.sent["invite", ME]
    roster_hash = ref.roster_hash(SEALED.roster).hex()
    cases: list[tuple[str, bytes, str, dict[str, Any]]] = [
        (
            "not in the roster",
            invite({**ROSTER, "members": [*here, {"id": 9, "name": "x", "key": "22" * 32}]}),
            "roster",
            pins(),
        ),
        ("in the roster with another key", invite({**ROSTER, "members": another}), "roster", pins()),
        ("fewer honest members than I want", invite({**ROSTER, "min_honest": 2}), "floor", pins()),
        ("fewer members than any cohort has", invite({**ROSTER, "members": MEMBERS[:2]}), "floor", pins()),
        ("roster expired", invite({**ROSTER, "expires": NOW - 1}), "clock", pins()),
        ("permit expired", invite(permit={**PERMIT, "expires": NOW - 1}), "clock", pins()),
        ("permit from the future", invite(permit={**PERMIT, "issued": NOW + 301}), "clock", pins()),
        ("permit of another roster version", invite(permit={**PERMIT, "roster_version": 3}), "permit", pins()),
        ("permit of another policy", invite(permit={**PERMIT, "policy": "00" * 32}), "permit", pins()),
        ("permit of another run", invite(permit={**PERMIT, "run": "letters"}), "permit", pins()),
        ("header of another run", invite(run=ref.run_id("letters")), "consistency", pins()),
        ("from a member", invite(sender=0), "consistency", pins()),
        ("everything expired", good, "clock", {**pins(), "now": EXPIRES + 1}),
        ("roster older than one I accepted", good, "replay", pins(roster_version=5, roster_hash="11" * 32)),
        ("another roster of the same version", good, "roster", pins(roster_version=4, roster_hash="11" * 32)),
        ("serial below the highest", good, "replay", pins(serial=18)),
        ("serial of another run", good, "replay", pins(serial=17, runs=[used("letters", 17, 1)])),
        ("epoch used", good, "replay", pins(serial=17, runs=[used("digits", 17, 3)])),
        ("epoch below one used", good, "replay", pins(serial=17, runs=[used("digits", 17, 8)])),
    ]
    accepted: list[tuple[str, dict[str, Any]]] = [
        ("the same roster again", pins(roster_version=4, roster_hash=roster_hash)),
        ("a newer roster", pins(roster_version=3, roster_hash="11" * 32)),
        (
            "this run's own serial, although a higher one is known",
            pins(serial=18, runs=[used("digits", 17, 2), used("letters", 18, 9)]),
        ),
        ("a new serial for a known run", pins(serial=16, runs=[used("digits", 16, 2)])),
    ]
    made = [refused(SEALED, "invite", comment, message, error, **more) for comment, message, error, more in cases]
    later = invite(first_round=5)
    made.append(refused(SEALED, "invite", "another one for an epoch I entered", later, "replay", after="advertise"))
    reply = SEALED.sent["advertise", ME]
    for comment, more in accepted:
        made.append(
            vector(
                "accept",
                comment,
                transcript="transcript-sealed",
                member=ME,
                request="invite",
                message=good,
                expected=reply,
                **more,
            )
        )
    return made


# directory


def directory(messages: Mapping[int, bytes]) -> bytes:
    return SEALED.from_server("directory", ref.u32(len(messages)) + b"".join(messages.values()))


def directories() -> list[Vector]:
    good = {i: SEALED.sent["advertise", i] for i in (0, 2, 5)}
    own = EPHEMERAL[0].public
    fresh = Ephemeral(seed("x25519 again"), seed64("mlkem again")).public
    cases = [
        ("my message is another one of mine", {**good, 2: signed("advertise", fresh, 2)}, "consistency"),
        ("my message is missing", {i: good[i] for i in (0, 5)}, "consistency"),
        ("a stranger", {**good, 7: signed("advertise", fresh, 7, STRANGER)}, "consistency"),
        ("a message signed by another member", {**good, 0: signed("advertise", own, 0, IDENTITIES[5])}, "signature"),
        ("a bit of a signature flipped", {**good, 5: good[5][:-1] + bytes([good[5][-1] ^ 1])}, "signature"),
        ("a message of another epoch", {**good, 0: signed("advertise", own, 0, epoch=2)}, "consistency"),
        *(
            (
                f"{comment}, well signed",
                {**good, 0: signed("advertise", bytes.fromhex(point) + own[32:], 0)},
                "consistency",
            )
            for comment, point in LOW_ORDER[:2]
        ),
        (
            "an ML-KEM key whose numbers are not reduced",
            {**good, 5: signed("advertise", EPHEMERAL[5].public[:32] + b"\xff" * 1184, 5)},
            "format",
        ),
        (
            "such a key of a member that I do not encapsulate to",
            {**good, 0: signed("advertise", own[:32] + b"\xff" * 1184, 0)},
            "format",
        ),
    ]
    made = [refused(SEALED, "directory", comment, directory(messages), error) for comment, messages, error in cases]
    fewer = directory({i: good[i] for i in (2, 5)})
    return [*made, refused(SEALED, "directory", "another after I answered one", fewer, "replay", after="encapsulate")]


# open


def opening(  # every part of the message can be false
    epoch: Epoch = SEALED,
    round_: int = 4,
    attempt: int = 0,
    cohort: tuple[int, ...] = (0, 2, 5),
    parts: Mapping[int, bytes] | None = None,
    ciphertexts: Mapping[int, bytes] | None = None,
) -> bytes:
    told = {i: SEALED.part(i) for i in (0, 2, 5)} if parts is None else parts
    given = {0: ENCAPSULATIONS[0, ME][1]} if ciphertexts is None else ciphertexts
    head = b"".join(map(ref.u32, (round_, attempt, len(cohort), *cohort)))
    body = head + ref.u32(len(told)) + b"".join(map(ref.with_length, told.values())) + ref.listing(given)
    return epoch.from_server("open", body)


def openings() -> list[Vector]:
    parts = {i: SEALED.part(i) for i in (0, 2, 5)}
    ciphertext = ENCAPSULATIONS[0, ME][1]
    flipped = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    hashes = {j: ref.ciphertext_hash(ENCAPSULATIONS[0, j][1]) for j in (2, 5)}
    elsewhere = signed("encapsulate", seed("another setup") + ref.listing(hashes), 0)
    shorter = signed("encapsulate", SEALED.setup_hash + ref.listing({2: hashes[2]}), 0)
    forged = signed(
        "encapsulate", SEALED.setup_hash + ref.listing({**hashes, 2: ref.ciphertext_hash(flipped)}), 0, IDENTITIES[5]
    )
    mine = signed("encapsulate", SEALED.setup_hash + ref.listing({5: seed("another ciphertext")}), ME)
    unknown = signed("encapsulate", SEALED.setup_hash + ref.listing({}), 7, STRANGER)
    other_epoch = SEALED.from_server("open", b"")[:37] + ref.u32(4) + opening()[41:]
    cases = [
        ("a ciphertext with a bit flipped", opening(ciphertexts={0: flipped}), "consistency"),
        ("another member's ciphertext", opening(ciphertexts={0: ENCAPSULATIONS[0, 5][1]}), "consistency"),
        ("a ciphertext missing", opening(ciphertexts={}), "consistency"),
        ("a ciphertext too many", opening(ciphertexts={0: ciphertext, 5: ciphertext}), "consistency"),
        ("a part of another set-up", opening(parts={**parts, 0: elsewhere}), "consistency"),
        ("a part that leaves a member out", opening(parts={**parts, 0: shorter}), "consistency"),
        ("my part is not the one I sent", opening(parts={**parts, ME: mine}), "consistency"),
        ("a part signed by another member", opening(parts={**parts, 0: forged}, ciphertexts={0: flipped}), "signature"),
        ("a part from a stranger", opening(parts={**parts, 7: unknown}), "consistency"),
        ("my part missing", opening(parts={i: parts[i] for i in (0, 5)}), "consistency"),
        ("no parts", opening(parts={}, ciphertexts={}), "consistency"),
        ("a member of the cohort without a part", opening(parts={i: parts[i] for i in (0, 2)}), "consistency"),
        ("cohort without me", opening(cohort=(0, 5, 7)), "consistency"),
        ("cohort with a stranger", opening(cohort=(0, 2, 7)), "consistency"),
        ("cohort of two", opening(cohort=(0, 2)), "floor"),
        ("round before the first", opening(round_=3), "consistency"),
        ("round past the permit's last", opening(round_=21), "consistency"),
        ("a second attempt", opening(attempt=1), "consistency"),
        ("another epoch", other_epoch, "consistency"),
    ]
    made = [refused(SEALED, "open", comment, message, error, round=4) for comment, message, error in cases]
    again = opening(parts={}, ciphertexts={})
    changed = opening(round_=6, parts={**parts, 0: elsewhere})
    return [
        *made,
        refused(SEALED, "open", "before any directory", opening(), "state", round=0, after="advertise"),
        refused(SEALED, "open", "a round I uploaded in", again, "replay", round=6),
        refused(SEALED, "open", "another set-up than the one I completed", changed, "consistency", round=6),
        refused(
            SEALED,
            "open",
            "a round before one I uploaded in",
            opening(round_=3, parts={}, ciphertexts={}),
            "replay",
            round=6,
        ),
    ]


# survivors and unmask


def uploads(epoch: Epoch, round_: int) -> tuple[bytes, dict[int, bytes], dict[int, bytes]]:
    """ctx, the list of h and signatures, and what each sent me."""
    told = {
        s["member"]: bytes.fromhex(s["message"]) for s in epoch.steps if s["op"] == "upload" and s["round"] == round_
    }
    listed = {i: message[77:173] for i, message in told.items()}
    shares: dict[int, bytes] = {}
    for i, message in told.items():
        if i != ME:
            at = sorted((0, 2, 5)).index(ME)
            commitment = message[209 + 36 * at + 4 : 209 + 36 * at + 36]
            place = 209 + 108 + 49 * [j for j in (0, 2, 5) if j != i].index(ME)
            shares[i] = commitment + message[place : place + 49]
    return next(iter(told.values()))[45:77], listed, shares


def flip(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def other_share(ctx: bytes, commitment: bytes) -> bytes:
    """What a false dealer sends: a commitment, and another share sealed under it."""
    aad = ctx + ref.u32(0) + ref.u32(ME) + commitment
    key = ref.share_key(SEALED.pair(0, ME, 4), ctx, 0, commitment)
    return commitment + AESGCM(key).encrypt(bytes(12), b"\x00" + seed("another share"), aad)


def unmasks() -> list[Vector]:
    ctx, listed, shares = uploads(SEALED, 4)
    lying = ref.sign(STRANGER, "confide/upload/v1", SEALED.run, 3, 7, ctx + seed("h 7"))

    def request(ctx_: bytes = ctx, u: Mapping[int, bytes] = listed, k: Mapping[int, bytes] = shares) -> bytes:
        return SEALED.from_server("unmask", ctx_ + ref.listing(u) + ref.u32(0) + ref.listing(k))

    cases = [
        ("another ctx", request(ctx_=seed("other ctx")), "consistency"),
        ("fewer than t", request(u={i: listed[i] for i in (0, 2)}, k={0: shares[0]}), "floor"),
        (
            "my upload missing, as if I had dropped",
            request(u={0: listed[0], 5: listed[5], 7: seed("h 7") + lying}),
            "consistency",
        ),
        ("my upload under another h", request(u={**listed, ME: flip(listed[ME], 0)}), "consistency"),
        ("another member's h changed", request(u={**listed, 0: flip(listed[0], 0)}), "signature"),
        ("a signature with a bit flipped", request(u={**listed, 5: flip(listed[5])}), "signature"),
        ("a signature of another member", request(u={**listed, 5: listed[0]}), "signature"),
        ("a stranger in U", request(u={**listed, 7: seed("h 7") + lying}), "consistency"),
    ]
    made = [refused(SEALED, "unmask", comment, message, error, round=4) for comment, message, error in cases]
    good = SEALED.sent["unmask", ME]
    made += [
        refused(SEALED, "unmask", "before I uploaded anything", good, "state", round=0, after="encapsulate"),
        refused(SEALED, "unmask", "of an earlier round, which I answered", good, "consistency", round=6),
    ]
    made.append(
        refused(SEALED, "unmask", "another request after I answered", request(k={}), "replay", round=4, after="answer")
    )
    good = SEALED.sent["answer", ME]
    complaints = [
        ("a share whose dealer committed to another, well sealed", {**shares, 0: other_share(ctx, shares[0][:32])}),
        ("a share ciphertext with a bit flipped", {**shares, 0: flip(shares[0])}),
        ("a share that does not match its commitment", {**shares, 0: flip(shares[0], 0)}),
        ("a share left out", {5: shares[5]}),
        ("the share of another dealer", {**shares, 0: shares[5]}),
    ]
    body = good[45 : 45 + 36 + 3 * 38]
    complaint = SEALED.from_member("answer", ME, body[:40] + bytes(34) + body[74:])
    for comment, given in complaints:
        made.append(
            vector(
                "accept",
                f"{comment}: a complaint, and never a seed",
                transcript="transcript-sealed",
                member=ME,
                request="unmask",
                round=4,
                message=request(k=given),
                expected=complaint,
            )
        )
    return made


def strict() -> list[Vector]:
    ctx, listed, shares = uploads(STRICT, 1)
    h_u = ref.survivors_hash(ctx, {i: entry[:32] for i, entry in listed.items()})
    confirmed = {i: STRICT.sent["confirm", i][-64:] for i in (0, 2)}
    # Member 5 dropped, but the server and it may invent an upload at any time.
    late = {5: seed("h 5") + ref.sign(IDENTITIES[5], "confide/upload/v1", STRICT.run, 1, 5, ctx + seed("h 5"))}
    from_5 = ref.sign(IDENTITIES[5], "confide/confirm/v1", STRICT.run, 1, 5, ctx + h_u)

    def survivors(u: Mapping[int, bytes]) -> bytes:
        return STRICT.from_server("survivors", ctx + ref.listing(u))

    def request(u: Mapping[int, bytes], v: Mapping[int, bytes]) -> bytes:
        return STRICT.from_server("unmask", ctx + ref.listing(u) + ref.listing(v) + ref.listing(shares))

    asked = [
        ("without me", survivors({0: listed[0], **late}), "consistency", {}),
        ("fewer than t", survivors({2: listed[2]}), "floor", {}),
        ("my h changed", survivors({**listed, 2: flip(listed[2], 0)}), "consistency", {}),
        ("a signature with a bit flipped", survivors({**listed, 0: flip(listed[0])}), "signature", {}),
        ("another U after I confirmed one", survivors({**listed, **late}), "replay", {"after": "confirm"}),
    ]
    wanted = [
        ("a U that I did not confirm", request({**listed, **late}, confirmed), "consistency", {}),
        ("too few confirmations", request(listed, {0: confirmed[0]}), "floor", {}),
        ("no confirmations", request(listed, {}), "floor", {}),
        (
            "enough confirmations, but one is of a member outside U",
            request(listed, {0: confirmed[0], 5: from_5}),
            "consistency",
            {},
        ),
        ("a confirmation with a bit flipped", request(listed, {**confirmed, 0: flip(confirmed[0])}), "signature", {}),
        ("before I confirmed", request(listed, confirmed), "consistency", {"after": "upload"}),
    ]
    return [
        refused(STRICT, name, comment, message, error, round=1, **more)
        for name, cases in (("survivors", asked), ("unmask", wanted))
        for comment, message, error, more in cases
    ]


def files() -> Files:
    about = (
        "The member followed the transcript up to the request (of that round; or up to its own message `after`) and "
        "gets this message in its place"
    )
    return {
        "refusals-invite": (f"{about}; `pins` is what it remembers", invites()),
        "refusals-directory": (about, directories()),
        "refusals-open": (about, openings()),
        "refusals-round": (about, unmasks() + strict()),
    }
