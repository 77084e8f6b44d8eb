"""The formulas of docs/secagg-spec.md, written from that page alone: what the implementation is held against.

Slow and plain on purpose: no state, no parsing, no randomness. Everything a protocol run draws at random is an
argument here. Names follow the specification; an id is an ``int`` and a hash or a key is ``bytes``.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SERVER = 0xFFFFFFFF
PRIME = 2**256 + 297
SUITE = "x25519-mlkem768-ed25519-aes256ctr-sha256"
MODES = {"sealed": 1, "strict": 2}
TYPES = {
    name: number
    for number, name in enumerate(
        [
            "invite",
            "advertise",
            "directory",
            "encapsulate",
            "open",
            "upload",
            "survivors",
            "confirm",
            "unmask",
            "answer",
        ],
        start=1,
    )
}


class Refused(Exception):
    """What the specification refuses, with the class of the error as ``code``."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


# Notation


def u8(number: int) -> bytes:
    return struct.pack(">B", number)


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def enc(*fields: bytes) -> bytes:
    return b"".join(u64(len(field)) + field for field in fields)


def digest(label: str, *fields: bytes) -> bytes:
    """``H`` of the specification."""
    return hashlib.sha256(enc(label.encode(), *fields)).digest()


def kdf(ikm: bytes, salt: bytes, label: str, *fields: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) of 32 bytes, which is one block of its expansion."""
    prk = hmac.digest(salt or bytes(32), ikm, "sha256")
    return hmac.digest(prk, enc(label.encode(), *fields) + b"\x01", "sha256")


def signed_bytes(label: str, run: bytes, epoch: int, sender: int, body: bytes) -> bytes:
    """What ``Sign`` signs."""
    return enc(label.encode(), run, u32(epoch), u32(sender), body)


def sign(key: Ed25519PrivateKey, label: str, run: bytes, epoch: int, sender: int, body: bytes) -> bytes:
    return key.sign(signed_bytes(label, run, epoch, sender, body))


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


# Documents


def federation(governance: bytes) -> bytes:
    return digest("confide/federation/v1", governance)


def sign_document(governance: Ed25519PrivateKey, kind: str, payload: bytes) -> bytes:
    """Signature of a roster's or a permit's payload."""
    return sign(governance, f"confide/{kind}/v1", bytes(32), 0, SERVER, payload)


def roster_hash(payload: bytes) -> bytes:
    return digest("confide/roster-hash/v1", payload)


def permit_hash(payload: bytes) -> bytes:
    return digest("confide/permit-hash/v1", payload)


def policy_hash(spec: bytes) -> bytes:
    return digest("confide/policy/v1", spec)


def run_id(name: str) -> bytes:
    return digest("confide/run/v1", name.encode())


# Thresholds


def defaults(n: int) -> tuple[int, int]:
    """Colluders and honest members that a federation of n reckons with unless it says otherwise."""
    if n == 3:
        return 0, 3
    return max(1, n // 10), 2 if n <= 5 else max(3, n // 5)


def confirmations(n: int, c: int) -> int:
    return (n + c) // 2 + 1


def threshold(mode: str, n: int, c: int, m: int) -> int:
    t = math.ceil(Fraction(n + c + m, 2)) if mode == "sealed" else max(confirmations(n, c), c + m)
    if n < 3 or m < 2 or n - c < m or t > n:
        raise Refused("floor")
    return t


def check_floors(
    n: int, c: int, m: int, min_cohort: int = 3, min_honest: int | None = None, min_colluders: int | None = None
) -> None:
    """Refuse what lies below a member's own floors; those that are None are the defaults for this n."""
    least_c = defaults(n)[0] if min_colluders is None else min_colluders
    least_m = min(defaults(n)[1], n - c) if min_honest is None else min_honest
    if n < min_cohort or c < least_c or m < least_m:
        raise Refused("floor")


def check_elements(n: int, size: int) -> None:
    """Refuse a cohort of n whose vectors, ``one`` and ``zero`` included, are too long in all."""
    if n * size > 10**10:
        raise Refused("floor")


# Set-up


def ciphertext_hash(ciphertext: bytes) -> bytes:
    return digest("confide/ciphertext/v1", ciphertext)


