"""Enrolling a machine: its key, its configuration, and a fingerprint to read over the telephone."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client import config
from client.errors import ConfigError
from models.files import write_atomic


def enrol(folder: Path, *, name: str, server: str, ca: Path) -> dict[str, str]:
    """Make ``client.toml``, a key pair and a copy of the coordinator's certificate in ``folder``.

    Returns the paths of the configuration and the public key, and the key's fingerprint. Raises
    :class:`ConfigError`, and then nothing was made.
    """
    if not ca.is_file():
        raise ConfigError(f"--ca {ca}: no such file; ask the platform team for the coordinator's ca.pem")
    authority = ca.read_bytes()
    file = config.new_settings(name=name, server=server, path=folder / config.FILE)
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_atomic(folder / "node.key", private, secret=True)
    write_atomic(folder / "node.pub", public + b"\n")
    write_atomic(folder / "ca.pem", authority)
    return {
        "config": str(file),
        "public_key": str(folder / "node.pub"),
        "fingerprint": fingerprint(key.public_key()),
    }


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """The first 128 bits of a public key's SHA-256, in groups that can be read aloud."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    hasher = hashes.Hash(hashes.SHA256())
    hasher.update(encoded)
    digits = hasher.finalize().hex()
    return " ".join(digits[i : i + 4] for i in range(0, 32, 4))
