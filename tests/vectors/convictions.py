"""Messages of a member that a server who followed a transcript so far must refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import secagg_reference as ref
from computations import LOW_ORDER
from fixed import ENCAPSULATIONS, EPHEMERAL, IDENTITIES, Ephemeral, Vector, seed, seed64
from formulas import Files, vector
from refusals import SEALED, STRANGER, STRICT, flip, signed
from transcripts import Epoch

WHO = 2


def refused(epoch: Epoch, step: str, comment: str, message: bytes, error: str, **more: object) -> Vector:
    """Instead of the member's `step` the server gets the message."""
    given = {"member": WHO, "step": step, "message": message, "error": error}
    return vector("server_refuse", comment, transcript=f"transcript-{epoch.mode}", **(given | more))


def set_up() -> list[Vector]:
    good = SEALED.sent["advertise", WHO]
    fresh = Ephemeral(seed("x25519 again"), seed64("mlkem again")).public
    low = bytes.fromhex(LOW_ORDER[1][1]) + EPHEMERAL[WHO].public[32:]
    ciphertext = ENCAPSULATIONS[WHO, 5][1]

    def packed(setup: bytes = SEALED.setup_hash, j: int = 5, h_ct: bytes | None = None) -> bytes:
        hashes = ref.listing({j: ref.ciphertext_hash(ciphertext) if h_ct is None else h_ct})
        return signed("encapsulate", setup + hashes, WHO) + ciphertext

    cases: list[tuple[str, str, bytes, str, dict[str, object]]] = [
        ("advertise", "a signature with a bit flipped", flip(good), "signature", {}),
        ("advertise", "of another epoch", signed("advertise", good[45:1261], WHO, epoch=2), "consistency", {}),
        ("advertise", "in another member's name", signed("advertise", good[45:1261], 5), "consistency", {}),
        ("advertise", "from a stranger", signed("advertise", fresh, 7, STRANGER), "consistency", {"member": 7}),
        ("advertise", "an X25519 key of low order", signed("advertise", low, WHO), "consistency", {}),
        ("advertise", "no ML-KEM key", signed("advertise", good[45:77] + b"\xff" * 1184, WHO), "format", {}),
        ("advertise", "other keys than before", signed("advertise", fresh, WHO), "replay", {"after": "advertise"}),
        ("encapsulate", "of another set-up", packed(setup=seed("another setup")), "consistency", {}),
        ("encapsulate", "to another member", packed(j=7), "consistency", {}),
        ("encapsulate", "a ciphertext that was not signed", packed(h_ct=seed("another hash")), "consistency", {}),
        (
            "encapsulate",
            "a signature with a bit flipped",
            flip(SEALED.sent["encapsulate", WHO], 45 + 72),
            "signature",
            {},
        ),
    ]
    return [refused(SEALED, step, comment, message, error, **more) for step, comment, message, error, more in cases]


def uploads() -> list[Vector]:
    """An upload of round 4, altered before or after it was signed."""
    good = SEALED.sent["upload", WHO]
    attached = good[173:]

    def made(ctx: bytes = good[45:77], head: bytes = attached[:242], y: bytes = attached[242:]) -> bytes:
        """An upload with the h of what it holds: H_b, the commitments and two ciphertexts, and y."""
        commitments = {j: head[40 + 36 * at : 72 + 36 * at] for at, j in enumerate((0, 2, 5))}
        sealed = {0: head[144:193], WHO: None, 5: head[193:242]}
        ids = [int.from_bytes(head[36 + 36 * at : 40 + 36 * at], "big") for at in range(3)]
        entries = {i: (commitments[j], sealed[j]) for i, j in zip(ids, (0, 2, 5), strict=True)}
        h = ref.upload_hash(ctx, ref.masked_hash(y), head[:32], entries)
        return SEALED.from_member("upload", WHO, ctx + h, head + y)

    stranger = attached[:108] + ref.u32(7) + attached[112:242]
    cases: list[tuple[str, bytes, str, dict[str, object]]] = [
        ("y altered", flip(good), "consistency", {}),
        ("H_b altered", flip(good, 173), "consistency", {}),
        ("a commitment altered", flip(good, 213), "consistency", {}),
        ("a share ciphertext altered", flip(good, 173 + 144), "consistency", {}),
        ("a signature with a bit flipped", flip(good, 109), "signature", {}),
        ("of another ctx, well signed", made(ctx=seed("other ctx")), "consistency", {}),
        ("an element too many, well signed", made(y=attached[242:] + bytes(4)), "consistency", {}),
        ("an element too few, well signed", made(y=attached[242:-4]), "consistency", {}),
        ("shares for another cohort, well signed", made(head=stranger), "consistency", {}),
        ("another one than before, well signed", made(y=flip(attached[242:])), "replay", {"after": "upload"}),
    ]
    if made() != good:
        raise ValueError("an upload taken apart and put together must be the same")
    return [
        refused(SEALED, "upload", comment, message, error, round=4, **more) for comment, message, error, more in cases
    ]


