"""Records to predict, as they come over a network, to model inputs: by exactly the rules of training.

The body is one of the JSON objects of MLflow's scoring protocol or a CSV file with a header. It is read into
the same raw tables and arrays that files are read into, and prepared by the same functions.

| JSON key | its value |
|---|---|
| ``dataframe_split`` | ``{"columns": [NAME, ...], "data": [[CELL, ...], ...]}`` |
| ``dataframe_records`` | ``[{NAME: CELL, ...}, ...]`` |
| ``instances`` | a list of records: objects as above, texts, nested lists, ``{"b64": TEXT}`` |
| ``inputs`` | as ``instances``, or one list per column: ``{NAME: [CELL, ...], ...}`` |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.errors import RequestError, SignatureMismatch, nearest
from models.inputs.bodies import csv_rows, decoded, json_value, media_of, repeated, shown
from models.inputs.columns import numbers
from models.inputs.errors import BadValue, DataError
from models.inputs.features import array_inputs, table_inputs, text_inputs
from models.inputs.raw import Raw, RawArrays, RawTable
from models.inputs.readers import DEFAULT_LABEL
from models.inputs.request_arrays import raw_arrays
from models.inputs.request_schema import accepted, schema
from models.inputs.resolve import feature_names, vocabulary_size
from models.inputs.schema import DataSettings
from models.signature import Signature

MAX_ELEMENTS: Final = 2**25
"""A request's inputs hold at most so many numbers, whatever ``max_records`` allows."""

_KEYS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")


