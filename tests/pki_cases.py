"""Certificates for tests: an authority and the server certificate that it signs, in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from server.pki import Pki, issue, make_authority


def ensure(directory: Path, hosts: Sequence[str]) -> Pki:
    """The PKI of ``directory``: made if absent, its server certificate renewed when due."""
    if not Pki(directory).authority.exists():
        make_authority(directory)
    return issue(directory, hosts, authority=directory)
