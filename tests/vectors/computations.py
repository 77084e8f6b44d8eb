"""Vectors of single computations: key agreement, thresholds, masks, secret sharing and its encryption."""

from __future__ import annotations

from hashlib import shake_256
from itertools import count

import secagg_reference as ref
from fixed import ENCAPSULATIONS, EPHEMERAL, Vector, coefficient, seed
from formulas import CTX, Files, outcome, vector


def agreements() -> list[Vector]:
    made = []
    for (i, j), (secret, ciphertext) in ENCAPSULATIONS.items():
        if EPHEMERAL[j].decapsulate(ciphertext) != secret:
            raise ValueError(f"kem.json: the ciphertext from {i} to {j} does not hold its secret; make it anew")
        made.append(
            vector(
                "encapsulated",
                f"from {i} to {j}, as the library drew it; ML-KEM seed is d then z (FIPS 203)",
                **{"from": i, "to": j},
                mlkem_seed=EPHEMERAL[j].mlkem_seed,
                ciphertext=ciphertext,
                secret=secret,
                ciphertext_hash=ref.ciphertext_hash(ciphertext),
            )
        )
    ciphertext = bytes(1088)
    implicit = EPHEMERAL[5].decapsulate(ciphertext)
    if implicit != shake_256(EPHEMERAL[5].mlkem_seed[32:] + ciphertext).digest(32):
        raise ValueError("ML-KEM: a false ciphertext must give the hash of z and itself (FIPS 203, algorithm 18)")
    made.append(
        vector(
            "decapsulate",
            "a false ciphertext is not refused but gives another secret",
            mlkem_seed=EPHEMERAL[5].mlkem_seed,
            ciphertext=ciphertext,
            expected=implicit,
        )
    )
    made += [
        vector(
            "ephemeral_public",
            f"keys of {i}: X25519, then ML-KEM",
            x25519_seed=own.x25519_seed,
            mlkem_seed=own.mlkem_seed,
            expected=own.public,
        )
        for i, own in EPHEMERAL.items()
    ]
    made.append(
        vector(
            "exchange",
            "X25519",
            x25519_seed=EPHEMERAL[0].x25519_seed,
            peer=EPHEMERAL[2].public[:32],
            expected=EPHEMERAL[0].exchange(EPHEMERAL[2].public[:32]),
        )
    )
    return made + [
        vector(
            "exchange", comment, x25519_seed=EPHEMERAL[0].x25519_seed, peer=bytes.fromhex(point), error="consistency"
        )
        for comment, point in LOW_ORDER
    ]


