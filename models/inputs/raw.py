"""What a reader hands over: records as they stand in a source, nothing interpreted yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from models.errors import nearest
from models.inputs.errors import ColumnMissing

DIGEST_BYTES = 16


def one_based(record: int) -> int:
    """Row of a record where there is no header."""
    return record + 1


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """Named columns, one row per record.

    Attributes:
        table: a ``pyarrow.Table``; all texts where the source has no types.
        source: the file's name for messages.
        row: record index -> row number as a person finds it in the file.
        notes: what an operator should know, without any private value.
    """

    table: Any
    source: str
    row: Callable[[int], int] = one_based
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        """Number of records."""
        return int(self.table.num_rows)

    def column(self, name: str, *, field: str) -> Any:
        """Return a column as a ``pyarrow.ChunkedArray``.

        Raises:
            ColumnMissing: there is none of that name; the nearest is named.
        """
        names = self.table.column_names
        if name not in names:
            raise ColumnMissing(f"{self.source}: {field} = {name!r} is not a column; {nearest(name, names)}")
        return self.table.column(name)


@dataclass(frozen=True, kw_only=True)
class RawArrays:
    """Numbers of one shape per record, and a label each.

    Attributes:
        inputs: ``(N, ...)``, integers or floats, in the source's own units.
        labels: a one-dimensional ``pyarrow.Array`` of N labels.
        keys: one digest per record, where the source has better ones than the bytes of ``inputs``.
        source, row, notes: as in ``RawTable``.
    """

    inputs: npt.NDArray[Any]
    labels: Any
    source: str
    keys: tuple[bytes, ...] | None = None
    row: Callable[[int], int] = one_based
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self.inputs)


Raw: TypeAlias = RawTable | RawArrays


def digest(record: bytes) -> bytes:
    """Return the 16-byte BLAKE2b digest that stands for a record.

    Unkeyed, so as private as the record itself: guesses can be tried against it.
    """
    return hashlib.blake2b(record, digest_size=DIGEST_BYTES).digest()


def coded_labels(codes: npt.NDArray[np.int64], names: Sequence[str], classes: Sequence[str] | None) -> list[str]:
    """Write label codes as their names, or as numbers where ``classes`` lists the numbers."""
    if classes is not None and not set(classes) <= set(names):
        return [str(code) for code in codes.tolist()]
    return [names[code] for code in codes.tolist()]
