"""Which files hold a department's private data on this machine, by name alone: nothing of them is read."""

from __future__ import annotations

import tomllib
from pathlib import Path

from strategies.home import home


def registered_sources() -> dict[str, Path]:
    """Return the data sets of this machine's ``client.toml``: name to path; empty where there is none.

    A file that cannot be read counts as naming none: then no department works from here.
    """
    file = home() / "client" / "client.toml"
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("dataset", {})
    except (OSError, ValueError):
        return {}
    found = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        for field in ("path", "labels_path"):
            path = entry.get(field) if isinstance(entry, dict) else None
            if isinstance(path, str) and not path.startswith(("sklearn:", "hf:")):
                found[f"{name}.{field}"] = (file.parent / path).resolve()
    return found
