"""Vectors of single formulas: hashes, key derivation, signatures."""

from __future__ import annotations

from collections.abc import Callable

import secagg_reference as ref
from fixed import IDENTITIES, Vector, coefficient, seed

Files = dict[str, tuple[str, list[Vector]]]
CTX = seed("ctx")
RUN = ref.run_id("digits")


def shown(value: object) -> object:
    """A value as JSON: bytes are hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): shown(inner) for key, inner in value.items()}
    return [shown(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def vector(op: str, comment: str, **fields: object) -> Vector:
    return {"op": op, "comment": comment} | {name: shown(value) for name, value in fields.items()}


def outcome(formula: Callable[..., object], *given: object, **named: object) -> Vector:
    """What the formula gives, or the code of the error."""
    try:
        return {"expected": shown(formula(*given, **named))}
    except ref.Refused as refused:
        return {"error": refused.code}


def encodings() -> list[Vector]:
    cases: list[tuple[str, list[bytes]]] = [
        ("no field", []),
        ("one empty field: not the same as none", [b""]),
        ("two fields", [b"a", b"bc"]),
        ("the same bytes, cut elsewhere", [b"ab", b"c"]),
        ("a field longer than 255 bytes", [bytes(range(256)) + b"\x00"]),
        ("UTF-8", ["Zürich".encode(), b"\xff"]),
    ]
    return [vector("enc", comment, fields=fields, expected=ref.enc(*fields)) for comment, fields in cases]


LABELS = [
    "federation",
    "roster-hash",
    "permit-hash",
    "policy",
    "run",
    "ciphertext",
    "setup",
    "round",
    "cohort",
    "model",
    "layout",
    "config",
    "share",
    "self-seed",
    "masked",
    "upload",
    "share-ciphertext",
    "survivors",
]


def hashes() -> list[Vector]:
    labels = [f"confide/{name}/v1" for name in LABELS]
    raw = [
        vector("digest", comment, label=label, fields=fields, expected=ref.digest(label, *fields))
        for label in labels
        for comment, fields in [("no field", []), ("two fields", [b"\x00\x01", seed("field")])]
    ]
    roster, permit = seed("roster hash"), seed("permit hash")
    advertised = [seed("advertise 0") * 2, seed("advertise 2") * 2]
    share, b, y = ref.split(seed("b"), [coefficient("1")], [7])[7], seed("b"), ref.vector_bytes([1, 2, 2**32 - 1])
    commitments = {j: ref.share_commitment(CTX, 2, j, share) for j in (0, 2, 5)}
    sealed = {j: None if j == 2 else seed(f"sealed {j}") + bytes(17) for j in (0, 2, 5)}
    h_y, h_b = ref.masked_hash(y), ref.self_seed_hash(CTX, b)
    names = ("roster", "permit", "setup", "cohort", "policy", "model", "layout", "config")
    bound = {name: seed(f"{name} hash") for name in names}
    return [
        *raw,
        vector("federation", "by governance key", governance=seed("g"), expected=ref.federation(seed("g"))),
        vector(
            "roster_hash",
            "of the payload",
            payload=b'{"type": "roster"}',
            expected=ref.roster_hash(b'{"type": "roster"}'),
        ),
        vector(
            "permit_hash",
            "of the payload",
            payload=b'{"type": "permit"}',
            expected=ref.permit_hash(b'{"type": "permit"}'),
        ),
        vector("policy_hash", "of the specification", spec=b'{"a":1}', expected=ref.policy_hash(b'{"a":1}')),
        vector("run_id", "ASCII", name="digits", expected=RUN),
        vector("run_id", "UTF-8", name="Zürich", expected=ref.run_id("Zürich")),
        vector("ciphertext_hash", "H_ct", ciphertext=bytes(1088), expected=ref.ciphertext_hash(bytes(1088))),
        vector(
            "setup_hash",
            "advertise messages are one field",
            roster_hash=roster,
            permit_hash=permit,
            run=RUN,
            epoch=3,
            first_round=4,
            advertised=advertised,
            expected=ref.setup_hash(roster, permit, RUN, 3, 4, advertised),
        ),
        vector("cohort_hash", "ids are one field", cohort=[0, 2, 5], expected=ref.cohort_hash([0, 2, 5])),
        vector("cohort_hash", "large id", cohort=[0, 2**32 - 2], expected=ref.cohort_hash([0, 2**32 - 2])),
        vector("model_hash", "with control", model=b"model", control=b"c", expected=ref.model_hash(b"model", b"c")),
        vector(
            "model_hash",
            "without control: an empty second field, not a missing one",
            model=b"model",
            control=b"",
            expected=ref.model_hash(b"model", b""),
        ),
        vector("layout_hash", "of the layout's bytes", layout=b"layout", expected=ref.layout_hash(b"layout")),
        vector("config_hash", "of the configuration's bytes", config=b"{}", expected=ref.config_hash(b"{}")),
        *(
            vector(
                "context",
                mode,
                run=RUN,
                epoch=3,
                round=7,
                attempt=attempt,
                mode=mode,
                threshold=t,
                hashes=bound,
                expected=ref.context(run=RUN, epoch=3, round_=7, attempt=attempt, mode=mode, t=t, hashes=bound),
            )
            for mode, attempt, t in [("sealed", 0, 3), ("strict", 0, 3), ("strict", 1, 2**32 - 1)]
        ),
        vector(
            "share_commitment",
            "C_ij: dealer, then receiver",
            ctx=CTX,
            dealer=2,
            receiver=5,
            share=share,
            expected=ref.share_commitment(CTX, 2, 5, share),
        ),
        vector("self_seed_hash", "H_b", ctx=CTX, seed=b, expected=h_b),
        vector("masked_hash", "H_y, of little-endian bytes", y=y, expected=h_y),
        vector("masked_hash", "H_y of nothing", y=b"", expected=ref.masked_hash(b"")),
        vector(
            "upload_hash",
            "h; the own ciphertext is left out, its hash is 32 zero bytes",
            ctx=CTX,
            sender=2,
            masked_hash=h_y,
            self_seed_hash=h_b,
            commitments=commitments,
            ciphertexts={j: sealed[j] for j in (0, 5)},
            expected=ref.upload_hash(CTX, h_y, h_b, {j: (commitments[j], sealed[j]) for j in sealed}),
        ),
        *(
            vector(
                "survivors_hash",
                f"H_U of {len(uploads)}",
                ctx=CTX,
                uploads=uploads,
                expected=ref.survivors_hash(CTX, uploads),
            )
            for uploads in [{}, {5: seed("h 5"), 0: seed("h 0")}]
        ),
    ]


def derivations() -> list[Vector]:
    k, r = seed("pair key"), 4
    names = ["pair", "ratchet", "mask", "prg-self", "prg-pair", "share-key"]
    raw = [
        vector(
            "kdf",
            comment,
            ikm=seed("ikm"),
            salt=salt,
            label=label,
            fields=fields,
            expected=ref.kdf(seed("ikm"), salt, label, *fields),
        )
        for label in (f"confide/{name}/v1" for name in names)
        for comment, salt, fields in [
            ("no salt, no field", b"", []),
            ("salt and fields", seed("salt"), [b"", b"\x00\x00\x00\x07"]),
        ]
    ]
    exchanged, secret, h_ct = seed("x25519 secret"), seed("mlkem secret"), seed("h_ct")
    return [
        *raw,
        vector(
            "kdf",
            "a long key: hashed down by HMAC only as a salt",
            ikm=bytes(200),
            salt=bytes(100),
            label="confide/pair/v1",
            fields=[],
            expected=ref.kdf(bytes(200), bytes(100), "confide/pair/v1"),
        ),
        vector(
            "pair_key",
            "k_ij of the first round",
            x25519=exchanged,
            mlkem=secret,
            setup_hash=seed("setup hash"),
            i=2,
            j=5,
            ciphertext_hash=h_ct,
            expected=ref.pair_key(exchanged, secret, seed("setup hash"), 2, 5, h_ct),
        ),
        vector(
            "ratchet", "one round on; the label's number is the round left", key=k, round=r, expected=ref.ratchet(k, r)
        ),
        *(
            vector(
                "ratchet_to", f"{to - r} rounds on", key=k, first_round=r, round=to, expected=ref.ratchet_to(k, r, to)
            )
            for to in (r, r + 1, r + 5)
        ),
        vector("mask_seed", "s_ij", key=k, ctx=CTX, expected=ref.mask_seed(k, CTX)),
        vector("self_mask_key", "B", b=seed("b"), ctx=CTX, expected=ref.self_mask_key(seed("b"), CTX)),
        vector("pair_mask_key", "S_ij", seed=seed("s"), ctx=CTX, expected=ref.pair_mask_key(seed("s"), CTX)),
        vector(
            "share_key",
            "by dealer and content",
            key=k,
            ctx=CTX,
            dealer=2,
            commitment=seed("C"),
            expected=ref.share_key(k, CTX, 2, seed("C")),
        ),
    ]


def signatures() -> list[Vector]:
    key, body = IDENTITIES[2], b"body"
    good = [
        vector(
            "signature",
            name,
            key_seed=seed("identity 2"),
            public=ref.public(key),
            label=f"confide/{name}/v1",
            run=run,
            epoch=epoch,
            sender=sender,
            body=body,
            signed=ref.signed_bytes(f"confide/{name}/v1", run, epoch, sender, body),
            signature=ref.sign(key, f"confide/{name}/v1", run, epoch, sender, body),
            valid=True,
        )
        for name, run, epoch, sender in [
            ("roster", bytes(32), 0, ref.SERVER),
            ("permit", bytes(32), 0, ref.SERVER),
            *((name, RUN, 3, 2) for name in ("advertise", "encapsulate", "upload", "confirm", "answer")),
        ]
    ]
    # The order of the group, little-endian: adding it to S gives another S that satisfies the equation.
    order = 2**252 + 27742317777372353535851937790883648493
    last = bytes.fromhex(good[-1]["signature"])
    malleable = last[:32] + (int.from_bytes(last[32:], "little") + order).to_bytes(32, "little")
    changes: list[tuple[str, Vector]] = [
        ("another label", {"label": "confide/confirm/v1"}),
        ("another run", {"run": bytes(32).hex()}),
        ("another epoch", {"epoch": 4}),
        ("another sender", {"sender": 5}),
        ("another body", {"body": b"bodY".hex()}),
        ("another key", {"public": ref.public(IDENTITIES[5]).hex()}),
        ("first bit flipped", {"signature": (bytes([last[0] ^ 1]) + last[1:]).hex()}),
        ("S not reduced (RFC 8032, 5.1.7)", {"signature": malleable.hex()}),
        ("63 bytes", {"signature": last[:63].hex()}),
        ("empty", {"signature": ""}),
    ]
    bad = []
    for comment, change in changes:
        changed = {name: value for name, value in good[-1].items() if name not in ("signed", "key_seed")} | change
        bad.append(changed | {"comment": comment, "valid": False, "error": "signature"})
    return good + bad


def files() -> Files:
    return {
        "hashes": ("enc, H under every label, and every named hash", encodings() + hashes()),
        "kdf": ("KDF under every label, and every derived key", derivations()),
        "signatures": ("Ed25519 under every label; `signed` is what Ed25519 signs", signatures()),
    }
