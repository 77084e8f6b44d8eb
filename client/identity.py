"""Who this machine is in a sealed sum: its signing key, the governance key it pinned, its floors."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
)

from client.config import ClientSettings
from client.errors import ConfigError
from secagg.client import Me
from secagg.thresholds import Floors

LOST = 'restore it from a backup, or enrol this machine anew with "confide client enrol"'


def load_me(settings: ClientSettings) -> Me:
    """This machine's part in sealed sums; raises :class:`ConfigError` naming the file and the fix."""
    key, governance_file = load_key(settings), Path(settings.governance)
    governance = _loaded(governance_file, "governance")
    if not isinstance(governance, Ed25519PublicKey):
        raise ConfigError(f"governance = {governance_file}: no Ed25519 public key; {LOST}")
    sealing = settings.sealing
    return Me(
        key=key,
        governance=governance.public_bytes_raw(),
        floors=Floors(
            min_cohort=sealing.min_cohort,
            min_honest=sealing.min_honest_sum,
            min_colluders=sealing.min_colluders,
        ),
    )


def load_key(settings: ClientSettings) -> Ed25519PrivateKey:
    """This machine's signing key, which is its ledger's too; raises :class:`ConfigError`."""
    file = Path(settings.identity_key)
    _refuse_shared(file)
    key = _loaded(file, "identity_key")
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"identity_key = {file}: no Ed25519 private key; {LOST}")
    return key


def load_node_key(settings: ClientSettings) -> ec.EllipticCurvePublicKey:
    """The public part of the key that this machine connects with; raises :class:`ConfigError`."""
    file = Path(settings.private_key)
    try:
        key = load_ssh_private_key(file.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"private_key = {file}: cannot be read ({type(error).__name__}); {LOST}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"private_key = {file}: no P-384 private key; {LOST}")
    return key.public_key()


def _loaded(file: Path, field: str) -> object:
    """A key of a PEM file, of whatever kind."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{field} = {file}: cannot be read ({error.strerror}); {LOST}") from None
    try:
        return load_pem_private_key(data, None) if b"PRIVATE" in data else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{field} = {file}: damaged; {LOST}") from None


def _refuse_shared(file: Path) -> None:
    """A signing key that others on this machine can read is nobody's identity."""
    if os.name == "posix" and file.exists() and file.stat().st_mode & 0o077:
        raise ConfigError(f'identity_key = {file}: others can read it; "chmod 600 {file}", and enrol anew if they did')
