"""Where state lives: one directory, ``CONFIDE_HOME``, or the platform's own place for it."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

from strategies.errors import SettingsError


def home() -> Path:
    """The state directory; created 0700 if absent."""
    named = os.environ.get("CONFIDE_HOME")
    try:
        path = Path(named).expanduser() if named else user_data_path("confide")
    except RuntimeError as error:
        raise SettingsError(f"CONFIDE_HOME = {named}: {error}; name another") from None
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"CONFIDE_HOME = {path}: cannot be created: {error.strerror}; name another") from None
    return path


def room(name: str) -> Path:
    """A sub-directory of :func:`home`, created 0700 if absent."""
    path = home() / name
    path.mkdir(exist_ok=True, mode=0o700)
    return path
