"""Fingerprints of public keys, short enough to read over the telephone."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secagg.primitives import digest

GROUPS = 8
GROUP_DIGITS = 4  # eight groups of four: the first 128 bits


def machine_fingerprint(node: ec.EllipticCurvePublicKey, identity: bytes) -> str:
    """A department's machine: both of its public keys, the one it connects with and the one it signs with.

    ``identity`` is the raw Ed25519 public key (32 bytes).
    """
    encoded = node.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _grouped(digest("confide/machine-fingerprint/v1", encoded, identity))


def governance_fingerprint(governance: bytes) -> str:
    """A federation: its raw Ed25519 public governance key (32 bytes)."""
    return _grouped(digest("confide/governance-fingerprint/v1", governance))


def matches(fingerprint: str, told: str) -> bool:
    """Whether somebody who was told ``told`` means ``fingerprint``: case and spaces do not matter."""
    return "".join(told.split()).lower() == "".join(fingerprint.split())


def _grouped(hashed: bytes) -> str:
    """The beginning of a hash in groups that can be read aloud."""
    digits = hashed.hex()[: GROUPS * GROUP_DIGITS]
    return " ".join(digits[i : i + GROUP_DIGITS] for i in range(0, len(digits), GROUP_DIGITS))
