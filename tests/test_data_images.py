"""Image folders, Hugging Face data sets and bundled sets: what needs an optional package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from data_files import write

from models.inputs.errors import (
    BadValue,
    ColumnMissing,
    ExtraMissing,
    SourceEmpty,
    SourceMissing,
    SourceTooLarge,
    SourceUnreadable,
)
from models.inputs.prepare import prepare_source
from models.inputs.readers import read
from models.inputs.schema import DataSettings

TABLE = DataSettings.model_validate(
    {
        "kind": "tabular",
        "label": "outcome",
        "columns": {"age": {"bounds": [0, 120]}, "sex": {"categories": ["0", "1"]}},
    }
)


def image_folder(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name, value in (("cat", 0), ("dog", 255)):
        (folder / name).mkdir(parents=True)
        image.new("L", (8, 8), value).save(folder / name / "b-secret.png")
        image.new("RGB", (16, 16), (value,) * 3).save(folder / name / "a.png")
    (folder / ".DS_Store").write_bytes(b"x")


def animals(**changes: object) -> DataSettings:
    table = {"kind": "image", "classes": ["dog", "cat"], "image": {"shape": [1, 8, 8]}, **changes}
    return DataSettings.model_validate(table)


def test_image_folder(tmp_path: Path) -> None:
    image_folder(tmp_path)
    grey = prepare_source(animals(), str(tmp_path))
    assert grey.inputs.shape == (4, 1, 8, 8)
    assert grey.targets.tolist() == [1, 1, 0, 0]
    assert grey.inputs.reshape(4, -1).mean(axis=1).tolist() == [0, 0, 1, 1]
    assert len(set(grey.keys)) == 4
    colour = prepare_source(animals(image={"shape": [3, 4, 4]}), str(tmp_path))
    assert colour.inputs.shape == (4, 3, 4, 4)
    assert colour.keys == grey.keys


def test_broken_image_folder(tmp_path: Path) -> None:
    image_folder(tmp_path)
    with pytest.raises(SourceUnreadable, match=r"1 sub-folders.*data\.classes") as caught:
        read(animals(classes=["dog", "bird"]), str(tmp_path))
    assert "cat" not in str(caught.value)
    with pytest.raises(SourceUnreadable, match=r"1 .grey. or 3"):
        read(animals(image={"shape": [2, 8, 8]}), str(tmp_path))
    with pytest.raises(SourceTooLarge):
        read(animals(max_rows=3), str(tmp_path))
    write(tmp_path / "cat" / "b-secret.png", b"no image")
    with pytest.raises(BadValue, match="row 2, column 'image'") as broken:
        read(animals(), str(tmp_path))
    assert "secret" not in str(broken.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceEmpty, match="sub-folder per class"):
        read(animals(), str(tmp_path / "empty"))


def test_files_that_are_no_images_are_mentioned(tmp_path: Path) -> None:
    image_folder(tmp_path)
    write(tmp_path / "cat" / "notes.txt", "secret")
    assert prepare_source(animals(), str(tmp_path)).notes == (
        f"{tmp_path.name}: 1 files that are not images were left out",
    )


@pytest.mark.parametrize(
    ("module", "path", "extra"),
    [
        ("PIL", "", "client"),
        ("datasets", "hf:", "huggingface"),
        ("sklearn.datasets", "sklearn:digits", "sim"),
    ],
)
def test_an_absent_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, path: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExtraMissing, match=rf"confide\[{extra}\]"):
        read(animals(), path if path.startswith("sklearn") else f"{path}{tmp_path}")


def test_bundled_sets_by_either_class_name() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    bundled = {"kind": "tabular", "path": "sklearn:breast_cancer"}
    by_name = prepare_source(DataSettings.model_validate(bundled), "sklearn:breast_cancer")
    by_code = prepare_source(DataSettings.model_validate({**bundled, "classes": [1, 0]}), "sklearn:breast_cancer")
    assert (by_name.targets == 1 - by_code.targets).all()
    assert by_name.inputs.min() == -1
    assert by_name.inputs.max() == 1
    with pytest.raises(SourceMissing, match="did you mean 'digits'"):
        read(TABLE, "sklearn:digit")


def test_hugging_face_table(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    data = datasets.Dataset.from_dict({"text": ["a b", "c", "d"], "label": [1, 0, 1]}, features=features)
    data.select([2, 0]).save_to_disk(str(tmp_path / "set"))
    table = {
        "kind": "text",
        "label": "label",
        "classes": ["neg", "pos"],
        "text": {"column": "text", "length": 3, "vocabulary": 100},
    }
    prepared = prepare_source(DataSettings.model_validate(table), f"hf:{tmp_path / 'set'}")
    assert prepared.targets.tolist() == [1, 1]
    assert (prepared.inputs[:, 1] == 0).tolist() == [True, False]
    by_code = DataSettings.model_validate({**table, "classes": ["1", "0"]})
    assert prepare_source(by_code, f"hf:{tmp_path / 'set'}").targets.tolist() == [0, 0]
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(SourceUnreadable, match="several splits"):
        read(DataSettings.model_validate(table), f"hf:{tmp_path / 'splits'}")
    assert read(DataSettings.model_validate(table), f"hf:{tmp_path / 'splits' / 'train'}").records == 3
    with pytest.raises(SourceUnreadable, match="save_to_disk"):
        read(DataSettings.model_validate(table), f"hf:{tmp_path}")


def test_hugging_face_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    pictures = [image.new("L", (8, 8), value) for value in (0, 255)]
    data = datasets.Dataset.from_dict({"picture": pictures, "label": [0, 1]}, features=features)
    data.save_to_disk(str(tmp_path / "set"))
    settings = animals(classes=["0", "1"])
    prepared = prepare_source(settings, f"hf:{tmp_path / 'set'}")
    assert prepared.inputs.reshape(2, -1).mean(axis=1).tolist() == [0, 1]
    assert prepared.targets.tolist() == [0, 1]
    with pytest.raises(ColumnMissing, match=r"data\.label"):
        read(animals(label="absent"), f"hf:{tmp_path / 'set'}")
