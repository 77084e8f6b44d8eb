"""Keys and seeds of the vectors: each is the hash of its own name, but for what ML-KEM draws by itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any

import secagg_reference as ref
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

Vector = dict[str, Any]
HERE = Path(__file__).parent
IDS = (0, 2, 5)
PAIRS = [(i, j) for i in IDS for j in IDS if i < j]


def seed(name: str) -> bytes:
    return sha256(f"confide test vector: {name}".encode()).digest()


def seed64(name: str) -> bytes:
    return sha512(f"confide test vector: {name}".encode()).digest()


def coefficient(name: str) -> int:
    return int.from_bytes(seed64(name), "big") % ref.PRIME


GOVERNANCE = Ed25519PrivateKey.from_private_bytes(seed("governance"))
IDENTITIES = {i: Ed25519PrivateKey.from_private_bytes(seed(f"identity {i}")) for i in IDS}


@dataclass(frozen=True)
class Ephemeral:
    """A member's keys of one epoch."""

    x25519_seed: bytes
    mlkem_seed: bytes

    @property
    def public(self) -> bytes:
        x25519 = X25519PrivateKey.from_private_bytes(self.x25519_seed).public_key().public_bytes_raw()
        return x25519 + MLKEM768PrivateKey.from_seed_bytes(self.mlkem_seed).public_key().public_bytes_raw()

    def exchange(self, peer: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(self.x25519_seed).exchange(X25519PublicKey.from_public_bytes(peer))

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return MLKEM768PrivateKey.from_seed_bytes(self.mlkem_seed).decapsulate(ciphertext)


EPHEMERAL = {i: Ephemeral(seed(f"x25519 {i}"), seed64(f"mlkem {i}")) for i in IDS}


def encapsulations() -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """ML-KEM secret and ciphertext of each pair: those recorded in kem.json, fresh ones where it is missing."""
    file = HERE / "kem.json"
    if file.exists():
        vectors = json.loads(file.read_text(encoding="ascii"))["vectors"]
        found = [v for v in vectors if v["op"] == "encapsulated"]
        return {(v["from"], v["to"]): (bytes.fromhex(v["secret"]), bytes.fromhex(v["ciphertext"])) for v in found}
    return {(i, j): MLKEM768PublicKey.from_public_bytes(EPHEMERAL[j].public[32:]).encapsulate() for i, j in PAIRS}


ENCAPSULATIONS = encapsulations()
