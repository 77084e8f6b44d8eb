"""Conducting a run: what lies in its folder afterwards, however it ended."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federation_cases import PRIVATE, department, settings_of, site, toy_rows

from models.store import load
from models.vector import load_vector, to_vector
from privacy.accounting import epsilon
from server import conduct as room
from server.conduct import conduct, quick_epsilon
from server.errors import RunError
from server.evaluation import TestSet
from server.planning import OFF, SEEDED, create
from server.runs import RunDirectory
from simulations.engine import LocalGrid
from strategies.agreement import digest, plan_for, task_of
from strategies.errors import RunFailedError, RunStoppedError
from strategies.settings import RunSettings

PNG = b"\x89PNG\r\n\x1a\n"
CHEAP = {**PRIVATE, "noise_multiplier": 4.0, "metric_noise": 8.0}


def grid() -> LocalGrid:
    return LocalGrid({name: site(department(name, 40, i)) for i, name in enumerate(("north", "south"))})


def public_test() -> TestSet:
    inputs, targets = toy_rows(50, 9)
    return TestSet(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))


def go(directory: RunDirectory, *, test: TestSet | None = None, **changes: Any) -> list[Mapping[str, Any]]:
    seen: list[Mapping[str, Any]] = []
    arguments: dict[str, Any] = {
        "test": test,
        "repeatable": True,
        "watch": seen.append,
        "pictures": False,
    }
    conduct(grid(), directory, **(arguments | changes))
    return seen


def prepared(tmp_path: Path, **tables: Any) -> tuple[RunDirectory, RunSettings]:
    training = {"rounds": 2, "local_steps": 1, "sampling_rate": 1.0}
    settings = settings_of(**({"training": training, "seed": 1} | tables))
    return create(settings, tmp_path, engine="simulation", name="toy-1"), settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, RunSettings, list[Any]]:
    """A private run with a public test set, gone through once for all."""
    directory, settings = prepared(
        tmp_path_factory.mktemp("runs"), privacy=CHEAP, publish={"name": "released", "description": "d"}
    )
    return directory, settings, go(directory, test=public_test(), pictures=True)


def test_the_model_and_what_it_says_of_itself(finished: Any) -> None:
    directory, settings, _ = finished
    state, _ = directory.load_checkpoint()
    model, task, manifest = load(directory.model_directory)
    assert to_vector(model).tobytes() == state.model.tobytes()
    assert task == task_of(settings)
    assert (manifest["name"], manifest["description"], manifest["run"]) == ("released", "d", "toy-1")
    assert manifest["spec_digest"] == digest(directory.document()["spec"])
    label = manifest["privacy"]
    assert (label["statement"], label["delta"], label["adjacency"]) == (SEEDED, 1e-5, "zero-out")
    plan = plan_for(settings, declared_size=1)
    assert plan is not None
    whole = epsilon(plan)
    assert [entry["department"] for entry in label["departments"]] == ["north", "south"]
    for entry in label["departments"]:
        assert (entry["opacus_rdp"], entry["opacus_prv"], entry["pld"]) == (
            whole.opacus_rdp,
            whole.opacus_prv,
            whole.pld,
        )


def test_run_json_rows_and_events(finished: Any) -> None:
    directory, settings, seen = finished
    document, rows = directory.document(), directory.metrics()
    assert (document["status"], document["departments"], document["error"]) == (
        "finished",
        ["north", "south"],
        None,
    )
    assert document["result"] == rows[-1]["test"]
    assert document["rounds_abandoned"] == 0
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert [row["trained"] for row in rows] == [True, True, False]
    assert all(row["validation"].keys() >= {"loss", "accuracy"} for row in rows)
    spent = [row["epsilon_rdp"]["north"] for row in rows]
    assert spent == sorted(spent)
    plan = plan_for(settings, declared_size=1)
    assert plan is not None
    assert spent[-1] == quick_epsilon(plan, rounds=2, metric_releases=3)
    assert [event["event"] for event in seen] == ["asked", "round"] * 3 + ["finished"]
    # The metrics on the test set are those of the model that was stored.
    model, task, _ = load(directory.model_directory)
    assert public_test().metrics(model, task) == rows[-1]["test"]


def test_pictures(finished: Any) -> None:
    directory, _, _ = finished
    files = sorted((directory.path / "plots").iterdir())
    assert {file.name for file in files} >= {"accuracy.png", "loss.png", "epsilon.png"}
    assert all(file.read_bytes().startswith(PNG) for file in files)


def test_a_run_without_privacy_says_so(tmp_path: Path) -> None:
    directory, _ = prepared(tmp_path)
    go(directory)
    _, _, manifest = load(directory.model_directory)
    assert manifest["privacy"] == {"mode": "off", "statement": OFF}
    document = directory.document()
    assert (document["epsilon"], document["privacy"]) == ([], OFF)
    assert document["result"] == directory.metrics()[-1]["validation"]


def test_an_attempt_is_on_disk_before_it_is_made_unless_it_may_be_repeated(tmp_path: Path) -> None:
    for repeatable in (False, True):
        directory, _ = prepared(tmp_path / str(repeatable), privacy=CHEAP)
        at_asking: list[tuple[int, dict[str, int]] | None] = []

        def note(row: Mapping[str, Any], directory: Any = directory, found: Any = at_asking) -> None:
            if row["event"] == "asked":
                has = directory.has_checkpoint()
                state = directory.load_checkpoint()[0] if has else None
                found.append(None if state is None else (state.round, state.asked))

        go(directory, repeatable=repeatable, watch=note)
        both = {"north": 1, "south": 1}
        expected = [None, (1, both)] if repeatable else [(1, both), (2, {"north": 2, "south": 2})]
        assert at_asking[:2] == expected


def test_a_crashed_real_run_never_repeats_a_round(tmp_path: Path) -> None:
    directory, settings = prepared(tmp_path, privacy=CHEAP, training={"rounds": 3})

    def crash(row: Mapping[str, Any]) -> None:
        if row["event"] == "asked" and row["round"] == 2:
            raise MemoryError("killed")

    with pytest.raises(MemoryError):
        go(directory, repeatable=False, watch=crash)
    document = directory.document()
    assert (document["status"], document["error"]) == ("failed", "MemoryError: killed")
    seen = go(directory, repeatable=False)
    assert [row["round"] for row in seen if row["event"] == "asked"] == [3, 4]
    state, _ = directory.load_checkpoint()
    assert state.asked == {"north": 3, "south": 3}  # round 2 was asked for: it counts
    assert state.aggregated == 2
    document = directory.document()
    assert (document["status"], document["error"]) == ("finished", None)
    plan = plan_for(settings, declared_size=1)
    assert plan is not None
    assert document["epsilon"][0]["opacus_rdp"] == epsilon(plan).opacus_rdp


def test_a_stopped_run_says_stopped(tmp_path: Path) -> None:
    directory, _ = prepared(tmp_path)
    directory.ask_to_stop()
    with pytest.raises(RunStoppedError):
        go(directory)
    assert directory.document()["status"] == "stopped"


@pytest.mark.parametrize("damage", ["checkpoint", "spec"])
def test_a_run_that_cannot_begin_says_failed_so_that_nobody_waits_for_it(tmp_path: Path, damage: str) -> None:
    directory, _ = prepared(tmp_path)
    if damage == "checkpoint":
        (directory.path / "checkpoint.safetensors").write_bytes(b"damaged")
    else:
        directory.update(spec="{}")
    with pytest.raises(Exception, match=r"damaged|spec"):
        go(directory)
    assert directory.document()["status"] == "failed"


def test_a_folder_without_a_run_is_the_error_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run there"):
        go(RunDirectory(tmp_path / "absent"))
    assert not list(tmp_path.iterdir())


def test_a_run_in_which_nothing_was_aggregated_has_no_model(tmp_path: Path) -> None:
    directory, _ = prepared(
        tmp_path,
        model={"name": "mlp", "activation": "relu"},
        training={"learning_rate": 1e8, "local_steps": 20, "sampling_rate": 1.0},
    )
    with pytest.raises(RunFailedError, match="not one of 3 rounds"):
        go(directory)
    assert not directory.model_directory.exists()
    assert directory.metrics()[0]["left_out"] == {"north": "training-failed", "south": "training-failed"}


@pytest.mark.parametrize("error", [ImportError("no matplotlib"), OSError("disk full")])
def test_a_missing_picture_fails_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(_directory: RunDirectory) -> None:
        raise error

    monkeypatch.setattr(room, "draw", broken)
    directory, _ = prepared(tmp_path)
    go(directory, pictures=True)
    assert directory.document()["status"] == "finished"


def test_a_server_without_matplotlib_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return found(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    directory, _ = prepared(tmp_path)
    go(directory, pictures=True)
    assert directory.document()["status"] == "finished"


def test_evaluation_counts_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.zoo import build

    settings = settings_of()
    task, test = task_of(settings), public_test()
    model = build("logistic", settings.data.signature(), {}, seed=0)
    whole = test.metrics(model, task)
    monkeypatch.setattr("models.measure.CHUNK", 7)
    assert test.metrics(model, task) == pytest.approx(whole)
    with torch.no_grad():
        right = (model(test.inputs).argmax(1) == test.targets).double().mean()
    assert whole["accuracy"] == pytest.approx(float(right))
    other = np.zeros(6, np.float32)
    scored = test.metrics(model, task, other)
    load_vector(model, other)
    assert scored == test.metrics(model, task)
