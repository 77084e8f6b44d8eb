"""Hugging Face data sets that lie on disk (``Dataset.save_to_disk``), by ``hf:DIR``: no downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from models.inputs.errors import BadValue, ColumnMissing, ExtraMissing, SourceTooLarge, SourceUnreadable
from models.inputs.images import pixels
from models.inputs.raw import RawArrays, RawTable, coded_labels

PREFIX: Final = "hf:"


def read_huggingface_table(
    folder: Path, *, label: str | None, classes: tuple[str, ...] | None, max_rows: int
) -> RawTable:
    """Return a data set's columns; a ``ClassLabel`` column is written as its names.

    Raises:
        ExtraMissing: the ``datasets`` package is not installed.
        SourceTooLarge: more than ``max_rows`` records.
        SourceUnreadable: not a data set on disk, or one with several splits.
    """
    data = _load(folder, max_rows)
    table = data.with_format("arrow")[:]
    if label is not None and label in table.column_names:
        position = table.column_names.index(label)
        table = table.set_column(position, label, _labels(data, label, classes))
    return RawTable(table=table, source=folder.name)


def read_huggingface_images(
    folder: Path,
    *,
    label: str | None,
    shape: tuple[int, int, int],
    classes: tuple[str, ...] | None,
    max_rows: int,
) -> RawArrays:
    """Return a data set's only image column and its labels; raises as ``read_huggingface_table``.

    Raises:
        ColumnMissing: there is no image column, or no label column.
        BadValue: an image that cannot be decoded.
    """
    data = _load(folder, max_rows)
    images = [name for name, feature in data.features.items() if type(feature).__name__ == "Image"]
    label = label or "label"
    if len(images) != 1 or label not in data.column_names:
        raise ColumnMissing(f"{folder.name}: expected one image column and the label column {label!r}; set data.label")
    inputs = np.empty((len(data), *shape), np.uint8)
    for index in range(len(data)):
        try:
            inputs[index] = pixels(data[index][images[0]], shape)
        except (OSError, AttributeError):
            raise BadValue(
                source=folder.name, row=index + 1, column=images[0], problem="cannot be decoded as an image"
            ) from None
    return RawArrays(inputs=inputs, labels=_labels(data, label, classes), source=folder.name)


def _load(folder: Path, max_rows: int) -> Any:
    """Open a data set on disk."""
    try:
        import datasets  # noqa: PLC0415  (an optional package)
    except ImportError:
        raise ExtraMissing(
            f'hf:{folder.name} needs datasets; install it with: pip install "confide[huggingface]"'
        ) from None
    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, pa.ArrowInvalid):
        raise SourceUnreadable(
            f"{folder.name}: not a data set written by save_to_disk; write one split with save_to_disk"
        ) from None
    if not isinstance(data, datasets.Dataset):
        raise SourceUnreadable(
            f"{folder.name}: holds several splits; name the folder of one, such as hf:{folder.name}/train"
        )
    if len(data) > max_rows:
        raise SourceTooLarge(f"{folder.name}: more than data.max_rows = {max_rows} records; raise it")
    return data


def _labels(data: Any, label: str, classes: tuple[str, ...] | None) -> Any:
    """Return the label column, class codes written as names."""
    column = data.with_format("arrow")[:].column(label)
    names = getattr(data.features[label], "names", None)
    if not names or column.null_count:
        return column
    codes = np.asarray(column.to_numpy(), np.int64)
    if ((codes < 0) | (codes >= len(names))).any():
        return column
    return pa.array(coded_labels(codes, names, classes), pa.string())
