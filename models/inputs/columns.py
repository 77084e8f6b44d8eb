"""One column of cells to numbers: parse, compare with the public lists, and say which row is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.inputs.errors import BadValue, LabelMissing, SourceUnreadable
from models.inputs.sections import canonical

UNLISTED: Final = -1
MISSING: Final = -2

_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?([nN][aA][nN]|[iI][nN][fF](inity)?)$"


def texts(column: Any, *, name: str, source: str) -> Any:
    """Return a column as one stripped ``large_string`` array; nulls become empty texts.

    Raises:
        SourceUnreadable: the column holds neither texts, numbers, booleans nor dates.
    """
    if isinstance(column, pa.ChunkedArray) and pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        column = pc.cast(column, pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise SourceUnreadable(
            f"{source}: column {name!r} holds {column.type}, not texts or numbers; convert it or leave it out"
        ) from None
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return pc.utf8_trim_whitespace(pc.fill_null(column, ""))


def distinct_texts(column: Any) -> list[str]:
    """Return each text of a public column once, in the form cells are compared in."""
    values = pc.unique(texts(column, name="label", source="test set")).to_pylist()
    return list(dict.fromkeys(canonical(value) for value in values))


def codes(cells: Any, listed: Sequence[str], missing: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return for each text its index in ``listed``, or UNLISTED, or MISSING: int64 ``(N,)``."""
    encoded = cells.dictionary_encode()
    lookup = {canonical(text): index for index, text in enumerate(listed)}
    lookup.update({canonical(text): MISSING for text in missing})
    found = [lookup.get(canonical(text), UNLISTED) for text in encoded.dictionary.to_pylist()]
    indices: npt.NDArray[np.int64] = np.asarray(found, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]
    return indices


def numbers(
    column: Any,
    missing: Sequence[str],
    *,
    name: str,
    source: str,
    row: Callable[[int], int],
    label: bool = False,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return a column's values and which of them are missing (those values are 0): float64 and bool
    ``(N,)``.

    Raises:
        BadValue: a cell that is neither a finite number nor declared missing.
        LabelMissing: the same where ``label`` is set and a cell is missing.
    """

    def refuse(index: int, problem: str) -> BadValue:
        return BadValue(source=source, row=row(index), column=name, problem=problem)

    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        blank = np.asarray(column.is_null())
        parsed = pc.cast(column, pa.float64(), safe=False)
    else:
        cells = texts(column, name=name, source=source)
        # Only texts that are no numbers have to be told apart here; "-9" is compared as a number below.
        words = [text for text in missing if text and _number(text) is None]
        empty = pc.equal(cells, "")
        blank = np.asarray(empty)
        cells = pc.if_else(pc.or_(empty, pc.is_in(cells, pa.array(words, pa.large_string()))), None, cells)
        odd = pc.invert(pc.match_substring_regex(cells, _NUMBER))
        first = pc.index(odd, pa.scalar(True)).as_py()
        if first >= 0:
            raise refuse(first, f"not a number; correct it, or add such values to data.missing{_known(missing)}")
        parsed = pc.cast(pc.replace_substring_regex(cells, r"^\+", ""), pa.float64())
    if blank.any() and "" not in missing:
        index = int(blank.argmax())
        if label:
            raise LabelMissing(
                source=source,
                row=row(index),
                column=name,
                problem="the label is empty; label or drop the row",
            )
        raise refuse(index, 'the cell is empty; fill it, or add "" to data.missing')
    values = np.array(parsed.to_numpy(zero_copy_only=False), np.float64)
    absent = np.asarray(parsed.is_null()) | _listed_numbers(values, missing)
    bad = ~absent & ~np.isfinite(values)
    if bad.any():
        raise refuse(
            int(bad.argmax()),
            "not a finite number; correct it, or declare NaN by adding 'nan' to data.missing",
        )
    if label and absent.any():
        raise LabelMissing(
            source=source,
            row=row(int(absent.argmax())),
            column=name,
            problem="the label is missing; label or drop the row",
        )
    values[absent] = 0.0
    return values, absent


def _listed_numbers(values: npt.NDArray[np.float64], missing: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Mark the values that ``missing`` lists as numbers, NaN among them."""
    listed = [number for number in map(_number, missing) if number is not None]
    marked = np.isin(values, [number for number in listed if not math.isnan(number)])
    if any(map(math.isnan, listed)):
        marked |= np.isnan(values)
    return marked


def _number(text: str) -> float | None:
    """Parse a number, NaN included."""
    try:
        return float(text)
    except ValueError:
        return None


def _known(missing: Sequence[str]) -> str:
    """Quote the public list of missing values, if there is one."""
    return f" (now {list(missing)})" if missing else ""
