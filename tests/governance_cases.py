"""A federation on the platform team's machine, machines that ask to be admitted, a disk that is full."""

from __future__ import annotations

import errno
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from server.federation import FederationSettings, Governance, found
from server.membership import admit
from strategies.introduction import Request, read_request, write_request


def moved(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``home``, made, as this machine's state."""
    home.mkdir(mode=0o700)
    monkeypatch.setenv("CONFIDE_HOME", str(home))
    return home


def founded(home: Path, **settings: Any) -> Governance:
    return found(home / "federation", FederationSettings(name="acme", server="fl.example.org:9092", **settings))


def now() -> int:
    return int(time.time())


def request(folder: Path, name: str) -> Request:
    """A fresh machine's request."""
    file = folder / f"{name}.json"
    node = ec.generate_private_key(ec.SECP384R1())
    file.write_bytes(write_request(Ed25519PrivateKey.generate(), name=name, node=node.public_key()))
    return read_request(file)


def admitted(governance: Governance, folder: Path, *names: str) -> list[Request]:
    """Machines of these names, admitted."""
    requests = [request(folder, name) for name in names]
    for made in requests:
        admit(governance, made)
    return requests


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock."""
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def fill_disk(patch: pytest.MonkeyPatch, after: int) -> None:
    """Let the disk be full for one file, after so many."""
    replace, calls = os.replace, itertools.count()

    def full(source: Any, target: Any) -> None:
        if next(calls) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    patch.setattr(os, "replace", full)


def command(app: Any, *arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def succeeded(app: Any, *arguments: str) -> Any:
    """What a command prints as JSON."""
    result = command(app, *arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)
