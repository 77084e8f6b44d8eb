"""CSV and TSV files: read as texts by pyarrow, explained by a plain second pass when something is wrong.

CSV follows RFC 4180 (quoted cells may hold separators and line ends), with a comma or, where the header has
no comma, a semicolon or tab. In a TSV file a quotation mark is a character like any other.
"""

from __future__ import annotations

import csv
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from models.inputs.errors import DataError, SourceEmpty, SourceTooLarge, SourceUnreadable
from models.inputs.raw import RawTable

_BLOCK_BYTES = 1 << 24  # also the longest record pyarrow accepts


@dataclass(frozen=True, kw_only=True)
class _Dialect:
    """How cells are told apart."""

    delimiter: str
    quoted: bool


def read_delimited(path: Path, *, max_rows: int) -> RawTable:
    """Return every cell of a CSV or TSV file as text, columns named by the header.

    Raises:
        SourceEmpty: no record after the header, or nothing at all.
        SourceTooLarge: more than ``max_rows`` records.
        SourceUnreadable: not UTF-8, a blank or duplicated header, a row with too few or too many cells.
    """
    if path.stat().st_size == 0:
        raise SourceEmpty(f"{path.name}: the file is empty; expected a header and one record a line")
    dialect = _dialect(path)
    header = _header(path, dialect)
    try:
        if dialect.quoted and _has_spaced_quotes(path):
            table = _read_slowly(path, dialect, len(header), max_rows)
        else:
            table = _read_fast(path, dialect, len(header), max_rows)
    except pa.ArrowInvalid:
        # pyarrow quotes the offending cells; the cause must not travel with the exception.
        raise _explain(path, dialect, len(header)) from None
    if dialect.quoted:
        _check_quotes_close(path, dialect)
    if table.num_rows == 0:
        raise SourceEmpty(f"{path.name}: no records after the header; add one record a line")

    def row(record: int) -> int:
        """Find the row number of a record by counting again, blank lines included."""
        try:
            return next(number for index, (number, _) in enumerate(_records(path, dialect)) if index == record + 1)
        except (StopIteration, csv.Error):  # a cell too long for the second pass; right without blank lines
            return record + 2

    named = [position for position, name in enumerate(header) if name]
    table = table.select(named).rename_columns([header[position] for position in named])
    return RawTable(table=table, source=path.name, row=row)


def _dialect(path: Path) -> _Dialect:
    """Choose the separator by the file's name and header line."""
    if path.suffix.lower() in {".tsv", ".tab"}:
        return _Dialect(delimiter="\t", quoted=False)
    with path.open("rb") as handle:
        line = handle.readline(_BLOCK_BYTES)
    others = [mark for mark in (b";", b"\t") if mark in line]
    comma = b"," in line or not others
    return _Dialect(delimiter="," if comma else others[0].decode(), quoted=True)


def _records(path: Path, dialect: _Dialect, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield (row number, cells) of every line that is not blank; the header is one of them."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(
            handle,
            delimiter=dialect.delimiter,
            quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
            skipinitialspace=dialect.quoted and dialect.delimiter != "\t",
            strict=strict,
        )
        for number, cells in enumerate(reader, start=1):
            if cells:
                yield number, cells


def _header(path: Path, dialect: _Dialect) -> list[str]:
    """Return the column names, stripped; a blank name marks a column nobody can ask for."""
    try:
        number, cells = next(_records(path, dialect), (1, []))
    except (UnicodeDecodeError, csv.Error):
        raise _explain(path, dialect, 0) from None
    names = [cell.strip() for cell in cells]
    if number != 1 or not any(names) or any("\n" in name or "\r" in name for name in names):
        raise SourceUnreadable(f"{path.name}: row 1 must name the columns, on a single line")
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise SourceUnreadable(
            f"{path.name}: row 1 names column {', '.join(map(repr, repeated))} more than once; rename one"
        )
    return names


