"""From a path to raw records, by what the path is.

| source | path |
|---|---|
| table | ``.csv``, ``.tsv``, ``.parquet`` |
| arrays | ``.npz`` with inputs ``x`` and labels ``y``, or an IDX file with ``labels_path`` |
| images | a folder with one sub-folder per class |
| Hugging Face data set on disk | ``hf:DIR`` |
| bundled with scikit-learn | ``sklearn:NAME`` |
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as papq

from models.inputs.arrays import read_idx, read_npz
from models.inputs.bundled import PREFIX as SKLEARN
from models.inputs.bundled import read_bundled_arrays, read_bundled_table
from models.inputs.delimited import read_delimited
from models.inputs.errors import (
    SettingsIncomplete,
    SourceEmpty,
    SourceMissing,
    SourceTooLarge,
    SourceUnreadable,
)
from models.inputs.huggingface import PREFIX as HUGGINGFACE
from models.inputs.huggingface import read_huggingface_images, read_huggingface_table
from models.inputs.images import read_image_folder
from models.inputs.raw import Raw, RawArrays, RawTable
from models.inputs.schema import DataSettings

DEFAULT_LABEL: Final = "label"
_IDX = re.compile(r"[.-]idx\d(-\w+)?(\.gz)?$", re.IGNORECASE)
_ARRAY_KINDS: Final = {"image", "sequence"}


def read(settings: DataSettings, path: str, labels_path: str | None = None) -> Raw:
    """Return the records of a source, nothing interpreted.

    Args:
        settings: the public specification; its kind, label, classes, image shape and max_rows are used.
        path: a source as in the table above; relative paths start at the working directory.
        labels_path: the labels of an IDX file.

    Raises:
        SourceMissing: there is nothing at ``path``.
        SourceEmpty: not a single record.
        SourceTooLarge: more than ``settings.max_rows`` records.
        SourceUnreadable: the content is not what the path promises, or of a kind these settings cannot use.
        ExtraMissing: an optional package is needed.
        ColumnMissing: an array is missing from an ``.npz`` file.
    """
    raw = _read_any(settings, path, labels_path)
    if raw.records == 0:
        raise SourceEmpty(f"{raw.source}: no records")
    if raw.records > settings.max_rows:
        raise SourceTooLarge(
            f"{raw.source}: more than data.max_rows = {settings.max_rows} records; raise it or split the source"
        )
    if settings.kind == "tabular" and isinstance(raw, RawArrays):
        return _as_table(raw, settings.label or DEFAULT_LABEL)
    if settings.kind == "text" and isinstance(raw, RawArrays):
        raise SourceUnreadable(f"{raw.source}: arrays hold no text; give a table with a text column")
    return raw


def _read_any(settings: DataSettings, path: str, labels_path: str | None) -> Raw:
    """Choose the reader by the path."""
    arrays_wanted = settings.kind in _ARRAY_KINDS
    if path.startswith(SKLEARN):
        if arrays_wanted:
            return read_bundled_arrays(path, classes=settings.classes)
        return read_bundled_table(path, label=settings.label, classes=settings.classes)
    place = Path(path.removeprefix(HUGGINGFACE)).expanduser()
    if not place.exists():
        raise SourceMissing(f"{place}: no such file or folder; check the path and its permissions")
    if not os.access(place, os.R_OK):
        raise SourceMissing(f"{place}: may not be read; grant this user read access")
    if path.startswith(HUGGINGFACE):
        return _read_huggingface(settings, place)
    return _read_folder(settings, place) if place.is_dir() else _read_file(settings, place, labels_path)


def _read_file(settings: DataSettings, path: Path, labels_path: str | None) -> Raw:
    """Choose the reader by the file's name."""
    suffix = path.suffix.lower()
    if _IDX.search(path.name):
        return _read_idx_pair(settings, path, labels_path)
    if labels_path is not None:
        raise SourceUnreadable(f"{path.name}: labels_path belongs to IDX files only; leave it out")
    if suffix in {".csv", ".tsv", ".tab"}:
        return read_delimited(path, max_rows=settings.max_rows)
    if suffix in {".parquet", ".pq"}:
        return _read_parquet(path, settings.max_rows)
    if suffix == ".npz":
        return read_npz(path, label=settings.label)
    raise SourceUnreadable(
        f"{path.name}: unknown kind of file; give .csv, .tsv, .parquet, .npz, an IDX file, a folder "
        "of images, hf:DIR or sklearn:NAME"
    )


def _read_idx_pair(settings: DataSettings, path: Path, labels_path: str | None) -> RawArrays:
    """Read an IDX file and its labels."""
    if labels_path is None:
        raise SettingsIncomplete(f"{path.name}: an IDX file has no labels; set labels_path to the file that has")
    labels = Path(labels_path).expanduser()
    if not labels.is_file():
        raise SourceMissing(f"{labels}: no such file; check labels_path")
    return read_idx(path, labels, max_rows=settings.max_rows)


def _read_parquet(path: Path, max_rows: int) -> RawTable:
    """Read a Parquet file with the types it has."""
    if path.stat().st_size == 0:
        raise SourceEmpty(f"{path.name}: the file is empty")
    try:
        with papq.ParquetFile(path) as file:
            if file.metadata.num_rows > max_rows:
                raise SourceTooLarge(f"{path.name}: more than data.max_rows = {max_rows} records; raise it")
            table = file.read()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
        raise SourceUnreadable(f"{path.name}: not a Parquet file, or a damaged one; write it again") from None
    names = table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SourceUnreadable(f"{path.name}: column {', '.join(map(repr, repeated))} twice; rename one")
    # pandas stores its row numbers as a column, which would make a record's digest depend on its place.
    kept = [name for name in names if not name.startswith("__index_level_")]
    return RawTable(table=table.select(kept), source=path.name)


def _read_folder(settings: DataSettings, folder: Path) -> RawArrays:
    """Read a folder of images."""
    if settings.image is None:
        raise SourceUnreadable(f'{folder.name}: a folder is read as images; set kind = "image", or name a file')
    return read_image_folder(folder, shape=settings.image.shape, classes=settings.classes, max_rows=settings.max_rows)


def _read_huggingface(settings: DataSettings, folder: Path) -> Raw:
    """Read a Hugging Face data set as images or as a table."""
    if settings.image is not None:
        return read_huggingface_images(
            folder,
            label=settings.label,
            shape=settings.image.shape,
            classes=settings.classes,
            max_rows=settings.max_rows,
        )
    return read_huggingface_table(folder, label=settings.label, classes=settings.classes, max_rows=settings.max_rows)


def _as_table(raw: RawArrays, label: str) -> RawTable:
    """Name the columns of flat arrays "0", "1", …, so that a table's settings apply."""
    if raw.inputs.ndim != 2:
        raise SourceUnreadable(
            f"{raw.source}: records of shape {raw.inputs.shape[1:]}; kind = 'tabular' needs one number per column"
        )
    columns = {str(index): pa.array(raw.inputs[:, index]) for index in range(raw.inputs.shape[1])}
    return RawTable(table=pa.table({**columns, label: raw.labels}), source=raw.source)
