"""The bytes of a request to plain values: strict JSON and CSV, with errors that never quote what was sent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Final, Literal, NoReturn, TypeAlias

from models.errors import RequestError

Media: TypeAlias = Literal["json", "csv"]

_MEDIA: Final[dict[str, Media]] = {"application/json": "json", "text/csv": "csv"}
_SHOWN: Final = 80


def shown(name: object) -> str:
    """Quote a name that somebody sent, at most 80 characters of it.

    >>> shown("x" * 100) == repr("x" * 80) + "…"
    True
    """
    text = str(name)
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


def media_of(content_type: str) -> Media:
    """Return which of the two media types a Content-Type header names.

    Raises:
        RequestError: neither, or a charset other than UTF-8.
    """
    essence, *parameters = (part.strip().lower() for part in content_type.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "charset" and value.strip().strip('"') not in {"utf-8", "utf8", "us-ascii"}:
            raise RequestError(f"Content-Type {shown(content_type)}: send UTF-8, and charset=utf-8 or none")
    if essence not in _MEDIA:
        raise RequestError(f"Content-Type {shown(content_type)}: send {' or '.join(_MEDIA)}")
    return _MEDIA[essence]


def decoded(body: bytes) -> str:
    """Return a body as text.

    Raises:
        RequestError: it is empty or not UTF-8.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"body: byte {error.start + 1} is not UTF-8; encode the request as UTF-8") from None
    if not text.strip():
        raise RequestError("body: empty; send at least one record")
    return text


def json_value(text: str, *, number: Callable[[str], object]) -> object:
    """Return the value of a JSON text (RFC 8259), each number as ``number`` makes it of its literal.

    Raises:
        RequestError: not JSON, NaN or Infinity, a key given twice, or nested too deeply.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_int=number,
            parse_float=number,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise RequestError(
            f"body: not JSON ({error.msg}, line {error.lineno}, column {error.colno}); "
            "send a JSON object, or CSV as text/csv"
        ) from None
    except RecursionError:
        raise RequestError("body: nested too deeply; send records as the schema shows them") from None


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse an object in which a key stands twice, since readers differ on which of them counts."""
    found = dict(pairs)
    if len(found) != len(pairs) and (twice := repeated([key for key, _ in pairs])) is not None:
        raise RequestError(f"body: {shown(twice)} stands twice in one object; send it once")
    return found


def repeated(names: Iterable[str]) -> str | None:
    """Return the first name that stands a second time, or None; in one pass, as there may be a million."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _refuse_constant(name: str) -> NoReturn:
    """Refuse what JSON has no number for."""
    raise RequestError(f"body: {name} is not JSON; send null, or a text that the schema lists as missing")


def csv_rows(text: str, *, most: int) -> tuple[list[str], list[list[str]]]:
    """Return the header and the records of a CSV text, by the rules for files of records.

    The separator is a comma or, where the header has no comma, a semicolon or tab; blank lines are passed
    over. A column without a name is left out.

    Raises:
        RequestError: not CSV, a name given twice, a record of another width, or more than ``most`` records.
    """
    first = text.split("\n", 1)[0]
    others = [mark for mark in (";", "\t") if mark in first]
    delimiter = "," if "," in first or not others else others[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True
    )
    header: list[str] | None = None
    rows: list[list[str]] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(header):
                raise RequestError(
                    f"record {len(rows) + 1}: {len(cells)} cells, the header names {len(header)}; "
                    "quote cells that hold the separator"
                )
            rows.append(cells)
            if len(rows) > most:
                raise RequestError(f"body: more than {most} records; send at most {most} a request")
    except csv.Error:
        raise RequestError(
            f"body: line {reader.line_num} is not CSV: a quotation mark is never closed, or a cell is longer than "
            f"{csv.field_size_limit()} characters; send plain CSV"
        ) from None
    header = header or []
    named = [position for position, name in enumerate(header) if name]
    if (twice := repeated(header[position] for position in named)) is not None:
        raise RequestError(f"header: column {shown(twice)} stands twice; send it once")
    if len(named) == len(header):
        return header, rows
    return [header[position] for position in named], [[row[position] for position in named] for row in rows]
