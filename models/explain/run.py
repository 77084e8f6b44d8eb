"""Explain records, and write the explanation down."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.answers import answers
from models.errors import ExplainError
from models.explain.attribute import Attributions, attribute
from models.explain.explanation import Attributed, Explanation, Overall, Parts
from models.explain.words import Words, words_of
from models.files import write_atomic
from models.inputs.resolve import feature_names
from models.inputs.schema import DataSettings
from models.measure import scores_of
from models.public import PublicRecords
from models.signature import Signature
from models.task import Task

MOST_RECORDS: Final = 1000
_OVERALL_RECORDS: Final = 128
_BASELINES: Final = {
    "tabular": "every number at the middle of its bounds, no category",
    "sequence": "every value at the middle of its bounds",
    "image": "a black image",
    "text": "a text of the same length whose tokens say nothing (embedding zero)",
}
_NAMES_OF_UNITS: Final = {
    "cross-entropy": "score (before softmax)",
    "hinge": "score",
    "mse": "the target's own units",
}


def explain(
    model: nn.Module,
    task: Task,
    signature: Signature,
    settings: DataSettings,
    inputs: NDArray[Any],
    *,
    public: PublicRecords | None = None,
    limit: int = 16,
    cells: Sequence[Mapping[str, str]] | None = None,
    output: int | None = None,
) -> Explanation:
    """Return what each part of each record adds to its score, and what matters overall.

    The same arguments give the same explanation. A column's categories, "unlisted" and "missing" features are
    summed to the column; an image's channels to its pixels.

    Args:
        model: on the CPU, as ``models.store.load`` returns it.
        task: how its scores are read.
        signature: what it takes, that of the task.
        settings: the public specification, complete.
        inputs: prepared records ``(N, *shape)``, as ``Requests.parse`` returns them.
        public: the overall part is over at most 128 of these; over the request's own records if None.
        limit: most records explained one by one, in [1, 1000]; the rest are counted.
        cells: what the records said, as ``Requests.cells`` returns it: shown beside tables; of texts the
            words come from here, since hashed ids cannot be turned back.
        output: the index of the class (or target) to explain; the predicted class (or target 0) if None.

    Raises:
        ExplainError: an argument does not fit the model, or Captum is not installed.
    """
    _check(task, signature, inputs, limit, cells, output)
    names = list(settings.classes or map(str, range(signature.outputs)))
    scale, offset = _units(task)
    groups = _grouping(settings, signature)
    words = None if settings.text is None else words_of(settings.text, inputs, cells)

    shown = inputs[:limit]
    scores = scores_of(model, shown)
    chosen = _outputs(scores, signature, output)
    found = attribute(model, signature, shown, chosen)
    said = answers(scores, task.to_dict(), signature, settings.classes)
    records = []
    for index in range(len(shown)):
        values = found.values[index] * scale
        records.append(
            Attributed(
                record=index + 1,
                answer=said[index],
                output=int(chosen[index]),
                name=names[chosen[index]] if signature.target == "classes" else "value",
                score=float(found.scores[index] * scale + offset),
                baseline_score=float(found.baselines[index] * scale + offset),
                parts=groups(values) if words is None else words.sums(index, values),
                words=() if words is None else words.of(index),
                weights=None if words is None else values[: len(words.of(index))],
                cells=None if cells is None else cells[index],
                picture=np.asarray(shown[index], np.float32) if signature.kind == "image" else None,
                residual=float(found.residuals[index] * scale),
                complete=bool(found.complete[index]),
            )
        )
    return Explanation(
        kind=settings.kind,
        unit=_NAMES_OF_UNITS[task.loss_name],
        baseline=_BASELINES[settings.kind],
        records=tuple(records),
        left_out=len(inputs) - len(shown),
        overall=_overall(model, task, settings, groups, inputs, public, words),
    )


def write(explanation: Explanation, out: Path) -> list[Path]:
    """Write ``explanation.json`` and pictures into a folder, which is made if missing; return their paths.

    Tables, images and sequences give a PNG for each record and one overall; texts one HTML page that needs
    nothing else. Files of these names are replaced.

    Raises:
        ExplainError: the folder cannot be made, or Matplotlib is not installed.
        StoreError: a file cannot be written.
    """
    from models.explain.page import page  # noqa: PLC0415  (beside the pictures, which are slow to import)
    from models.explain.pictures import overall_picture, record_picture  # noqa: PLC0415  (slow to import)

    text = json.dumps(explanation.to_dict(), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    files = {"explanation.json": text.encode("utf-8", "replace")}
    if explanation.kind == "text":
        files["explanation.html"] = page(explanation).encode("utf-8", "replace")
    else:
        for record in explanation.records:
            files[f"record-{record.record:04d}.png"] = record_picture(explanation, record)
        files["overall.png"] = overall_picture(explanation)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExplainError(f"{out}: cannot be made ({error.strerror}); choose a writable folder") from error
    for name, content in files.items():
        write_atomic(out / name, content)
    return [out / name for name in files]


def _check(
    task: Task,
    signature: Signature,
    inputs: NDArray[Any],
    limit: int,
    cells: Sequence[Mapping[str, str]] | None,
    output: int | None,
) -> None:
    """Refuse arguments that do not fit each other."""
    if task.signature != signature:
        raise ExplainError("task: has another signature than the one given; load both with the model")
    wanted = np.int64 if signature.kind == "tokens" else np.float32
    if inputs.dtype != wanted or inputs.shape[1:] != signature.shape or not len(inputs):
        raise ExplainError(
            f"inputs: {inputs.dtype} {inputs.shape}; needs {np.dtype(wanted)} (N, "
            f"{', '.join(map(str, signature.shape))}) with at least one record"
        )
    if signature.vocabulary is not None and not (inputs.min() >= 0 and inputs.max() < signature.vocabulary):
        raise ExplainError(f"inputs: a token id lies outside [0, {signature.vocabulary}); prepare them with Requests")
    if not np.isfinite(inputs).all():
        raise ExplainError("inputs: a NaN or an infinity; prepare them with Requests")
    if type(limit) is not int or not 1 <= limit <= MOST_RECORDS:
        raise ExplainError(f"limit={limit!r}: must be an integer in [1, {MOST_RECORDS}]")
    if cells is not None and len(cells) != len(inputs):
        raise ExplainError(f"cells: {len(cells)} for {len(inputs)} records; take both from one request")
    if output is not None and not (type(output) is int and 0 <= output < signature.outputs):
        raise ExplainError(f"output={output!r}: must be an integer in [0, {signature.outputs})")


def _outputs(scores: NDArray[np.float32], signature: Signature, output: int | None) -> NDArray[np.int64]:
    """Return which output of each record is explained."""
    if output is None and signature.target == "classes":
        return np.asarray(scores.argmax(axis=1), np.int64)
    return np.full(len(scores), output or 0, np.int64)


def _units(task: Task) -> tuple[float, float]:
    """Return scale and offset from a model's outputs to what is reported."""
    if task.target_bounds is None:
        return 1.0, 0.0
    low, high = task.target_bounds
    return (high - low) / 2, (high + low) / 2


