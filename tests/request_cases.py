"""Public specifications of each kind, as a published model carries them, and readers of requests for them."""

from __future__ import annotations

import json
from typing import Any

from models.inputs.requests import Requests
from models.inputs.schema import DataSettings

JSON = "application/json"
CSV = "text/csv; charset=utf-8"

TABLE: dict[str, Any] = {
    "kind": "tabular",
    "label": "outcome",
    "person": "patient",
    "classes": ["0", "1"],
    "missing": ["?", "-9", ""],
    "columns": {"age": {"bounds": [0, 100]}, "sex": {"categories": ["0", "1", "1.50"]}},
}
TEXT: dict[str, Any] = {
    "kind": "text",
    "label": "spam",
    "text": {"column": "message", "length": 6, "vocabulary": 50},
}
IMAGE: dict[str, Any] = {"kind": "image", "classes": ["a", "b", "c"], "image": {"shape": [1, 8, 8]}}
SEQUENCE: dict[str, Any] = {
    "kind": "sequence",
    "label": "y",
    "sequence": {"shape": [4, 3], "bounds": [-2, 5]},
}


def settings_of(table: dict[str, Any], **changes: object) -> DataSettings:
    """Settings as they reach a server: without paths, complete."""
    full = DataSettings.model_validate({**table, **changes})
    return DataSettings.model_validate(full.public_part())


def requests_of(table: dict[str, Any], *, max_records: int = 1000, **changes: object) -> Requests:
    settings = settings_of(table, **changes)
    return Requests(settings, settings.signature(), max_records=max_records)


def body(**value: object) -> bytes:
    return json.dumps(value).encode()
