"""Files of arrays: NumPy's ``.npz`` and the IDX format of the MNIST family."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.errors import nearest
from models.inputs.errors import ColumnMissing, SourceEmpty, SourceTooLarge, SourceUnreadable
from models.inputs.raw import RawArrays

_INPUT_NAMES: Final = ("x", "data")
_LABEL_NAMES: Final = ("y", "target", "label", "labels")
_IDX_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_MAX_RANK: Final = 4
_IDX_MAX_RECORD: Final = 2**22


def read_npz(path: Path, *, label: str | None) -> RawArrays:
    """Return the arrays ``x`` (or ``data``) and ``label`` (or ``y``, ``target``, ``label``, ``labels``).

    Raises:
        ColumnMissing: an array of that name is not in the file.
        SourceUnreadable: not an ``.npz`` of numbers, or the two arrays differ in length.
    """
    names = _INPUT_NAMES, (label,) if label is not None else _LABEL_NAMES
    try:
        # Opened here, because np.load forgets to close a file that turns out to be no archive.
        with path.open("rb") as handle:
            archive = np.load(handle, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise SourceUnreadable(f"{path.name}: a single array; save inputs and labels with numpy.savez")
            inputs, labels = (_pick(archive, wanted, path.name) for wanted in names)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, SourceUnreadable | ColumnMissing):
            raise
        raise SourceUnreadable(f"{path.name}: damaged, or not arrays of numbers saved by numpy.savez") from None
    return paired(inputs, labels, source=path.name)


def _pick(archive: Any, wanted: tuple[str, ...], source: str) -> npt.NDArray[Any]:
    """Return the first array that has one of the wanted names."""
    for name in wanted:
        if name in archive.files:
            return np.asarray(archive[name])
    raise ColumnMissing(f"{source}: no array named {' or '.join(wanted)}; {nearest(wanted[0], archive.files)}")


def paired(inputs: npt.NDArray[Any], labels: npt.NDArray[Any], *, source: str) -> RawArrays:
    """Check that there is one label per record and numbers in every record.

    Raises:
        SourceUnreadable: the arrays do not belong together or hold no numbers.
    """
    if inputs.ndim < 2 or inputs.dtype.kind not in "biuf":
        raise SourceUnreadable(
            f"{source}: inputs are {inputs.dtype} of shape {inputs.shape[1:]} a record; "
            "give numbers, one row per record"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "biufU":
        raise SourceUnreadable(f"{source}: labels must be one number or text per record")
    if len(labels) != len(inputs):
        raise SourceUnreadable(f"{source}: inputs and labels differ in length; give one label per record")
    native = labels.astype(labels.dtype.newbyteorder("="))
    return RawArrays(inputs=inputs, labels=pa.array(native.tolist()), source=source)


def read_idx(path: Path, labels_path: Path, *, max_rows: int) -> RawArrays:
    """Return the records of an IDX file (LeCun's format, plain or gzipped) with the labels of a second one.

    Raises:
        SourceEmpty: the header announces no records.
        SourceTooLarge: the header announces more than ``max_rows`` records.
        SourceUnreadable: a header and the bytes after it disagree, or the two files do.
    """
    inputs = _read_idx_array(path, max_rows)
    labels = _read_idx_array(labels_path, max_rows)
    return paired(inputs, labels, source=path.name)


def _read_idx_array(path: Path, max_rows: int) -> npt.NDArray[Any]:
    """Read one IDX array; nothing is allocated before the header has been believed."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as handle:
            magic = handle.read(4)
            if len(magic) != 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES:
                raise SourceUnreadable(f"{path.name}: not an IDX file (its first four bytes are wrong)")
            rank = magic[3]
            if not 1 <= rank <= _IDX_MAX_RANK:
                raise SourceUnreadable(f"{path.name}: {rank} dimensions; expected 1 to {_IDX_MAX_RANK}")
            sides = handle.read(4 * rank)
            if len(sides) != 4 * rank:
                raise SourceUnreadable(f"{path.name}: the header is cut short; copy the file again")
            shape = struct.unpack(f">{rank}I", sides)
            dtype = np.dtype(_IDX_TYPES[magic[2]])
            if shape[0] == 0:
                raise SourceEmpty(f"{path.name}: the header announces no records")
            if shape[0] > max_rows:
                raise SourceTooLarge(f"{path.name}: more than data.max_rows = {max_rows} records; raise it")
            if not 1 <= math.prod(shape[1:]) <= _IDX_MAX_RECORD:
                raise SourceUnreadable(f"{path.name}: records of shape {shape[1:]} are too large or empty")
            expected = math.prod(shape) * dtype.itemsize
            content = handle.read(expected + 1)
    except (OSError, EOFError, zlib.error):
        raise SourceUnreadable(f"{path.name}: the file is damaged; copy it again") from None
    if len(content) != expected:
        problem = "more bytes than" if len(content) > expected else "fewer bytes than"
        raise SourceUnreadable(f"{path.name}: {problem} the header announces; copy the file again")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
