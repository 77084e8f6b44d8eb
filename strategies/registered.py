"""Which files hold a department's private data on this machine, by name alone: nothing of them is read."""

from __future__ import annotations

import tomllib
from pathlib import Path

from strategies.errors import SettingsError
from strategies.home import home


def registered_sources() -> dict[str, Path]:
    """Return the data sets of this machine's ``client.toml``: name to path; empty where there is none.

    Raises:
        SettingsError: the file is there but cannot be read, so that nobody can tell what is private here.
    """
    file = home() / "client" / "client.toml"
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("dataset", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "not TOML"
        raise SettingsError(f"{file}: cannot be read ({said}): what is private here is not known; correct it") from None
    found = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        for field in ("path", "labels_path"):
            path = entry.get(field) if isinstance(entry, dict) else None
            if isinstance(path, str) and not path.startswith("sklearn:"):
                found[f"{name}.{field}"] = (file.parent / path.removeprefix("hf:")).resolve()
    return found
