"""What to send to a model, in JSON, from the public specification of its data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from models.inputs.request_arrays import MAX_PIXELS, forms_of
from models.inputs.schema import DataSettings
from models.inputs.sections import ColumnSettings

_LARGE: Final = 4096
_GREY_PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


def accepted(names: Sequence[str]) -> str:
    """Quote up to eight public names.

    >>> accepted(["age", "sex"])
    "'age', 'sex'"
    """
    more = f", … ({len(names)} in all)" if len(names) > 8 else ""
    return ", ".join(map(repr, names[:8])) + more


def schema(settings: DataSettings, *, max_records: int) -> dict[str, Any]:
    """Return a description of a request's records and an ``example`` that parses."""
    record, example = _described(settings)
    tabular = settings.kind in {"tabular", "text"}
    forms = ["dataframe_split", *(["dataframe_records"] if tabular else []), "instances", "inputs"]
    found: dict[str, Any] = {
        "kind": settings.kind,
        "content_types": ["application/json", "text/csv"],
        "json_keys": forms,
        "max_records": max_records,
        **record,
        "example": example,
    }
    if tabular and settings.missing:
        # An empty text stands for null and for an empty cell too.
        found["missing"] = list(settings.missing)
    return found


def _described(settings: DataSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what one record is, and an example."""
    if settings.text is not None:
        text = settings.text
        field = {"name": text.column, "type": "text", "tokens_read": text.length}
        return {"fields": [field]}, {"instances": [{text.column: "an example"}]}
    if settings.image is not None:
        shape = settings.image.shape
        record = {"shape": list(shape), "bounds": list(settings.image.bounds), "also": _others(shape, image=True)}
        if shape[0] in {1, 3}:
            record["encoded"] = {"b64": f"PNG or JPEG in base64, at most {MAX_PIXELS} pixels; resized to fit"}
            if math.prod(shape) > _LARGE:
                return record, {"instances": [{"b64": _GREY_PIXEL}]}
        return record, {"instances": [_filled(shape, _middle(settings.image.bounds))]}
    if settings.sequence is not None:
        shape_2, bounds = settings.sequence.shape, settings.sequence.bounds
        record = {"shape": list(shape_2), "bounds": list(bounds), "also": _others(shape_2, image=False)}
        return record, {"instances": [_filled(shape_2, _middle(bounds))]}
    fields = [_field(name, column, settings.unknown) for name, column in settings.columns.items()]
    cells = [
        (column.categories or ("",))[0] if column.bounds is None else _middle(column.bounds)
        for column in settings.columns.values()
    ]
    return {"fields": fields}, {"dataframe_split": {"columns": list(settings.columns), "data": [cells]}}


def _field(name: str, column: ColumnSettings, unknown: str) -> dict[str, Any]:
    """Describe one column of a table."""
    if column.bounds is not None:
        return {"name": name, "type": "number", "bounds": list(column.bounds), "outside": "clipped to the bounds"}
    others = "a value of its own" if unknown == "other" else "refused"
    return {"name": name, "type": "category", "categories": list(column.categories or ()), "unlisted": others}


def _others(shape: tuple[int, ...], *, image: bool) -> list[list[int]]:
    """Return the other shapes a record may have."""
    return [list(form) for form in forms_of(shape, image=image)[1:]]


def _filled(shape: tuple[int, ...], value: float) -> Any:
    """Return nested lists of one value."""
    return value if not shape else [_filled(shape[1:], value) for _ in range(shape[0])]


def _middle(bounds: tuple[float, float]) -> float:
    """Return a number within the bounds."""
    return (bounds[0] + bounds[1]) / 2
