"""``confide models explain``: a verified model, and records that the caller brings or that are made up."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from models.bundle import Bundle
from models.errors import ExplainError, nearest
from models.explain.run import explain, write
from models.files import read_bounded, write_atomic
from models.inputs.requests import Requests
from models.public import PublicRecords
from models.store import MANIFEST, WEIGHTS, load

MOST_BYTES = 64 << 20
MADE_UP = 64


def explained(
    bundle: Bundle, out: Path, *, records: Path | None = None, limit: int = 8, answer: str | None = None
) -> dict[str, Any]:
    """Explain records by a verified model, write JSON and pictures, and return what was written.

    Args:
        bundle: verified.
        out: the folder to make; it must not exist.
        records: a file of records as they are sent to a model server, ``.csv`` or JSON; made-up ones without it.
        limit: most records that are explained one by one.
        answer: the class to explain; by default each record's predicted one.

    Raises:
        ExplainError: ``out`` exists, or the model or the records cannot be explained.
        RequestError: the records do not fit the published schema.
        BundleError, StoreError: a file is not what was signed, or cannot be read or written.
    """
    if out.exists():
        raise ExplainError(f"--out {out}: exists already; name a new folder")
    made_up = PublicRecords.synthetic(bundle.signature, records=MADE_UP, seed=0)
    inputs, cells = made_up.inputs, None
    if records is not None:
        requests, body = Requests(bundle.data, bundle.signature), read_bounded(records, MOST_BYTES)
        form = "text/csv" if records.suffix.lower() == ".csv" else "application/json"
        inputs, cells = requests.parse(body, form), requests.cells(body, form)
    with tempfile.TemporaryDirectory(prefix="confide-explain-") as scratch:
        # What is loaded is what was verified, whatever happens to the bundle's folder meanwhile.
        for name in (WEIGHTS, MANIFEST):
            write_atomic(Path(scratch) / name, bundle.read(f"model/{name}"))
        model, task, _ = load(Path(scratch))
    found = explain(
        model,
        task,
        bundle.signature,
        bundle.data,
        inputs,
        public=made_up if records is None else None,
        limit=limit,
        cells=cells,
        output=None if answer is None else _output(bundle, answer),
    )
    files = write(found, out)
    return {
        "name": bundle.name,
        "digest": bundle.digest,
        "out": str(out),
        "files": [file.name for file in files],
        "source": "made up within the public domain" if records is None else records.name,
    } | found.to_dict()


def _output(bundle: Bundle, answer: str) -> int:
    """Which of the model's outputs a class is."""
    classes = list(bundle.data.classes or ())
    if answer not in classes:
        known = nearest(answer, classes) if classes else "the model answers with a value, not a class"
        raise ExplainError(f"--class {answer}: {known}")
    return classes.index(answer)