def setup_hash(
    roster: bytes, permit: bytes, run: bytes, epoch: int, first_round: int, advertised: Iterable[bytes]
) -> bytes:
    return digest("confide/setup/v1", roster, permit, run, u32(epoch), u32(first_round), b"".join(advertised))


def pair_key(x25519: bytes, mlkem: bytes, setup: bytes, i: int, j: int, h_ct: bytes) -> bytes:
    """``k_ij`` of the epoch's first round, for i < j."""
    return kdf(x25519 + mlkem, setup, "confide/pair/v1", u32(i), u32(j), h_ct)


def ratchet(key: bytes, r: int) -> bytes:
    """``k_ij(r + 1)`` from ``k_ij(r)``."""
    return kdf(key, b"", "confide/ratchet/v1", u32(r))


def ratchet_to(key: bytes, first_round: int, r: int) -> bytes:
    for earlier in range(first_round, r):
        key = ratchet(key, earlier)
    return key


# A round


def cohort_hash(ids: Sequence[int]) -> bytes:
    return digest("confide/cohort/v1", b"".join(map(u32, ids)))


def model_hash(model: bytes, control: bytes) -> bytes:
    return digest("confide/model/v1", model, control)


def layout_hash(layout: bytes) -> bytes:
    return digest("confide/layout/v1", layout)


def config_hash(configuration: bytes) -> bytes:
    return digest("confide/config/v1", configuration)


def context(
    *, run: bytes, epoch: int, round_: int, attempt: int, mode: str, t: int, hashes: Mapping[str, bytes]
) -> bytes:
    """``ctx``; ``hashes`` by their names in the specification, without ``_hash``."""
    order = ("roster", "permit", "setup", "cohort", "policy", "model", "layout", "config")
    bound = [hashes[name] for name in order]
    return digest("confide/round/v1", run, u32(epoch), u32(round_), u32(attempt), u8(MODES[mode]), u32(t), *bound)


def mask_seed(key: bytes, ctx: bytes) -> bytes:
    """``s_ij``."""
    return kdf(key, b"", "confide/mask/v1", ctx)


def self_mask_key(b: bytes, ctx: bytes) -> bytes:
    return kdf(b, b"", "confide/prg-self/v1", ctx)


def pair_mask_key(seed: bytes, ctx: bytes) -> bytes:
    return kdf(seed, b"", "confide/prg-pair/v1", ctx)


def keystream(key: bytes, count: int) -> bytes:
    return Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(count))


def prg(key: bytes, count: int) -> list[int]:
    return list(struct.unpack(f"<{count}I", keystream(key, 4 * count)))


def masked(x: Sequence[int], own: bytes, others: Mapping[int, bytes], me: int) -> list[int]:
    """``y``: x under the self mask of key ``own`` and the pair masks of the AES keys in ``others``, by id."""
    y = [a + b for a, b in zip(x, prg(own, len(x)), strict=True)]
    for j, key in others.items():
        y = [a + b if j > me else a - b for a, b in zip(y, prg(key, len(x)), strict=True)]
    return [value % 2**32 for value in y]


def vector_bytes(y: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(y)}I", *y)


def split(secret: bytes, coefficients: Sequence[int], ids: Iterable[int]) -> dict[int, bytes]:
    """Shares of the polynomial secret + c_1 x + c_2 x^2 + … modulo p, at each member's point ``id + 1``."""
    polynomial = [int.from_bytes(secret, "big"), *coefficients]
    return {
        i: (sum(c * pow(i + 1, power, PRIME) for power, c in enumerate(polynomial)) % PRIME).to_bytes(33, "big")
        for i in ids
    }


def reconstruct(shares: Mapping[int, bytes]) -> bytes:
    """The polynomial through all of the shares, at 0."""
    values = {i: int.from_bytes(share, "big") for i, share in shares.items()}
    if any(value >= PRIME for value in values.values()):
        raise Refused("encoding")
    secret = 0
    for i, value in values.items():
        for j in values:
            if j != i:
                value = value * (j + 1) * pow(j - i, -1, PRIME) % PRIME  # noqa: PLW2901  # a running product
        secret = (secret + value) % PRIME
    if secret >= 2**256:
        raise Refused("encoding")
    return secret.to_bytes(32, "big")