def _grouping(settings: DataSettings, signature: Signature) -> Callable[[NDArray[np.float64]], Parts]:
    """Return how a record's attributions become those of the parts people know."""
    if signature.kind == "image":
        return lambda values: np.asarray(values.sum(axis=0))
    if signature.kind == "sequence":
        return lambda values: values
    owners = []
    for name in settings.columns:
        owners += [name] * len(feature_names(settings.model_copy(update={"columns": {name: settings.columns[name]}})))
    if signature.kind == "vector" and len(owners) != signature.elements:
        raise ExplainError(f"settings: {len(owners)} features for a model of {signature.elements}; give the run's own")
    starts = [owners.index(name) for name in settings.columns]

    def columns(values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(settings.columns, np.add.reduceat(values, starts).tolist(), strict=True))

    return columns


def _overall(
    model: nn.Module,
    task: Task,
    settings: DataSettings,
    groups: Callable[[NDArray[np.float64]], Parts],
    inputs: NDArray[Any],
    public: PublicRecords | None,
    words: Words | None,
) -> Overall:
    """Average absolute attributions of predicted outputs over many records."""
    signature = task.signature
    if public is None:
        sample, origin = inputs[:_OVERALL_RECORDS], "the request's own records"
    else:
        public.check(signature)
        sample, origin = public.head(_OVERALL_RECORDS).inputs, f"public records ({public.origin}: {public.source})"
    found: Attributions = attribute(model, signature, sample, _outputs(scores_of(model, sample), signature, None))
    scale = _units(task)[0]
    values = found.values * scale
    parts: Parts
    if words is not None and settings.text is not None:
        told = words if public is None else words_of(settings.text, sample, None, known=words)
        parts = told.overall(values)
    else:
        each = [groups(value) for value in values]
        first = each[0]
        if isinstance(first, dict):
            parts = {name: float(np.mean([abs(one[name]) for one in each])) for name in first}  # type: ignore[call-overload]  # all are alike
        else:
            parts = np.mean([np.abs(one) for one in each], axis=0)  # type: ignore[arg-type]  # all are alike
    return Overall(
        origin=origin,
        records=len(sample),
        parts=parts,
        largest_residual=float(abs(found.residuals).max() * scale),
    )
