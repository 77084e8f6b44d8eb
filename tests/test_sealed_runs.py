"""Whole runs with sealed sums on the in-process engine: the same model, and nothing in clear."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_cases import PRIVATE
from flwr.app import Message
from sealed_cases import go, hurry, toy

from client.train import Site
from models.vector import to_vector
from privacy.noise import SecureRandom
from server.runs import RunDirectory
from simulations.departments import Bench
from strategies.agreement import layout_of, model_of, task_of
from strategies.errors import SettingsError
from strategies.lanes import sealed_encoding
from strategies.settings import RunSettings


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll in milliseconds: some departments here never answer."""
    hurry(monkeypatch)


def in_mode(settings: RunSettings, mode: str) -> RunSettings:
    return settings.model_copy(update={"secagg": settings.secagg.model_copy(update={"mode": mode})})


def model_after(directory: RunDirectory) -> np.ndarray:
    return directory.load_checkpoint()[0].model


@pytest.mark.parametrize("mode", ["sealed", "strict"])
@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"strategy": {"min_departments": 3, "weights": "uniform"}},
        {"privacy": PRIVATE},
        {"strategy": {"min_departments": 3, "name": "scaffold"}},
        {"strategy": {"min_departments": 3, "name": "fedadam", "server_learning_rate": 0.05}},
    ],
    ids=["declared", "uniform", "private", "scaffold", "fedadam"],
)
def test_a_sealed_run_gives_the_clear_runs_model_up_to_the_grid(
    mode: str, tables: dict[str, Any], tmp_path: Path
) -> None:
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None}, **tables)
    clear, _ = go(tmp_path, in_mode(settings, "clear"), data)
    sealed, _ = go(tmp_path, in_mode(settings, mode), data)
    task, model = task_of(settings), model_of(settings, seed=0)
    layout = layout_of(settings, model, task)
    encoding = sealed_encoding(settings, layout, task, len(data))
    # The sum is off by less than the bound; the mean divides it by the weights' share of the largest.
    sizes = [own.declared_size for own in data.values()] if settings.strategy.weights == "declared" else [1] * len(data)
    bound = encoding.error_bound("update") * max(sizes) / sum(sizes)
    moved = {"fedadam": 1e-3}.get(settings.strategy.name, bound + 1e-6)  # Adam divides by the step's own size
    assert np.abs(model_after(clear) - model_after(sealed)).max() <= moved
    for row, other in zip(sealed.metrics(), clear.metrics(), strict=True):
        assert (row["answered"], row["left_out"], row["abandoned"]) == (other["answered"], {}, None)
        assert row["validation"] == pytest.approx(other["validation"], abs=1e-4)
        assert len(row["legs"]) == (3 if mode == "strict" else 2)


def test_results_say_how_sums_were_sealed(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None})
    directory, _ = go(tmp_path, settings, data)
    assert directory.document()["secagg"] == {
        "mode": "sealed",
        "n": 5,
        "threshold": 4,
        "colluders": 1,
        "min_honest_sum": 2,
        "legs_per_round": 2,
    }
    directory, _ = go(tmp_path, in_mode(settings, "clear"), data)
    assert directory.document()["secagg"]["mode"] == "clear"


def needles(vector: np.ndarray) -> list[bytes]:
    """Every way in which neighbouring lanes might lie in a message; a single float32 is found in any random bytes."""
    found = []
    for first, second in itertools.pairwise(vector.tolist()):
        if first in {0, 1} or second in {0, 1}:
            continue
        found += [struct.pack(order, first, second) for order in ("<ff", ">ff", "<dd", ">dd")]
        found += [struct.pack(order, first) for order in ("<d", ">d") if first != int(first)]
        found += [f"{first:.6g}".encode()] if first != int(first) else []
    return found


def bytes_of(message: Message) -> bytes:
    """All that leaves a department with a message."""
    config = message.content.config_records["answer"]
    return b"|".join(v if isinstance(v, bytes) else repr((k, v)).encode() for k, v in sorted(config.items()))


def test_nothing_a_department_sends_is_in_clear(tmp_path: Path) -> None:
    """The same run in clear gives the vectors; not one of their numbers is found on the wire of the sealed one."""
    settings, data = toy(training={"rounds": 3}, secagg={"mode": None})
    _, clear = go(tmp_path, in_mode(settings, "clear"), data)
    vectors = [
        np.frombuffer(message.content.config_records["answer"]["vector"], "<f4")  # type: ignore[arg-type]  # bytes, as sent
        for _, message in clear.replies
    ]
    sought = [needle for vector in vectors for needle in needles(vector)]
    assert len(sought) > 100
    wire_in_clear = b"".join(bytes_of(message) for _, message in clear.replies)
    assert any(needle in wire_in_clear for needle in sought)  # the scan can find
    _, sealed = go(tmp_path, settings, data)
    wire = b"".join(bytes_of(message) for _, message in sealed.replies)
    assert len(wire) > 10_000
    assert not [needle for needle in sought if needle in wire]


def test_what_a_department_sends_is_a_code_and_one_message(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 2}, secagg={"mode": "strict"})
    _, grid = go(tmp_path, settings, data)
    for _, message in grid.replies:
        assert set(message.content) == {"answer"}
        assert set(message.content.config_records["answer"]) == {"version", "code", "sealed"}
    # Set-up twice, then three exchanges for each of two rounds and the last measurement.
    assert len(grid.replies) == len(data) * (2 + 3 * 3)


def test_clipped_elements_are_counted_where_nothing_is_private(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None, "update_range": 1e-6})
    directory, _ = go(tmp_path, settings, data)
    assert directory.metrics()[0]["saturated"] > 0
    private, _ = toy(training={"rounds": 1}, secagg={"mode": None, "update_range": 1e-6}, privacy=PRIVATE)
    directory, _ = go(tmp_path, private, data)
    assert directory.metrics()[0]["saturated"] is None


def test_two_departments_are_in_clear_unless_sealing_was_asked_for() -> None:
    settings, data = toy(2, strategy={"min_departments": 2}, secagg={"mode": None})
    assert settings.secagg.clear
    assert len(data) == 2
    with pytest.raises(SettingsError, match=r'secagg.mode = "sealed": 2 department'):
        toy(2, strategy={"min_departments": 2}, secagg={"mode": "sealed"})


def test_a_part_of_the_departments_is_sealed_too(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 2}, secagg={"mode": None}, strategy={"fraction": 0.6, "quorum": 1.0})
    directory, _ = go(tmp_path, settings, data)
    for row in directory.metrics():
        assert len(row["answered"]) == 3
        assert row["abandoned"] is None


def test_rounding_is_not_the_noise(tmp_path: Path) -> None:
    """The grid's randomness is a stream of its own: sealing changes nothing of what privacy rests on."""
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None}, privacy=PRIVATE)
    purposes: list[str] = []

    def listening(name: str, site: Site) -> Site:
        def random(purpose: str) -> SecureRandom:
            purposes.append(purpose)
            return SecureRandom.seeded(1, name, purpose)

        return dataclasses.replace(site, random=random)

    go(tmp_path, settings, data, change=listening)
    per_department = purposes[: len(purposes) // len(data)]
    assert {"train/1", "rounding/1", "metrics/1"} <= set(per_department)
    assert len(set(purposes)) == 5  # train/1, metrics/1, rounding/1, metrics/2, rounding/2
    assert Bench(departments=data, test=None).sizes()["north"] == 40
    assert to_vector(model_of(settings, seed=0)).size == 6
