"""Which registry this machine means where none is named: the one it last published to.

It is kept in ``CONFIDE_HOME/publisher/registry.json``, 0600, because a database's address may hold a password.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from models.files import write_atomic
from strategies.errors import SettingsError
from strategies.home import home, room
from strategies.jsonfile import read_object

FILE = "registry.json"


@dataclass(frozen=True, kw_only=True)
class Where:
    """A registry's address, and where its files are if that is elsewhere."""

    registry: str
    artifacts: str | None


def usual(registry: str | None, artifacts: str | None) -> Where:
    """Return the registry that is meant: as named, as ``CONFIDE_REGISTRY`` says, as last published to, or our own."""
    if registry is None:
        registry = os.environ.get("CONFIDE_REGISTRY") or None
    if registry is not None:
        return Where(registry=registry, artifacts=artifacts)
    known = _remembered()
    return Where(registry=known.registry, artifacts=artifacts or known.artifacts)


def remember(where: Where) -> None:
    """Let this registry be meant from now on."""
    path = Path(where.registry).expanduser()
    registry = str(path.resolve()) if "://" not in where.registry else where.registry
    content = json.dumps(asdict(Where(registry=registry, artifacts=where.artifacts)), sort_keys=True) + "\n"
    write_atomic(room("publisher") / FILE, content.encode(), secret=True)


def _remembered() -> Where:
    """The registry last published to; a file that says nothing of use counts as none."""
    own = Where(registry=str(home() / "registry"), artifacts=None)  # looking makes nothing
    file = home() / "publisher" / FILE
    if not file.exists():
        return own
    try:
        found = read_object(file)
    except SettingsError:
        return own
    registry, artifacts = found.get("registry"), found.get("artifacts")
    if not isinstance(registry, str) or not (artifacts is None or isinstance(artifacts, str)):
        return own
    return Where(registry=registry, artifacts=artifacts)
