"""Simulations: reproducible to the bit, resumable to the bit, and they learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_cases import PRIVATE, department, settings_of, toy_rows

from privacy.accounting import epsilon
from server.planning import create
from server.runs import RunDirectory
from simulations.departments import Bench
from simulations.simulate import Simulation, run_baselines
from strategies.agreement import plan_for
from strategies.errors import RunStoppedError
from strategies.settings import STRATEGIES, RunSettings

CHEAP = {**PRIVATE, "noise_multiplier": 2.0, "metric_noise": 4.0}
NAMES = ("north", "south", "west")


def bench(count: int = 40) -> Bench:
    return Bench(departments={name: department(name, count, i) for i, name in enumerate(NAMES)}, test=None)


def simulation(
    settings: RunSettings, folder: Path, watch: Callable[[Mapping[str, Any]], None] = lambda _row: None
) -> Simulation:
    """A run in ``folder``: a new one, or the one that is there already."""
    directory = RunDirectory(folder / "toy-1")
    if not directory.path.exists():
        directory = create(settings, folder, engine="simulation", name="toy-1")
    return Simulation(settings=settings, bench=bench(), directory=directory, watch=watch, pictures=False)


def outcome(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Every bit of a finished run's state, and what was measured on the way."""
    directory = RunDirectory(folder / "toy-1")
    state, extra = directory.load_checkpoint()
    arrays = {"model": state.model} | state.optimizer | extra
    if state.control is not None:
        arrays["control"] = state.control
    bits = b"".join(arrays[key].tobytes() for key in sorted(arrays))
    rows = {row["round"]: row["validation"] for row in directory.metrics()}
    return bits, {"rows": rows, "asked": state.asked, "measured": state.measured}


def private(strategy: str, seed: int | None = 5, **tables: Any) -> RunSettings:
    training = {"rounds": 4, "local_steps": 2, "sampling_rate": 0.5}
    return settings_of(
        **({"privacy": CHEAP, "strategy": {"name": strategy}, "training": training, "seed": seed} | tables)
    )


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "scaffold"])
def test_seeded_runs_are_equal_and_so_are_interrupted_ones(tmp_path: Path, strategy: str) -> None:
    settings = private(strategy, model={"name": "mlp", "hidden": [3]})
    for name in ("whole", "again"):
        simulation(settings, tmp_path / name).go()
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "again")

    def killed(event: str, number: int) -> Callable[[Mapping[str, Any]], None]:
        def watch(row: Mapping[str, Any]) -> None:
            if (row["event"], row.get("round")) == (event, number):
                raise SystemError("killed")

        return watch

    for event, number in (("asked", 1), ("round", 2), ("asked", 4), ("round", 5)):
        folder = tmp_path / f"{event}-{number}"
        with pytest.raises(SystemError):
            simulation(settings, folder, killed(event, number)).go()
        simulation(settings, folder).go()
        assert outcome(folder) == outcome(tmp_path / "whole")

    def stop(row: Mapping[str, Any]) -> None:
        if (row["event"], row.get("round")) == ("round", 2):
            RunDirectory(tmp_path / "stopped" / "toy-1").ask_to_stop()

    with pytest.raises(RunStoppedError):
        simulation(settings, tmp_path / "stopped", stop).go()
    directory = RunDirectory(tmp_path / "stopped" / "toy-1")
    assert directory.load_checkpoint()[0].round == 2
    directory.clear_stop()
    simulation(settings, tmp_path / "stopped").go()
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_other_seeds_and_no_seed_give_other_runs(tmp_path: Path) -> None:
    seeds = (1, 2, None, None)
    for i, seed in enumerate(seeds):
        simulation(private("fedavg", seed), tmp_path / str(i)).go()
    assert len({outcome(tmp_path / str(i))[0] for i in range(len(seeds))}) == len(seeds)


