"""The federation's own folder: who belongs to it, and the keys with which its governance says so.

::

    CONFIDE_HOME/federation/        (0700; may be on another machine than the coordinator)
      governance.key  governance.pub    Ed25519: signs rosters and permits
      pki/ca.key  pki/ca.pem            the authority that signs the coordinator's certificate
      federation.toml                   name, coordinator, mode, thresholds, periods
      departments.json                  every department there ever was
      roster.json  rosters/N.json       the roster now, and each of its versions
      permits/N.json                    each permit, by its serial
      invitation.json                   what a department needs to enrol; public

:mod:`server.membership` changes who belongs to it, :mod:`server.permits` permits runs.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from models.errors import ModelError
from models.files import sync_folder, write_atomic
from models.inputs.sections import Section
from secagg.errors import SecaggError
from secagg.roster import Roster, open_roster
from server.errors import GovernanceError
from server.pki import make_authority
from strategies.errors import SettingsError
from strategies.fingerprint import governance_fingerprint, machine_fingerprint
from strategies.home import home
from strategies.introduction import ADDRESS, NAME, PublicKey, check_address, node_key, write_invitation
from strategies.jsonfile import read_bytes
from strategies.toml import read_toml, validated

FOLDER = "federation"
DAY = 86_400


class FederationSettings(Section):
    """``federation.toml``: what holds for the whole federation. Nothing in it is secret."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=NAME)]
    server: Annotated[str, Field(pattern=ADDRESS)]
    mode: Literal["sealed", "strict"] = "sealed"
    colluders: Annotated[int, Field(ge=0, le=100_000)] | None = None
    min_honest: Annotated[int, Field(ge=2, le=100_000)] | None = None
    range_max: Annotated[float, Field(gt=0, le=1e6)] = 64.0
    roster_days: Annotated[int, Field(ge=1, le=3650)] = 365
    permit_days: Annotated[int, Field(ge=1, le=3650)] = 30

    @field_validator("server")
    @classmethod
    def _port(cls, value: str) -> str:
        """The port is one."""
        return check_address(value)


class Department(Section):
    """A department as the federation knows it; an ``id`` is never given to another."""

    model_config = ConfigDict(strict=True)

    id: Annotated[int, Field(ge=0, lt=2**32 - 1)]
    name: Annotated[str, Field(pattern=NAME)]
    identity: PublicKey
    node: str
    removed: bool = False

    @property
    def fingerprint(self) -> str:
        """Of the department's machine."""
        return machine_fingerprint(node_key(self.node), bytes.fromhex(self.identity))


_DEPARTMENTS = TypeAdapter(tuple[Department, ...])


