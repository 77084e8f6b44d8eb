"""Arrays from files: NumPy archives, IDX pairs and flat tables, whole and broken."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from data_files import idx, write, write_idx_pair

from models.inputs.errors import (
    BadValue,
    ColumnMissing,
    DataError,
    SettingsIncomplete,
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
IMAGE = DataSettings.model_validate(
    {"kind": "image", "classes": ["0", "1", "2"], "image": {"shape": [1, 8, 8], "bounds": [0, 20]}}
)
SEQUENCE = DataSettings.model_validate(
    {"kind": "sequence", "classes": [0, 1], "sequence": {"shape": [3, 2], "bounds": [-1, 1]}}
)


def test_npz_sequences_are_reshaped_clipped_and_scaled(tmp_path: Path) -> None:
    flat = np.zeros((4, 6))
    flat[1] = [0.5, -1, 1, 9, -9, 0]
    np.savez(tmp_path / "s.npz", x=flat, y=np.array([0, 1, 1, 0]))
    prepared = prepare_source(SEQUENCE, str(tmp_path / "s.npz"))
    assert prepared.inputs.dtype == np.float32
    assert prepared.inputs.shape == (4, 3, 2)
    np.testing.assert_allclose(prepared.inputs[1], [[0.5, -1.0], [1.0, 1.0], [-1.0, 0.0]])
    assert prepared.targets.tolist() == [0, 1, 1, 0]


def test_npz_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", data=np.zeros((3, 6)), species=np.array(["a", "b", "a"]))
    settings = SEQUENCE.model_copy(update={"label": "species", "classes": ("a", "b")})
    assert prepare_source(settings, str(tmp_path / "n.npz")).targets.tolist() == [0, 1, 0]
    with pytest.raises(ColumnMissing, match=r"no array named y or target.*species"):
        read(SEQUENCE, str(tmp_path / "n.npz"))


def test_npz_as_a_table(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.array([[1.0, 5.0], [3.0, 7.0]]), outcome=np.array([0, 1]))
    columns = {"1": {"bounds": [5, 7]}, "0": {"bounds": [1, 3]}}
    settings = DataSettings.model_validate({"kind": "tabular", "label": "outcome", "columns": columns})
    assert prepare_source(settings, str(tmp_path / "t.npz")).inputs.tolist() == [[-1, -1], [1, 1]]


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"x": np.array([[None]]), "y": np.array([0])}, "not arrays of numbers"),
        ({"x": np.zeros((2, 6)), "y": np.zeros(3)}, "differ in length"),
        ({"x": np.zeros(6), "y": np.zeros(6)}, "one row per record"),
        ({"x": np.full((2, 6), "a"), "y": np.zeros(2)}, "give numbers"),
        ({"x": np.zeros((2, 6)), "y": np.zeros((2, 2))}, "one number or text per record"),
        ({"x": np.zeros((2, 5)), "y": np.zeros(2)}, r"\[3, 2\]"),
    ],
)
def test_broken_npz(tmp_path: Path, arrays: dict[str, np.ndarray], part: str) -> None:
    np.savez(tmp_path / "b.npz", **arrays)  # type: ignore[arg-type]  # savez's stub mistakes names for its flag
    with pytest.raises(SourceUnreadable, match=part):
        prepare_source(SEQUENCE, str(tmp_path / "b.npz"))


def test_damaged_npz(tmp_path: Path) -> None:
    for content in (b"", b"no zip at all", b"PK\x03\x04 cut short"):
        with pytest.raises(SourceUnreadable, match="damaged"):
            read(SEQUENCE, write(tmp_path / "d.npz", content))
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    with pytest.raises(SourceUnreadable, match="single array"):
        read(SEQUENCE, write(tmp_path / "d.npz", buffer.getvalue()))


def test_infinite_element(tmp_path: Path) -> None:
    x = np.zeros((3, 6))
    x[2, 4] = np.inf
    np.savez(tmp_path / "i.npz", x=x, y=np.array([0, 1, 0]))
    with pytest.raises(BadValue, match="row 3, column 'element 4'"):
        prepare_source(SEQUENCE, str(tmp_path / "i.npz"))


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_images(tmp_path: Path, zipped: bool) -> None:
    images, labels = write_idx_pair(tmp_path, zipped=zipped)
    prepared = prepare_source(IMAGE, images, labels)
    assert prepared.inputs.shape == (12, 1, 8, 8)
    assert prepared.inputs[:3, 0, 0, 0].tolist() == [0.0, 0.5, 1.0]
    assert prepared.targets[:4].tolist() == [0, 1, 2, 0]


def test_idx_of_floats(tmp_path: Path) -> None:
    x = np.array([[0.5, -0.5, 0, 0, 0, 1]] * 2, np.float32)
    images = write(tmp_path / "x.idx2", idx(x, 0x0D))
    labels = write(tmp_path / "y.idx1", idx(np.array([0, 1], np.int32), 0x0C))
    assert prepare_source(SEQUENCE, images, labels).inputs[0].tolist() == [[0.5, -0.5], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("content", "error", "part"),
    [
        (b"", SourceUnreadable, "first four bytes"),
        (b"\0\0\x08", SourceUnreadable, "first four bytes"),
        (b"\0\x01\x08\x01" + bytes(4), SourceUnreadable, "first four bytes"),
        (b"\0\0\x07\x01" + bytes(4), SourceUnreadable, "first four bytes"),
        (b"\0\0\x08\x00", SourceUnreadable, "0 dimensions"),
        (b"\0\0\x08\xff" + bytes(2000), SourceUnreadable, "255 dimensions"),
        (b"\0\0\x08\x03" + bytes(5), SourceUnreadable, "cut short"),
        (b"\0\0\x08\x03" + bytes(12), SourceEmpty, "no records"),
        (b"\0\0\x08\x03" + b"\xff" * 12, SourceTooLarge, "max_rows"),
        (b"\0\0\x08\x03" + b"\0\0\0\x02" + b"\xff" * 8, SourceUnreadable, "too large"),
        (idx(np.zeros((2, 8, 8), np.uint8))[:-1], SourceUnreadable, "fewer bytes"),
        (idx(np.zeros((2, 8, 8), np.uint8)) + b"\0", SourceUnreadable, "more bytes"),
        (idx(np.zeros((2, 8, 8), np.uint8)), SourceUnreadable, "differ in length"),
    ],
)
def test_broken_idx(tmp_path: Path, content: bytes, error: type[DataError], part: str) -> None:
    _, labels = write_idx_pair(tmp_path)
    for name, packed in (("bad-idx3-ubyte", content), ("bad-idx3-ubyte.gz", gzip.compress(content))):
        with pytest.raises(error, match=part):
            read(IMAGE, write(tmp_path / name, packed), labels)


def test_idx_needs_its_labels(tmp_path: Path) -> None:
    images, _ = write_idx_pair(tmp_path)
    with pytest.raises(SettingsIncomplete, match="labels_path"):
        read(IMAGE, images)
    with pytest.raises(SourceMissing, match="labels_path"):
        read(IMAGE, images, str(tmp_path / "absent"))
    with pytest.raises(SourceUnreadable, match="damaged"):
        read(IMAGE, write(tmp_path / "x-idx3-ubyte.gz", b"not gzip"), images)


def test_sequences_that_lie_flat_in_a_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "ecg.csv", "t0,t1,t2,t3,t4,t5,y\n" + "1,0,-1,0,0.5,0,1\n" * 2)
    settings = SEQUENCE.model_copy(update={"label": "y"})
    assert prepare_source(settings, path).inputs[0].tolist() == [[1, 0], [-1, 0], [0.5, 0]]
    with pytest.raises(SourceUnreadable, match=r"shape = \[3, 3\] needs 9"):
        section = settings.sequence.model_copy(update={"shape": (3, 3)}) if settings.sequence else None
        prepare_source(settings.model_copy(update={"sequence": section}), path)


def test_arrays_hold_no_text_and_no_persons(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros((4, 6)), y=np.array([0, 1, 1, 0]))
    text = {"kind": "text", "label": "y", "text": {"column": "t", "length": 4, "vocabulary": 100}}
    with pytest.raises(SourceUnreadable, match="text column"):
        read(DataSettings.model_validate(text), str(tmp_path / "s.npz"))
    with pytest.raises(SettingsIncomplete, match=r"data\.person"):
        prepare_source(SEQUENCE.model_copy(update={"person": "id"}), str(tmp_path / "s.npz"))
