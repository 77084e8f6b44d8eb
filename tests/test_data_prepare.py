"""Cells to numbers: exact values, missing and unlisted cells, and errors that never quote a cell."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as papq
import pytest
from data_files import write
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from models.inputs.errors import BadValue, ColumnMissing, LabelMissing, SourceUnreadable
from models.inputs.prepare import prepare, prepare_source, prepare_test
from models.inputs.raw import RawTable
from models.inputs.schema import DataSettings
from models.inputs.sections import TextSettings
from models.inputs.tokens import hashed_id, token_ids

HEART = {
    "kind": "tabular",
    "label": "outcome",
    "classes": ["0", "1"],
    "missing": ["?", "-9", ""],
    "columns": {"age": {"bounds": [0, 100]}, "sex": {"categories": ["0", "1"]}},
}


def heart(**changes: object) -> DataSettings:
    return DataSettings.model_validate({**HEART, **changes})


def rows(tmp_path: Path, *lines: str, header: str = "age,sex,outcome") -> str:
    return write(tmp_path / "heart.csv", "\n".join([header, *lines]) + "\n")


def test_values_missing_and_unlisted(tmp_path: Path) -> None:
    lines = ["50,0,0", " 0 , 1 ,1", "200,1.0,1.0", "-300, 2,0", "?,?,1", " -9.0 ,-9,0", ",,1", "+1e1,male,0"]
    prepared = prepare_source(heart(), rows(tmp_path, *lines))
    expected = [
        # age, missing; sex = 0, = 1, unlisted, missing
        [0.0, 0, 1, 0, 0, 0],
        [-1.0, 0, 0, 1, 0, 0],
        [1.0, 0, 0, 1, 0, 0],
        [-1.0, 0, 0, 0, 1, 0],
        [0.0, 1, 0, 0, 0, 1],
        [0.0, 1, 0, 0, 0, 1],
        [0.0, 1, 0, 0, 0, 1],
        [-0.8, 0, 0, 0, 1, 0],
    ]
    np.testing.assert_allclose(prepared.inputs, expected, atol=1e-7)
    assert prepared.inputs.dtype == np.float32
    assert prepared.targets.tolist() == [0, 1, 1, 0, 1, 0, 1, 0]
    assert prepared.targets.dtype == np.int64


@pytest.mark.parametrize(
    ("lines", "changes", "place", "part"),
    [
        (["1,0,0", "secret,0,1"], {}, "row 3, column 'age'", "not a number"),
        (["1,0,0", '"1,5",0,1'], {}, "row 3, column 'age'", "not a number"),
        (["1_0,0,0"], {}, "row 2, column 'age'", "not a number"),
        (["nan,0,0"], {}, "row 2, column 'age'", "finite"),
        (["1,0,0", "-inf,0,0"], {}, "row 3, column 'age'", "finite"),
        (["1e999,0,0"], {}, "row 2, column 'age'", "finite"),
        ([",0,0"], {"missing": ["?"]}, "row 2, column 'age'", 'add "" to data.missing'),
        (["?,0,0"], {"missing": []}, "row 2, column 'age'", "not a number"),
        (["1,secret,0"], {"unknown": "error"}, "row 2, column 'sex'", "none of the 2 listed"),
        (["1,0,secret"], {}, "row 2, column 'outcome'", r"none of the 2 classes \(0, 1\).*data\.classes"),
        (["1,0,0", "1,0,0,", "1,0,1"], {}, "row 3", "cells"),
    ],
)
def test_bad_cells(tmp_path: Path, lines: list[str], changes: dict[str, object], place: str, part: str) -> None:
    with pytest.raises((BadValue, SourceUnreadable), match=part) as caught:
        prepare_source(heart(**changes), rows(tmp_path, *lines))
    message = str(caught.value)
    assert message.startswith(f"heart.csv: {place}")
    assert "secret" not in message


@pytest.mark.parametrize("cell", ["", "?", " -9 ", "-9.0"])
@pytest.mark.parametrize("changes", [{}, {"classes": None, "target_bounds": [0, 1]}])
def test_missing_labels(tmp_path: Path, cell: str, changes: dict[str, object]) -> None:
    with pytest.raises(LabelMissing, match=r"heart\.csv: row 3, column 'outcome'"):
        prepare_source(heart(**changes), rows(tmp_path, "1,0,1", f"1,0,{cell}"))


def test_an_empty_label_is_missing_even_if_nothing_else_may_be(tmp_path: Path) -> None:
    for changes in ({}, {"classes": None, "target_bounds": [0, 1]}):
        with pytest.raises(LabelMissing):
            prepare_source(heart(missing=[], **changes), rows(tmp_path, "1,0,"))


def test_absent_columns_are_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ColumnMissing, match="'age' is not a column; did you mean 'aged'"):
        prepare_source(heart(), rows(tmp_path, "1,0,1", header="aged,sex,outcome"))
    with pytest.raises(ColumnMissing, match=r"data\.label = 'outcome' is not a column"):
        prepare_source(heart(), rows(tmp_path, "1,0,1", header="age,sex,result"))
    with pytest.raises(ColumnMissing, match=r"data\.person = 'patient'"):
        prepare_source(heart(person="patient"), rows(tmp_path, "1,0,1"))


def test_a_mistaken_specification_is_noticed(tmp_path: Path) -> None:
    prepared = prepare_source(heart(), rows(tmp_path, "1930,m,0", "1940,f,1"))
    assert len(prepared.notes) == 2
    assert "'age': no value lies within its bounds" in prepared.notes[0]
    assert "'sex': no value is one of its categories" in prepared.notes[1]
    assert "1930" not in "".join(prepared.notes)


def test_regression_targets(tmp_path: Path) -> None:
    settings = heart(classes=None, target_bounds=[10, 30])
    prepared = prepare_source(settings, rows(tmp_path, "1,0,10", "1,0,25", "1,0,99"))
    assert prepared.targets.dtype == np.float32
    assert prepared.targets.tolist() == [[10], [25], [30]]  # in their own units, clipped to the bounds


def test_typed_cells_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "age": pa.array([50.0, None, float("nan"), -9.0]),
            "sex": pa.array([True, False, None, True]),
            "outcome": pa.array([0.0, 1.0, 1.0, 0.0]),
        }
    )
    papq.write_table(table, tmp_path / "t.parquet")
    columns = {"age": {"bounds": [0, 100]}, "sex": {"categories": ["false", "true"]}}
    prepared = prepare_source(heart(columns=columns, missing=["", "nan", "-9"]), str(tmp_path / "t.parquet"))
    assert prepared.inputs[:, :2].tolist() == [[0, 0], [0, 1], [0, 1], [0, 1]]
    assert prepared.inputs[:, 2:].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    as_number = heart(columns={"sex": {"bounds": [0, 1]}})
    assert prepare_source(as_number, str(tmp_path / "t.parquet")).inputs[:, 0].tolist() == [1, -1, 0, 1]
    with pytest.raises(BadValue, match="row 3, column 'age': not a finite number"):
        prepare_source(heart(columns=columns), str(tmp_path / "t.parquet"))
    with pytest.raises(BadValue, match="row 2, column 'age': the cell is empty"):
        prepare_source(heart(columns=columns, missing=["nan"]), str(tmp_path / "t.parquet"))


def test_columns_without_a_text_form(tmp_path: Path) -> None:
    table = pa.table({"age": pa.array([[1], [2]]), "outcome": ["0", "1"]})
    papq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(SourceUnreadable, match="column 'age' holds list"):
        prepare_source(heart(columns={"age": {"bounds": [0, 1]}}), str(tmp_path / "t.parquet"))


def test_keys_do_not_depend_on_the_run_or_the_order(tmp_path: Path) -> None:
    lines = [f"{i},{i % 2},{i % 2}" for i in range(9)]
    path = rows(tmp_path, *lines)
    first = prepare_source(heart(), path).keys
    other_run = heart(columns={"sex": {"categories": ["1"]}}, missing=[], unknown="error")
    other_run = other_run.model_copy(update={"unknown": "other"})
    assert prepare_source(other_run, path).keys == first
    assert prepare_source(heart(), rows(tmp_path, *reversed(lines))).keys == first[::-1]
    turned = [",".join(reversed(line.split(","))) for line in lines]
    assert prepare_source(heart(), rows(tmp_path, *turned, header="outcome,sex,age")).keys == first
    spaced = [line.replace(",", " , ") for line in lines]
    assert prepare_source(heart(), rows(tmp_path, *spaced)).keys == first
    assert len(set(first)) == 9


def test_persons_and_groups(tmp_path: Path) -> None:
    path = rows(tmp_path, "1,0,1,7.0,north", "1,0,0, 7,?", header="age,sex,outcome,id,branch")
    prepared = prepare_source(heart(path=path, person="id", department_column="branch"), path)
    assert prepared.persons == [b"7", b"7"]
    assert prepared.groups == ["north", "?"]
    path = rows(tmp_path, "1,0,1,7,", header="age,sex,outcome,id,branch")
    with pytest.raises(BadValue, match="row 2, column 'branch'"):
        prepare_source(heart(path=path, partition={"kind": "column", "column": "branch"}), path)


def test_test_set_needs_neither_person_nor_department(tmp_path: Path) -> None:
    path = rows(tmp_path, "1,0,1")
    settings = heart(path="absent.csv", department_column="branch", person="id", test={"path": path})
    prepared = prepare_test(settings)
    assert prepared is not None
    assert prepared.records == 1
    assert prepare_test(heart()) is None


def test_no_row_depends_on_another(tmp_path: Path) -> None:
    lines = ["50,0,0", "?,2,1", "70,1,1"]
    together = prepare_source(heart(), rows(tmp_path, *lines)).inputs
    alone = [prepare_source(heart(), rows(tmp_path, line)).inputs[0] for line in lines]
    np.testing.assert_array_equal(together, alone)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@examples(max_examples=50, deadline=None, derandomize=True)
@given(values=st.lists(NUMBERS, min_size=1, max_size=20), bounds=st.tuples(NUMBERS, NUMBERS))
def test_numbers_are_clipped_and_keep_their_order(values: list[float], bounds: tuple[float, float]) -> None:
    low, high = sorted(bounds)
    if low == high:
        high = low + max(1.0, abs(low))
    settings = heart(columns={"age": {"bounds": [low, high]}}, missing=[])
    table = pa.table({"age": [repr(value) for value in values], "outcome": ["0"] * len(values)})
    scaled = prepare(settings, RawTable(table=table, source="t")).inputs[:, 0]
    assert ((scaled >= -1) & (scaled <= 1)).all()
    assert (np.diff(scaled[np.argsort(values, kind="stable")]) >= 0).all()
    inside = np.array([low <= value <= high for value in values])
    back = low + (scaled.astype(np.float64) + 1) * (high - low) / 2
    np.testing.assert_allclose(back[inside], np.array(values)[inside], rtol=1e-5, atol=(high - low) * 1e-6)


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@examples(max_examples=50, deadline=None, derandomize=True)
@given(cells=st.lists(CELLS, min_size=1, max_size=20), listed=st.sets(CELLS.map(str.strip), min_size=1))
def test_every_category_sets_exactly_one_feature(cells: list[str], listed: set[str]) -> None:
    listed -= {"?"}
    names = [name for name in sorted(listed) if not name.endswith((".0", "."))] or ["x"]
    settings = heart(columns={"sex": {"categories": names}}, missing=["?"])
    table = pa.table({"sex": pa.array(cells, pa.string()), "outcome": ["0"] * len(cells)})
    inputs = prepare(settings, RawTable(table=table, source="t")).inputs
    assert inputs.shape == (len(cells), len(names) + 2)
    assert (inputs.sum(axis=1) == 1).all()
    for cell, features in zip(cells, inputs, strict=True):
        if cell in names:
            assert features[names.index(cell)] == 1


def test_hashed_ids_are_blake2b() -> None:
    digest = hashlib.blake2b(b"free", digest_size=8, person=b"confide/token/1").digest()
    assert hashed_id("free", 1000) == 2 + int.from_bytes(digest, "little") % 998


def test_tokens() -> None:
    text = TextSettings(column="t", length=5, tokens=("Free", "win", "!"))
    ids = token_ids(["FREE win!", "", "   ", "a Win , win win win", "üfree"], text)
    assert ids.tolist() == [
        [2, 3, 4, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 3, 1, 3, 3],
        [1, 0, 0, 0, 0],
    ]
    assert ids.dtype == np.int64
    cased = TextSettings(column="t", length=2, tokens=("Free",), lowercase=False)
    assert token_ids(["Free free"], cased).tolist() == [[2, 1]]


@examples(max_examples=50, deadline=None, derandomize=True)
@given(records=st.lists(st.text(max_size=30), max_size=8), vocabulary=st.integers(4, 50))
def test_hashed_tokens_stay_in_range_and_never_pad_alone(records: list[str], vocabulary: int) -> None:
    ids = token_ids(records, TextSettings(column="t", length=6, vocabulary=vocabulary))
    assert ids.shape == (len(records), 6)
    assert ((ids >= 0) & (ids < vocabulary)).all()
    assert (ids[:, 0] != 0).all()
    padded = ids == 0
    assert (padded[:, 1:] >= padded[:, :-1]).all()


def test_text_settings_through_a_file(tmp_path: Path) -> None:
    table = {"kind": "text", "label": "y", "text": {"column": "t", "length": 2, "vocabulary": 100}}
    path = write(tmp_path / "sms.tsv", 'y\tt\n1\t"Hi\n0\t \n')
    with pytest.raises(BadValue, match="row 3, column 't': the text is empty"):
        prepare_source(DataSettings.model_validate(table), path)
    prepared = prepare_source(DataSettings.model_validate({**table, "missing": [""]}), path)
    assert prepared.inputs.tolist() == [[hashed_id('"', 100), hashed_id("hi", 100)], [1, 0]]
