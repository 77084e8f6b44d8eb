"""The examples: each must load, be forecast, train, and keep its header's word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import shared_file
from typer.testing import CliRunner

import confide
from models.store import load as load_model
from server.planning import prepare
from simulations.departments import bench
from strategies.runfile import load

EXAMPLES = Path(__file__).parents[1] / "examples"
FASHION = Path("/usr/share/datasets/fashion-mnist")
# What an example needs beyond the installation: a file of the development data, or a Debian package.
NEEDS = {
    "adult_by_occupation": "adult.csv",
    "sms_spam_transformer": "sms_spam.tsv",
    "fashion_mnist_cnn": "dataset-fashion-mnist",
}
OFFLINE = sorted({path.stem for path in EXAMPLES.glob("*.toml")} - set(NEEDS))
EVERY = sorted([*OFFLINE, *NEEDS])
# Seeded, so that these say something about the code rather than about luck; the bounds lie below the means
# over unseeded runs that the examples' headers state.
LEARNS = {"digits_cnn": 0.85, "digits_lstm": 0.75, "breast_cancer_logistic": 0.88}
SHORT = ("training.rounds=2", "training.local_steps=2")


def example(name: str) -> Path:
    return EXAMPLES / f"{name}.toml"


def source(name: str) -> list[str]:
    """Overrides that point an example at data that lies here, or skip."""
    if name == "fashion_mnist_cnn":
        if not FASHION.is_dir():
            pytest.skip(f"{FASHION} is absent: apt-get install dataset-fashion-mnist")
        # The smaller of the set's two halves: this test is about the file, not about the model.
        return [
            f"data.path={FASHION}/t10k-images-idx3-ubyte.gz",
            f"data.labels_path={FASHION}/t10k-labels-idx1-ubyte.gz",
            "training.sampling_rate=0.01",
        ]
    if name in NEEDS:
        return [f"data.path={shared_file(NEEDS[name])}"]
    return []


def confide_command(home: Path, *arguments: str) -> str:
    """Run one command as the command line does; returns what it prints on stdout."""
    done = CliRunner().invoke(confide.app, list(arguments), env={"CONFIDE_HOME": str(home)})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def simulate(home: Path, name: str, *overrides: str) -> dict[str, Any]:
    """Run an example through ``confide simulate``; returns its result."""
    torch.set_num_threads(1)
    result = home / "result.json"
    sets = [word for override in overrides for word in ("--set", override)]
    confide_command(home, "simulate", str(example(name)), "--no-baselines", "--json", str(result), *sets)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def test_every_example_is_known() -> None:
    assert {path.stem for path in EXAMPLES.iterdir()} == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_an_example_is_private_and_explained(name: str) -> None:
    text = example(name).read_text(encoding="utf-8")
    header = text.partition("\nname = ")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"confide simulate examples/{name}.toml" in header
    assert "accuracy" in header
    settings = load(example(name))
    assert settings.seed is None
    assert settings.privacy.mode == "local"
    assert settings.privacy.epsilon is not None
    assert settings.privacy.epsilon <= 8
    assert settings.privacy.delta <= 1e-5
    assert settings.data.test is not None


@pytest.mark.parametrize("name", EVERY)
def test_an_example_can_be_forecast(name: str, tmp_path: Path) -> None:
    told = json.loads(confide_command(tmp_path, "run", "check", str(example(name)), "--json"))
    epsilon = load(example(name)).privacy.epsilon
    assert epsilon is not None
    assert 0.99 * epsilon < max(value or 0 for value in told["epsilon"].values()) <= epsilon
    assert told["warnings"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*EVERY} - {*LEARNS}))
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    result = simulate(tmp_path, name, *SHORT, *source(name))
    assert result["rounds"] == 2
    assert "not private" not in result["privacy"]
    check_result(name, result)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNS)
def test_a_private_model_learns(name: str, tmp_path: Path) -> None:
    result = simulate(tmp_path, name, "seed=1")
    assert result["rounds"] == load(example(name)).training.rounds
    assert result["accuracy"]["federated"] >= LEARNS[name]
    check_result(name, result)


def check_result(name: str, result: dict[str, Any]) -> None:
    """What must hold after every run of an example."""
    settings = load(example(name))
    assert settings.data.partition is not None
    assert settings.privacy.epsilon is not None
    assert result["measured_on"] == "public test set"
    assert len(result["epsilon"]) == settings.data.partition.departments
    for department in result["epsilon"]:
        figures = [value for key, value in department.items() if key != "department" and value is not None]
        assert len(figures) >= 2
        assert 0 < max(figures) <= settings.privacy.epsilon
    _, _, manifest = load_model(Path(result["run_dir"]) / "model")
    assert manifest["privacy"]["delta"] <= 1e-5


def test_a_missing_occupation_is_a_department_of_its_own() -> None:
    name = "adult_by_occupation"
    sizes = bench(prepare(load(example(name), source(name)), real=False)).sizes()
    assert {"?", "others", "Sales"} <= set(sizes)
    assert not {"Armed-Forces", "Priv-house-serv"} & set(sizes)
    assert min(sizes, key=lambda department: sizes[department]) == "others"
    assert 0.78 * 32_561 < sum(sizes.values()) < 0.82 * 32_561
