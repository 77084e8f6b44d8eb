"""The files of a bundle's folder, read with suspicion: plain, bounded, and of the kind that their names say."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from models import strict_json
from models.errors import BundleError
from models.files import sync_folder
from models.onnx_wire import check_alone

MAX_FILES: Final = 256
MAX_FILE: Final = 256 << 20
MAX_DOCUMENT: Final = 16 << 20
MAX_DEPTH: Final = 4
AGAIN: Final = "get the bundle again from whoever published it"


def check_content(name: str, data: bytes) -> None:
    """Refuse a file that is not of the kind its name says."""
    if name.endswith(".onnx"):
        check_alone(data, name)
    elif name.endswith(".json"):
        strict_json.parse_object(data, name)
    elif name.endswith(".safetensors"):
        header = int.from_bytes(data[:8], "little")
        if not (2 <= header <= len(data) - 8 and data[8:9] == b"{"):
            raise BundleError(f"{name}: no safetensors file; publish the run again")


def listed(folder: Path) -> dict[str, str]:
    """What each name in a folder is: "file", "a link" or "no plain file"."""
    found: dict[str, str] = {}
    waiting = [(folder, "")]
    while waiting:
        place, prefix = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.is_symlink():
                        found[name] = "a link"
                    elif entry.is_dir(follow_symlinks=False) and name.count("/") + 1 < MAX_DEPTH:
                        waiting.append((Path(entry.path), f"{name}/"))
                    else:
                        found[name] = "file" if entry.is_file(follow_symlinks=False) else "no plain file"
                    if len(found) + len(waiting) > MAX_FILES + 1:
                        raise BundleError(f"{folder}: more than {MAX_FILES} files; a bundle has fewer, {AGAIN}")
        except OSError as error:
            raise BundleError(f"{place}: cannot be read ({error.strerror}); correct the path, or restore it") from None
    return found


def read(folder: Path, name: str) -> bytes:
    """The bytes of a plain file; no link is followed to it, and no pipe waited for."""
    limit = MAX_FILE if name.endswith((".onnx", ".safetensors")) else MAX_DOCUMENT
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BundleError(f"{name}: is no plain file; {AGAIN}")
            data = file.read(limit + 1)
    except OSError as error:
        said = "is a link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise BundleError(f"{name}: {said}; {AGAIN}") from None
    if len(data) > limit:
        raise BundleError(f"{name}: larger than {limit} bytes; {AGAIN}")
    return data


def sync(folder: Path, names: Sequence[str]) -> None:
    """Make every file, and its place in its folder, survive a power cut."""
    try:
        for name in names:
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for place in sorted({(folder / name).parent for name in names}):
            sync_folder(place)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be made durable ({error.strerror}); free space and try again") from None
