"""The small public data sets that come with scikit-learn, by ``sklearn:NAME``.

Everything about them is public, so their classes and bounds are known without a specification.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from models.errors import nearest
from models.inputs.errors import ExtraMissing, SourceMissing
from models.inputs.raw import RawArrays, RawTable, coded_labels
from models.inputs.sections import ColumnSettings, ImageSettings, SequenceSettings

PREFIX: Final = "sklearn:"
LABEL: Final = "target"
_NAMES: Final = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_DIGITS_MAX: Final = 16.0


def _load(path: str) -> Any:
    """Return scikit-learn's own object for a bundled set."""
    name = path.removeprefix(PREFIX)
    if name not in _NAMES:
        raise SourceMissing(f"{path}: no such bundled data set; {nearest(name, _NAMES)}")
    try:
        import sklearn.datasets  # noqa: PLC0415  (an optional package)
    except ImportError:
        raise ExtraMissing(f'{path} needs scikit-learn; install it with: pip install "confide[sim]"') from None
    return getattr(sklearn.datasets, f"load_{name}")()


def read_bundled_table(path: str, *, label: str | None, classes: tuple[str, ...] | None) -> RawTable:
    """Return a bundled set as a table with scikit-learn's feature names and a label column.

    Raises:
        SourceMissing: there is no bundled set of that name.
        ExtraMissing: scikit-learn is not installed.
    """
    bunch = _load(path)
    columns = {str(name): bunch.data[:, index] for index, name in enumerate(bunch.feature_names)}
    return RawTable(table=pa.table({**columns, label or LABEL: _labels(bunch, classes)}), source=path)


def read_bundled_arrays(path: str, *, classes: tuple[str, ...] | None) -> RawArrays:
    """Return a bundled set as flat float records; raises as ``read_bundled_table``."""
    bunch = _load(path)
    return RawArrays(inputs=np.asarray(bunch.data), labels=_labels(bunch, classes), source=path)


def bundled_classes(path: str) -> tuple[str, ...] | None:
    """Return the classes of a bundled set, or None for a regression."""
    bunch = _load(path)
    return tuple(str(name) for name in bunch.target_names) if "target_names" in bunch else None


def bundled_target_bounds(path: str) -> tuple[float, float]:
    """Return the smallest and largest target of a bundled regression."""
    target = _load(path).target
    return float(target.min()), float(target.max())


def bundled_columns(path: str) -> dict[str, ColumnSettings]:
    """Return every feature of a bundled set with its smallest and largest value as bounds."""
    bunch = _load(path)
    low, high = bunch.data.min(axis=0), bunch.data.max(axis=0)
    if path == f"{PREFIX}digits":
        low, high = np.zeros_like(low), np.full_like(high, _DIGITS_MAX)
    return {
        str(name): ColumnSettings(bounds=(float(low[i]), float(high[i]))) for i, name in enumerate(bunch.feature_names)
    }


def bundled_image(path: str) -> ImageSettings | None:
    """Return how a bundled set is read as images, if it holds any."""
    return ImageSettings(shape=(1, 8, 8), bounds=(0.0, _DIGITS_MAX)) if path == f"{PREFIX}digits" else None


def bundled_sequence(path: str) -> SequenceSettings | None:
    """Return how a bundled set is read as sequences (an image row by row), if it can be."""
    return SequenceSettings(shape=(8, 8), bounds=(0.0, _DIGITS_MAX)) if path == f"{PREFIX}digits" else None


def _labels(bunch: Any, classes: tuple[str, ...] | None) -> Any:
    """Return labels as class names, or as numbers for a regression."""
    if "target_names" not in bunch:
        return pa.array(bunch.target)
    names = [str(name) for name in bunch.target_names]
    return pa.array(coded_labels(bunch.target.astype(np.int64), names, classes), pa.string())
