"""The real development data sets through every step: a census table and a corpus of messages."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
from data_files import shared_file, write

from client.data import DatasetEntry, load
from models.inputs.errors import BadValue
from models.inputs.prepare import prepare_source
from models.inputs.schema import DataSettings
from simulations.partition import department_names, partition

ADULT = {
    "kind": "tabular",
    "label": "Salary",
    "classes": ["<=50K", ">50K"],
    "missing": ["?"],
    "columns": {
        "age": {"bounds": [17, 90]},
        "education-num": {"bounds": [1, 16]},
        "hours-per-week": {"bounds": [1, 99]},
        "capital-gain": {"bounds": [0, 100_000]},
        "sex": {"categories": ["Female", "Male"]},
        "workclass": {"categories": ["Private", "Self-emp-not-inc", "Local-gov"]},
    },
}
SMS = {
    "kind": "text",
    "label": "Label",
    "classes": ["ham", "spam"],
    "text": {"column": "SMS", "length": 32, "vocabulary": 5000},
}


def test_adult() -> None:
    path = shared_file("adult.csv")
    settings = DataSettings.model_validate(ADULT)
    prepared = prepare_source(settings, path)
    assert prepared.records == 32_561
    assert int(prepared.targets.sum()) == 7_841
    assert prepared.inputs.shape[1:] == settings.signature().shape
    assert prepared.notes == ()
    with Path(path).open(newline="") as handle:
        rows = list(csv.DictReader(handle, skipinitialspace=True))
    missing = settings.columns["workclass"]
    assert missing.categories is not None
    assert int(prepared.inputs[:, -1].sum()) == sum(row["workclass"] == "?" for row in rows) > 1000
    private = prepared.inputs[:, -5].tolist()
    assert private == [float(row["workclass"] == "Private") for row in rows]


def test_adult_in_departments() -> None:
    path = shared_file("adult.csv")
    settings = DataSettings.model_validate(
        {**ADULT, "path": path, "partition": {"kind": "column", "column": "workclass", "departments": 6}}
    )
    prepared = prepare_source(settings, path)
    assert prepared.groups is not None
    parts = partition(prepared.targets, kind="column", departments=6, groups=prepared.groups)
    names = department_names(kind="column", departments=6, groups=prepared.groups)
    assert names == ["?", "Local-gov", "Private", "Self-emp-not-inc", "State-gov", "others"]
    assert [len(part) for part in parts] == [1836, 2093, 22696, 2541, 1298, 2097]


def test_adult_refuses_an_undeclared_question_mark() -> None:
    settings = DataSettings.model_validate({**ADULT, "missing": [], "unknown": "error"})
    with pytest.raises(BadValue, match=r"adult\.csv: row \d+, column 'workclass'") as caught:
        prepare_source(settings, shared_file("adult.csv"))
    lines = Path(shared_file("adult.csv")).read_text().splitlines()
    assert lines[caught.value.row - 1].split(", ")[1] not in {"Private", "Self-emp-not-inc", "Local-gov"}


def test_sms() -> None:
    path = shared_file("sms_spam.tsv")
    settings = DataSettings.model_validate(SMS)
    entry = DatasetEntry(path=path, declared_size=5000, split_key=bytes(16))
    data = load(settings, entry, name="operator")
    assert data.records == len(Path(path).read_text(encoding="utf-8").rstrip("\n").split("\n")) - 1 == 5574
    spam = int(data.train.targets.sum() + data.validation.targets.sum())
    assert spam == 747
    assert 0.08 < len(data.validation.targets) / data.records < 0.12
    assert data.train.inputs.shape[1:] == settings.signature().shape
    assert int(data.train.inputs.max()) < 5000


def test_a_large_table_takes_seconds(tmp_path: Path) -> None:
    header, *body = Path(shared_file("adult.csv")).read_text().strip().split("\n")
    path = write(tmp_path / "large.csv", "\n".join([header, *body * 3]) + "\n")
    start = time.perf_counter()
    prepared = prepare_source(DataSettings.model_validate(ADULT), path)
    assert prepared.records == 3 * 32_561
    # Measured 0.7 s on one core; a row-by-row loop takes far longer than this generous bound.
    assert time.perf_counter() - start < 10
