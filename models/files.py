"""Files that are either the old version or the new one, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from models.errors import StoreError


def write_atomic(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Write ``data`` to ``path`` durably: afterwards the file holds all of it, or is what it was before.

    Args:
        path: the file; its folder must exist.
        data: all of its content.
        secret: make the file readable by its owner alone (mode 0600) from the moment it exists; otherwise
            its mode follows the umask.

    Raises:
        StoreError: the operating system refused (disk full, no permission, no such folder).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  # one seam for tests, beside os.fsync
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); free space or fix permissions, then try again"
        ) from error
    finally:
        # Gone already if all went well.
        with contextlib.suppress(OSError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the content of a file of at most ``limit`` bytes.

    Raises:
        StoreError: it is missing, unreadable or larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror or error}); correct the path, or restore it"
        ) from error
    if len(data) > limit:
        raise StoreError(f"{path}: larger than {limit} bytes; it is not the file that was made, get it again")
    return data
