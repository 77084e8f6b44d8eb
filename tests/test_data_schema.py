"""The public specification: what parses, what is refused, and what it says about a model."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from data_files import HEART, write
from pydantic import ValidationError

from models.inputs.errors import SettingsIncomplete, SourceMissing, SourceUnreadable
from models.inputs.prepare import prepare_source
from models.inputs.resolve import feature_names, resolve
from models.inputs.schema import DataSettings

EXAMPLE = """
[data]
kind = "tabular"
departments = { "north" = "north.csv", "south" = "south.csv" }
label = "outcome"
classes = ["0", "1"]
missing = ["?", "-9", ""]
[data.columns]
"age" = { bounds = [0, 120] }
"sex" = { categories = ["0", "1"] }
[data.test]
path = "test.csv"
"""

HEART_TABLE: dict[str, Any] = {
    "kind": "tabular",
    "label": "outcome",
    "columns": {"age": {"bounds": [0, 120]}, "sex": {"categories": [0, 1]}},
}
TEXT = {"kind": "text", "label": "y", "text": {"column": "t", "length": 4, "vocabulary": 100}}


def parse(**changes: object) -> DataSettings:
    return DataSettings.model_validate({**HEART_TABLE, **changes})


def test_example_parses() -> None:
    settings = DataSettings.model_validate(tomllib.loads(EXAMPLE)["data"])
    assert settings.departments == {"north": "north.csv", "south": "south.csv"}
    assert settings.missing == ("?", "-9", "")
    signature = settings.signature()
    assert (signature.kind, signature.shape, signature.target, signature.outputs) == (
        "vector",
        (6,),
        "classes",
        2,
    )


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"colour": 1}, "colour"),
        ({"columns": {}}, "data.columns"),
        ({"columns": {"age": {}}}, "either bounds"),
        ({"columns": {"age": {"bounds": [1, 1]}}}, "the lower first"),
        ({"columns": {"age": {"bounds": [0, float("inf")]}}}, "finite"),
        ({"columns": {"age": {"categories": []}}}, "at least one"),
        ({"columns": {"age": {"categories": ["1", "1.0"]}}}, "twice"),
        ({"columns": {"outcome": {"bounds": [0, 1]}}}, "input as well"),
        ({"person": "age"}, "input as well"),
        ({"person": "outcome"}, "also the person"),
        ({"label": None}, "label"),
        ({"classes": ["0"]}, "at least 2"),
        ({"classes": ["0", "1"], "target_bounds": [0, 1]}, "classes to classify"),
        ({"missing": ["0"]}, "drop it from one"),
        ({"path": "a.csv", "departments": {"n": "b.csv"}}, "one source"),
        ({"departments": {}}, "at least 1"),
        ({"department_column": "x"}, "needs path"),
        ({"partition": {"departments": 3}}, "needs path"),
        ({"path": "a.csv", "department_column": "x", "partition": {"departments": 3}}, "give one"),
        ({"path": "a.csv", "partition": {"kind": "dirichlet"}}, "departments = NUMBER"),
        ({"path": "a.csv", "partition": {"kind": "column", "departments": 2}}, "column is needed"),
        ({"declared_sizes": {"north": 0}}, "1 or more"),
        ({"text": TEXT["text"]}, "does not belong"),
        ({"validation": 0.0}, "greater than 0"),
        ({"kind": "sound"}, "kind"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        parse(**changes)


@pytest.mark.parametrize(
    "text",
    [{"vocabulary": 100, "tokens": ["a"]}, {}, {"tokens": ["a", "a"]}, {"tokens": [" "]}, {"tokens": []}],
)
def test_text_needs_one_sound_vocabulary(text: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"exactly one|token"):
        DataSettings.model_validate({**TEXT, "text": {"column": "t", "length": 4, **text}})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse().label = "age"


def test_feature_order_is_by_name_whatever_the_file_says() -> None:
    turned = parse(columns=dict(reversed(HEART_TABLE["columns"].items())))
    assert feature_names(turned) == feature_names(parse()) == ["age", "sex = 0", "sex = 1", "sex is unlisted"]
    strict = parse(unknown="error", missing=["?"])
    assert feature_names(strict) == ["age", "age is missing", "sex = 0", "sex = 1", "sex is missing"]


def test_public_part_is_complete_and_names_no_place(tmp_path: Path) -> None:
    write(tmp_path / "words.txt", "\ufefffree\nwin\n\n")
    test = write(tmp_path / "secret-test.csv", "y,t\nham,hi\nspam,win\nham,x\n")
    settings = DataSettings.model_validate(
        {
            "kind": "text",
            "path": str(tmp_path / "secret-source.csv"),
            "partition": {"departments": 3},
            "declared_sizes": {"secret-north": 5},
            "label": "y",
            "text": {"column": "t", "length": 4, "vocabulary_file": "words.txt"},
            "test": {"path": test},
        }
    ).located(tmp_path)
    sent = json.dumps(settings.public_part(), sort_keys=True)
    assert "secret" not in sent
    assert str(tmp_path) not in sent
    received = DataSettings.model_validate(json.loads(sent))
    received.refuse_paths()
    assert received.classes == ("ham", "spam")
    assert received.text is not None
    assert received.text.tokens == ("free", "win")
    assert received.signature() == settings.signature()
    assert settings.signature().vocabulary == 4


@pytest.mark.parametrize(
    "changes",
    [{"path": "/etc/hosts"}, {"departments": {"n": "n.csv"}}, {"test": {"path": "t.csv"}}],
)
def test_settings_from_elsewhere_name_no_files(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsIncomplete, match="may not name files"):
        parse(**changes).refuse_paths()
    text = {"column": "t", "length": 4, "vocabulary_file": "/etc/hosts"}
    with pytest.raises(SettingsIncomplete, match="vocabulary_file"):
        DataSettings.model_validate({**TEXT, "text": text}).refuse_paths()


def test_public_part_prepares_the_same_records(tmp_path: Path) -> None:
    source = write(tmp_path / "heart.csv", HEART)
    settings = parse(missing=["?"], path=source)
    received = DataSettings.model_validate(json.loads(json.dumps(settings.public_part(), sort_keys=True)))
    here, there = prepare_source(settings, source), prepare_source(received, source)
    assert (here.inputs == there.inputs).all()
    assert here.keys == there.keys


@pytest.mark.parametrize(
    ("labels", "classes", "bounds"),
    [
        (["0", "1", "1"], ("0", "1"), None),
        (["1", "1", "1"], ("0", "1"), None),
        (["10", "9", "2"], ("2", "9", "10"), None),
        (["no", "yes", "no"], ("no", "yes"), None),
        (["1.0", "0.0", "2.0"], ("0", "1", "2"), None),
        (["1.5", "7", "-2"], None, (-2.0, 7.0)),
    ],
)
def test_targets_come_from_the_test_set_when_not_given(
    tmp_path: Path, labels: list[str], classes: object, bounds: object
) -> None:
    test = write(tmp_path / "test.csv", "age,sex,outcome\n" + "".join(f"1,0,{label}\n" for label in labels))
    resolved = resolve(parse(test={"path": test}))
    assert (resolved.classes, resolved.target_bounds) == (classes, bounds)


def test_a_test_set_with_one_label_leaves_the_classes_open(tmp_path: Path) -> None:
    test = write(tmp_path / "test.csv", "age,sex,outcome\n1,0,yes\n")
    with pytest.raises(SettingsIncomplete, match=r"data\.classes"):
        parse(test={"path": test}).signature()


def test_binary_without_a_test_set() -> None:
    assert parse().signature().outputs == 2


def test_regression_has_one_output() -> None:
    signature = parse(target_bounds=[0, 10]).signature()
    assert (signature.target, signature.outputs) == ("value", 1)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "outputs"),
    [
        ("digits", "image", (1, 8, 8), 10),
        ("digits", "sequence", (8, 8), 10),
        ("digits", "tabular", (64,), 10),
        ("breast_cancer", "tabular", (30,), 2),
        ("diabetes", "tabular", (10,), 1),
    ],
)
def test_bundled_sets_need_no_specification(name: str, kind: str, shape: tuple[int, ...], outputs: int) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    settings = DataSettings.model_validate({"kind": kind, "path": f"sklearn:{name}"})
    signature = settings.signature()
    assert (signature.shape, signature.outputs) == (shape, outputs)
    received = DataSettings.model_validate(settings.public_part())
    prepared = prepare_source(received, f"sklearn:{name}")
    assert prepared.inputs.shape[1:] == shape
    assert received.signature() == signature


def test_bundled_set_without_a_known_shape() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    with pytest.raises(SettingsIncomplete, match=r"data\.image\.shape"):
        DataSettings.model_validate({"kind": "image", "path": "sklearn:wine"}).signature()


def test_vocabulary_file_must_exist_and_be_sound(tmp_path: Path) -> None:
    settings = DataSettings.model_validate({**TEXT, "text": {"column": "t", "length": 4, "vocabulary_file": "v"}})
    settings = settings.located(tmp_path)
    with pytest.raises(SourceMissing, match="vocabulary_file"):
        settings.signature()
    write(tmp_path / "v", "a\nb\na\n")
    with pytest.raises(SourceUnreadable, match="token 3"):
        settings.signature()
    write(tmp_path / "v", b"\xff\n")
    with pytest.raises(SourceUnreadable, match="UTF-8"):
        settings.signature()


def test_located_leaves_bundled_and_absolute_paths_alone() -> None:
    base = Path("/runs")
    assert parse(path="a.csv").located(base).path == "/runs/a.csv"
    assert parse(path="/data/a.csv").located(base).path == "/data/a.csv"
    assert parse(path="hf:set").located(base).path == "hf:/runs/set"
    assert parse(path="sklearn:wine").located(base).path == "sklearn:wine"
    located = parse(departments={"n": "n.csv"}, test={"path": "t.csv"}).located(base)
    assert located.departments == {"n": "/runs/n.csv"}
    assert located.test is not None
    assert located.test.path == "/runs/t.csv"