@dataclass(frozen=True)
class Governance:
    """Reads the federation's folder. Every method raises :class:`GovernanceError` naming file and fix."""

    directory: Path

    @property
    def pki(self) -> Path:
        """The authority's folder."""
        return self.directory / "pki"

    @property
    def invitation(self) -> Path:
        """The file that departments enrol with."""
        return self.directory / "invitation.json"

    @property
    def roster_file(self) -> Path:
        """The roster that holds now."""
        return self.directory / "roster.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes the folder meanwhile; a write that fails is a :class:`GovernanceError`."""
        try:
            with FileLock(self.directory / ".lock", mode=0o600):
                yield
        except (OSError, ModelError) as error:
            raise GovernanceError(str(error)) from None

    def settings(self) -> FederationSettings:
        """``federation.toml``."""
        try:
            file = self.directory / "federation.toml"
            return validated(FederationSettings, read_toml(file), where=str(file))
        except SettingsError as error:
            raise GovernanceError(str(error)) from None

    def key(self) -> Ed25519PrivateKey:
        """The governance key."""
        file = self.directory / "governance.key"
        key = _key_in(file)
        if not isinstance(key, Ed25519PrivateKey):
            raise GovernanceError(f"{file}: no Ed25519 private key; restore it from a backup")
        return key

    def public_key(self) -> bytes:
        """The governance key's public half, 32 bytes."""
        return public_key_in(self.directory / "governance.pub")

    def fingerprint(self) -> str:
        """The governance key's, to read over the telephone."""
        return governance_fingerprint(self.public_key())

    def departments(self) -> tuple[Department, ...]:
        """Every department there ever was, in the order in which they were admitted."""
        file = self.directory / "departments.json"
        try:
            return _DEPARTMENTS.validate_json(read_bytes(file)) if file.exists() else ()
        except (SettingsError, ValidationError) as error:
            raise GovernanceError(f"{file}: damaged ({type(error).__name__}); restore it from a backup") from None

    def members(self) -> tuple[Department, ...]:
        """The departments that belong to the federation now."""
        return tuple(department for department in self.departments() if not department.removed)

    def envelope(self) -> bytes:
        """The signed roster that holds now."""
        try:
            return read_bytes(self.roster_file)
        except SettingsError:
            raise GovernanceError(
                f'{self.roster_file}: no roster yet; admit departments with "confide federation admit"'
            ) from None

    def roster(self) -> Roster:
        """The roster that holds now, expired or not."""
        envelope, governance = self.envelope(), self.public_key()
        try:
            issued = int(json.loads(json.loads(envelope)["payload"])["issued"])
            return open_roster(envelope, governance, issued)[0]
        except (ValueError, KeyError, TypeError, RecursionError, SecaggError):
            raise GovernanceError(f'{self.roster_file}: damaged; "confide federation renew" makes it anew') from None

    def invite(self) -> None:
        """Write the invitation, as the settings are now."""
        settings, ca = self.settings(), (self.pki / "ca.pem").read_bytes()
        invitation = write_invitation(self.key(), name=settings.name, server=settings.server, ca=ca)
        write_atomic(self.invitation, invitation)

    def numbered(self, kind: str) -> int:
        """The highest number of a file in ``rosters`` or ``permits``; 0 where there is none."""
        return max(
            (int(file.stem) for file in (self.directory / kind).glob("*.json") if file.stem.isdecimal()), default=0
        )


def here() -> Governance | None:
    """The federation that is governed from this machine, or None."""
    directory = home() / FOLDER
    return Governance(directory) if directory.exists() else None


def governed() -> Governance:
    """The federation that is governed from this machine; raises :class:`GovernanceError`."""
    governance = here()
    if governance is None:
        raise GovernanceError(
            f'{home() / FOLDER}: no federation is governed from here; found one with "confide federation init" '
            "(or set CONFIDE_HOME)"
        )
    return governance


def found(directory: Path, settings: FederationSettings) -> Governance:
    """Found a federation in ``directory``, which must not exist. All or nothing.

    Raises :class:`GovernanceError` or :class:`server.errors.PkiError`.
    """
    if directory.exists():
        raise GovernanceError(f"{directory}: exists already; a federation is founded once")
    building = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    key = Ed25519PrivateKey.generate()
    try:
        building.mkdir(mode=0o700, parents=True)
        for folder in ("rosters", "permits"):
            (building / folder).mkdir(mode=0o700)
        make_authority(building / "pki")
        write_atomic(
            building / "governance.key",
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            secret=True,
        )
        write_atomic(
            building / "governance.pub", key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        write_atomic(building / "federation.toml", _toml(settings))
        Governance(building).invite()
        building.rename(directory)
        sync_folder(directory.parent)
    except (OSError, ModelError) as error:
        raise GovernanceError(f"{directory}: cannot be made: {error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Governance(directory)


def public_key_in(file: Path) -> bytes:
    """A governance key's public half, 32 bytes, from its PEM file; raises :class:`GovernanceError`."""
    key = _key_in(file)
    if not isinstance(key, Ed25519PublicKey):
        raise GovernanceError(f"{file}: no Ed25519 public key; restore it from a backup")
    return key.public_bytes_raw()


def _key_in(file: Path) -> object:
    """A key of a PEM file, of whatever kind."""
    try:
        data = file.read_bytes()
        return load_pem_private_key(data, None) if b"PRIVATE" in data else load_pem_public_key(data)
    except OSError as error:
        raise GovernanceError(f"{file}: cannot be read ({error.strerror}); restore it from a backup") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise GovernanceError(f"{file}: damaged; restore it from a backup") from None


def _toml(settings: FederationSettings) -> bytes:
    """The settings as a file; what is left to the defaults of the federation's size is not in it."""
    given = settings.model_dump(exclude_none=True)
    return "".join(f"{field} = {json.dumps(value)}\n" for field, value in given.items()).encode()
