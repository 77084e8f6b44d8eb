"""Signed envelopes: DSSE v1 (github.com/secure-systems-lab/dsse, protocol.md and envelope.md) with Ed25519.

What is signed is the payload *and* its type, each with its length, so that no signature can be passed off as
one over something else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models import strict_json
from models.errors import BundleError

IN_TOTO: Final = "application/vnd.in-toto+json"
MAX_ENVELOPE: Final = 4 << 20
MAX_SIGNATURES: Final = 16

_KEY_BYTES: Final = 32
_KEYID: Final = re.compile("[0-9a-f]{64}")


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed (protocol.md, "PAE").

    >>> pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def keyid(key: bytes) -> str:
    """Return what an envelope calls a raw public key (32 bytes): its SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What an envelope holds; nothing of it has been checked against a key.

    Attributes:
        payload, payload_type: what is signed, and how it is to be read.
        signatures: pairs of a key's id ("" where none is given) and what it signed, of any length.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def parse(cls, data: bytes) -> Envelope:
        """Read an envelope; keys that envelope.md does not name are ignored, as it asks.

        Raises:
            BundleError: too large, no such JSON, or a field missing, of the wrong type or not base64.
        """
        if len(data) > MAX_ENVELOPE:
            raise BundleError(f"envelope: {len(data)} bytes; one has at most {MAX_ENVELOPE}")
        document = strict_json.parse_object(data, "envelope")
        kind, entries = document.get("payloadType"), document.get("signatures")
        if not isinstance(kind, str):
            raise BundleError("envelope: payloadType must be text; have it signed anew")
        if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_SIGNATURES:
            raise BundleError(f"envelope: signatures must be a list of 1 to {MAX_SIGNATURES}; have it signed anew")
        signatures = tuple(_signature(entry) for entry in entries)
        return cls(payload=_unbase64("payload", document.get("payload")), payload_type=kind, signatures=signatures)

    def encode(self) -> bytes:
        """Return the envelope as JSON, in the one form that Confide writes."""
        entries = [
            ({"keyid": known} if known else {}) | {"sig": base64.b64encode(signature).decode()}
            for known, signature in self.signatures
        ]
        payload = base64.b64encode(self.payload).decode()
        return strict_json.encode({"payload": payload, "payloadType": self.payload_type, "signatures": entries})


def sign(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of a payload, signed by one key.

    Raises:
        BundleError: the envelope would be too large to be read again.
    """
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    named = keyid(key.public_key().public_bytes_raw())
    envelope = Envelope(payload=payload, payload_type=payload_type, signatures=((named, signature),)).encode()
    if len(envelope) > MAX_ENVELOPE:
        raise BundleError(f"payload: {len(payload)} bytes; its envelope would pass {MAX_ENVELOPE}, sign less")
    return envelope


def verify(envelope: bytes, keys: Sequence[bytes], *, payload_type: str = IN_TOTO) -> tuple[bytes, bytes]:
    """Return an envelope's payload, and which of ``keys`` signed it.

    One good signature is enough, whatever stands beside it. A key's id chooses which key a signature is tried
    with (as protocol.md allows) and proves nothing.

    Args:
        envelope: JSON text.
        keys: raw Ed25519 public keys that are trusted, 32 bytes each, at least one.
        payload_type: the only type that is accepted.

    Raises:
        BundleError: malformed, of another type, or signed by none of the keys; whose signature it claims to
            bear and whose was expected are named by :func:`keyid`.
    """
    if not keys:
        raise BundleError("keys: none given; name the public key that is trusted to sign")
    trusted = {keyid(key): _public(key) for key in keys}
    found = Envelope.parse(envelope)
    message = pre_authentication_encoding(found.payload_type, found.payload)
    signer = next(
        (
            trusted[known]
            for claimed, signature in found.signatures
            for known in ([claimed] if claimed else trusted)
            if known in trusted and _holds(trusted[known], signature, message)
        ),
        None,
    )
    if signer is None:
        if any(claimed in trusted for claimed, _ in found.signatures):
            raise BundleError(
                "envelope: no good signature by a trusted key: one in its name does not hold, so what was signed "
                "has been changed; get it again"
            )
        claims = ", ".join(sorted({_claim(claimed) for claimed, _ in found.signatures}))
        wanted = " or ".join(sorted(trusted))
        raise BundleError(
            f"envelope: no good signature by a trusted key: signed in the name of key {claims}, expected {wanted}; "
            "ask who published it, and trust that key only if you meant to"
        )
    if found.payload_type != payload_type:
        raise BundleError(f"envelope: payloadType={found.payload_type[:80]!r}; must be {payload_type!r}")
    return found.payload, signer.public_bytes_raw()


def _signature(entry: object) -> tuple[str, bytes]:
    """One entry of an envelope's list."""
    if not isinstance(entry, dict):
        raise BundleError("envelope: a signature must be an object; have it signed anew")
    known, signature = entry.get("keyid", ""), _unbase64("sig", entry.get("sig"))
    if not isinstance(known, str):
        raise BundleError("envelope: keyid must be text; have it signed anew")
    return known, signature


def _unbase64(field: str, text: object) -> bytes:
    """Bytes from base64 with padding, standard or URL-safe, and no bit that means nothing."""
    if isinstance(text, str) and text.isascii():
        for altchars in (b"+/", b"-_"):
            try:
                data = base64.b64decode(text, altchars, validate=True)
            except ValueError:
                continue
            if base64.b64encode(data, altchars).decode() == text:
                return data
    raise BundleError(f"envelope: {field} must be base64; have it signed anew")


def _public(key: bytes) -> Ed25519PublicKey:
    """A trusted key, loaded."""
    if len(key) != _KEY_BYTES:
        raise BundleError(f"keys: one has {len(key)} bytes; a raw Ed25519 public key has {_KEY_BYTES}")
    return Ed25519PublicKey.from_public_bytes(key)


def _holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether a signature holds."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _claim(claimed: str) -> str:
    """A key's id as people are shown it: only in our own form, which holds nothing that a terminal obeys."""
    if _KEYID.fullmatch(claimed):
        return claimed
    return "(named otherwise)" if claimed else "(not named)"
