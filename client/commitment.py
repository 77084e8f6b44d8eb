"""What a ledger holds of a data set: keyed digests that show *that* something changed, and nothing else.

Without this machine's secret key nobody can try out which data a digest stands for.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from client.data import DatasetEntry
from client.errors import ConfigError
from models.inputs.bundled import PREFIX

_CONTENT = b"confide/data-commitment/v1\n"
_SPLIT = b"confide/split-commitment/v1\n"
_CHUNK = 1 << 20
_LOCAL = "hf:"  # a Hugging Face data set lies in a folder, too


def commitment(entry: DatasetEntry) -> bytes:
    """HMAC-SHA-256 of a data set's content: every file's place in it, length and bytes; 32 bytes.

    Raises:
        ConfigError: a file cannot be read.
    """
    mac = hmac.new(entry.split_key, _CONTENT, sha256)
    for source in (entry.path, entry.labels_path):
        if source is None:
            continue
        if source.startswith(PREFIX):  # public, and part of an installed package
            mac.update(source.encode())
            continue
        root = Path(source.removeprefix(_LOCAL))
        for file in _files(root):
            _add(mac, file, file.relative_to(root).as_posix())
    return mac.digest()


def split_commitment(name: str, entry: DatasetEntry) -> bytes:
    """HMAC-SHA-256 of what decides who is held out for validation: key, data set, person column, share; 32 bytes.

    A record of two data sets may be held out in one of them alone, since its columns differ: so their names count.
    """
    terms = json.dumps([name, entry.person, repr(float(entry.validation))])
    return hmac.new(entry.split_key, _SPLIT + terms.encode(), sha256).digest()


def _files(root: Path) -> Iterator[Path]:
    """A file, or every file of a folder in the order of their names."""
    if not root.is_dir():
        yield root
        return
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            yield Path(folder) / name


def _add(mac: hmac.HMAC, file: Path, place: str) -> None:
    """Take a file in, its place and length first, so that no two data sets read the same."""
    try:
        with file.open("rb") as content:
            size = os.fstat(content.fileno()).st_size
            encoded = place.encode("utf-8", "surrogateescape")
            mac.update(len(encoded).to_bytes(8, "big") + encoded + size.to_bytes(8, "big"))
            while chunk := content.read(_CHUNK):
                mac.update(chunk)
    except OSError as error:
        raise ConfigError(f"path = {file}: cannot be read ({error.strerror}); correct the path or its rights") from None
