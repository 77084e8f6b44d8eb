"""Key derivations, signatures, encryption and hashes of sealed sums, against their formulas written out anew."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from secagg import errors, primitives, transcript
from secagg.errors import ConsistencyError, FormatError, ReplayError, SecaggError, SignatureError
from secagg.primitives import PrivateKeys, digest, enc, kdf

RUN = bytes(range(32))
CTX = hashlib.sha256(b"ctx").digest()
PAIR = hashlib.sha256(b"pair").digest()
SHARE = b"\1" + bytes(31) + b"\2"
# Points of order 1, 2, 4 and 8 on Curve25519, and encodings of them beyond the prime (RFC 7748, section 6.1).
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def fields(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def hkdf(ikm: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with one block of output."""
    return hmac.digest(hmac.digest(salt or bytes(32), ikm, "sha256"), info + b"\1", "sha256")


@given(st.lists(st.binary(max_size=9), max_size=5), st.lists(st.binary(max_size=9), max_size=5))
def test_lists_are_encoded_injectively(one: list[bytes], other: list[bytes]) -> None:
    assert enc(*one) == fields(*one)
    assert (enc(*one) == enc(*other)) == (one == other)


def test_a_hash_covers_label_and_fields() -> None:
    assert digest("a", b"bc", b"") == hashlib.sha256(fields(b"a", b"bc", b"")).digest()
    assert len({digest("a", b"bc"), digest("ab", b"c"), digest("a", b"bc", b""), digest("a", b"b", b"c")}) == 4


def test_a_hash_takes_arrays_by_their_bytes() -> None:
    words = np.arange(5, dtype="<u4")
    assert digest("y", memoryview(words)) == digest("y", words.tobytes())


@pytest.mark.parametrize("salt", [b"", b"salt"])
def test_keys_are_hkdf(salt: bytes) -> None:
    assert kdf(b"ikm", salt, "label", b"x", b"yz") == hkdf(b"ikm", salt, fields(b"label", b"x", b"yz"))


def test_integers_have_a_fixed_width() -> None:
    assert (primitives.u8(255), primitives.u32(1), primitives.u64(1)) == (b"\xff", b"\0\0\0\1", bytes(7) + b"\1")
    for wrong in (-1, 1 << 32):
        with pytest.raises(FormatError, match=str(wrong)):
            primitives.u32(wrong)


# --- Signatures ---


def test_a_signature_is_ed25519_over_everything_it_binds() -> None:
    key = Ed25519PrivateKey.generate()
    signed = fields(b"confide/x/v1", RUN, b"\0\0\0\2", b"\0\0\0\3", b"body")
    assert primitives.sign(key, "confide/x/v1", RUN, 2, 3, b"body") == key.sign(signed)


@pytest.mark.parametrize(
    "changed",
    [
        {"label": "confide/y/v1"},
        {"run": bytes(32)},
        {"epoch": 3},
        {"sender": 4},
        {"body": b"bodx"},
        {"public": Ed25519PrivateKey.generate().public_key().public_bytes_raw()},
        {"public": b"short"},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
)
def test_a_signature_holds_for_nothing_else(changed: dict[str, Any]) -> None:
    key = Ed25519PrivateKey.generate()
    message: dict[str, Any] = {"label": "confide/x/v1", "run": RUN, "epoch": 2, "sender": 3, "body": b"body"}
    signature = primitives.sign(key, **message)
    message |= {"public": key.public_key().public_bytes_raw(), "signature": signature}
    for _ in range(2):  # the second time from memory
        primitives.verify(**message)
        with pytest.raises(SignatureError, match="confide/"):
            primitives.verify(**message | changed)


def test_memory_of_good_signatures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primitives, "_MOST_GOOD", 4)
    monkeypatch.setattr(primitives, "_good", {})
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    for epoch in range(11):
        primitives.verify(public, primitives.sign(key, "l", RUN, epoch, 0, b""), "l", RUN, epoch, 0, b"")
        assert 1 <= len(primitives._good) <= 4


# --- Keys of an epoch ---


