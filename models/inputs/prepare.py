"""Raw records to the arrays a model is trained on, by the public specification alone.

Every record is treated by itself: nothing here depends on any other record, so one record changes one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.inputs.columns import texts
from models.inputs.errors import BadValue, DataError, SettingsIncomplete
from models.inputs.features import array_inputs, flat_table_inputs, table_inputs, target_values, text_inputs
from models.inputs.raw import Raw, RawArrays, RawTable, digest
from models.inputs.readers import read
from models.inputs.resolve import label_column, resolve
from models.inputs.schema import DataSettings
from models.inputs.sections import canonical
from models.inputs.splits import set_aside

_SEPARATOR = "\x1f"  # ASCII "unit separator": rare in cells, and a clash only makes two records hash alike


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """N records, ready for a model.

    Attributes:
        inputs: float32 ``(N, *shape)``; int64 ``(N, length)`` for texts.
        targets: int64 ``(N,)`` class indices, or float32 ``(N, 1)`` in their own units,
            clipped to ``target_bounds`` (a task scales them).
        keys: one digest per record over *all* its columns, whatever this run uses of them, so that a split by
            them is the same in every run. As private as the record.
        persons: who each record is about, where the specification names a column. Private.
        groups: the department (or partition column) of each record, where one is named.
        notes: what an operator should look at; they hold no private value but are about private data.
    """

    inputs: npt.NDArray[np.float32] | npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    keys: list[bytes]
    persons: list[bytes] | None = None
    groups: list[str] | None = None
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self.targets)

    @property
    def units(self) -> list[bytes]:
        """What a split goes by: persons where they are known, so that nobody stands on both sides; else records."""
        return self.keys if self.persons is None else self.persons


def prepare(settings: DataSettings, raw: Raw) -> Prepared:
    """Turn raw records into a model's inputs and targets.

    Raises:
        ColumnMissing: a listed column is not in the source.
        LabelMissing: a record without a label.
        BadValue: a cell that is no number, not finite, empty, or not listed; file, row and column are named.
        SourceUnreadable: records of another shape than specified.
        SettingsIncomplete: the specification leaves open what these records need.
    """
    settings = resolve(settings)
    if isinstance(raw, RawTable):
        return _prepare_table(settings, raw)
    for field in ("person", "group_column"):
        if getattr(settings, field) is not None:
            raise SettingsIncomplete(f"{raw.source}: arrays and images have no columns; leave data.{field} out")
    labels = RawTable(table=pa.table({"label": raw.labels}), source=raw.source, row=raw.row)
    keys = list(raw.keys) if raw.keys is not None else _array_keys(raw)
    return Prepared(
        inputs=array_inputs(settings, raw),
        targets=target_values(settings, labels, "label"),
        keys=keys,
        notes=raw.notes,
    )


def prepare_source(settings: DataSettings, path: str, labels_path: str | None = None) -> Prepared:
    """Read and prepare one source; raises as ``read`` and ``prepare``."""
    settings = resolve(settings)
    return prepare(settings, read(settings, path, labels_path))


def prepare_test(settings: DataSettings) -> Prepared | None:
    """Return the public test set that has a source of its own, or None; raises as ``prepare_source``."""
    if settings.test is None or settings.test.path is None:
        return None
    path, labels_path = settings.test.path, settings.test.labels_path
    # A test set names neither persons nor departments.
    settings = resolve(settings).model_copy(update={"person": None, "department_column": None, "partition": None})
    return prepare_source(settings, path, labels_path)


def prepare_simulated_test(settings: DataSettings) -> Prepared | None:
    """Return a simulation's public test set: a source of its own, or the share that was set aside; else None."""
    if settings.test is None or settings.test.share is None or settings.path is None:
        return prepare_test(settings)
    whole = prepare_source(settings, settings.path, settings.labels_path)
    return chosen(whole, set_aside(whole.units, settings.test.share))


def chosen(prepared: Prepared, which: npt.NDArray[np.bool_]) -> Prepared:
    """Return some of the records; ``which`` is bool ``(N,)``."""
    return Prepared(
        inputs=prepared.inputs[which],
        targets=prepared.targets[which],
        keys=[key for key, taken in zip(prepared.keys, which, strict=True) if taken],
    )


def _prepare_table(settings: DataSettings, raw: RawTable) -> Prepared:
    """Prepare a source with named columns."""
    label = label_column(settings)
    targets = target_values(settings, raw, label)
    notes = list(raw.notes)
    inputs: npt.NDArray[np.float32] | npt.NDArray[np.int64]
    if settings.text is not None:
        inputs = text_inputs(settings, settings.text, raw)
    elif settings.kind == "tabular":
        inputs = table_inputs(settings, raw, notes)
    else:
        inputs = flat_table_inputs(settings, raw, label)
    persons = None
    if settings.person is not None:
        persons = [text.encode() for text in _named(raw, settings.person, "data.person")]
    group_column = settings.group_column
    return Prepared(
        inputs=inputs,
        targets=targets,
        keys=_table_keys(raw),
        persons=persons,
        groups=None if group_column is None else _named(raw, group_column, "department column"),
        notes=tuple(notes),
    )


def _named(raw: RawTable, column: str, field: str) -> list[str]:
    """Return the texts of a column in which no cell may be empty."""
    cells = texts(raw.column(column, field=field), name=column, source=raw.source)
    names = [canonical(text) for text in cells.to_pylist()]
    if "" in names:
        raise BadValue(
            source=raw.source,
            row=raw.row(names.index("")),
            column=column,
            problem=f"the cell is empty, but every row needs a {field}; fill it or drop the row",
        )
    return names


def _table_keys(raw: RawTable) -> list[bytes]:
    """Digest every record over all columns that have a text form, in order of name."""
    parts = []
    for name in sorted(raw.table.column_names):
        try:
            parts.append(texts(raw.table.column(name), name=name, source=raw.source))
        except DataError:
            continue  # nested or binary columns have no text form and take no part in the split
    joined = pc.binary_join_element_wise(*parts, pa.scalar(_SEPARATOR, pa.large_string()))
    return [digest(record.encode()) for record in joined.to_pylist()]


def _array_keys(raw: RawArrays) -> list[bytes]:
    """Digest every record over its numbers and its label."""
    flat = np.ascontiguousarray(raw.inputs.reshape(raw.records, -1))
    labels = raw.labels.to_pylist()
    return [digest(record.tobytes() + str(label).encode()) for record, label in zip(flat, labels, strict=True)]
