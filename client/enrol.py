"""Enrolling a machine: its key, its configuration, and a fingerprint to read over the telephone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client import config
from client.errors import ConfigError
from models.errors import ModelError
from models.files import write_atomic


def enrol(folder: Path, *, name: str, server: str, ca: Path) -> dict[str, str]:
    """Make ``client.toml``, a key pair and a copy of the coordinator's certificate in ``folder``.

    Returns the paths of the configuration and the public key, and the key's fingerprint. Raises
    :class:`ConfigError`, and then nothing was made.
    """
    file = folder / config.FILE
    for existing in (file, folder / "node.key"):
        if existing.exists():
            raise ConfigError(f"{existing}: exists already; this machine is enrolled, or remove it first")
    settings = config.first_settings(name=name, server=server)
    authority = _authority(ca)
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public_file, kept = folder / "node.pub", folder / "ca.pem"
    with _all_or_nothing(folder / "node.key", public_file, *([] if kept.exists() else [kept])):
        write_atomic(folder / "node.key", private, secret=True)
        write_atomic(public_file, public + b"\n")
        write_atomic(kept, authority)
        write_atomic(file, settings, secret=True)  # last: with it the machine is enrolled
    return {
        "config": str(file),
        "public_key": str(public_file),
        "fingerprint": fingerprint(key.public_key()),
    }


def _authority(ca: Path) -> bytes:
    """The coordinator's certificate, refused unless it is one."""
    try:
        authority = ca.read_bytes()
        x509.load_pem_x509_certificates(authority)
    except OSError as error:
        raise ConfigError(f"--ca {ca}: {error.strerror}; ask the platform team for the coordinator's ca.pem") from None
    except ValueError:
        raise ConfigError(
            f"--ca {ca}: not a PEM certificate; ask the platform team for the coordinator's ca.pem"
        ) from None
    return authority


@contextmanager
def _all_or_nothing(*files: Path) -> Iterator[None]:
    """Remove ``files`` again if not all of a step succeeds."""
    try:
        yield
    except BaseException as error:
        for file in files:
            file.unlink(missing_ok=True)
        if isinstance(error, ModelError):
            raise ConfigError(str(error)) from None
        raise


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """The first 128 bits of a public key's SHA-256, in groups that can be read aloud."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    hasher = hashes.Hash(hashes.SHA256())
    hasher.update(encoded)
    digits = hasher.finalize().hex()
    return " ".join(digits[i : i + 4] for i in range(0, 32, 4))
