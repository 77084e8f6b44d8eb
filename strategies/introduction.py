"""How a federation and a department introduce themselves to each other: one small JSON file each.

The federation's *invitation* is signed with its governance key, so that whoever compared that key's
fingerprint can believe the address and the certificate beside it. A department's *request* is signed
with its identity key: it has that key, and meant this name and this node key. Neither is secret.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from pydantic import ConfigDict, Field, field_validator

from models.inputs.sections import Section
from secagg.errors import SignatureError
from secagg.primitives import SERVER, sign, verify
from strategies.errors import SettingsError
from strategies.fingerprint import governance_fingerprint, machine_fingerprint
from strategies.jsonfile import canonical, read_object
from strategies.toml import validated

NAME = r"^[A-Za-z0-9]([A-Za-z0-9._ -]{0,62}[A-Za-z0-9._-])?$"
ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):\d{1,5}$"
MAX_BYTES = 64 * 1024
INVITATION = "confide/invitation/v1"
REQUEST = "confide/enrolment/v1"
NO_RUN, NO_EPOCH = bytes(32), 0  # a signature outside any run

PublicKey = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern="^[0-9a-f]{128}$")]


def check_address(value: str) -> str:
    """A port outside the range is caught here rather than by a socket; raises ValueError."""
    if not 1 <= int(value.rpartition(":")[2]) <= 65_535:
        raise ValueError("the port must lie in 1 to 65535")
    return value


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of an IPv6 address, and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Invitation(Section):
    """What a department needs to know of a federation: its coordinator's address and certificate, its key."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=NAME)]
    server: Annotated[str, Field(pattern=ADDRESS)]
    ca: Annotated[str, Field(max_length=MAX_BYTES)]
    governance: PublicKey
    signature: Signature

    @field_validator("server")
    @classmethod
    def _port(cls, value: str) -> str:
        """The port is one."""
        return check_address(value)

    @field_validator("ca")
    @classmethod
    def _certificate(cls, value: str) -> str:
        """The certificate is one."""
        try:
            x509.load_pem_x509_certificates(value.encode())
        except ValueError:
            raise ValueError("not a PEM certificate; ask the platform team for the invitation again") from None
        return value

    @property
    def fingerprint(self) -> str:
        """What the platform team reads over the telephone."""
        return governance_fingerprint(bytes.fromhex(self.governance))


class Request(Section):
    """What a federation needs to know of a department: its name and the public keys of its machine."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=NAME)]
    node: Annotated[str, Field(max_length=4096)]
    identity: PublicKey
    signature: Signature

    @field_validator("node")
    @classmethod
    def _key(cls, value: str) -> str:
        """The node key is of the kind that Flower authenticates."""
        node_key(value)
        return value

    @property
    def fingerprint(self) -> str:
        """What the department's operator reads over the telephone."""
        return machine_fingerprint(node_key(self.node), bytes.fromhex(self.identity))


def node_key(pem: str) -> ec.EllipticCurvePublicKey:
    """A machine's P-384 public key; raises ValueError with the fix."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        return key
    raise ValueError('not a P-384 public key; the department makes one with "confide client enrol"')


def write_invitation(key: Ed25519PrivateKey, *, name: str, server: str, ca: bytes) -> bytes:
    """The invitation's file. Raises :class:`SettingsError` naming a field that cannot be."""
    fields = {
        "name": name,
        "server": server,
        "ca": ca.decode(),
        "governance": key.public_key().public_bytes_raw().hex(),
    }
    return _signed(Invitation, key, INVITATION, fields)


def write_request(key: Ed25519PrivateKey, *, name: str, node: ec.EllipticCurvePublicKey) -> bytes:
    """The enrolment request's file. Raises :class:`SettingsError` naming a field that cannot be."""
    pem = node.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return _signed(
        Request, key, REQUEST, {"name": name, "node": pem, "identity": key.public_key().public_bytes_raw().hex()}
    )


def read_invitation(file: Path) -> Invitation:
    """A federation's invitation, its signature checked; raises :class:`SettingsError`."""
    invitation = _read(Invitation, file)
    _check(invitation, INVITATION, invitation.governance, file)
    return invitation


def read_request(file: Path) -> Request:
    """A department's request, its signature checked; raises :class:`SettingsError`."""
    request = _read(Request, file)
    _check(request, REQUEST, request.identity, file)
    return request


AnyIntroduction = TypeVar("AnyIntroduction", Invitation, Request)


def _signed(kind: type[Section], key: Ed25519PrivateKey, label: str, fields: dict[str, Any]) -> bytes:
    """The fields with their signature, as a file."""
    signature = sign(key, label, NO_RUN, NO_EPOCH, SERVER, canonical(fields).encode()).hex()
    document = fields | {"signature": signature}
    validated(kind, document, where=label.split("/")[1])
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _read(kind: type[AnyIntroduction], file: Path) -> AnyIntroduction:
    """A file of that kind, not yet believed."""
    return validated(kind, read_object(file, MAX_BYTES), where=str(file))


def _check(introduction: Section, label: str, key: str, file: Path) -> None:
    """Refuse what was changed after it was signed."""
    fields = introduction.model_dump(exclude={"signature"})
    signature = bytes.fromhex(str(introduction.model_dump()["signature"]))
    try:
        verify(bytes.fromhex(key), signature, label, NO_RUN, NO_EPOCH, SERVER, canonical(fields).encode())
    except SignatureError:
        raise SettingsError(f"{file}: changed after it was signed; have it sent again") from None
