"""A department's own records: load, check, keep one row per person, split.

Which records are held out for validation depends on nothing but the record (or person) and a secret key that
belongs to the data set. So the two parts stay the same in every run, and one record's place says nothing
about another record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from models.inputs.errors import OneClass, SettingsIncomplete, TooFewRows
from models.inputs.prepare import Prepared, prepare_source
from models.inputs.schema import DataSettings
from models.inputs.splits import check_key, keyed, split_by_key

MIN_RECORDS: Final = 8
_PERSON: Final = b"confide/person/1"
_SIZE_RATIO: Final = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Records and their labels.

    Attributes:
        inputs: float32 ``(N, *shape)``; int64 ``(N, length)`` for tokens.
        targets: int64 ``(N,)`` class indices, or float32 ``(N, 1)``.
    """

    inputs: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class DepartmentData:
    """What a department trains and validates on. Everything but ``name`` and ``declared_size`` is private.

    Attributes:
        name: the department.
        train, validation: disjoint; the validation part of a very small data set may be empty.
        declared_size: the public size its operator chose.
        records: usable records in both parts together.
        warnings: for the operator's eyes; true of private data, so never sent.
    """

    name: str
    train: Split
    validation: Split
    declared_size: int
    records: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """A department's own configuration for the name of a data set.

    Attributes:
        path: any source of ``models.inputs.readers``.
        declared_size: the public size; gradient sums are divided by sampling rate times this.
        labels_path: the labels of an IDX file.
        person: the column that identifies a person. Goes before the run's; only where it is set here are
            persons, not records, held out.
        split_key: the data set's secret, 16 to 64 bytes.
        validation: share of records (or persons) held out; the run's own wish is not followed.

    ``person``, ``split_key`` and ``validation`` decide who is held out. They are fixed once for a data set
    and no run has a say in them: otherwise a record could be trained on in one run and validated on in
    another, and the two costs would add up.

    Raises:
        SettingsIncomplete: ``declared_size`` is not positive, ``split_key`` has another length, or
            ``validation`` is not in (0, 0.5].
    """

    path: str
    declared_size: int
    labels_path: str | None = None
    person: str | None = None
    split_key: bytes
    validation: float = 0.1

    def __post_init__(self) -> None:
        if self.declared_size < 1:
            raise SettingsIncomplete(
                f"declared_size = {self.declared_size}: declare a public size of 1 or more for this data set"
            )
        if not 0.0 < self.validation <= 0.5:
            raise SettingsIncomplete(f"validation = {self.validation}: give a share above 0, at most 0.5")
        check_key(self.split_key)

    def __repr__(self) -> str:
        """Leave the key out of logs."""
        return f"DatasetEntry(path={self.path!r}, declared_size={self.declared_size})"


def load(settings: DataSettings, entry: DatasetEntry, *, name: str, allow_one_class: bool = False) -> DepartmentData:
    """Read, check and split a department's data set.

    Args:
        settings: the run's public specification.
        entry: the department's own configuration; its ``person`` alone counts, never the run's.
        name: the department.
        allow_one_class: accept records of a single class (simulated label skew).

    Raises:
        DataError: the source or one of its cells cannot be used; see ``models.inputs.errors``.
        TooFewRows, OneClass: as ``assemble``.
    """
    # Never the run's column: choosing it would let a server have one record let another in.
    settings = settings.model_copy(update={"person": entry.person})
    data = assemble(
        prepare_source(settings, entry.path, entry.labels_path),
        name=name,
        declared_size=entry.declared_size,
        split_key=entry.split_key,
        validation=entry.validation,
        split_persons=entry.person is not None,
        allow_one_class=allow_one_class,
    )
    if settings.validation == entry.validation:
        return data
    own = f"validation = {entry.validation}, as registered for this data set"
    own += f" (the run: {settings.validation})"
    return replace(data, warnings=(*data.warnings, own))


