"""A run's directory: every write is all or nothing, and everything read back is what was written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.errors import RunError
from server.runs import NAME, RunDirectory, find, new_name
from strategies.state import RunState


def made(path: Path, **settings: Any) -> RunDirectory:
    directory = RunDirectory(path)
    directory.create(spec="{}", settings=settings, engine="simulation", private="off")
    return directory


def row(number: int) -> dict[str, Any]:
    return {"event": "round", "round": number, "text": "ä\u2028\x85"}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return made(tmp_path / "toy-1")


def test_a_new_run_says_what_it_is(run: RunDirectory) -> None:
    document = run.document()
    assert (document["name"], document["status"], document["engine"]) == ("toy-1", "created", "simulation")
    assert set(document["versions"]) == {"confide", "flwr", "torch", "opacus", "dp-accounting", "numpy"}
    assert not run.has_checkpoint()
    with pytest.raises(RunError, match="exists already"):
        made(run.path)


floats64 = hnp.arrays(np.float64, 3)
floats32 = hnp.arrays(np.float32, 3)
counts = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 10**6), max_size=3)
# What an array is called in a checkpoint may hold any character, also the separators used there.
names = st.text(min_size=1, max_size=10).filter(lambda name: name != "__metadata__")


@given(
    model=floats32,
    number=st.integers(0, 10**6),
    aggregated=st.integers(0, 10**6),
    optimizer=st.dictionaries(st.sampled_from(["velocity", "first", "second"]), floats64),
    control=st.none() | floats32,
    asked=counts,
    measured=counts,
    extra=st.dictionaries(names, floats32, max_size=3),
)
def test_a_checkpoint_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    model: Any,
    number: int,
    aggregated: int,
    optimizer: Any,
    control: Any,
    asked: Any,
    measured: Any,
    extra: Any,
) -> None:
    directory = RunDirectory(tmp_path_factory.mktemp("run"))
    state = RunState(
        model=model,
        round=number,
        aggregated=aggregated,
        optimizer=optimizer,
        control=control,
        asked=asked,
        measured=measured,
    )
    directory.save_checkpoint(state, extra)
    found, others = directory.load_checkpoint()
    assert _bits(found.optimizer) == _bits(optimizer)
    assert _bits(others) == _bits(extra)
    assert _bits({"m": found.model, "c": found.control}) == _bits({"m": model, "c": control})
    assert (found.round, found.aggregated) == (number, aggregated)
    assert (found.asked, found.measured) == (asked, measured)
    assert list(directory.path.iterdir()) == [directory.path / "checkpoint.safetensors"]


def _bits(arrays: Any) -> dict[str, Any]:
    return {k: None if v is None else (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()}


def test_resuming_without_or_with_a_damaged_checkpoint_is_explained(run: RunDirectory) -> None:
    file = run.path / "checkpoint.safetensors"
    with pytest.raises(RunError, match="no checkpoint to resume from"):
        run.load_checkpoint()
    run.save_checkpoint(RunState(model=np.zeros(3, np.float32)))
    whole = file.read_bytes()
    from safetensors.numpy import save

    model = {"model": np.zeros(1, np.float32)}
    counters = {"round": 1, "aggregated": 1, "asked": {}, "measured": {}}
    for damaged in (
        b"",
        b"damaged",
        whole[:-1],
        whole[: len(whole) // 2],
        save(model),
        save(model, metadata={"confide": "{"}),
        save(model, metadata={"confide": "[]"}),
        save(model, metadata={"confide": json.dumps(counters | {"asked": [1]})}),
        save(model, metadata={"confide": json.dumps(counters | {"round": None})}),
        save({"other": model["model"]}, metadata={"confide": json.dumps(counters)}),
    ):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match="damaged"):
            run.load_checkpoint()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_earlier_version(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    run.save_checkpoint(RunState(model=np.ones(3, np.float32), round=1))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(RunError, match="free some space"):
            run.save_checkpoint(RunState(model=np.zeros(3, np.float32), round=2))
        with pytest.raises(RunError):
            run.update(status="finished")
    state, _ = run.load_checkpoint()
    assert (state.round, state.model.tolist()) == (1, [1, 1, 1])
    assert run.document()["status"] == "created"
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoint.safetensors", "run.json"]


def test_metrics_are_lines_and_a_half_written_one_is_no_line(run: RunDirectory) -> None:
    assert run.metrics() == []
    run.add_metrics(row(1))
    run.add_metrics(row(2))
    with run.metrics_file.open("a") as file:
        file.write('{"round": 3, "ev')  # the process was killed here
    assert run.metrics() == [row(1), row(2)]
    run.add_metrics(row(3))  # a resumed run goes on
    assert run.metrics() == [row(1), row(2), row(3)]


def test_a_first_line_that_was_half_written_is_replaced(run: RunDirectory) -> None:
    run.metrics_file.write_text('{"rou')
    run.add_metrics(row(1))
    assert run.metrics() == [row(1)]


def test_damaged_metrics_are_a_run_error(run: RunDirectory) -> None:
    run.metrics_file.write_text("{\n")
    with pytest.raises(RunError, match="damaged"):
        run.metrics()


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_damaged_run_json_is_explained(run: RunDirectory, content: str) -> None:
    (run.path / "run.json").write_text(content)
    with pytest.raises(RunError, match="damaged"):
        run.document()


def test_the_wish_to_stop_lies_on_disk(run: RunDirectory) -> None:
    assert not run.asked_to_stop()
    run.ask_to_stop()
    assert RunDirectory(run.path).asked_to_stop()
    run.clear_stop()
    run.clear_stop()
    assert not run.asked_to_stop()


def test_runs_are_found_by_name_beginning_or_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first, second = made(runs / "toy-1a"), made(runs / "toy-1b")
    exact = made(runs / "toy-1")
    assert find(runs, "toy-1a") == first
    assert find(runs, "toy-1b") == second
    assert find(runs, "toy-1") == exact  # a whole name goes before a beginning
    assert find(runs, str(second.path)) == second
    with pytest.raises(RunError, match="3 runs begin so"):
        find(runs, "toy")
    for name in ("tax", "", "../runs/toy-1a", ".", str(tmp_path)):
        with pytest.raises(RunError, match="not found"):
            find(runs, name)
    with pytest.raises(RunError, match="not found"):
        find(tmp_path / "absent", "toy")


def test_new_names_differ_and_are_names() -> None:
    drawn = {new_name("toy") for _ in range(20)}
    assert len(drawn) > 15
    assert all(NAME.fullmatch(name) for name in drawn)


def test_a_run_cannot_be_made_where_there_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be created"):
        made(tmp_path / "file" / "run")
