"""Registries for tests: MLflow takes seconds to make a database, so one is made and copied."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from bundle_cases import PUBLIC, sealed

from models.bundle import Bundle
from server.publishing.registry import Registry
from server.publishing.registry_place import DATABASE


@functools.cache
def empty_database() -> bytes:
    """A registry's database before anything was published."""
    with tempfile.TemporaryDirectory() as folder:
        # Anything that needs the database makes it; this is what publishing begins with.
        Registry.at(folder, keys=[PUBLIC])._made()
        return (Path(folder) / DATABASE).read_bytes()


def registry_at(folder: Path, *, key: bytes = PUBLIC) -> Registry:
    """A registry with nothing in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATABASE).write_bytes(empty_database())
    return Registry.at(str(folder), keys=[key])


def published(registry: Registry, folder: Path, **parts: Any) -> tuple[int, Bundle]:
    """Make a bundle in ``folder`` and publish it."""
    bundle = sealed(folder, **parts)
    return registry.publish(folder, bundle), bundle
