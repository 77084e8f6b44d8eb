"""DSSE envelopes: the specification's example, and what an attacker can make of an envelope."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from bundle_cases import KEY, PUBLIC, STRANGER
from hypothesis import given
from hypothesis import strategies as st

from models import dsse
from models.errors import BundleError

OTHER = STRANGER.public_key().public_bytes_raw()
KIND = "http://example.com/HelloWorld"


def opened(envelope: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(envelope)
    return document


def test_the_encoding_that_is_signed_is_the_specifications() -> None:
    # protocol.md, "Test Vectors"; lengths are of bytes, not of characters.
    encoded = dsse.pre_authentication_encoding(KIND, b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pre_authentication_encoding("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_an_envelope_has_the_specifications_form() -> None:
    envelope = opened(dsse.sign(b"hello world", KIND, KEY))
    assert envelope["payload"] == "aGVsbG8gd29ybGQ="
    assert envelope["payloadType"] == KIND
    (signature,) = envelope["signatures"]
    assert signature["keyid"] == dsse.keyid(PUBLIC)
    KEY.public_key().verify(
        base64.b64decode(signature["sig"]), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.binary(max_size=200))
def test_what_was_signed_comes_back(payload: bytes) -> None:
    envelope = dsse.sign(payload, KIND, KEY)
    assert dsse.verify(envelope, [OTHER, PUBLIC], payload_type=KIND) == (payload, PUBLIC)
    assert dsse.Envelope.parse(envelope).encode() == envelope


def test_another_key_is_named_and_so_is_the_expected_one() -> None:
    with pytest.raises(BundleError) as refused:
        dsse.verify(dsse.sign(b"x", dsse.IN_TOTO, STRANGER), [PUBLIC])
    assert dsse.keyid(OTHER) in str(refused.value)
    assert dsse.keyid(PUBLIC) in str(refused.value)


def test_a_signature_over_another_type_is_refused() -> None:
    envelope = dsse.sign(b"x", KIND, KEY)
    with pytest.raises(BundleError, match="payloadType"):
        dsse.verify(envelope, [PUBLIC])
    # ... and calling it by the wanted type breaks the signature.
    renamed = json.dumps(opened(envelope) | {"payloadType": dsse.IN_TOTO}).encode()
    with pytest.raises(BundleError, match="no good signature"):
        dsse.verify(renamed, [PUBLIC])


def test_bytes_cannot_move_between_type_and_payload() -> None:
    signature = opened(dsse.sign(b"b c", "a", KEY))["signatures"]
    forged = {"payloadType": "a 3 b", "payload": base64.b64encode(b"c").decode(), "signatures": signature}
    with pytest.raises(BundleError, match="no good signature"):
        dsse.verify(json.dumps(forged).encode(), [PUBLIC], payload_type="a 3 b")


def test_one_good_signature_is_enough_and_a_bad_one_beside_it_harmless() -> None:
    good, bad = opened(dsse.sign(b"x", KIND, KEY)), opened(dsse.sign(b"y", KIND, KEY))
    foreign = {"keyid": "someone/else", "sig": base64.b64encode(b"ecdsa of another length").decode()}
    both = good | {"signatures": [foreign, *bad["signatures"], *good["signatures"]]}
    assert dsse.verify(json.dumps(both).encode(), [PUBLIC], payload_type=KIND)[0] == b"x"
    none = good | {"signatures": [foreign, *bad["signatures"]]}
    with pytest.raises(BundleError, match="no good signature"):
        dsse.verify(json.dumps(none).encode(), [PUBLIC], payload_type=KIND)


def test_a_key_id_proves_nothing() -> None:
    mine = opened(dsse.sign(b"x", KIND, STRANGER))
    mine["signatures"][0]["keyid"] = dsse.keyid(PUBLIC)
    with pytest.raises(BundleError, match="no good signature"):
        dsse.verify(json.dumps(mine).encode(), [PUBLIC], payload_type=KIND)


def test_without_a_key_id_every_trusted_key_is_tried() -> None:
    envelope = opened(dsse.sign(b"x", KIND, KEY))
    del envelope["signatures"][0]["keyid"]
    assert dsse.verify(json.dumps(envelope).encode(), [OTHER, PUBLIC], payload_type=KIND)[1] == PUBLIC


def test_url_safe_base64_is_accepted_but_not_a_mixture() -> None:
    payload = b"\xfb\xff\xfe>>>???"
    envelope = opened(dsse.sign(payload, KIND, KEY))
    safe = envelope | {"payload": base64.urlsafe_b64encode(payload).decode()}
    assert dsse.verify(json.dumps(safe).encode(), [PUBLIC], payload_type=KIND)[0] == payload
    mixed = envelope | {"payload": envelope["payload"].replace("+", "-")}
    assert mixed != envelope
    assert mixed["payload"] != safe["payload"]
    with pytest.raises(BundleError, match="payload must be base64"):
        dsse.verify(json.dumps(mixed).encode(), [PUBLIC], payload_type=KIND)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"payload": "aGVsbG8"}, "payload must be base64"),
        ({"payload": "aGVsbG9="}, "payload must be base64"),  # two bits that mean nothing
        ({"payload": "aGVs bG8="}, "payload must be base64"),
        ({"payload": 7}, "payload must be base64"),
        ({"payloadType": None}, "payloadType must be text"),
        ({"signatures": []}, "signatures must be a list"),
        ({"signatures": [{}] * 17}, "signatures must be a list"),
        ({"signatures": ["x"]}, "a signature must be an object"),
        ({"signatures": [{"sig": "x"}]}, "sig must be base64"),
        ({"signatures": [{"sig": "", "keyid": 1}]}, "keyid must be text"),
    ],
)
def test_a_malformed_envelope_is_refused(change: dict[str, Any], said: str) -> None:
    envelope = opened(dsse.sign(b"hello", KIND, KEY)) | change
    with pytest.raises(BundleError, match=said):
        dsse.verify(json.dumps(envelope).encode(), [PUBLIC], payload_type=KIND)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"payload": "", "payload": ""}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b"\xff{}",
        b" " * (dsse.MAX_ENVELOPE + 1),
    ],
)
def test_what_is_no_such_json_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="envelope"):
        dsse.verify(data, [PUBLIC])


def test_every_truncation_is_refused() -> None:
    envelope = dsse.sign(b"hello world", KIND, KEY)
    for size in range(len(envelope) - 2):  # the last is a line feed
        with pytest.raises(BundleError):
            dsse.verify(envelope[:size], [PUBLIC], payload_type=KIND)


def test_no_keys_or_no_key_is_an_error() -> None:
    envelope = dsse.sign(b"x", KIND, KEY)
    with pytest.raises(BundleError, match="none given"):
        dsse.verify(envelope, [])
    with pytest.raises(BundleError, match="31 bytes"):
        dsse.verify(envelope, [PUBLIC[:31]])


def test_what_is_too_large_to_read_again_is_not_signed() -> None:
    with pytest.raises(BundleError, match="sign less"):
        dsse.sign(bytes(dsse.MAX_ENVELOPE), KIND, KEY)
