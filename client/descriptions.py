"""Which descriptions of a data set this department answers to.

A run describes the data it wants: columns, bounds, classes. Whether the data fit a description is
itself a fact about them, so a server that may try one description after another asks as many
free questions. A department therefore answers to the first description it was sent for a data set,
and to those its operator approves; any other is refused before the data are opened.
"""

from __future__ import annotations

import json
from pathlib import Path

from client.errors import ConfigError, RefusalError
from models.errors import ModelError
from models.files import write_atomic
from strategies.agreement import digest
from strategies.status import Status

FILE = "descriptions.json"


def check_description(folder: Path, dataset: str, description: str) -> None:
    """Pin the first description of a data set; raises :class:`RefusalError` for one that is not known.

    Raises :class:`RefusalError` too where the pin cannot be read or made durable.
    """
    try:
        known = _read(folder)
        if dataset not in known:
            _write(folder, known | {dataset: [digest(description)]})
            return
    except (ConfigError, ModelError) as error:
        raise RefusalError(Status.STATE_NOT_DURABLE, str(error)) from None
    if digest(description) not in known[dataset]:
        raise RefusalError(
            Status.REFUSED_BY_POLICY,
            f"data set {dataset}: described otherwise than before; look at the run file, and if it is right "
            'run "confide client check RUN.toml --approve"',
        )


def approve(folder: Path, dataset: str, description: str) -> None:
    """Answer to one more description; raises :class:`ConfigError` or a StoreError if it cannot be kept."""
    known = _read(folder)
    digests = known.get(dataset, [])
    if digest(description) not in digests:
        _write(folder, known | {dataset: [*digests, digest(description)]})


def _read(folder: Path) -> dict[str, list[str]]:
    """Digests by data set."""
    file = folder / FILE
    if not file.exists():
        return {}
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): [str(entry) for entry in digests] for name, digests in known.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file}: damaged ({type(error).__name__}); restore it from a backup, or remove it") from None


def _write(folder: Path, known: dict[str, list[str]]) -> None:
    """Replace the file."""
    write_atomic(folder / FILE, json.dumps(known, indent=1, sort_keys=True).encode(), secret=True)