def assemble(
    prepared: Prepared,
    *,
    name: str,
    declared_size: int,
    split_key: bytes,
    validation: float,
    rows: npt.NDArray[np.int64] | None = None,
    split_persons: bool = True,
    allow_one_class: bool = False,
) -> DepartmentData:
    """Make a department out of prepared records, or of those in ``rows`` (a simulated partition).

    Where persons are known one row of each is kept; with ``split_persons`` the person decides on the part.

    Raises:
        TooFewRows: fewer than eight usable records, or none left to train on.
        OneClass: class labels that are all the same.
        SettingsIncomplete: a key of the wrong length.
    """
    check_key(split_key)
    kept = np.arange(prepared.records) if rows is None else rows
    unit_keys = prepared.keys
    if prepared.persons is not None:
        kept = kept[one_row_per_person(_at(prepared.persons, kept), _at(prepared.keys, kept), split_key)]
        unit_keys = prepared.persons if split_persons else prepared.keys
    if len(kept) < MIN_RECORDS:
        unit = "rows" if prepared.persons is None else "persons"
        raise TooFewRows(f"{name}: {len(kept)} {unit}; a department needs {MIN_RECORDS} or more")
    labels = prepared.targets[kept]
    if labels.dtype == np.int64 and not allow_one_class and (labels == labels[0]).all():
        raise OneClass(f"{name}: all labels are the same; check the label column and data.classes")
    held_out = split_by_key(_at(unit_keys, kept), split_key, validation)
    if held_out.all():
        raise TooFewRows(f"{name}: no rows are left to train on; lower data.validation or add rows")
    return DepartmentData(
        name=name,
        train=_split(prepared, kept[~held_out]),
        validation=_split(prepared, kept[held_out]),
        declared_size=declared_size,
        records=len(kept),
        warnings=(*prepared.notes, *_size_warnings(declared_size, len(kept), bool(held_out.any()))),
    )


def one_row_per_person(persons: Sequence[bytes], keys: Sequence[bytes], key: bytes) -> npt.NDArray[np.int64]:
    """Return the index of the one row kept for each person, in rising order: int64 ``(P,)``.

    Kept is the row with the smallest keyed hash: an arbitrary choice that neither the order of the file nor
    anyone without the key can steer.

    Raises:
        SettingsIncomplete: a key of the wrong length.
    """
    check_key(key)
    best: dict[bytes, tuple[int, int]] = {}
    for index, (person, record) in enumerate(zip(persons, keys, strict=True)):
        rank = (keyed(record, key, _PERSON), index)
        if person not in best or rank < best[person]:
            best[person] = rank
    return np.sort(np.fromiter((index for _, index in best.values()), np.int64, len(best)))


def describe(data: DepartmentData) -> dict[str, object]:
    """Return sizes, classes present and warnings for the operator's own screen. Private; never send it."""
    targets = torch.cat([data.train.targets, data.validation.targets])
    summary: dict[str, object] = {
        "department": data.name,
        "records": data.records,
        "declared_size": data.declared_size,
        "train": len(data.train.targets),
        "validation": len(data.validation.targets),
        "record_shape": list(data.train.inputs.shape[1:]),
        "warnings": list(data.warnings),
    }
    if targets.dtype == torch.int64:
        present, counts = torch.unique(targets, return_counts=True)
        summary["classes"] = dict(zip(present.tolist(), counts.tolist(), strict=True))
    return summary


def _at(values: Sequence[bytes], rows: npt.NDArray[np.int64]) -> list[bytes]:
    """Pick some of a list."""
    return [values[row] for row in rows.tolist()]


def _split(prepared: Prepared, rows: npt.NDArray[np.int64]) -> Split:
    """Copy some records into tensors."""
    return Split(inputs=torch.from_numpy(prepared.inputs[rows]), targets=torch.from_numpy(prepared.targets[rows]))


def _size_warnings(declared_size: int, records: int, validated: bool) -> tuple[str, ...]:
    """Compare the declared size with the truth; no count is quoted, since warnings are logged."""
    warnings = []
    if records > _SIZE_RATIO * declared_size:
        warnings.append(
            f"declared_size = {declared_size} is less than half the usable rows: steps are too large; raise it"
        )
    if records * _SIZE_RATIO < declared_size:
        warnings.append(
            f"declared_size = {declared_size} is more than twice the usable rows: "
            "steps are small beside the noise; lower it"
        )
    if not validated:
        warnings.append("no row fell into the validation part; it fills as the data set grows")
    return tuple(warnings)