LOW_ORDER = [
    ("low order: 0", "00" * 32),
    ("low order: 1", "01" + "00" * 31),
    ("low order: order 8", "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    ("low order: order 8, the other", "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    ("low order: p - 1", "ec" + "ff" * 30 + "7f"),
    ("low order: p, which is 0", "ed" + "ff" * 30 + "7f"),
    ("low order: p + 1, which is 1", "ee" + "ff" * 30 + "7f"),
    ("low order: 0 with the unused bit set", "00" * 31 + "80"),
]


def thresholds() -> list[Vector]:
    made = [
        vector("defaults", f"n = {n}", n=n, expected=list(ref.defaults(n))) for n in [*range(3, 22), 50, 99, 100, 1000]
    ]
    made += [
        vector("confirmations", f"n = {n}, c = {c}", n=n, colluders=c, expected=ref.confirmations(n, c))
        for n, c in [(3, 0), (4, 1), (5, 1), (10, 2), (11, 2), (100, 10)]
    ]
    cases = [(n, *ref.defaults(n)) for n in [*range(3, 22), 50, 99, 100, 1000]]
    cases += [(3, 0, 2), (3, 0, 1), (3, 1, 2), (4, 0, 4), (10, 0, 3), (10, 3, 3), (10, 3, 7), (10, 4, 2), (100, 33, 34)]
    cases += [(1, 0, 1), (2, 0, 2), (3, 0, 4), (3, 1, 3), (3, 2, 2), (10, 8, 3), (10, 5, 6), (4, 1, 4), (100, 50, 51)]
    floors: list[tuple[str, int, int, int, dict[str, int]]] = [
        ("the defaults for three", 3, 0, 3, {}),
        ("the defaults for ten", 10, 1, 3, {}),
        ("above the defaults", 10, 2, 4, {}),
        ("fewer colluders than the default", 10, 0, 3, {}),
        ("fewer colluders, as the operator wants it", 10, 0, 3, {"min_colluders": 0}),
        ("fewer honest members than the default", 10, 1, 2, {}),
        ("fewer honest members, as the operator wants it", 10, 1, 2, {"min_honest": 2}),
        ("three, one of whom may collude: the default is then two", 3, 1, 2, {}),
        ("too small a cohort", 5, 1, 2, {"min_cohort": 6}),
        ("just large enough a cohort", 6, 1, 3, {"min_cohort": 6}),
        ("fewer honest members than the operator wants", 10, 1, 3, {"min_honest": 4}),
        ("fewer colluders than the operator wants", 10, 1, 3, {"min_colluders": 2}),
    ]
    for comment, n, c, m, own in floors:
        made.append(
            {
                **vector("floors", comment, n=n, colluders=c, min_honest=m, floors=own),
                **outcome(ref.check_floors, n, c, m, **own),
            }
        )
    for n, size in [
        (10, 10**9),
        (10, 10**9 + 1),
        (3, 3_333_333_333),
        (3, 3_333_333_334),
        (100_000, 100_000),
        (100_000, 100_001),
    ]:
        made.append(
            {
                **vector("elements", f"{n} vectors of {size}, one and zero included", n=n, size=size),
                **outcome(ref.check_elements, n, size),
            }
        )
    for mode in ref.MODES:
        made += [
            {
                **vector("threshold", f"{mode}, n = {n}", mode=mode, n=n, colluders=c, min_honest=m),
                **outcome(ref.threshold, mode, n, c, m),
            }
            for n, c, m in cases
        ]
    return made


def streams() -> list[Vector]:
    zero, key = bytes(32), seed("aes")
    pair = {0: seed("pair 0"), 5: seed("pair 5"), 2**32 - 2: seed("pair last")}
    x = [0, 1, 2**31, 2**32 - 1, 12345]
    return [
        vector(
            "prg",
            "zero key: the first word of AES-256(0) is dc95c078, read from its low end",
            key=zero,
            count=8,
            expected=ref.prg(zero, 8),
        ),
        vector("prg", "33 words: the last block is cut", key=key, count=33, expected=ref.prg(key, 33)),
        vector("prg", "nothing", key=key, count=0, expected=[]),
        *(
            vector("prg_word", f"word {at}, in block {at // 4}", key=key, index=at, expected=ref.prg(key, at + 1)[at])
            for at in (1023, 65535, 65536, 65541, 262144)
        ),
        vector("masked", "self mask alone", me=2, x=x, self_key=key, pairs={}, expected=ref.masked(x, key, {}, 2)),
        vector(
            "masked",
            "plus towards higher ids, minus towards lower",
            me=2,
            x=x,
            self_key=key,
            pairs=pair,
            expected=ref.masked(x, key, pair, 2),
        ),
    ]


def shamir() -> list[Vector]:
    made, names = [], count()
    for comment, secret, threshold, ids in [
        ("3 of 3", seed("b"), 3, (0, 2, 5)),
        ("2 of 3", seed("b"), 2, (0, 2, 5)),
        ("1 of 2: every share is the secret", seed("b"), 1, (0, 1)),
        ("largest secret, largest id", b"\xff" * 32, 3, (0, 1, 99_999, 2**32 - 2)),
        ("secret 0", bytes(32), 4, (0, 1, 2, 3, 4)),
        ("9 of 12", seed("another b"), 9, tuple(range(12))),
    ]:
        coefficients = [coefficient(f"polynomial {next(names)}") for _ in range(threshold - 1)]
        shares = ref.split(secret, coefficients, ids)
        made.append(
            vector(
                "split",
                comment,
                secret=secret,
                coefficients=[f"{c:066x}" for c in coefficients],
                ids=list(ids),
                expected=shares,
            )
        )
        some = dict(list(shares.items())[-threshold:])
        made.append(vector("reconstruct", comment, shares=some, expected=ref.reconstruct(some)))
    top = ref.split(seed("b"), [ref.PRIME - 1, ref.PRIME - 1], (0, 2, 5))
    made.append(
        vector(
            "split",
            "coefficients p - 1",
            secret=seed("b"),
            coefficients=[f"{ref.PRIME - 1:066x}"] * 2,
            ids=[0, 2, 5],
            expected=top,
        )
    )
    outside = {i: (2**256 + 5).to_bytes(33, "big") for i in (0, 2)}
    largest = {i: (ref.PRIME - 1).to_bytes(33, "big") for i in (0, 2)}
    refused = [
        ("a share that is p", {**top, 2: ref.PRIME.to_bytes(33, "big")}),
        ("a share of 33 bytes 0xff", {**top, 5: b"\xff" * 33}),
        ("a secret of 257 bits", outside),
        ("a secret that is p - 1", largest),
    ]
    return made + [
        {**vector("reconstruct", comment, shares=shares), **outcome(ref.reconstruct, shares)}
        for comment, shares in refused
    ]


def shares() -> list[Vector]:
    key, share = seed("pair key"), ref.split(seed("b"), [coefficient("share")], [5])[5]
    made = []
    for dealer, receiver in [(2, 5), (5, 2), (0, 2**32 - 2)]:
        parts = {"key": key, "ctx": CTX, "dealer": dealer, "receiver": receiver}
        c, sealed = (
            ref.share_commitment(CTX, dealer, receiver, share),
            ref.seal_share(key, CTX, dealer, receiver, share),
        )
        made.append(
            vector("seal_share", f"from {dealer} to {receiver}", **parts, share=share, commitment=c, expected=sealed)
        )
    c, sealed = ref.share_commitment(CTX, 2, 5, share), ref.seal_share(key, CTX, 2, 5, share)
    base = {"key": key, "ctx": CTX, "dealer": 2, "receiver": 5, "commitment": c, "sealed": sealed}
    other = ref.share_commitment(CTX, 2, 5, bytes(33))
    refused: list[tuple[str, dict[str, object]]] = [
        ("another ctx", {"ctx": seed("other ctx")}),
        ("another dealer", {"dealer": 3}),
        ("another receiver", {"receiver": 6}),
        ("dealer and receiver exchanged", {"dealer": 5, "receiver": 2}),
        ("another commitment", {"commitment": other}),
        ("another key", {"key": seed("other key")}),
        ("a bit flipped in the tag", {"sealed": sealed[:-1] + bytes([sealed[-1] ^ 1])}),
        ("a bit flipped in the share", {"sealed": bytes([sealed[0] ^ 1]) + sealed[1:]}),
        ("33 bytes", {"sealed": sealed[:33]}),
    ]
    made.append(vector("open_share", "as it was sealed", **base, expected=share))
    return made + [
        vector("open_share", comment, **{**base, **change}, error="signature") for comment, change in refused
    ]


def files() -> Files:
    return {
        "kem": ("X25519 and ML-KEM-768; ciphertexts as they were once drawn", agreements()),
        "thresholds": (
            "Defaults, thresholds, floors and confirmations by n, c and m",
            thresholds(),
        ),
        "ctr-mask": ("PRG (AES-256-CTR, little-endian uint32) and masked vectors", streams()),
        "shamir": ("Shares modulo 2^256 + 297 at the points id + 1; coefficients of x, x^2, …", shamir()),
        "shares": ("Encryption of a share for its receiver", shares()),
    }
