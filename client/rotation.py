"""New keys for this machine: the old signing key hands the ledger over to the new one.

Both keys change, since a coordinator never admits a node key twice.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from client import config
from client.enrol import REQUEST_FILE
from client.errors import ConfigError
from client.identity import load_key, load_node_key
from models.files import write_atomic
from privacy.ledger import Ledger
from strategies.fingerprint import machine_fingerprint
from strategies.introduction import write_request


def rotate(settings: config.ClientSettings) -> dict[str, str]:
    """Make new keys, enter the signing key in the ledger, and write the request to be admitted with them.

    New keys lie beside the old ones before the ledger knows of them, and take their place after: whatever
    interrupts this, calling it again, or :func:`finish`, completes it. Raises :class:`ConfigError` or a LedgerError.
    """
    old = load_key(settings)
    identity, node = Path(settings.identity_key), Path(settings.private_key)
    new_identity, new_node = _following(identity), _following(node)
    if not new_identity.exists():
        # The node's key first: once the signing key's file is there, both are.
        made_node = ec.generate_private_key(ec.SECP384R1())
        write_atomic(
            new_node, made_node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), secret=True
        )
        made = Ed25519PrivateKey.generate()
        write_atomic(new_identity, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), secret=True)
    new = _read(new_identity)
    if Ledger.exists(config.ledger_directory()):
        ledger = Ledger.open(config.ledger_directory())
        if ledger.key != new.public_key().public_bytes_raw():
            Ledger.open(config.ledger_directory(), key=old).rotate(new)
    if new_node.exists():
        new_node.replace(node)
    public = load_node_key(settings)
    write_atomic(config.directory() / "node.pub", public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    request = config.directory() / REQUEST_FILE
    write_atomic(request, write_request(new, name=settings.name, node=public))
    new_identity.replace(identity)  # last: with it the rotation is complete
    return {
        "request": str(request),
        "fingerprint": machine_fingerprint(public, new.public_key().public_bytes_raw()),
    }


def finish(settings: config.ClientSettings) -> None:
    """Complete a rotation that was interrupted after the ledger had changed hands."""
    following, folder = _following(Path(settings.identity_key)), config.ledger_directory()
    if not following.exists() or not Ledger.exists(folder):
        return
    if Ledger.open(folder).key == _read(following).public_key().public_bytes_raw():
        rotate(settings)


def _following(file: Path) -> Path:
    """Where a new key waits."""
    return file.with_name(f"{file.name}.next")


def _read(file: Path) -> Ed25519PrivateKey:
    """The new signing key."""
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file}: cannot be read ({type(error).__name__}); remove it and try again") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{file}: no Ed25519 private key; remove it and try again")
    return key
