"""Model inputs and targets from raw cells: the public bounds, categories, shapes and classes applied."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from models.inputs.columns import MISSING, UNLISTED, codes, numbers, texts
from models.inputs.errors import BadValue, LabelMissing, SettingsIncomplete, SourceUnreadable
from models.inputs.raw import RawArrays, RawTable
from models.inputs.resolve import feature_names
from models.inputs.schema import DataSettings
from models.inputs.sections import TextSettings, canonical
from models.inputs.tokens import token_ids


def target_values(settings: DataSettings, raw: RawTable, label: str) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """Return class indices, or regression targets in their own units, clipped to the public bounds."""
    column = raw.column(label, field="data.label")
    if settings.target_bounds is not None:
        values, _ = numbers(column, settings.missing, name=label, source=raw.source, row=raw.row, label=True)
        return np.clip(values, *settings.target_bounds).astype(np.float32)[:, None]
    classes = settings.classes or ()
    found = codes(texts(column, name=label, source=raw.source), classes, (*settings.missing, ""))
    if (found == MISSING).any():
        raise LabelMissing(
            source=raw.source,
            row=raw.row(int((found == MISSING).argmax())),
            column=label,
            problem="the label is missing; label or drop the row",
        )
    if (found == UNLISTED).any():
        raise BadValue(
            source=raw.source,
            row=raw.row(int((found == UNLISTED).argmax())),
            column=label,
            problem=f"the label is none of the {len(classes)} classes {_some(classes)}; "
            "correct it, or set data.classes",
        )
    return found


def text_inputs(settings: DataSettings, text: TextSettings, raw: RawTable) -> npt.NDArray[np.int64]:
    """Tokenise the text column; a text declared missing becomes one unknown token."""
    cells = texts(raw.column(text.column, field="data.text.column"), name=text.column, source=raw.source)
    missing = set(settings.missing)
    records = ["" if canonical(record) in missing else record for record in cells.to_pylist()]
    if "" not in missing:
        empty = np.asarray(pc.equal(cells, ""))
        if empty.any():
            raise BadValue(
                source=raw.source,
                row=raw.row(int(empty.argmax())),
                column=text.column,
                problem='the text is empty; fill it, drop the row, or add "" to data.missing',
            )
    return token_ids(records, text)


def table_inputs(settings: DataSettings, raw: RawTable, notes: list[str]) -> npt.NDArray[np.float32]:
    """Fill the feature matrix, column after column in the order of ``feature_names``."""
    inputs = np.zeros((raw.records, len(feature_names(settings))), np.float32)
    rows = np.arange(raw.records)
    at = 0
    for name, column in settings.columns.items():
        cells = raw.column(name, field="data.columns")
        if column.bounds is not None:
            values, absent = numbers(cells, settings.missing, name=name, source=raw.source, row=raw.row)
            inputs[:, at] = np.where(absent, 0.0, _symmetric(values, column.bounds))
            at += 1
            if raw.records and ((values < column.bounds[0]) | (values > column.bounds[1]) | absent).all():
                notes.append(f"column {name!r}: no value lies within its bounds; check data.columns")
        else:
            listed = column.categories or ()
            found = codes(texts(cells, name=name, source=raw.source), listed, settings.missing)
            _check_listed(settings, raw, name, found)
            if not (found >= 0).any():
                notes.append(f"column {name!r}: no value is one of its categories; check data.columns")
            known = found >= 0
            inputs[rows[known], at + found[known]] = 1.0
            at += len(listed)
            if settings.unknown == "other":
                inputs[:, at] = found == UNLISTED
                at += 1
            absent = found == MISSING
        if settings.missing:
            inputs[:, at] = absent
            at += 1
    return inputs


def _check_listed(settings: DataSettings, raw: RawTable, name: str, found: npt.NDArray[np.int64]) -> None:
    """Refuse unlisted categories where the specification says so."""
    if settings.unknown == "error" and (found == UNLISTED).any():
        raise BadValue(
            source=raw.source,
            row=raw.row(int((found == UNLISTED).argmax())),
            column=name,
            problem="the value is none of the "
            f"{len(settings.columns[name].categories or ())} listed categories; "
            'correct it, add it to categories or missing, or set data.unknown = "other"',
        )


def flat_table_inputs(settings: DataSettings, raw: RawTable, label: str) -> npt.NDArray[np.float32]:
    """Read images or sequences that lie flat in a table: all columns but the named ones, in order."""
    named = {label, settings.person, settings.group_column}
    names = [name for name in raw.table.column_names if name not in named]
    shape = _shape(settings)
    if len(names) != math.prod(shape):
        raise SourceUnreadable(
            f"{raw.source}: {len(names)} columns besides the label; shape = {list(shape)} needs {math.prod(shape)}"
        )
    flat = np.empty((raw.records, len(names)), np.float64)
    for position, name in enumerate(names):
        flat[:, position], _ = numbers(raw.table.column(name), (), name=name, source=raw.source, row=raw.row)
    return _scaled(settings, flat).reshape(raw.records, *shape)


def array_inputs(settings: DataSettings, raw: RawArrays) -> npt.NDArray[np.float32]:
    """Check, clip, scale and reshape records that came as arrays."""
    shape = _shape(settings)
    given = raw.inputs.shape[1:]
    if math.prod(given) != math.prod(shape):
        raise SourceUnreadable(
            f"{raw.source}: records of shape {given}; "
            f"the specification says {list(shape)}; correct data.{settings.kind}.shape"
        )
    flat = raw.inputs.reshape(raw.records, -1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        record, element = np.argwhere(~np.isfinite(flat))[0]
        raise BadValue(
            source=raw.source,
            row=raw.row(int(record)),
            column=f"element {int(element)}",
            problem="not a finite number; correct or drop the record",
        )
    return _scaled(settings, flat).reshape(raw.records, *shape)


def _shape(settings: DataSettings) -> tuple[int, ...]:
    """Return the shape of one image or sequence."""
    section = settings.image or settings.sequence
    if section is None:
        raise SettingsIncomplete(f"kind = {settings.kind!r} needs [data.{settings.kind}] for such a source")
    return section.shape


def _scaled(settings: DataSettings, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Clip to the public bounds and scale: images to [0, 1], sequences to [-1, 1]."""
    if settings.image is not None:
        low, high = settings.image.bounds
        return ((np.clip(values.astype(np.float32), low, high) - low) / (high - low)).astype(np.float32)
    if settings.sequence is not None:
        # In float64 whatever the source, so that the same numbers give the same inputs.
        return _symmetric(values.astype(np.float64), settings.sequence.bounds).astype(np.float32)
    raise SettingsIncomplete(f"kind = {settings.kind!r} has no bounds for arrays")


def _symmetric(values: npt.NDArray[Any], bounds: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Clip to the bounds and map them to [-1, 1]."""
    low, high = bounds
    scaled: npt.NDArray[np.float64] = (np.clip(values, low, high) - low) * (2.0 / (high - low)) - 1.0
    return scaled


def _some(names: tuple[str, ...]) -> str:
    """Quote up to five public names."""
    return f"({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
