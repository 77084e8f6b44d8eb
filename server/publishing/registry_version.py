"""A version of a model, as a registry has it: read with suspicion, since anybody may have written it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from models.text import printable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ALIAS = re.compile(r"(?!latest\Z|[vV][0-9]+\Z)[A-Za-z][A-Za-z0-9_-]{0,63}")
NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
OURS = "confide."

_LONGEST = 2000


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a model, as the registry has it; only ``digest`` can be checked (``Registry.fetch`` does).

    Attributes:
        name, version: what it is.
        aliases: what else it is called, sorted.
        digest: the bundle's, 64 hexadecimal digits.
        run: the run that trained it.
        created: when it was registered, UTC, ISO; "unknown" where the registry says no time.
        tags: what anybody else said of it.
        description: for people.
        mlflow_run: the MLflow run that holds its figures and files.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    digest: str
    run: str
    created: str
    tags: Mapping[str, str]
    description: str
    mlflow_run: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {**asdict(self), "aliases": list(self.aliases)}


def is_ours(given: Any) -> bool:
    """Whether MLflow's model version says that Confide published it."""
    return bool(_DIGEST.fullmatch(str(given.tags.get(f"{OURS}digest"))) and NUMBER.fullmatch(str(given.version)))


def read_version(given: Any, aliases: Mapping[str, int]) -> Version:
    """Return MLflow's model version as ours; texts lose what a terminal might obey."""
    number = int(given.version)
    return Version(
        name=given.name,
        version=number,
        aliases=tuple(sorted(alias for alias, meant in aliases.items() if meant == number)),
        digest=given.tags[f"{OURS}digest"],
        run=_plain(given.tags.get(f"{OURS}run", "")),
        created=_time(given.creation_timestamp),
        tags={_plain(key): _plain(value) for key, value in sorted(given.tags.items()) if not key.startswith(OURS)},
        description=_plain(given.description or ""),
        mlflow_run=str(given.run_id or ""),
    )


def _time(milliseconds: Any) -> str:
    """A time as ISO has it; "unknown" where it is none."""
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC).isoformat(timespec="seconds")
    except (TypeError, ValueError, OverflowError, OSError):
        return "unknown"


def _plain(text: object) -> str:
    """Printable text of a sane length."""
    return printable(text, _LONGEST)
