"""Complete a public specification from public sources: bundled sets, the test set, a vocabulary file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from models.inputs import bundled
from models.inputs.columns import distinct_texts
from models.inputs.errors import SettingsIncomplete, SourceEmpty, SourceMissing, SourceUnreadable
from models.inputs.raw import RawTable
from models.inputs.readers import read
from models.inputs.schema import DataSettings
from models.inputs.sections import RESERVED_TOKENS, TextSettings, check_tokens
from models.signature import Signature

BINARY: Final = ("0", "1")


def resolve(settings: DataSettings) -> DataSettings:
    """Return the settings with classes (or target bounds), columns and vocabulary written out.

    A bundled set's classes, columns and bounds are its own. Classes are the given ones; else those in the
    public test set, where any label other than 0 and 1 occurs; else ``["0", "1"]``. Labels of the test set
    that are decimals make it a regression between the smallest and the largest of them. Complete settings
    are returned as they are.

    Raises:
        DataError: a public source cannot be read.
        SettingsIncomplete: the test set shows too few labels, or a shape has to be given.
    """
    changes: dict[str, Any] = {}
    if settings.path is not None and settings.path.startswith(bundled.PREFIX):
        changes = _bundled_changes(settings, settings.path)
    elif settings.classes is None and settings.target_bounds is None:
        changes = _targets_from_test(settings)
    if settings.text is not None and settings.text.vocabulary_file is not None:
        changes["text"] = _inlined(settings.text, settings.text.vocabulary_file)
    return settings.model_copy(update=changes) if changes else settings


def signature_of(settings: DataSettings) -> Signature:
    """Return the signature of prepared records; raises as ``resolve``."""
    settings = resolve(settings)
    outputs = 1 if settings.classes is None else len(settings.classes)
    target: Any = "value" if settings.classes is None else "classes"
    if settings.text is not None:
        return Signature(
            kind="tokens",
            shape=(settings.text.length,),
            vocabulary=vocabulary_size(settings.text),
            target=target,
            outputs=outputs,
        )
    if settings.image is not None:
        return Signature(kind="image", shape=settings.image.shape, target=target, outputs=outputs)
    if settings.sequence is not None:
        return Signature(kind="sequence", shape=settings.sequence.shape, target=target, outputs=outputs)
    return Signature(kind="vector", shape=(len(feature_names(settings)),), target=target, outputs=outputs)


def vocabulary_size(text: TextSettings) -> int:
    """Return the number of token ids, padding and unknown included."""
    return text.vocabulary if text.vocabulary is not None else RESERVED_TOKENS + len(text.tokens or ())


def feature_names(settings: DataSettings) -> list[str]:
    """Return a name for each position of a prepared table row, columns in order of name.

    >>> settings = DataSettings.model_validate({
    ...     "kind": "tabular", "label": "y", "missing": ["?"],
    ...     "columns": {"sex": {"categories": ["f", "m"]}, "age": {"bounds": [0, 120]}},
    ... })
    >>> feature_names(settings)
    ['age', 'age is missing', 'sex = f', 'sex = m', 'sex is unlisted', 'sex is missing']
    """
    names = []
    for column, column_settings in settings.columns.items():
        if column_settings.categories is None:
            names.append(column)
        else:
            names += [f"{column} = {category}" for category in column_settings.categories]
            if settings.unknown == "other":
                names.append(f"{column} is unlisted")
        if settings.missing:
            names.append(f"{column} is missing")
    return names


def _bundled_changes(settings: DataSettings, path: str) -> dict[str, Any]:
    """Fill in what is known of a bundled set and was not given."""
    changes: dict[str, Any] = {}
    if settings.classes is None and settings.target_bounds is None:
        classes = bundled.bundled_classes(path)
        changes = {"target_bounds": bundled.bundled_target_bounds(path)} if classes is None else {"classes": classes}
    if settings.kind == "tabular" and not settings.columns:
        columns = bundled.bundled_columns(path)
        changes["columns"] = {name: columns[name] for name in sorted(columns)}
    if settings.kind == "tabular" and settings.label is None:
        changes["label"] = bundled.LABEL
    if settings.kind == "image" and settings.image is None:
        changes["image"] = _known(bundled.bundled_image(path), path, "image")
    if settings.kind == "sequence" and settings.sequence is None:
        changes["sequence"] = _known(bundled.bundled_sequence(path), path, "sequence")
    return changes


def _known(section: object, path: str, name: str) -> object:
    """Refuse a bundled set whose shape is not known."""
    if section is None:
        raise SettingsIncomplete(f"{path}: set data.{name}.shape and data.{name}.bounds, or use kind = 'tabular'")
    return section


def _targets_from_test(settings: DataSettings) -> dict[str, Any]:
    """Return the test set's classes, or its span where labels are decimals; binary without a test set."""
    if settings.test is None or settings.test.path is None:
        return {"classes": BINARY}
    raw = read(settings, settings.test.path, settings.test.labels_path)
    labels = raw.column(label_column(settings), field="label") if isinstance(raw, RawTable) else raw.labels
    found = [text for text in distinct_texts(labels) if text not in settings.missing]
    if set(found) <= set(BINARY):
        return {"classes": BINARY}
    sizes = [_by_size(text) for text in found]
    if all(kind == 0 for kind, _, _ in sizes) and any(not size.is_integer() for _, size, _ in sizes):
        low, high = min(sizes)[1], max(sizes)[1]
        if low < high:
            return {"target_bounds": (low, high)}
    if len(found) < 2 or "" in found:
        raise SettingsIncomplete(
            f"{raw.source}: the test set does not show every label; set data.classes (or data.target_bounds)"
        )
    return {"classes": tuple(sorted(found, key=_by_size))}


def label_column(settings: DataSettings) -> str:
    """Return the label column of a table.

    Raises:
        SettingsIncomplete: the specification names none.
    """
    if settings.label is None:
        raise SettingsIncomplete("data.label is not set; name the column that holds the label")
    return settings.label


def _by_size(text: str) -> tuple[int, float, str]:
    """Sort numbers by size, before any other text."""
    try:
        size = float(text)
    except ValueError:
        return 1, 0.0, text
    return (0, size, text) if math.isfinite(size) else (1, 0.0, text)


def _inlined(text: TextSettings, file: str) -> TextSettings:
    """Read a vocabulary file into the settings."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise SourceMissing(f"{path}: no such file; check data.text.vocabulary_file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SourceUnreadable(f"{path.name}: not UTF-8; save the vocabulary as UTF-8") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise SourceEmpty(f"{path.name}: no tokens; write one a line")
    try:
        check_tokens(tokens)
    except ValueError as error:
        raise SourceUnreadable(f"{path.name}: {error}") from None
    return text.model_copy(update={"tokens": tokens, "vocabulary_file": None})
