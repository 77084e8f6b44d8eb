"""A department's data set: what is refused, who is held out, one row per person."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import HEART, write
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data import (
    DatasetEntry,
    assemble,
    describe,
    load,
    one_row_per_person,
)
from models.inputs.errors import OneClass, SettingsIncomplete, SourceEmpty, SourceMissing, TooFewRows
from models.inputs.prepare import prepare_source
from models.inputs.schema import DataSettings
from models.inputs.splits import split_by_key

KEY = bytes(range(32))
SETTINGS = DataSettings.model_validate(
    {
        "kind": "tabular",
        "label": "outcome",
        "columns": {"age": {"bounds": [0, 120]}, "sex": {"categories": ["0", "1"]}},
        "validation": 0.3,
    }
)


def entry(path: str, **changes: object) -> DatasetEntry:
    return DatasetEntry(**{"path": path, "declared_size": 20, "split_key": KEY, "validation": 0.3, **changes})  # type: ignore[arg-type]  # mixed


def heart(tmp_path: Path, count: int = 20, label: str | None = None) -> str:
    lines = [f"{30 + i},{i % 2},{i // 2 % 2 if label is None else label}" for i in range(count)]
    return write(tmp_path / "heart.csv", "\n".join(["age,sex,outcome", *lines]) + "\n")


def test_load(tmp_path: Path) -> None:
    data = load(SETTINGS, entry(write(tmp_path / "heart.csv", HEART)), name="north")
    assert (data.name, data.records, data.declared_size) == ("north", 20, 20)
    assert len(data.train.targets) + len(data.validation.targets) == 20
    assert 0 < len(data.validation.targets) < 20
    assert data.train.inputs.dtype == torch.float32
    assert data.train.inputs.shape[1:] == (4,)
    assert data.train.targets.dtype == torch.int64
    assert data.warnings == ()
    ages = torch.cat([data.train.inputs[:, 0], data.validation.inputs[:, 0]])
    assert len(torch.unique(ages)) == 20


def test_describe(tmp_path: Path) -> None:
    summary = describe(load(SETTINGS, entry(heart(tmp_path)), name="north"))
    assert summary["records"] == 20
    assert summary["classes"] == {0: 10, 1: 10}
    assert summary["record_shape"] == [4]
    regression = SETTINGS.model_copy(update={"target_bounds": (0.0, 1.0)})
    assert "classes" not in describe(load(regression, entry(heart(tmp_path)), name="north"))


def test_too_few_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(TooFewRows, match="north: 3 rows; a department needs 8"):
        load(SETTINGS, entry(heart(tmp_path, 3)), name="north")
    assert load(SETTINGS, entry(heart(tmp_path, 8)), name="north").records == 8
    with pytest.raises(SourceEmpty):
        load(SETTINGS, entry(heart(tmp_path, 0)), name="north")
    with pytest.raises(SourceMissing):
        load(SETTINGS, entry(str(tmp_path / "absent.csv")), name="north")


def test_one_class(tmp_path: Path) -> None:
    path = heart(tmp_path, label="1")
    with pytest.raises(OneClass, match="north: all labels are the same"):
        load(SETTINGS, entry(path), name="north")
    assert load(SETTINGS, entry(path), name="north", allow_one_class=True).records == 20
    regression = SETTINGS.model_copy(update={"target_bounds": (0.0, 1.0)})
    assert load(regression, entry(path), name="north").records == 20


@pytest.mark.parametrize(("size", "part"), [(9, "less than half"), (41, "more than twice")])
def test_declared_size_is_compared_without_telling_the_count(tmp_path: Path, size: int, part: str) -> None:
    data = load(SETTINGS, entry(heart(tmp_path), declared_size=size), name="north")
    assert len(data.warnings) == 1
    assert part in data.warnings[0]
    assert "20" not in data.warnings[0]
    assert load(SETTINGS, entry(heart(tmp_path), declared_size=10), name="north").warnings == ()
    assert load(SETTINGS, entry(heart(tmp_path), declared_size=40), name="north").warnings == ()


def test_entries_check_themselves_and_hide_the_key() -> None:
    with pytest.raises(SettingsIncomplete, match="declared_size = 0"):
        entry("a.csv", declared_size=0)
    for key in (b"", b"x" * 15, b"x" * 65):
        with pytest.raises(SettingsIncomplete, match="16 to 64"):
            entry("a.csv", split_key=key)
    assert repr(KEY) not in repr(entry("a.csv"))
    assert "key" not in str(entry("a.csv"))


def test_one_row_per_person(tmp_path: Path) -> None:
    lines = [f"{30 + i},{i % 2},{i % 2},p{i % 10}" for i in range(40)]
    path = write(tmp_path / "visits.csv", "\n".join(["age,sex,outcome,patient", *lines]) + "\n")
    data = load(SETTINGS, entry(path, person="patient"), name="north")
    assert data.records == 10
    write(Path(path), "\n".join(["age,sex,outcome,patient", *reversed(lines)]) + "\n")
    turned = load(SETTINGS, entry(path, person="patient"), name="north")
    assert torch.equal(turned.train.inputs.flip(0), data.train.inputs)
    other = load(SETTINGS, entry(path, person="patient", split_key=KEY[::-1]), name="north")
    assert not torch.equal(other.train.inputs, turned.train.inputs)
    few = write(tmp_path / "few.csv", "age,sex,outcome,patient\n" + "30,0,0,p1\n31,1,1,p2\n" * 9)
    with pytest.raises(TooFewRows, match="2 persons"):
        load(SETTINGS, entry(few, person="patient"), name="north")


def test_a_person_stays_in_one_part_whatever_happens_to_the_rows(tmp_path: Path) -> None:
    """The split follows the person: new visits must not carry anybody from one part to the other."""

    def held_out(visits: int) -> set[float]:
        lines = [f"{30 + i % 10},{visit % 2},{i % 2},p{i % 10}" for visit in range(visits) for i in range(10)]
        path = write(tmp_path / "visits.csv", "\n".join(["age,sex,outcome,patient", *lines]) + "\n")
        data = load(SETTINGS, entry(path, person="patient"), name="north")
        return set(data.validation.inputs[:, 0].tolist())

    assert held_out(1) == held_out(2) == held_out(3)


def test_no_run_has_a_say_in_who_is_held_out(tmp_path: Path) -> None:
    """Otherwise a record is trained on in one run and validated on in the next, and its costs add up."""
    lines = [f"{30 + i},{i % 2},{i // 2 % 2},p{i % 30}" for i in range(40)]
    path = write(tmp_path / "visits.csv", "\n".join(["age,sex,outcome,patient", *lines]) + "\n")

    def parts(**run: object) -> tuple[set[float], set[float]]:
        data = load(SETTINGS.model_copy(update=run), entry(path), name="north")
        return set(data.train.inputs[:, 0].tolist()), set(data.validation.inputs[:, 0].tolist())

    train, validation = parts()
    for run in ({"validation": 0.5}, {"person": "patient"}, {"missing": ("?",)}, {"unknown": "error"}):
        other_train, other_validation = parts(**run)
        assert not train & other_validation
        assert not validation & other_train
    asked = load(SETTINGS.model_copy(update={"validation": 0.5}), entry(path), name="north")
    assert asked.warnings == ("validation = 0.3, as registered for this data set (the run: 0.5)",)
    with pytest.raises(SettingsIncomplete, match="validation = 0"):
        entry(path, validation=0.0)


def test_a_run_does_not_choose_the_person_column(tmp_path: Path) -> None:
    lines = [f"{30 + i},{i % 2},{i // 2 % 2},p{i % 30}" for i in range(40)]
    path = write(tmp_path / "visits.csv", "\n".join(["age,sex,outcome,patient", *lines]) + "\n")
    data = load(SETTINGS.model_copy(update={"person": "patient"}), entry(path), name="north")
    assert data.records == 40


def test_assemble_a_partition(tmp_path: Path) -> None:
    prepared = prepare_source(SETTINGS, heart(tmp_path))
    part = np.arange(5, 15)
    data = assemble(prepared, name="d1", declared_size=10, split_key=KEY, validation=0.3, rows=part)
    assert data.records == 10
    ages = torch.cat([data.train.inputs[:, 0], data.validation.inputs[:, 0]]).sort().values
    np.testing.assert_array_equal(ages.numpy(), prepared.inputs[part, 0])


def test_all_held_out_or_none(tmp_path: Path) -> None:
    prepared = prepare_source(SETTINGS, heart(tmp_path))
    with pytest.raises(TooFewRows, match="left to train on"):
        assemble(prepared, name="n", declared_size=20, split_key=KEY, validation=1.0)
    data = assemble(prepared, name="n", declared_size=20, split_key=KEY, validation=0.0)
    assert data.validation.inputs.shape == (0, 4)
    assert "no row fell into the validation part" in data.warnings[0]


RECORDS = st.lists(st.binary(min_size=1, max_size=8), max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(records=RECORDS, share=st.floats(0, 1), larger=st.floats(0, 1))
def test_split_is_a_function_of_each_record_alone(records: list[bytes], share: float, larger: float) -> None:
    together = split_by_key(records, KEY, share)
    assert together.dtype == np.bool_
    assert together.tolist() == [bool(split_by_key([record], KEY, share)[0]) for record in records]
    if larger >= share:
        assert (split_by_key(records, KEY, larger) >= together).all()


def test_split_has_the_share_and_depends_on_the_key() -> None:
    records = [str(i).encode() for i in range(20_000)]
    first = split_by_key(records, KEY, 0.1)
    assert abs(first.mean() - 0.1) < 0.01  # 4.7 standard deviations
    second = split_by_key(records, KEY[::-1], 0.1)
    assert abs((first & second).mean() - 0.01) < 0.004  # independent of the first
    assert split_by_key(records, KEY, 1.0).all()
    assert not split_by_key(records, KEY, 0.0).any()


def test_split_is_pinned() -> None:
    """A change would move records between training and validation in every installed department."""
    records = [str(i).encode() for i in range(40)]
    held_out = split_by_key(records, KEY, 0.1)
    assert np.flatnonzero(held_out).tolist() == [10, 17, 25, 35, 37, 38]
    for record, held in zip(records, held_out, strict=True):
        digest = hashlib.blake2b(record, digest_size=8, key=KEY, person=b"confide/split/1").digest()
        assert held == (int.from_bytes(digest, "big") / 2**64 < 0.1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=3)), max_size=20))
def test_one_row_for_everyone(rows: list[tuple[bytes, bytes]]) -> None:
    persons, keys = [person for person, _ in rows], [key for _, key in rows]
    kept = one_row_per_person(persons, keys, KEY)
    assert sorted(persons[index] for index in kept) == sorted(set(persons))
    assert (np.diff(kept) > 0).all()
    turned = one_row_per_person(persons[::-1], keys[::-1], KEY)
    chosen = {(persons[index], keys[index]) for index in kept}
    assert chosen == {(persons[::-1][index], keys[::-1][index]) for index in turned}