def confirmations() -> list[Vector]:
    good = STRICT.sent["confirm", WHO]
    ctx = good[45:77]
    cases = [
        ("other survivors, well signed", STRICT.from_member("confirm", WHO, ctx + seed("H_U")), "consistency"),
        ("a signature with a bit flipped", flip(good), "signature"),
        (
            "of another ctx, well signed",
            STRICT.from_member("confirm", WHO, seed("other ctx") + good[77:109]),
            "consistency",
        ),
        (
            "signed by another member",
            good[:109] + ref.sign(IDENTITIES[0], "confide/confirm/v1", STRICT.run, 1, WHO, good[45:109]),
            "signature",
        ),
    ]
    return [refused(STRICT, "confirm", comment, message, error, round=1) for comment, message, error in cases]


def answers() -> list[Vector]:
    def told(epoch: Epoch) -> tuple[bytes, dict[int, bytes]]:
        """ctx and the entries of the member's answer."""
        message = epoch.sent["answer", WHO]
        starts = [81 + 38 * at for at in range(3)]
        return message[45:77], {j: message[at + 4 : at + 38] for j, at in zip((0, 2, 5), starts, strict=True)}

    def maker(epoch: Epoch) -> Callable[..., bytes]:
        ctx, entries = told(epoch)

        def made(change: Mapping[int, bytes], ctx: bytes = ctx) -> bytes:
            changed = {j: entry for j, entry in {**entries, **change}.items() if entry}
            return epoch.from_member("answer", WHO, ctx + ref.listing(changed))

        return made

    sealed, strict = maker(SEALED), maker(STRICT)
    share, complaint = told(SEALED)[1][0], bytes(34)
    dropped = told(STRICT)[1][5]
    beyond = b"\x01" + ref.PRIME.to_bytes(33, "big")
    cases: list[tuple[Epoch, str, bytes, str]] = [
        (SEALED, "a share altered", sealed({0: flip(share)}), "consistency"),
        (SEALED, "a share that is p", sealed({0: beyond}), "consistency"),
        (SEALED, "the share of another dealer", sealed({0: told(SEALED)[1][5]}), "consistency"),
        (SEALED, "nothing about a member", sealed({5: b""}), "consistency"),
        (SEALED, "something about a stranger", sealed({7: share}), "consistency"),
        (SEALED, "of another ctx", sealed({}, ctx=seed("other ctx")), "consistency"),
        (SEALED, "a seed for one that uploaded", sealed({0: b"\x02\x00" + seed("s")}), "format"),
        (SEALED, "a complaint about itself", sealed({WHO: complaint}), "format"),
        (SEALED, "a complaint that says something", sealed({0: complaint[:-1] + b"\x01"}), "format"),
        (SEALED, "unknown kind", sealed({0: b"\x03" + share[1:]}), "format"),
        (SEALED, "a signature with a bit flipped", flip(SEALED.sent["answer", WHO]), "signature"),
        (STRICT, "a share of one that dropped", strict({5: share}), "format"),
        (STRICT, "a complaint about one that dropped", strict({5: complaint}), "format"),
        (STRICT, "a seed whose first byte is not 0", strict({5: b"\x02\x01" + dropped[2:]}), "format"),
    ]
    made = [
        refused(
            epoch,
            "answer",
            f"{comment}, well signed" if error != "signature" else comment,
            message,
            error,
            round=4 if epoch is SEALED else 1,
        )
        for epoch, comment, message, error in cases
    ]
    other = strict({5: b"\x02\x00" + seed("another seed")})
    return [
        *made,
        refused(STRICT, "answer", "another one than before, well signed", other, "replay", round=1, after="answer"),
    ]


def files() -> Files:
    about = (
        "The server followed the transcript up to the member's message `step` of that round (or past its message "
        "`after`) and gets this message in its place"
    )
    return {"refusals-server": (about, set_up() + uploads() + confirmations() + answers())}
