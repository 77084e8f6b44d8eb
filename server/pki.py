"""Certificates: the federation's authority, and the coordinator's certificate that it signs.

The authority belongs to the federation (:mod:`server.federation`), which may live on another machine
than the coordinator: there the coordinator's certificate is carried over.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models.errors import ModelError
from models.files import write_atomic
from server.errors import PkiError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 398  # what browsers and auditors accept at most
RENEW_DAYS = 30


@dataclass(frozen=True)
class Pki:
    """Paths of the authority's and the server's certificates and keys (PEM)."""

    directory: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate: what every department gets."""
        return self.directory / "ca.pem"

    @property
    def authority_key(self) -> Path:
        """The authority's private key."""
        return self.directory / "ca.key"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.directory / "server.pem"

    @property
    def key(self) -> Path:
        """The server's private key."""
        return self.directory / "server.key"


def make_authority(directory: Path) -> Pki:
    """Make an authority in ``directory``, which must not have one. Raises :class:`PkiError`."""
    pki = Pki(directory)
    with _explained(directory):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_authority(pki)
    return pki


def issue(directory: Path, hosts: Sequence[str], *, authority: Path) -> Pki:
    """A server certificate in ``directory`` for ``hosts``, by the authority in the folder ``authority``.

    One that is there already is kept until it is due or lacks a name. ``hosts`` are the names and IP
    addresses departments connect to. Raises :class:`PkiError`.
    """
    pki, issuer = Pki(directory), Pki(authority)
    with _explained(directory):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificate = issuer.authority.read_bytes()
        if not pki.authority.exists() or pki.authority.read_bytes() != certificate:
            write_atomic(pki.authority, certificate)
        if _fault(pki, hosts, days=RENEW_DAYS) is not None:
            _make_server(pki, hosts, issuer)
    return pki


def carried(directory: Path, hosts: Sequence[str]) -> Pki:
    """The certificates that were carried over from the federation's machine to ``directory``.

    Raises :class:`PkiError`, with the fix, where one is missing, expired or lacks a name of ``hosts``.
    """
    pki = Pki(directory)
    fix = (
        f'make them on the federation\'s machine with "confide federation certificate --host {hosts[0]} --out DIR" '
        f'and copy them to {directory}, or found a federation here with "confide federation init"'
    )
    missing = [file.name for file in (pki.authority, pki.certificate, pki.key) if not file.is_file()]
    if missing:
        raise PkiError(f"{directory}: no {', '.join(missing)}; {fix}")
    with _explained(directory):
        fault = _fault(pki, hosts, days=0)
    if fault is not None:
        raise PkiError(f"{pki.certificate}: {fault}; {fix}")
    return pki


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes a :class:`PkiError` that names the folder."""
    try:
        yield
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound, ModelError) as error:
        raise PkiError(f"{directory}: certificates cannot be made or read: {error}") from None


def _make_authority(pki: Pki) -> None:
    """A self-signed authority that may sign server certificates only."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Confide federation authority")])
    usage = x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write_atomic(pki.authority_key, _private_pem(key), secret=True)
    write_atomic(pki.authority, certificate.public_bytes(serialization.Encoding.PEM))


def _make_server(pki: Pki, hosts: Sequence[str], issuer: Pki) -> None:
    """A server certificate for ``hosts``."""
    authority_key = serialization.load_pem_private_key(issuer.authority_key.read_bytes(), None)
    authority = x509.load_pem_x509_certificate(issuer.authority.read_bytes())
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"{issuer.authority_key}: not an elliptic-curve key; restore it from a backup")
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    certificate = (
        _builder(subject, authority.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    write_atomic(pki.key, _private_pem(key), secret=True)
    write_atomic(pki.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    """What every certificate has."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ a little
        .not_valid_after(now + timedelta(days=days))
    )


def _fault(pki: Pki, hosts: Sequence[str], *, days: int) -> str | None:
    """Why the server certificate is none for ``hosts`` and the next ``days`` days; None where it is one."""
    if not (pki.certificate.exists() and pki.key.exists()):
        return "missing"
    certificate = x509.load_pem_x509_certificate(pki.certificate.read_bytes())
    if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=days):
        return f"expires on {certificate.not_valid_after_utc:%Y-%m-%d}"
    authority = x509.load_pem_x509_certificate(pki.authority.read_bytes())
    key = serialization.load_pem_private_key(pki.key.read_bytes(), None)
    # A renewal that was interrupted leaves a key without its certificate.
    if key.public_key() != certificate.public_key():
        return "not of the key in server.key"
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError):  # a ValueError: the issuer's name is another
        return "not signed by the authority in ca.pem"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lacking = [host for host in hosts if _alternative(host) not in names]
    return f"does not name {', '.join(lacking)}" if lacking else None


def _alternative(host: str) -> x509.GeneralName:
    """A host as certificates write it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM; the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