class Requests:
    """Reads requests for one model.

    Args:
        settings: the public specification, complete as ``DataSettings.public_part`` gives it.
        signature: that of the model.
        max_records: most records a request may hold; fewer where records are large (``MAX_ELEMENTS``).

    Raises:
        SignatureMismatch: the two do not describe the same records.
    """

    def __init__(self, settings: DataSettings, signature: Signature, *, max_records: int = 1000) -> None:
        shape, vocabulary = _shape_of(settings)
        if shape != signature.shape or vocabulary != signature.vocabulary:
            raise SignatureMismatch(
                f"data: prepared records have shape {shape} (vocabulary {vocabulary}), the model takes "
                f"{signature.shape} ({signature.vocabulary}); give the specification it was trained with"
            )
        self.settings = settings
        self.signature = signature
        self.max_records = max(1, min(max_records, MAX_ELEMENTS // signature.elements))
        self.columns = list(settings.columns) if settings.text is None else [settings.text.column]
        self._ignored = {settings.label or DEFAULT_LABEL, settings.person, settings.group_column} - {None}
        self._tabular = settings.kind in {"tabular", "text"}

    def parse(self, body: bytes, content_type: str) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
        """Return the model inputs of a request: float32 ``(N, *shape)``, for texts int64 ``(N, length)``.

        A column that holds labels or persons may be sent and is ignored.

        Raises:
            RequestError: naming the record (the first is 1) and the column, element or key. Names that were
                sent may be quoted, cells never are.
        """
        try:
            return self._prepared(self._raw(body, content_type))
        except BadValue as error:
            raise self._explained(error) from None
        except DataError as error:
            raise RequestError(str(error)) from None

    def cells(self, body: bytes, content_type: str) -> list[dict[str, str]] | None:
        """Return what each record of a table or text said, by column, to be shown beside its explanation.

        Images and sequences have no named cells: None.

        Raises:
            RequestError: as ``parse``, as far as the form of the request goes.
        """
        raw = self._raw(body, content_type)
        if not self._tabular or not isinstance(raw, RawTable):
            return None
        return [{name: cell or "" for name, cell in row.items()} for row in raw.table.to_pylist()]

    def schema(self) -> dict[str, Any]:
        """Return what to send, as JSON can hold it; ``example`` is a request that parses."""
        return schema(self.settings, max_records=self.max_records)

    def _raw(self, body: bytes, content_type: str) -> Raw:
        """Read a request, nothing interpreted."""
        media = media_of(content_type)
        text = decoded(body)
        if media == "csv":
            names, rows = csv_rows(text, most=self.max_records)
            return self._from_rows(names, rows, written=True)
        # In a table a number is its literal, as it would be in a file: 1.50 may be a category.
        return self._from_json(json_value(text, number=str if self._tabular else float))

    def _prepared(self, raw: Raw) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
        """Prepare records by the functions that prepared those of training."""
        if isinstance(raw, RawArrays):
            return array_inputs(self.settings, raw)
        if self.settings.text is not None:
            return text_inputs(self.settings, self.settings.text, raw)
        return table_inputs(self.settings, raw, [])

    def _from_json(self, value: object) -> Raw:
        """Read whichever form of the protocol was sent."""
        if not isinstance(value, dict):
            raise RequestError(f"body: send an object with one of the keys {', '.join(_KEYS)}")
        if value.pop("params", None):
            raise RequestError("'params': this model takes none; leave it out")
        if len(value) != 1:
            raise RequestError(f"body: {len(value)} keys; send exactly one of {', '.join(_KEYS)}")
        key, content = next(iter(value.items()))
        if key == "dataframe_split":
            return self._from_split(content)
        if key == "inputs" and isinstance(content, dict) and self._tabular:
            return self._from_columns(content)
        if key not in _KEYS:
            raise RequestError(f"{shown(key)}: no such key; {nearest(key, _KEYS)}")
        if not isinstance(content, list):
            raise RequestError(f"'{key}': send a list, one entry per record")
        self._check_count(len(content))
        if not self._tabular:
            if key == "dataframe_records":
                raise RequestError("'dataframe_records': an object has no order; send instances or dataframe_split")
            return self._from_lists(content)
        if self.settings.text is not None and set(map(type, content)) == {str}:
            return self._from_table({self.columns[0]: content})
        return self._from_records(content)

    def _from_split(self, content: object) -> Raw:
        """Read names once and cells row by row."""
        if not isinstance(content, dict) or not {"columns", "data"} <= content.keys() <= {"columns", "data", "index"}:
            raise RequestError('\'dataframe_split\': send {"columns": [NAME, ...], "data": [[CELL, ...], ...]}')
        columns, rows = content["columns"], content["data"]
        if not isinstance(columns, list) or not isinstance(rows, list):
            raise RequestError("'dataframe_split': 'columns' and 'data' are lists")
        names = [_name(name) for name in columns]
        if (twice := repeated(names)) is not None:
            raise RequestError(f"'columns': {shown(twice)} stands twice; send it once")
        self._check_count(len(rows))
        for number, row in enumerate(rows, start=1):
            if type(row) is not list or len(row) != len(names):
                raise RequestError(f"record {number}: send a list of {len(names)} cells, one for each of 'columns'")
        return self._from_rows(names, rows, written=False)

    def _from_rows(self, names: list[str], rows: list[list[Any]], *, written: bool) -> Raw:
        """Read named cells row by row; ``written`` says that they are all texts."""
        self._check_count(len(rows))
        if self._tabular:
            return self._from_table(dict(zip(names, zip(*rows, strict=True), strict=True)))
        kept = [position for position, name in enumerate(names) if name not in self._ignored]
        cells = [[row[at] for at in kept] for row in rows]
        return self._from_written([names[at] for at in kept], cells) if written else self._from_lists(cells)

    def _from_written(self, names: list[str], rows: list[list[str]]) -> RawArrays:
        """Read images or sequences that are written as text: at once, as a large image has 100 000 columns."""
        width, shape = self.signature.elements, self.signature.shape
        if len(names) != width:
            raise RequestError(f"body: {len(names)} columns besides the label; shape {list(shape)} needs {width}")
        cells = pa.array(chain.from_iterable(rows), pa.large_string())
        try:
            values, _ = numbers(cells, (), name="", source="request", row=lambda index: index)
        except BadValue as error:
            record, at = divmod(error.row, width)
            raise BadValue(source="request", row=record + 1, column=names[at], problem=error.problem) from None
        return RawArrays(inputs=values.reshape(-1, *shape), labels=pa.nulls(len(rows)), source="request")

    def _from_lists(self, records: list[Any]) -> RawArrays:
        """Read images or sequences."""
        return raw_arrays(records, self.signature.shape, image=self.settings.image is not None)

    def _from_records(self, records: list[Any]) -> RawTable:
        """Read one object per record; each must name every column."""
        needed = set(self.columns)
        for number, record in enumerate(records, start=1):
            if type(record) is not dict:
                raise RequestError(f"record {number}: send an object {{NAME: CELL, ...}} with {accepted(self.columns)}")
            self._check_names(record.keys(), needed, where=f"record {number}")
        return self._from_table({name: list(map(itemgetter(name), records)) for name in self.columns})

    def _from_columns(self, columns: dict[str, Any]) -> RawTable:
        """Read one list per column."""
        for name, cells in columns.items():
            if type(cells) is not list:
                raise RequestError(f"'inputs', {shown(name)}: send a list, one cell per record")
        lengths = {len(cells) for cells in columns.values()}
        if len(lengths) > 1:
            raise RequestError("'inputs': the columns differ in length; send one cell per record in each")
        self._check_count(lengths.pop() if lengths else 0)
        return self._from_table(columns)

    def _from_table(self, columns: Mapping[str, Sequence[Any]]) -> RawTable:
        """Read named columns of cells."""
        self._check_names(columns.keys(), set(self.columns), where="columns")
        cells = {name: _array(name, self._cells(name, columns[name])) for name in self.columns}
        return RawTable(table=pa.table(cells), source="request")

    def _cells(self, name: str, cells: Sequence[Any]) -> Sequence[str | None]:
        """Return a column's cells as texts or nulls; a boolean as tables of typed cells write it."""
        kinds = set(map(type, cells))
        if kinds <= {str, type(None)}:
            return cells
        odd = next((at for at, cell in enumerate(cells) if not isinstance(cell, str | bool | None)), None)
        if odd is not None:
            raise RequestError(f"record {odd + 1}, {shown(name)}: send a number or a text, not a list or an object")
        column = self.settings.columns.get(name)
        words = ("0", "1") if column is not None and column.bounds is not None else ("false", "true")
        return [words[cell] if isinstance(cell, bool) else cell for cell in cells]

    def _check_names(self, names: Iterable[str], needed: set[str], *, where: str) -> None:
        """Refuse a missing column, and one that nobody asked for: it is likely a misspelt one."""
        given = set(names)
        for name in sorted(given - needed - self._ignored):
            raise RequestError(
                f"{where}: {shown(name)} is no column of this model; {nearest(name[:100], self.columns)}"
            )
        for name in self.columns:
            if name not in given:
                raise RequestError(f"{where}: no {shown(name)}; send {accepted(self.columns)}")

    def _check_count(self, records: int) -> None:
        """Refuse no records and too many."""
        if records == 0:
            raise RequestError("body: no records; send at least one")
        if records > self.max_records:
            raise RequestError(f"body: {records} records; send at most {self.max_records} a request")

    def _explained(self, error: BadValue) -> RequestError:
        """Say of a cell what a caller can do about it; the original advises whoever writes the specification."""
        problem = error.problem.partition(";")[0]
        column = self.settings.columns.get(error.column)
        advice = "send a finite number"
        if self.settings.text is not None:
            advice = "send a text"
        elif column is not None and column.bounds is not None:
            advice = f"send a number, of {column.bounds[0]:g} to {column.bounds[1]:g}"
        elif column is not None:
            advice = f"send one of {accepted(column.categories or ())}"
        if self._tabular and self.settings.missing:
            advice += f", or one of {accepted(self.settings.missing)} where it is missing"
        return RequestError(f"record {error.row}, {shown(error.column)}: {problem}; {advice}")


def _shape_of(settings: DataSettings) -> tuple[tuple[int, ...], int | None]:
    """Return the shape of a prepared record and the number of token ids."""
    if settings.text is not None:
        return (settings.text.length,), vocabulary_size(settings.text)
    section = settings.image or settings.sequence
    return ((len(feature_names(settings)),) if section is None else section.shape), None


def _name(name: object) -> str:
    """Return a column's name; tables without a header have numbers for names."""
    if isinstance(name, float):
        return f"{name:g}"
    if not isinstance(name, str):
        raise RequestError("'columns': send names alone")
    return name.strip()


def _array(name: str, cells: Sequence[str | None]) -> Any:
    """Return texts as an Arrow array."""
    try:
        return pa.array(cells, pa.large_string())
    except UnicodeEncodeError:
        odd = next(at for at, cell in enumerate(cells) if cell and not _encodable(cell))
        raise RequestError(f"record {odd + 1}, {shown(name)}: half a surrogate pair is no text; correct it") from None


def _encodable(text: str) -> bool:
    """Say whether a text has a UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