def test_two_members_get_the_same_key_and_nobody_else_does() -> None:
    i, j, other = (PrivateKeys.generate() for _ in range(3))
    assert len(i.public) == primitives.PUBLIC_BYTES
    secret, ciphertext = primitives.encapsulate(j.public[32:])
    h_ct = transcript.ciphertext_hash(ciphertext)
    assert len(ciphertext) == primitives.CIPHERTEXT_BYTES

    def key(x: bytes, kem: bytes, **changed: Any) -> bytes:
        return primitives.pair_key(x, kem, **{"setup": CTX, "i": 1, "j": 2, "h_ct": h_ct} | changed)

    ours = key(i.exchange(j.public[:32]), secret)
    theirs = key(j.exchange(i.public[:32]), j.decapsulate(ciphertext))
    shared = i.exchange(j.public[:32])
    assert ours == theirs == hkdf(shared + secret, CTX, fields(b"confide/pair/v1", b"\0\0\0\1", b"\0\0\0\2", h_ct))
    others = {
        key(other.exchange(j.public[:32]), secret),  # either secret alone is not enough
        key(shared, other.decapsulate(ciphertext)),
        key(shared, secret, setup=bytes(32)),
        key(shared, secret, i=2, j=1),
        key(shared, secret, h_ct=bytes(32)),
    }
    assert len(others | {ours}) == 6


def test_private_keys_survive_storage_and_stay_out_of_texts() -> None:
    keys = PrivateKeys.generate()
    stored = keys.to_bytes()
    assert PrivateKeys.from_bytes(stored).public == keys.public
    assert PrivateKeys.generate().public != keys.public
    assert "X25519" not in repr(keys)
    with pytest.raises(FormatError, match="95 bytes"):
        PrivateKeys.from_bytes(stored[:-1])


@pytest.mark.parametrize("point", LOW_ORDER)
def test_keys_of_low_order_are_refused(point: str) -> None:
    keys = PrivateKeys.generate()
    with pytest.raises(ConsistencyError, match="low order"):
        keys.exchange(bytes.fromhex(point))
    with pytest.raises(ConsistencyError, match="low order"):
        primitives.check_public(bytes.fromhex(point) + keys.public[32:])


def test_malformed_public_keys_and_ciphertexts_are_refused() -> None:
    keys = PrivateKeys.generate()
    primitives.check_public(keys.public)
    beyond_modulus = b"\xff" * primitives.MLKEM_PUBLIC_BYTES
    with pytest.raises(FormatError, match="ML-KEM-768 key"):
        primitives.encapsulate(beyond_modulus)
    for wrong in (keys.public[:-1], keys.public + b"\0", keys.public[:32] + beyond_modulus):
        with pytest.raises(FormatError):
            primitives.check_public(wrong)
    with pytest.raises(FormatError, match="1087 bytes"):
        keys.decapsulate(bytes(1087))
    with pytest.raises(FormatError, match="31 bytes"):
        keys.exchange(bytes(31))


def test_the_ratchet_turns_one_way() -> None:
    key = hkdf(PAIR, b"", fields(b"confide/ratchet/v1", b"\0\0\0\7"))
    assert primitives.ratchet(PAIR, 7) == key
    assert primitives.ratchet_to(PAIR, 7, 10) == primitives.ratchet(primitives.ratchet(key, 8), 9)
    assert primitives.ratchet_to(PAIR, 7, 7) == PAIR
    with pytest.raises(ReplayError, match="round = 6"):
        primitives.ratchet_to(PAIR, 7, 6)


# --- A round ---


def test_keys_of_masks_are_kept_apart() -> None:
    derived = [
        (primitives.mask_seed, b"confide/mask/v1"),
        (primitives.pair_mask_key, b"confide/prg-pair/v1"),
        (primitives.self_key, b"confide/prg-self/v1"),
    ]
    for function, label in derived:
        assert function(PAIR, CTX) == hkdf(PAIR, b"", fields(label, CTX))


def test_a_share_is_sealed_as_specified() -> None:
    commitment = transcript.share_commitment(CTX, 1, 2, SHARE)
    assert commitment == hashlib.sha256(fields(b"confide/share/v1", CTX, b"\0\0\0\1", b"\0\0\0\2", SHARE)).digest()
    sealed = primitives.seal_share(PAIR, CTX, 1, 2, commitment, SHARE)
    key = hkdf(PAIR, b"", fields(b"confide/share-key/v1", CTX, b"\0\0\0\1", commitment))
    assert sealed == AESGCM(key).encrypt(bytes(12), SHARE, CTX + b"\0\0\0\1\0\0\0\2" + commitment)
    assert len(sealed) == primitives.SEALED_SHARE_BYTES
    assert primitives.open_share(PAIR, CTX, 1, 2, commitment, sealed) == SHARE


@pytest.mark.parametrize(
    "changed",
    [
        {"pair": bytes(32)},
        {"ctx": bytes(32)},
        {"dealer": 2, "receiver": 1},
        {"receiver": 3},
        {"commitment": bytes(32)},
        {"ciphertext": bytes(49)},
        {"ciphertext": b""},
        {"ciphertext": bytes(50)},
    ],
)
def test_a_share_opens_nowhere_else(changed: dict[str, Any]) -> None:
    place: dict[str, Any] = {"pair": PAIR, "ctx": CTX, "dealer": 1, "receiver": 2, "commitment": CTX}
    sealed = primitives.seal_share(**place, share=SHARE)
    with pytest.raises(SignatureError, match="complain"):
        primitives.open_share(**place | {"ciphertext": sealed} | changed)