def _has_spaced_quotes(path: Path) -> bool:
    """Say whether a quoted cell may follow a blank, which pyarrow would take for an unquoted one."""
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(mark) >= 0 for mark in (b', "', b'; "'))


def _check_quotes_close(path: Path, dialect: _Dialect) -> None:
    """Refuse a file whose last cell runs to the end of the file for want of a quotation mark."""
    with path.open("rb") as handle:
        marks = sum(block.count(b'"') for block in iter(lambda: handle.read(_BLOCK_BYTES), b""))
    if marks % 2 == 0:
        return
    # An odd number may be harmless (an inch mark in an unquoted cell): look closer.
    number = 0
    try:
        for number, _ in _records(path, dialect, strict=True):  # noqa: B007  (read when the loop breaks off)
            pass
    except csv.Error:
        raise SourceUnreadable(
            f"{path.name}: row {number + 1} or later: a quotation mark is never closed; close or remove it"
        ) from None


def _read_fast(path: Path, dialect: _Dialect, width: int, max_rows: int) -> pa.Table:
    """Read with pyarrow, a block at a time, so that an oversized file is refused early."""
    names = [str(position) for position in range(width)]
    reader = pacsv.open_csv(
        path,
        read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=_BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char='"' if dialect.quoted else False,
            newlines_in_values=dialect.quoted,
        ),
        convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    )
    batches, count = [], 0
    for batch in reader:
        count += batch.num_rows
        if count > max_rows:
            raise _too_large(path, max_rows)
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=reader.schema)


def _read_slowly(path: Path, dialect: _Dialect, width: int, max_rows: int) -> pa.Table:
    """Read with the standard library, which strips blanks before a quotation mark."""
    rows: list[list[str]] = []
    try:
        for number, cells in _records(path, dialect):
            if number == 1:
                continue
            if len(cells) != width:
                raise _ragged(path, number, len(cells), width)
            rows.append(cells)
            if len(rows) > max_rows:
                raise _too_large(path, max_rows)
    except (UnicodeDecodeError, csv.Error):
        raise _explain(path, dialect, width) from None
    columns = list(zip(*rows, strict=True)) or [()] * width
    return pa.table({str(i): pa.array(column, pa.string()) for i, column in enumerate(columns)})


def _explain(path: Path, dialect: _Dialect, width: int) -> DataError:
    """Find out, line by line, why a file could not be read."""
    with path.open("rb") as handle:
        if handle.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return SourceUnreadable(f"{path.name}: the file is UTF-16; save it as UTF-8")
        handle.seek(0)
        for number, line in enumerate(handle, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return SourceUnreadable(
                    f"{path.name}: line {number}, byte {error.start + 1}: not UTF-8; save the file as UTF-8"
                )
    count = 0
    try:
        for count, (number, cells) in enumerate(_records(path, dialect)):  # noqa: B007  (count is read below)
            if len(cells) != width:
                return _ragged(path, number, len(cells), width)
    except csv.Error:
        return SourceUnreadable(
            f"{path.name}: a quotation mark is never closed, a cell is longer than {csv.field_size_limit()} "
            "characters, or a line ends in an unusual way; save the file again as plain CSV"
        )
    if count == 0:
        return SourceEmpty(f"{path.name}: no records after the header; add one record a line")
    return SourceUnreadable(f"{path.name}: not a well-formed CSV file; look for an unclosed quotation mark")


def _ragged(path: Path, row: int, found: int, expected: int) -> SourceUnreadable:
    """Build the error for a row of the wrong width."""
    return SourceUnreadable(
        f"{path.name}: row {row} has {found} cells, the header names {expected}; quote cells that contain the separator"
    )


def _too_large(path: Path, max_rows: int) -> SourceTooLarge:
    """Build the error for a file with too many records."""
    return SourceTooLarge(f"{path.name}: more than data.max_rows = {max_rows} records; raise it or split the file")
