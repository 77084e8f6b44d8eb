"""Simulated departments: where their records come from, and that no record is in two places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_cases import TOY, document, toy_csv

from models.inputs.errors import DataError
from server.planning import create, prepare
from simulations.departments import Bench, bench, sites
from simulations.partition import PartitionError
from simulations.simulate import Simulation
from strategies.errors import SettingsError
from strategies.runfile import load, parse
from strategies.settings import RunSettings


def prepared(**tables: Any) -> RunSettings:
    return prepare(parse(document(**tables)), real=False)


def rows(tensor: Any) -> list[tuple[float, ...]]:
    return [tuple(row) for row in tensor.tolist()]


def all_rows(made: Bench) -> list[tuple[float, ...]]:
    found = [] if made.test is None else rows(made.test.inputs)
    for data in made.departments.values():
        found += rows(data.train.inputs) + rows(data.validation.inputs)
    return found


def test_a_file_each(tmp_path: Path) -> None:
    paths = {name: str(toy_csv(tmp_path / f"{name}.csv", n, n)) for name, n in (("north", 40), ("south", 70))}
    made = bench(prepared(data={"departments": paths, "declared_sizes": {"south": 100}}))
    assert made.sizes() == {"north": 40, "south": 100}
    assert made.departments["south"].records == 70
    assert len(set(all_rows(made))) == 110


def test_by_a_column(tmp_path: Path) -> None:
    path = toy_csv(tmp_path / "all.csv", 90, department=3)
    made = bench(prepared(data={"path": str(path), "department_column": "office"}))
    assert made.sizes() == {"office-0": 30, "office-1": 30, "office-2": 30}
    assert len(set(all_rows(made))) == 90


@pytest.mark.parametrize("kind", ["iid", "quantity", "dirichlet"])
def test_by_a_partition_with_a_test_share(tmp_path: Path, kind: str) -> None:
    path = toy_csv(tmp_path / "all.csv", 200)
    partition = {"kind": kind, "departments": 3, "alpha": 5.0, "seed": 2}
    settings = prepared(data={"path": str(path), "partition": partition, "test": {"share": 0.25}})
    made, again = bench(settings), bench(settings)
    assert list(made.departments) == ["department-001", "department-002", "department-003"]
    assert made.test is not None
    assert again.test is not None
    assert 30 <= len(made.test.targets) <= 70
    found = all_rows(made)
    assert len(found) == len(set(found)) == 200  # nobody trains, or validates, on what the test is made of
    assert rows(made.test.inputs) == rows(again.test.inputs)
    assert all_rows(again) == found


def test_a_person_is_not_on_both_sides_of_the_test_share(tmp_path: Path) -> None:
    path = toy_csv(tmp_path / "all.csv", 240)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",who"] + [f"{line},p{i % 80}" for i, line in enumerate(lines[1:])]))
    settings = prepared(
        data={
            "path": str(path),
            "person": "who",
            "partition": {"departments": 2},
            "test": {"share": 0.3},
        }
    )
    made = bench(settings)
    assert made.test is not None
    who = {tuple(np.float32(value) for value in line.split(",")[:2]): f"p{i % 80}" for i, line in enumerate(lines[1:])}
    tested = {who[tuple(map(np.float32, row))] for row in rows(made.test.inputs)}
    kept = {
        who[tuple(map(np.float32, row))]
        for data in made.departments.values()
        for row in rows(data.train.inputs) + rows(data.validation.inputs)
    }
    assert tested
    assert not tested & kept


def test_each_department_has_a_stream_of_its_own(tmp_path: Path) -> None:
    path = toy_csv(tmp_path / "all.csv", 60)
    settings = prepared(data={"path": str(path), "partition": {"departments": 2}})
    seeded = settings.model_copy(update={"seed": 4})
    made = bench(settings)

    def drawn(own: RunSettings) -> set[float]:
        machines = sites(own, made.departments, {})
        return {
            float(machine.random(purpose).uniform(1)[0])
            for machine in machines.values()
            for purpose in ("train/1", "train/2", "metrics/1")
        }

    assert len(drawn(seeded)) == 6
    assert drawn(seeded) == drawn(seeded)
    assert not drawn(settings) & drawn(settings)
    assert all(site.random("x").private for site in sites(settings, made.departments, {}).values())
    assert not any(site.random("x").private for site in sites(seeded, made.departments, {}).values())


Change = Callable[[Path], None]


@pytest.mark.parametrize(
    ("data", "strategy", "error", "said"),
    [
        ({}, {}, SettingsError, "no source"),
        ({"path": "ALL"}, {}, SettingsError, "say how it is dealt out"),
        ({"path": "ALL", "partition": {"departments": 1}}, {}, SettingsError, "min_departments = 2"),
        ({"path": "ALL", "partition": {"departments": 4}}, {"min_departments": 5}, SettingsError, "lower it"),
        ({"path": "ALL", "partition": {"departments": 50}}, {}, PartitionError, "use fewer"),
        (
            {"path": "ALL", "partition": {"departments": 3}, "declared_sizes": {"department-01": 9}},
            {},
            SettingsError,
            "did you mean 'department-001'",
        ),
        (
            {"path": "ALL", "partition": {"departments": 2}, "test": {"share": 1e-9}},
            {},
            SettingsError,
            r"data\.test\.share",
        ),
        (
            {"path": "ALL", "partition": {"departments": 2}, "validation": 1e-9},
            {},
            SettingsError,
            r"data\.validation",
        ),
        ({"path": "ABSENT", "partition": {"departments": 2}}, {}, DataError, "no such file"),
        ({"departments": {"a": "ALL", "b": "ABSENT"}}, {}, DataError, "no such file"),
        ({"path": "ALL", "department_column": "offic"}, {}, DataError, "office"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    tmp_path: Path, data: dict[str, Any], strategy: dict[str, Any], error: type[Exception], said: str
) -> None:
    toy_csv(tmp_path / "all.csv", 60, department=2)
    paths = {"ALL": str(tmp_path / "all.csv"), "ABSENT": str(tmp_path / "absent.csv")}
    filled = json.loads(json.dumps(data))
    if "path" in filled:
        filled["path"] = paths[filled["path"]]
    if "departments" in filled:
        filled["departments"] = {name: paths[path] for name, path in filled["departments"].items()}
    with pytest.raises(error, match=said):
        bench(prepared(data=filled, strategy=strategy))


def simulated(settings: RunSettings, folder: Path) -> dict[str, Any]:
    made = bench(settings)
    directory = create(settings, folder, engine="simulation", name="run")
    run = Simulation(settings=settings, bench=made, directory=directory, watch=lambda _row: None, pictures=False)
    run.go()
    return run.result({})


def test_a_regression_from_file_to_figure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 200))
    lines = [f"{x:.5f},{y:.5f},{50 + 30 * x - 10 * y:.4f}" for x, y in zip(a, b, strict=True)]
    (tmp_path / "run.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    settings = prepared(
        model={"name": "linear"},
        data={
            "path": str(tmp_path / "run.csv"),
            "target_bounds": [0, 100],
            "partition": {"departments": 2},
            "test": {"share": 0.2},
        },
        training={"rounds": 10, "local_steps": 10, "learning_rate": 0.3},
        seed=1,
    )
    result = simulated(settings, tmp_path)
    assert result["metric"] == "mae"
    assert result["mae"]["federated"] < 3  # in the target's own units, of which the untrained model misses 17
    assert result["measured_on"] == "public test set"


def test_texts_from_file_to_figure(tmp_path: Path) -> None:
    words = ["good fine nice", "bad poor sad"]
    lines = [f"{words[i % 2]} {i % 7},{i % 2}" for i in range(80)]
    (tmp_path / "texts.csv").write_text("text,y\n" + "\n".join(lines) + "\n")
    settings = prepare(
        parse(
            TOY
            | {
                "model": {"name": "lstm", "hidden": 4, "embedding": 4},
                "data": {
                    "kind": "text",
                    "label": "y",
                    "path": str(tmp_path / "texts.csv"),
                    "text": {"column": "text", "length": 4, "vocabulary": 32},
                    "partition": {"departments": 2},
                },
                "training": {"rounds": 6, "local_steps": 8, "sampling_rate": 0.5, "learning_rate": 2.0},
                "seed": 1,
            }
        ),
        real=False,
    )
    assert simulated(settings, tmp_path)["accuracy"]["federated"] > 0.8


def test_the_example_run_files_are_valid() -> None:
    examples = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))
    assert examples
    for example in examples:
        load(example)