def test_another_share_never_meets_the_same_key() -> None:
    """A restored snapshot deals a fresh secret in the same round: its keystream must differ (the nonce is fixed)."""
    sealed = []
    for share in (SHARE, bytes(33)):
        commitment = transcript.share_commitment(CTX, 1, 2, share)
        ciphertext = primitives.seal_share(PAIR, CTX, 1, 2, commitment, share)
        sealed.append(bytes(a ^ b for a, b in zip(ciphertext, share, strict=False)))
    assert sealed[0] != sealed[1]


# --- Hashes ---

H = [hashlib.sha256(bytes([n])).digest() for n in range(8)]
ROUND: dict[str, Any] = {
    "run": RUN,
    "epoch": 1,
    "round_": 2,
    "attempt": 0,
    "mode": "strict",
    "threshold": 3,
    "roster_hash": H[0],
    "permit_hash": H[1],
    "setup_hash": H[2],
    "cohort_hash": H[3],
    "policy_hash": H[4],
    "model_hash": H[5],
    "layout_hash": H[6],
    "config_hash": H[7],
}


def test_the_context_is_the_specified_hash() -> None:
    integers = [b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\0", b"\2", b"\0\0\0\3"]
    assert transcript.round_context(**ROUND) == hashlib.sha256(fields(b"confide/round/v1", RUN, *integers, *H)).digest()


@pytest.mark.parametrize("name", ROUND)
def test_every_part_of_a_round_changes_its_context(name: str) -> None:
    value = ROUND[name]
    other = "sealed" if name == "mode" else value + 1 if isinstance(value, int) else bytes(32)
    assert transcript.round_context(**ROUND | {name: other}) != transcript.round_context(**ROUND)


def test_hashes_are_as_specified() -> None:
    def hashed(label: str, *parts: bytes) -> bytes:
        return hashlib.sha256(fields(label.encode(), *parts)).digest()

    t = transcript
    ids = b"\0\0\0\1\0\0\0\5"
    setup: dict[str, Any] = {"roster_hash": H[0], "permit_hash": H[1], "run": RUN, "epoch": 1, "first_round": 5}
    expected = hashed("confide/setup/v1", H[0], H[1], RUN, b"\0\0\0\1", b"\0\0\0\5", b"messages")
    assert t.setup_hash(**setup, advertisements=b"messages") == expected
    assert t.cohort_hash([1, 5]) == hashed("confide/cohort/v1", ids)
    assert t.model_hash(b"m") == hashed("confide/model/v1", b"m", b"")
    assert t.model_hash(b"m", b"c") == hashed("confide/model/v1", b"m", b"c")
    assert t.layout_hash(b"l") == hashed("confide/layout/v1", b"l")
    assert t.config_hash(b"c") == hashed("confide/config/v1", b"c")
    assert t.ciphertext_hash(b"c") == hashed("confide/ciphertext/v1", b"c")
    assert t.share_ciphertext_hash(b"c") == hashed("confide/share-ciphertext/v1", b"c")
    assert t.self_seed_hash(CTX, b"b") == hashed("confide/self-seed/v1", CTX, b"b")
    assert t.masked_hash(b"y") == hashed("confide/masked/v1", b"y")
    shares = ids[:4] + H[2] + bytes(32) + ids[4:] + H[3] + H[4]
    listed = [(1, H[2], bytes(32)), (5, H[3], H[4])]
    assert t.upload_hash(CTX, H[0], H[1], listed) == hashed("confide/upload/v1", CTX, H[0], H[1], shares)
    survivors = b"\0\0\0\2" + ids[:4] + H[0] + ids[4:] + H[1]
    assert t.survivors_hash(CTX, {5: H[1], 1: H[0]}) == hashed("confide/survivors/v1", CTX, survivors)
    assert primitives.roster_hash(b"p") == hashed("confide/roster-hash/v1", b"p")
    assert primitives.permit_hash(b"p") == hashed("confide/permit-hash/v1", b"p")
    assert primitives.policy_hash(b"p") == hashed("confide/policy/v1", b"p")
    assert primitives.run_id("é") == hashed("confide/run/v1", "é".encode())


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SecaggError)]
    assert len({kind.code for kind in kinds}) == len(kinds) == 12
