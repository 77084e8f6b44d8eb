"""Writers of small data files for the tests of readers."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(os.environ.get("CONFIDE_DATA", Path(__file__).parents[2] / "shared" / "data"))
HEART = "age,sex,outcome\n" + "".join(f"{30 + i},{i % 2},{i // 2 % 2}\n" for i in range(20))


def shared_file(name: str) -> str:
    """Path of a real data set, or skip."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is absent; set CONFIDE_DATA to the folder that has {name}")
    return str(path)


def write(path: Path, content: str | bytes) -> str:
    """Write exactly these characters or bytes."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    """The IDX form of an array."""
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx_pair(folder: Path, count: int = 12, *, zipped: bool = False) -> tuple[str, str]:
    """Eight by eight images whose first pixel is their label times ten."""
    labels = np.arange(count, dtype=np.uint8) % 3
    images = np.zeros((count, 8, 8), np.uint8)
    images[:, 0, 0] = labels * 10
    suffix = ".gz" if zipped else ""
    pack = gzip.compress if zipped else bytes
    return (
        write(folder / f"images.idx3-ubyte{suffix}", pack(idx(images))),
        write(folder / f"labels-idx1-ubyte{suffix}", pack(idx(labels))),
    )
