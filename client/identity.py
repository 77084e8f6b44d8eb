"""Who this machine is in a sealed sum: its signing key, the governance key it pinned, its floors."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from client.config import ClientSettings
from client.errors import ConfigError
from secagg.client import Me
from secagg.thresholds import Floors

LOST = 'restore it from a backup, or enrol this machine anew with "confide client enrol"'


def load_me(settings: ClientSettings) -> Me:
    """This machine's part in sealed sums; raises :class:`ConfigError` naming the file and the fix."""
    key_file, governance_file = Path(settings.identity_key), Path(settings.governance)
    _refuse_shared(key_file)
    key = _loaded(key_file, "identity_key")
    governance = _loaded(governance_file, "governance")
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"identity_key = {key_file}: no Ed25519 private key; {LOST}")
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
