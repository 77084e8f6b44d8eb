"""Promotion by rule, and the way back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundle_cases import DATA, KEY, PUBLIC, sealed, write_bundle
from registry_cases import published, registry_at

from models.bundle import seal, verify
from server.errors import PublishError, RegistryError
from server.publishing.promotion import MOST_HISTORY, promote, rollback, rules
from server.publishing.registry import Registry

OFF = {"mode": "off", "statement": "trained WITHOUT differential privacy"}
# Version by version: good, a little worse, much worse, without privacy, a gate failed, not measured.
VERSIONS: list[dict[str, Any]] = [
    {"run": "r1", "accuracy": 0.9},
    {"run": "r2", "accuracy": 0.896},
    {"run": "r3", "accuracy": 0.85},
    {"run": "r4", "accuracy": 0.95, "privacy": OFF},
    {"run": "r5", "accuracy": 0.95, "gates": [{"name": "caps", "passed": False, "detail": "north is over"}]},
    {"run": "r6", "accuracy": None},
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registry with :data:`VERSIONS`; only read."""
    folder = tmp_path_factory.mktemp("registries")
    registry = registry_at(folder / "registry")
    for k, parts in enumerate(VERSIONS):
        published(registry, folder / str(k), **parts)
    return folder / "registry"


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Registry:
    return Registry.at(str(shutil.copytree(template, tmp_path / "registry")), keys=[PUBLIC])


def test_the_first_version_is_promoted_and_said_why(registry: Registry, tmp_path: Path) -> None:
    result = promote(registry, "ward", 1, cache=tmp_path / "cache")
    assert (result["version"], result["alias"], result["previous"], result["forced"]) == (1, "champion", None, False)
    assert [(check["name"], check["passed"]) for check in result["checks"]] == [("gates", True), ("privacy", True)]
    assert registry.alias("ward", "champion") == 1


def test_a_version_within_the_tolerance_takes_its_place(registry: Registry) -> None:
    promote(registry, "ward", 1)
    with pytest.raises(PublishError, match=r"score: accuracy 0\.8960, the present version's 0\.9000"):
        promote(registry, "ward", 2, tolerance=0.003)
    assert promote(registry, "ward", 2)["previous"] == 1
    assert registry.alias("ward", "champion") == 2


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (3, "score: accuracy 0.8500"),
        (4, "privacy: trained without differential privacy"),
        (5, "gates: failed when it was published: caps"),
        (6, "score: accuracy was not measured"),
    ],
)
def test_a_version_that_breaks_a_rule_is_refused_unless_forced(registry: Registry, version: int, said: str) -> None:
    promote(registry, "ward", 1)
    with pytest.raises(PublishError) as refused:
        promote(registry, "ward", version)
    assert said in str(refused.value)
    assert registry.alias("ward", "champion") == 1
    assert promote(registry, "ward", version, force=True)["forced"]
    assert registry.alias("ward", "champion") == version


def test_every_reason_is_given(registry: Registry, tmp_path: Path) -> None:
    promote(registry, "ward", 1)
    parts: dict[str, Any] = VERSIONS[4] | {"accuracy": 0.5, "privacy": OFF}
    version, _ = published(registry, tmp_path / "bad", **parts)
    with pytest.raises(PublishError, match=r"gates: .*; privacy: .*; score: "):
        promote(registry, "ward", version)


def test_without_privacy_may_follow_without_privacy(registry: Registry) -> None:
    promote(registry, "ward", 4, force=True)
    # A private one may follow, too, whatever went before.
    promote(registry, "ward", 1, force=True)
    with pytest.raises(PublishError, match="privacy"):
        promote(registry, "ward", 4)


def test_rollback_goes_back_one_promotion_each_time(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="no alias 'champion' to roll back"):
        rollback(registry, "ward")
    for version in (1, 2, 3, 1):
        promote(registry, "ward", version, force=True)
    assert promote(registry, "ward", 1)["previous"] is None  # it has the place already
    assert [rollback(registry, "ward")["version"] for _ in range(3)] == [3, 2, 1]
    with pytest.raises(RegistryError, match="nothing before version 1"):
        rollback(registry, "ward")
    assert registry.alias("ward", "champion") == 1


def test_an_alias_that_was_set_by_hand_is_remembered(registry: Registry) -> None:
    promote(registry, "ward", 1)
    registry.set_alias("ward", "champion", 3)
    promote(registry, "ward", 2)
    assert [rollback(registry, "ward")["version"] for _ in range(2)] == [3, 1]


