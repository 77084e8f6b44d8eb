"""What a run is said to cost before it starts, and what a real one is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from federation_cases import PRIVATE, document, settings_of, toy_csv

from models.inputs.errors import DataError
from privacy.accounting import epsilon
from server.planning import OFF, REAL, SEEDED, SIMULATED, check_sealable, create, forecast, prepare, statement
from strategies.agreement import plan_for
from strategies.errors import SettingsError
from strategies.runfile import parse

# Cheap to account for: one step without sampling.
BRIEF = {"rounds": 1, "local_steps": 1, "sampling_rate": 1.0}
QUIET = {"mode": "local", "noise_multiplier": 4.0, "metrics": "off"}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"seed": 3}, "seed = 3: predictable noise protects nobody"),
        ({"privacy": {**PRIVATE, "metrics": "plain", "metric_noise": None}}, "for simulations alone"),
        ({"data": {"name": None}}, "data.name: missing"),
    ],
)
def test_what_a_real_run_is_refused_for_a_simulation_may_do(tables: dict[str, Any], said: str) -> None:
    settings = parse(document(**tables))
    with pytest.raises(SettingsError, match=said):
        prepare(settings, real=True)
    prepare(settings, real=False)


def test_a_bundled_set_needs_no_name() -> None:
    settings = parse(document(data={"name": None, "path": "sklearn:iris", "label": None, "columns": {}}))
    assert prepare(settings, real=True).data.name == "sklearn:iris"


def test_an_absent_test_set_is_found_before_anything_starts(tmp_path: Path) -> None:
    settings = parse(document(data={"test": {"path": str(tmp_path / "absent.csv")}}))
    with pytest.raises(DataError, match=r"absent\.csv"):
        prepare(settings, real=True)


def test_classes_come_from_the_public_test_set(tmp_path: Path) -> None:
    path = toy_csv(tmp_path / "test.csv", 20)
    path.write_text(path.read_text().replace(",1\n", ",yes\n").replace(",0\n", ",no\n"))
    assert prepare(parse(document(data={"test": {"path": str(path)}})), real=True).data.classes == ("no", "yes")


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_forecast_figures(strategy: str) -> None:
    settings = settings_of(privacy=QUIET, training=BRIEF, strategy={"name": strategy})
    told = forecast(settings, declared_size=100)
    twice = 2 if strategy == "scaffold" else 1
    assert told.parameters == 6
    assert told.bytes_down == 4 * 6 * twice
    assert told.bytes_up == 4 * (6 * twice + 1)
    assert (told.rounds, told.steps) == (1, 1)
    plan = plan_for(settings, declared_size=100)
    assert plan is not None
    assert told.epsilon == epsilon(plan)


def warnings(declared_size: int | None = None, **tables: Any) -> str:
    tables = {"privacy": QUIET, "training": BRIEF} | tables
    return "\n".join(forecast(settings_of(**tables), declared_size=declared_size).warnings)


def test_forecast_warnings() -> None:
    assert warnings(1000, secagg={"mode": "sealed"}) == ""
    assert "the coordinator sees every department's own update" in warnings(1000)
    assert "delta=0.01 is not below 1/declared_size=0.01" in warnings(100, privacy={**QUIET, "delta": 0.01})
    assert "delta" not in warnings(99, privacy={**QUIET, "delta": 0.01})
    assert "delta" in warnings(10**6, privacy={**QUIET, "delta": 1e-5})
    assert "not differentially private" in warnings(privacy={"mode": "off"})
    assert "predictable" in warnings(seed=1)
    assert "predictable" not in warnings(seed=1, privacy={"mode": "off"})
    assert "without noise" in warnings(privacy={**QUIET, "metrics": "plain"})


@pytest.mark.parametrize(
    ("quorum", "minimum", "warned"), [(0.8, 2, False), (0.5, 2, True), (0.5, 3, False), (1.0, 1, True)]
)
def test_a_quorum_of_one_department_is_warned_of(quorum: float, minimum: int, warned: bool) -> None:
    said = warnings(strategy={"quorum": quorum, "min_departments": minimum})
    assert ("quorum of one department" in said) == warned


def test_the_statement_is_honest() -> None:
    private = settings_of(privacy=QUIET)
    assert statement(settings_of(), "federation") == OFF
    assert statement(private, "federation") == REAL
    assert statement(private, "simulation") == SIMULATED
    assert statement(private.model_copy(update={"seed": 0}), "simulation") == SEEDED


def test_a_run_is_made_once(tmp_path: Path) -> None:
    directory = create(settings_of(), tmp_path / "runs", engine="simulation", name="toy-1")
    assert directory.name == "toy-1"
    other = create(settings_of(), tmp_path / "runs", engine="simulation")
    assert other.name.startswith("toy-")
    assert other.document()["spec"] != directory.document()["spec"]  # a spec names its run


def test_a_forecast_says_how_sums_are_sealed() -> None:
    def sealing(departments: int | None, mode: str) -> str:
        settings = settings_of(privacy=QUIET, training=BRIEF, secagg={"mode": mode})
        return forecast(settings, declared_size=100, departments=departments).sealing

    assert "of 5 departments 4 must stay" in sealing(5, "sealed")
    assert "never over fewer than 2 honest departments" in sealing(5, "strict")
    assert "the federation's roster says" in sealing(None, "sealed")
    assert "IN CLEAR" in sealing(5, "clear")


def test_too_many_departments_for_exact_sums_are_found_out_beforehand() -> None:
    settings = settings_of(privacy=QUIET, training=BRIEF, secagg={"mode": "sealed", "max_size": 100_000_000})
    check_sealable(settings, 21)
    with pytest.raises(SettingsError, match=r"secagg\.max_size = 100000000"):
        check_sealable(settings, 22)
