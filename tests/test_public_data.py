"""What compression may see: every way to hand it private records is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from federation_cases import toy_csv

from models.errors import PrivateDataRefused
from models.inputs.errors import DataError
from models.inputs.resolve import resolve
from models.inputs.schema import DataSettings
from server.errors import PublishError
from server.publishing.public_data import MOST_CALIBRATION, SYNTHETIC, public_data

TABLE = {
    "kind": "tabular",
    "label": "y",
    "classes": ["0", "1"],
    "columns": {"a": {"bounds": [-1, 1]}, "b": {"bounds": [-1, 1]}},
}


def settings(folder: Path, **more: object) -> DataSettings:
    return DataSettings.model_validate(TABLE | more)


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source that a simulation trains on."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    return toy_csv(tmp_path / "private.csv", 120)


def simulated(folder: Path, private: Path, calibration: str | None = None) -> object:
    data = settings(folder, path=str(private), test={"share": 0.3})
    return public_data(data, resolve(data).signature(), simulated=True, calibration=calibration)


def test_a_test_set_is_split_so_that_nothing_is_measured_on_what_was_seen(tmp_path: Path, private: Path) -> None:
    found = simulated(tmp_path, private)
    assert found.evaluation is not None
    seen = {row.tobytes() for row in found.calibration.inputs}
    assert seen
    assert not seen & {row.tobytes() for row in found.evaluation.inputs}
    assert len(found.evaluation.inputs) == pytest.approx(2 * len(found.calibration.inputs), abs=2)
    assert found.calibration.origin == found.evaluation.origin == "test set"
    # Nor is anything of it what the departments trained on.
    from simulations.departments import bench
    from strategies.runfile import parse

    run = parse(
        {
            "model": {"name": "logistic"},
            "privacy": {"epsilon": 4.0},
            "data": TABLE | {"path": str(private), "test": {"share": 0.3}, "partition": {"departments": 2}},
        }
    )
    trained = {row.tobytes() for d in bench(run).departments.values() for row in d.train.inputs.numpy()}
    assert trained
    assert not trained & (seen | {row.tobytes() for row in found.evaluation.inputs})


def test_without_a_test_set_records_are_made_up(tmp_path: Path, private: Path) -> None:
    data = settings(tmp_path)
    found = public_data(data, data.signature(), simulated=False)
    assert (found.calibration.origin, len(found.calibration.inputs), found.evaluation) == ("synthetic", SYNTHETIC, None)


def test_a_real_run_never_reads_a_share_of_a_path(tmp_path: Path, private: Path) -> None:
    data = settings(tmp_path, path=str(private), test={"share": 0.3})
    assert public_data(data, data.signature(), simulated=False).calibration.origin == "synthetic"


def test_large_test_sets_calibrate_with_a_part(tmp_path: Path, private: Path) -> None:
    records = 4 * MOST_CALIBRATION
    x = np.random.default_rng(0).random((records, 4, 4))
    np.savez(tmp_path / "test.npz", x=x, y=np.arange(records) % 2)
    data = DataSettings.model_validate(
        {
            "kind": "image",
            "image": {"shape": [1, 4, 4], "bounds": [0, 1]},
            "classes": ["0", "1"],
            "test": {"path": str(tmp_path / "test.npz")},
        }
    )
    found = public_data(data, data.signature(), simulated=False)
    assert len(found.calibration.inputs) == MOST_CALIBRATION
    assert found.evaluation is not None
    assert len(found.evaluation.inputs) == records - MOST_CALIBRATION
    assert str(tmp_path) not in found.calibration.source


def test_records_that_look_the_same_are_on_one_side(tmp_path: Path, private: Path) -> None:
    rows = toy_csv(tmp_path / "rows.csv", 30).read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join([rows[0], *rows[1:] * 4]) + "\n")
    data = settings(tmp_path, test={"path": str(tmp_path / "test.csv")})
    found = public_data(data, data.signature(), simulated=False)
    assert found.evaluation is not None
    sides = [{row.tobytes() for row in part.inputs} for part in (found.calibration, found.evaluation)]
    assert not sides[0] & sides[1]
    assert (len(found.calibration.inputs), len(found.evaluation.inputs)) == (40, 80)


def test_what_a_calibration_file_holds_is_not_measured_on(tmp_path: Path, private: Path) -> None:
    rows = toy_csv(tmp_path / "test.csv", 30).read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(rows[:11]) + "\n")
    data = settings(tmp_path, test={"path": str(tmp_path / "test.csv")})
    found = public_data(data, data.signature(), simulated=False, calibration=str(tmp_path / "some.csv"))
    assert found.evaluation is not None
    assert (len(found.calibration.inputs), len(found.evaluation.inputs)) == (10, 20)


def test_a_file_declared_public(tmp_path: Path, private: Path) -> None:
    other = toy_csv(tmp_path / "public.csv", 50, seed=9)
    found = simulated(tmp_path, private, str(other))
    assert (found.calibration.origin, len(found.calibration.inputs)) == ("file", 50)
    assert str(tmp_path) not in found.calibration.source


@pytest.mark.parametrize("how", ["itself", "link", "hard link", "copy", "copy of most", "relative"])
def test_what_was_trained_on_is_refused(
    tmp_path: Path, private: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = tmp_path / "offered.csv"
    if how == "itself":
        offered = private
    elif how == "link":
        offered.symlink_to(private)
    elif how == "hard link":
        os.link(private, offered)
    elif how == "copy":
        shutil.copy(private, offered)
    elif how == "copy of most":
        lines = private.read_text().splitlines()
        offered.write_text("\n".join([lines[0], *reversed(lines[20:])]) + "\n")
    else:
        monkeypatch.chdir(tmp_path)
        offered = Path("private.csv")
    with pytest.raises(PrivateDataRefused, match=r"private source data\.path"):
        simulated(tmp_path, private, str(offered))


def test_what_a_department_here_has_registered_is_refused_and_not_read(tmp_path: Path, private: Path) -> None:
    home = tmp_path / "home" / "client"
    home.mkdir(parents=True)
    secret = tmp_path / "claims.csv"
    secret.write_text("unreadable as data\n")
    (home / "client.toml").write_text(
        f'name = "north"\n[dataset."claims-2026"]\npath = "{secret}"\ndeclared_size = 3\n'
    )
    secret.chmod(0)
    data = settings(tmp_path)
    with pytest.raises(PrivateDataRefused, match=r"claims-2026\.path"):
        public_data(data, data.signature(), simulated=False, calibration=str(secret))


@pytest.mark.parametrize(
    ("text", "error"),
    [("a,b,y\n", (PublishError, DataError)), ("a,y\n1,0\n", DataError), ("a,b,y\n1,2,7\n", DataError)],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, private: Path, text: str, error: type[Exception]) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(error):
        simulated(tmp_path, private, str(tmp_path / "bad.csv"))


def test_a_file_that_is_not_there(tmp_path: Path, private: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        simulated(tmp_path, private, str(tmp_path / "missing.csv"))
