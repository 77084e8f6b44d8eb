"""Reading a run file, with overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strategies.errors import SettingsError
from strategies.settings import RunSettings
from strategies.toml import read_toml, validated


def load(path: Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read ``path`` (TOML, UTF-8) and apply ``key=value`` overrides.

    Relative paths inside the file are relative to the file. Raises :class:`SettingsError`
    naming the file, the key and the fix.
    """
    document = read_toml(path)
    for override in overrides:
        _override(document, override)
    return parse(document, where=str(path), base=path.resolve().parent)


def parse(document: Mapping[str, Any], *, where: str = "run file", base: Path | None = None) -> RunSettings:
    """Validate a document; ``base`` resolves relative paths. Raises :class:`SettingsError`."""
    settings = validated(RunSettings, document, where=where)
    if base is None:
        return settings
    return settings.model_copy(update={"data": settings.data.located(base)})


def _override(document: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=value``; the value is TOML, or plain text where it is not."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"--set {override}: write it as key=value, for example privacy.epsilon=4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    table: Any = document
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise SettingsError(f"--set {override}: {parent} is not a table of the run file")
    table[last] = value
