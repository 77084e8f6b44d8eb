"""With which key a model is published, and whose signatures are believed.

The federation's governance key signs where it is on this machine. A machine that governs no federation (a researcher's)
has a publisher key of its own, made when it is first needed. ``--signing-key`` names any other Ed25519 key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from filelock import FileLock

from models.errors import StoreError
from models.files import read_bounded, write_atomic
from server.errors import PublishError
from server.federation import here
from strategies.fingerprint import governance_fingerprint
from strategies.home import home, room

PRIVATE, PUBLIC = "publisher.key", "publisher.pub"
_MOST_BYTES = 1 << 16
_HEX = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A key to publish with; ``whose`` says whose it is."""

    key: Ed25519PrivateKey
    whose: str

    @property
    def public(self) -> bytes:
        """The public half, 32 bytes."""
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def fingerprint(self) -> str:
        """To be read over the telephone."""
        return governance_fingerprint(self.public)


def signer(file: Path | None = None) -> Signer:
    """Return the key to publish with; raises :class:`PublishError` where there is none or it cannot be read.

    Args:
        file: an Ed25519 private key in PEM; by default the governance's, else this machine's own publisher key.
    """
    if file is not None:
        return Signer(key=_private(file), whose=f"the key of {file.name}")
    if (governance := here()) is not None:
        return Signer(key=governance.key(), whose=f"the federation {governance.settings().name}")
    folder = room("publisher")
    with FileLock(folder / ".lock", mode=0o600):
        if not (folder / PRIVATE).exists():
            _make(folder)
    return Signer(key=_private(folder / PRIVATE), whose="this machine's own publisher key")


def trusted(given: Sequence[str] = ()) -> list[bytes]:
    """Return the public keys whose signatures are believed, 32 bytes each.

    Args:
        given: files (PEM) or keys in hexadecimal; without any, this machine's governance and publisher keys.

    Raises:
        PublishError: one of them is no Ed25519 public key, or there is none at all.
    """
    keys = [_public(one) for one in given]
    if not keys:
        if (governance := here()) is not None:
            keys.append(governance.public_key())
        if (own := home() / "publisher" / PUBLIC).exists():
            keys.append(_public(str(own)))
    if not keys:
        raise PublishError(
            "--key: missing, and this machine has neither a federation's governance key nor a publisher key; give the "
            "publisher's public key, as a file or in hexadecimal"
        )
    return keys


def _make(folder: Path) -> None:
    """A new key pair: the private half readable by its owner alone."""
    key = Ed25519PrivateKey.generate()
    try:
        write_atomic(folder / PUBLIC, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        # Last, because it is what shows that the pair is whole.
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomic(folder / PRIVATE, secret, secret=True)
    except StoreError as error:
        raise PublishError(f"publisher key: {error}") from None


def _private(file: Path) -> Ed25519PrivateKey:
    """An Ed25519 private key of a file."""
    try:
        key = load_pem_private_key(read_bounded(file, _MOST_BYTES), password=None)
    except (StoreError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        said = str(error) if isinstance(error, StoreError) else f"{file}: no private key in PEM, without a password"
        raise PublishError(f"signing key: {said}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise PublishError(f"signing key: {file}: is no Ed25519 key; make one, or leave --signing-key out")
    return key


def _public(given: str) -> bytes:
    """An Ed25519 public key, of a file or in hexadecimal."""
    if _HEX.fullmatch(given):
        return bytes.fromhex(given)
    try:
        key = load_pem_public_key(read_bounded(Path(given), _MOST_BYTES))
    except (StoreError, ValueError, UnsupportedAlgorithm) as error:
        said = str(error) if isinstance(error, StoreError) else f"{given}: no public key in PEM"
        raise PublishError(f"--key: {said}; give a file, or 64 hexadecimal digits") from None
    if not isinstance(key, Ed25519PublicKey):
        raise PublishError(f"--key: {given}: is no Ed25519 key; give the publisher's")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
