"""``client.toml``: what only this department knows (server, keys, where its data lies).

::

    name = "north"
    server = "coordinator.example.org:9092"
    root_certificate = "ca.pem"
    private_key = "node.key"
    identity_key = "identity.key"
    governance = "governance.pub"
    threads = 1

    [sealing]
    min_cohort = 3          # with how many departments a vector must at least be added up
    allow_clear = false     # whether the coordinator may see this department's own vectors

    [dataset."claims-2026"]
    path = "/data/claims.csv"
    declared_size = 12000
    person = "patient_id"
    validation = 0.1

What its records may be spent on is no setting but a signed policy (:mod:`privacy.policy`).
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator

from client.errors import ConfigError
from models.files import write_atomic
from models.inputs.sections import Section
from strategies.errors import SettingsError
from strategies.home import room
from strategies.introduction import ADDRESS, NAME, check_address
from strategies.toml import read_toml, validated

FILE = "client.toml"
SPLIT_KEY = "split.key"
FILES = ("root_certificate", "private_key", "identity_key", "governance")  # what client.toml names beside data


class DatasetSettings(Section):
    """``[dataset."NAME"]``: where a data set lies here, and the public size it is declared with."""

    model_config = ConfigDict(strict=True)

    path: str
    declared_size: Annotated[int, Field(ge=1, le=10**12)]
    labels_path: str | None = None
    person: str | None = None
    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.1


class SealingSettings(Section):
    """``[sealing]``: below what a round is refused. What is not given follows from the cohort's size."""

    model_config = ConfigDict(strict=True)

    min_cohort: Annotated[int, Field(ge=3, le=100_000)] = 3
    min_honest_sum: Annotated[int, Field(ge=2, le=100_000)] | None = None
    min_colluders: Annotated[int, Field(ge=0, le=100_000)] | None = None
    allow_clear: bool = False


class ClientSettings(Section):
    """This department's whole configuration. Paths are relative to the file."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=NAME)]
    server: Annotated[str, Field(pattern=ADDRESS)]
    root_certificate: str = "ca.pem"
    private_key: str = "node.key"
    identity_key: str = "identity.key"
    governance: str = "governance.pub"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    sealing: SealingSettings = SealingSettings()
    dataset: dict[str, DatasetSettings] = Field(default={})

    @field_validator("server")
    @classmethod
    def _port(cls, value: str) -> str:
        """A port outside the range is caught here rather than by a socket."""
        return check_address(value)


def directory() -> Path:
    """Where this department's state lies."""
    return room("client")


def ledger_directory() -> Path:
    """Where this department's privacy ledger lies."""
    return directory() / "ledger"


def policy_file() -> Path:
    """Where the operator writes the policy; what is in force lies in the ledger."""
    return directory() / "policy.toml"


def load_settings(path: Path | None = None) -> ClientSettings:
    """Read ``client.toml``; raises :class:`ConfigError`."""
    file = path or directory() / FILE
    try:
        settings = validated(ClientSettings, read_toml(file), where=str(file))
    except SettingsError as error:
        hint = "" if file.exists() else '; make one with "confide client enrol"'
        raise ConfigError(f"{error}{hint}") from None
    here = file.resolve().parent
    moved: dict[str, Any] = {
        **{field: str(here / getattr(settings, field)) for field in FILES},
        "dataset": {
            name: entry.model_copy(
                update={
                    "path": _absolute(here, entry.path),
                    "labels_path": _absolute(here, entry.labels_path),
                }
            )
            for name, entry in settings.dataset.items()
        },
    }
    return settings.model_copy(update=moved)


def split_key() -> bytes:
    """The key of the train/validation split: made once, never changed, never sent."""
    file = directory() / SPLIT_KEY
    if not file.exists() and ledger_directory().exists():
        raise ConfigError(
            f"{file}: missing, while a ledger holds data sets that were split with it; restore it from a backup: "
            "with another key, records once held out would be trained on"
        )
    if not file.exists():
        write_atomic(file, secrets.token_bytes(32), secret=True)
    key = file.read_bytes()
    if len(key) != 32:
        raise ConfigError(f"{file}: {len(key)} bytes, not 32; restore it from a backup, or the split changes")
    return key


def first_settings(*, name: str, server: str) -> bytes:
    """The content of a first ``client.toml``. Raises :class:`ConfigError`."""
    try:
        validated(ClientSettings, {"name": name, "server": server}, where="client")
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    return f"name = {toml_text(name)}\nserver = {toml_text(server)}\n".encode()


def add_dataset(name: str, entry: DatasetSettings, path: Path | None = None) -> None:
    """Append a data set to ``client.toml``; raises :class:`ConfigError` if the name is taken."""
    file = path or directory() / FILE
    if name in load_settings(file).dataset:
        raise ConfigError(f"dataset.{name}: is configured already; edit {file} to change it")
    lines = ["", f"[dataset.{toml_text(name)}]"]
    lines += [f"{field} = {toml_text(value)}" for field, value in entry.model_dump(exclude_none=True).items()]
    try:
        added = "\n".join([*lines, ""]).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"dataset {name!r}: a name or path is not UTF-8; rename it") from None
    write_atomic(file, file.read_bytes() + added, secret=True)


def toml_text(value: str | float) -> str:
    """A value as TOML writes it: as JSON does, but without surrogate pairs and the delete character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def located(path: str) -> str:
    """An absolute path of what a user named; raises :class:`ConfigError` where nothing is. A bundled set is none."""
    if path.startswith(("sklearn:", "hf:")):
        return path
    absolute = expanded(path).resolve()
    if not absolute.exists():
        raise ConfigError(f"path = {path}: no such file or folder; correct it")
    return str(absolute)


def _absolute(here: Path, path: str | None) -> str | None:
    """A path of the file, absolute; a bundled set's name is no path."""
    if path is None or path.startswith(("sklearn:", "hf:")):
        return path
    return str(here / expanded(path))


def expanded(path: str) -> Path:
    """A path with ``~`` replaced by the home it stands for; as it is where nobody has such a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