def share_commitment(ctx: bytes, i: int, j: int, share: bytes) -> bytes:
    """``C_ij``: dealer i, receiver j."""
    return digest("confide/share/v1", ctx, u32(i), u32(j), share)


def share_key(key: bytes, ctx: bytes, i: int, commitment: bytes) -> bytes:
    return kdf(key, b"", "confide/share-key/v1", ctx, u32(i), commitment)


def seal_share(key: bytes, ctx: bytes, i: int, j: int, share: bytes) -> bytes:
    commitment = share_commitment(ctx, i, j, share)
    aad = ctx + u32(i) + u32(j) + commitment
    return AESGCM(share_key(key, ctx, i, commitment)).encrypt(bytes(12), share, aad)


def self_seed_hash(ctx: bytes, b: bytes) -> bytes:
    """``H_b``."""
    return digest("confide/self-seed/v1", ctx, b)


def masked_hash(y: bytes) -> bytes:
    """``H_y``."""
    return digest("confide/masked/v1", y)


def upload_hash(ctx: bytes, h_y: bytes, h_b: bytes, entries: Mapping[int, tuple[bytes, bytes | None]]) -> bytes:
    """``h``; ``entries`` are C_ij and share ciphertext by receiver, the ciphertext None for oneself."""
    listed = [
        u32(j) + c + (bytes(32) if sealed is None else digest("confide/share-ciphertext/v1", sealed))
        for j, (c, sealed) in sorted(entries.items())
    ]
    return digest("confide/upload/v1", ctx, h_y, h_b, b"".join(listed))


def survivors_hash(ctx: bytes, uploads: Mapping[int, bytes]) -> bytes:
    """``H_U``; ``uploads`` are the h_i."""
    listed = [u32(i) + h for i, h in sorted(uploads.items())]
    return digest("confide/survivors/v1", ctx, u32(len(listed)) + b"".join(listed))


# Encoding


def limit(n: int) -> int:
    """``L``."""
    return (2**31 - 1) // n - 1


def layout_bytes(n: int, lanes: Iterable[tuple[str, int, float, bool]]) -> bytes:
    """A layout of lanes (name, length, bound, integer) as its hash covers it."""
    fields = [(name.encode(), u64(length), struct.pack(">d", bound), u8(whole)) for name, length, bound, whole in lanes]
    return enc(u32(n), *(part for lane in fields for part in lane))


def draws(key: bytes, count: int) -> list[float]:
    """The draws u of the first real elements of a vector."""
    return [word / 2**32 for word in prg(key, count)]


def encode(value: float, bound: float, n: int, u: float) -> int:
    """A real lane's element before two's complement, rounded with the draw u; every step in double precision."""
    if not math.isfinite(value):
        raise Refused("encoding")
    return math.floor(max(-bound, min(bound, value)) * (limit(n) / bound) + u)


def decode(total: int, bound: float, n: int) -> float:
    """A real lane's element of a sum, from its uint32."""
    return (total - 2**32 if total >= 2**31 else total) / (limit(n) / bound)


# Messages


def header(name: str, run: bytes, epoch: int, sender: int) -> bytes:
    return b"CFS1" + u8(TYPES[name]) + run + u32(epoch) + u32(sender)


def listing(entries: Mapping[int, bytes]) -> bytes:
    """A count, then every id with what belongs to it."""
    return u32(len(entries)) + b"".join(u32(i) + entry for i, entry in sorted(entries.items()))


def with_length(data: bytes) -> bytes:
    return u32(len(data)) + data


def signed_message(
    key: Ed25519PrivateKey, name: str, run: bytes, epoch: int, sender: int, body: bytes, attachments: bytes = b""
) -> bytes:
    """A message from a member."""
    signature = sign(key, f"confide/{name}/v1", run, epoch, sender, body)
    return header(name, run, epoch, sender) + body + signature + attachments


def server_message(name: str, run: bytes, epoch: int, body: bytes) -> bytes:
    return header(name, run, epoch, SERVER) + body