def test_partial_participation_resumes_with_the_same_cohorts(tmp_path: Path) -> None:
    settings = private("fedavg", evaluation={"every": 2})
    participation = settings.strategy.model_copy(update={"fraction": 0.5, "min_departments": 1})
    settings = settings.model_copy(update={"strategy": participation})
    simulation(settings, tmp_path / "whole").go()

    def crash(row: Mapping[str, Any]) -> None:
        if (row["event"], row.get("round")) == ("asked", 3):
            raise SystemError("killed")

    with pytest.raises(SystemError):
        simulation(settings, tmp_path / "cut", crash).go()
    simulation(settings, tmp_path / "cut").go()
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_an_unseeded_simulation_never_draws_a_round_s_noise_twice(tmp_path: Path) -> None:
    settings, asked = private("fedavg", None), []

    def crash(row: Mapping[str, Any]) -> None:
        if row["event"] == "asked":
            asked.append(row["round"])
            if row["round"] == 2:
                raise SystemError("killed")

    with pytest.raises(SystemError):
        simulation(settings, tmp_path, crash).go()
    simulation(settings, tmp_path, lambda row: asked.append(row["round"]) if row["event"] == "asked" else None).go()
    assert asked == [1, 2, 3, 4, 5]


def test_epsilon_is_that_of_the_plan(tmp_path: Path) -> None:
    settings = private("fedavg")
    run = simulation(settings, tmp_path)
    run.go()
    result = run.result({})
    plan = plan_for(settings, declared_size=40)
    assert plan is not None
    figure = epsilon(plan)
    assert result["epsilon"] == [
        {
            "department": name,
            "opacus_rdp": figure.opacus_rdp,
            "opacus_prv": figure.opacus_prv,
            "pld": figure.pld,
        }
        for name in NAMES
    ]
    assert result["delta"] == 1e-5
    assert result["rounds"] == 4
    assert result["metric"] == "accuracy"
    assert result["peak_memory_mb"] > 10


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_learns(tmp_path: Path, strategy: str) -> None:
    rates = {"fedadam": 0.2, "fedyogi": 0.2}
    settings = settings_of(
        training={"rounds": 12, "local_steps": 5, "sampling_rate": 0.5, "learning_rate": 0.5},
        strategy={"name": strategy, "server_learning_rate": rates.get(strategy, 1.0)},
        seed=1,
    )
    run = simulation(settings, tmp_path)
    run.go()
    assert run.result({})["accuracy"]["federated"] > 0.85


def test_baselines_are_comparable_and_can_be_gone_on_with(tmp_path: Path) -> None:
    settings = private("fedavg", training={"rounds": 2, "local_steps": 2, "sampling_rate": 0.5})
    run = simulation(settings, tmp_path)
    run.go()
    events: list[Mapping[str, Any]] = []
    folder = run.directory.path / "baselines"
    first = run_baselines(settings, run.bench, folder, events.append)
    assert len(first["alone"]) == len(NAMES)
    assert [event["name"] for event in events][:3] == ["nonprivate-1", "nonprivate-4", "nonprivate-16"]
    # A resumed command finds its baselines there, whole or cut short.
    assert run_baselines(settings, run.bench, folder, events.append) == first
    shown = run.result(first)["accuracy"]
    assert set(shown) == {"federated", "untrained", "federated_nonprivate", "alone"}
    assert len(shown["alone"]) == 3


def test_departments_of_like_names_have_baselines_of_their_own(tmp_path: Path) -> None:
    settings = settings_of(training={"rounds": 1}, seed=1)
    like = {"a b": department("a b", 40, 0), "a/b": department("a/b", 40, 9)}
    scores = run_baselines(settings, Bench(departments=like, test=None), tmp_path / "baselines", lambda _row: None)
    assert len({score["loss"] for score in scores["alone"]}) == 2


def test_a_scaffold_variate_belongs_to_its_department(tmp_path: Path) -> None:
    run = simulation(private("scaffold"), tmp_path)
    run.go()
    _, extra = run.directory.load_checkpoint()
    assert set(extra) == {f"control.{name}" for name in NAMES}
    assert len({array.tobytes() for array in extra.values()}) == 3


def test_the_toy_problem_is_learnable_from_the_first_feature() -> None:
    inputs, labels = toy_rows(500)
    assert np.mean((inputs[:, 0] > 0) == labels) > 0.7
