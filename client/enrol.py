"""Enrolling a machine: its keys, its configuration, and the request with which it asks to be admitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from client import config
from client.errors import ConfigError
from models.errors import ModelError
from models.files import write_atomic
from strategies.fingerprint import machine_fingerprint, matches
from strategies.introduction import Invitation, read_invitation, write_request

REQUEST_FILE = "enrolment-request.json"


def enrol(folder: Path, *, name: str, invitation: Path, fingerprint: str | None = None) -> dict[str, str]:
    """Make this machine's two keys, its configuration and its request in ``folder``, and pin the federation.

    ``fingerprint`` is the governance key's, as the platform team reads it over the telephone; another
    one's invitation is refused.

    Returns:
        the paths of the configuration (``config``) and the request (``request``), the machine's
        ``fingerprint`` and the ``governance_fingerprint``.

    Raises:
        ConfigError: the machine is enrolled, the fingerprint is another, or a file cannot be written.
        SettingsError: the invitation cannot be used.
        In either case nothing was made.
    """
    file = folder / config.FILE
    for existing in (file, folder / "node.key", folder / "identity.key"):
        if existing.exists():
            raise ConfigError(f"{existing}: exists already; this machine is enrolled, or remove it first")
    federation = read_invitation(invitation)
    if fingerprint is not None and not matches(federation.fingerprint, fingerprint):
        raise ConfigError(
            f"--fingerprint {fingerprint}: the invitation's governance key has {federation.fingerprint}; "
            "do not enrol, and ask the platform team by a number you know"
        )
    settings = config.first_settings(name=name, server=federation.server)
    node, identity = ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()
    request = write_request(identity, name=name, node=node.public_key())
    public = {
        "node.pub": node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n",
        "ca.pem": federation.ca.encode(),
        "governance.pub": _pinned(federation),
        REQUEST_FILE: request,
    }
    secret = {
        "node.key": node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        "identity.key": identity.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }
    with _all_or_nothing(*(folder / made for made in (*secret, *public))):
        for made, content in (secret | public).items():
            write_atomic(folder / made, content, secret=made in secret)
        write_atomic(file, settings, secret=True)  # last: with it the machine is enrolled
    return {
        "config": str(file),
        "request": str(folder / REQUEST_FILE),
        "fingerprint": machine_fingerprint(node.public_key(), identity.public_key().public_bytes_raw()),
        "governance_fingerprint": federation.fingerprint,
    }


def _pinned(federation: Invitation) -> bytes:
    """The governance key as a file that can be read with common tools."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(federation.governance))
    except ValueError:
        raise ConfigError("invitation: its governance key is none; have it sent again") from None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def _all_or_nothing(*files: Path) -> Iterator[None]:
    """Put everything back as it was if not all of a step succeeds."""
    before = {file: file.read_bytes() if file.exists() else None for file in files}
    try:
        yield
    except BaseException as error:
        for file, content in before.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(content)
        if isinstance(error, ModelError):
            raise ConfigError(str(error)) from None
        raise
