"""JSON: small files that came from elsewhere, read with a limit, and the one way in which agreements are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.errors import StoreError
from models.files import read_bounded
from strategies.errors import SettingsError

MAX_BYTES = 4 * 1024 * 1024


def read_bytes(file: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a file of at most ``limit`` bytes; raises :class:`SettingsError`."""
    try:
        return read_bounded(file, limit)
    except StoreError as error:
        raise SettingsError(str(error)) from None


def read_object(file: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file; raises :class:`SettingsError`."""
    data = read_bytes(file, limit)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SettingsError(f"{file}: not the JSON file that was made; have it sent again")
    return document


def canonical(document: Any) -> str:
    """JSON with sorted keys and no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