def test_aliases_have_histories_of_their_own(registry: Registry) -> None:
    promote(registry, "ward", 1)
    promote(registry, "ward", 2, alias="canary")
    with pytest.raises(RegistryError, match="nothing before version 2"):
        rollback(registry, "ward", "canary")
    assert registry.alias("ward", "champion") == 1


@pytest.mark.parametrize("stopped", ["set_alias", "set_note"])
def test_a_crash_in_the_middle_never_makes_a_rollback_go_forward(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    promote(registry, "ward", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Registry, stopped, crash)
        promote(registry, "ward", 2)
    if registry.alias("ward", "champion") == 2:
        assert rollback(registry, "ward")["version"] == 1
    promote(registry, "ward", 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Registry, stopped, crash)
        rollback(registry, "ward")
    if registry.alias("ward", "champion") == 2:
        assert rollback(registry, "ward")["version"] == 1
    with pytest.raises(RegistryError, match="nothing before version 1"):
        rollback(registry, "ward")


@pytest.mark.parametrize("history", ["{", "7", '["1"]', "[true]", "[-1]", "[" * 100_000])
def test_a_damaged_history_is_an_error_and_not_in_the_way(registry: Registry, history: str) -> None:
    promote(registry, "ward", 1)
    registry.set_note("ward", "history.champion", history)
    with pytest.raises(RegistryError, match="is damaged"):
        rollback(registry, "ward")
    promote(registry, "ward", 2)
    assert rollback(registry, "ward")["version"] == 1


def test_a_history_is_bounded(registry: Registry) -> None:
    promote(registry, "ward", 1)
    registry.set_note("ward", "history.champion", str([*[3, 1] * 100]))
    promote(registry, "ward", 2)
    noted = registry.note("ward", "history.champion")
    assert noted is not None
    assert len(json.loads(noted)) == MOST_HISTORY
    assert rollback(registry, "ward")["version"] == 1


def test_a_rollback_skips_versions_that_are_gone(registry: Registry) -> None:
    promote(registry, "ward", 1)
    registry.set_note("ward", "history.champion", "[3, 77, 1]")
    assert rollback(registry, "ward")["version"] == 3


def test_figures_are_read_from_what_was_signed(registry: Registry) -> None:
    promote(registry, "ward", 1)
    run = registry.version("ward", 3).mlflow_run
    registry._client.log_metric(run, "variant.float32.score", 0.99)
    registry._client.set_model_version_tag("ward", "3", "accuracy", "0.99")
    with pytest.raises(PublishError, match=r"0\.8500"):
        promote(registry, "ward", 3)


def test_a_damaged_champion_is_only_followed_by_force(registry: Registry) -> None:
    promote(registry, "ward", 1)
    folder = registry.place.folder
    assert folder is not None
    (folder / "ward" / registry.version("ward", 1).mlflow_run / "artifacts/bundle/privacy.json").write_text("{}")
    with pytest.raises(PublishError, match="the present champion is damaged"):
        promote(registry, "ward", 2)
    assert promote(registry, "ward", 2, force=True)["version"] == 2


def test_other_records_are_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = sealed(tmp_path / "a")
    monkeypatch.setitem(DATA, "classes", ["yes", "no"])
    candidate = sealed(tmp_path / "b", accuracy=0.99)
    assert [check.name for check in rules(candidate, champion) if not check.passed] == ["schema"]


def test_scores_on_other_records_are_not_compared(tmp_path: Path) -> None:
    champion = sealed(tmp_path / "a")
    candidate = sealed(tmp_path / "b", accuracy=0.99, measured_on="00" * 32)
    assert [check.name for check in rules(candidate, champion) if not check.passed] == ["score"]


def test_no_gates_are_not_passed_gates(tmp_path: Path) -> None:
    for k, gates in enumerate(([], [{"name": "x"}], [{"name": "x", "passed": "yes"}], ["x"])):
        candidate = sealed(tmp_path / str(k), gates=gates)
        assert [check.name for check in rules(candidate, None) if not check.passed] == ["gates"]


def test_a_simulation_does_not_follow_a_federation(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = write_bundle(tmp_path / name, accuracy=0.99)
        lineage = json.loads((folder / "lineage.json").read_text())
        lineage["engine"] = "federation" if name == "a" else "simulation"
        (folder / "lineage.json").write_text(json.dumps(lineage, indent=2, sort_keys=True) + "\n")
        seal(folder, KEY)
    champion, candidate = (verify(tmp_path / name, [PUBLIC]) for name in ("a", "b"))
    assert [check.name for check in rules(candidate, champion) if not check.passed] == ["privacy"]
    assert all(check.passed for check in rules(champion, candidate))
