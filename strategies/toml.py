"""Settings files: reading TOML, and saying clearly what is wrong with it."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from strategies.errors import SettingsError

MAX_BYTES = 4 * 1024 * 1024

AnySettings = TypeVar("AnySettings", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file of bounded size into a dictionary."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SettingsError(f"{path}: {size} bytes is more than a settings file may have ({MAX_BYTES})")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; give the path of a TOML file") from None
    except IsADirectoryError:
        raise SettingsError(f"{path}: is a folder; give the path of a TOML file") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except RecursionError:
        raise SettingsError(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # also numbers too long to be read
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None


def validated(kind: type[AnySettings], document: Mapping[str, Any], *, where: str) -> AnySettings:
    """Validate ``document`` as ``kind``; every problem becomes one line of one SettingsError."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        lines = [_explain(kind, dict(problem)) for problem in error.errors()[:10]]
        raise SettingsError(f"{where}: " + "\n".join(lines)) from None


def _explain(kind: type[BaseModel], problem: dict[str, Any]) -> str:
    """One validation problem as a line with field, value and fix."""
    location = tuple(str(part) for part in problem["loc"])
    field = ".".join(location) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{field}: unknown key{_nearest(location[-1], _keys(kind, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{field}: missing; add it to the file"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{field}: {message}" if location else message
    given = problem.get("input")
    shown = json.dumps(given, default=str)
    if isinstance(given, str) and "expected" in (problem.get("ctx") or {}):
        options = [option.strip(" '") for option in str(problem["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        return f"{field} = {shown}: {message}{_nearest(given, options)}"
    return f"{field} = {shown[:80]}: {message}"


def _keys(kind: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Known keys of the table at ``location``."""
    current: type[BaseModel] = kind
    parts = iter(location)
    for part in parts:
        field = current.model_fields.get(part)
        if field is None:
            return []
        candidates = [field.annotation, *get_args(field.annotation)]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is None:
            return []
        if get_origin(field.annotation) is dict:
            next(parts, None)  # the entry's own name
        current = inner
    return list(current.model_fields)


def _nearest(word: str, options: Sequence[str]) -> str:
    """A hint with the closest known name, if one is close."""
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else (f"; known: {', '.join(options)}" if options else "")
