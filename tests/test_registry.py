"""The registry: what is published is found again, by name, number and alias."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from bundle_cases import PUBLIC, STRANGER, sealed
from registry_cases import empty_database, published, registry_at

from models.errors import BundleError
from server.errors import RegistryError
from server.publishing.registry import Registry
from server.publishing.registry_place import place

ROW = {
    "round": 1,
    "time": "2026-01-02T03:04:05+00:00",
    "test": {"accuracy": 0.5, "loss": 1.5},
    "validation": {},
    "epsilon_rdp": {"north": 1.0, "south": 2.0},
    "answered": ["north", "south"],
}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_at(tmp_path / "registry")


def test_a_version_is_published_found_and_fetched(registry: Registry, tmp_path: Path) -> None:
    bundle = sealed(tmp_path / "bundle")
    assert registry.publish(tmp_path / "bundle", bundle, run_metrics=[ROW]) == 1
    registry._client.set_model_version_tag("ward", "1", "stage", "trial\x1b[31m")
    registry.set_alias("ward", "champion", 1)
    (version,) = registry.versions("ward")
    assert version == registry.version("ward", 1) == registry.version("ward", "@champion")
    assert (version.name, version.version, version.aliases) == ("ward", 1, ("champion",))
    assert (version.digest, version.run) == (bundle.digest, "ward-1")
    assert (version.tags, version.description) == ({"stage": "trial [31m"}, "Who needs a bed.")
    assert json.loads(json.dumps(version.to_dict()))["aliases"] == ["champion"]
    assert registry.names() == ["ward"]
    found, fetched = registry.fetch("ward", "@champion", tmp_path / "cache")
    assert (found, fetched.digest, fetched.folder) == (version, bundle.digest, tmp_path / "cache" / bundle.digest)
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [bundle.digest]


def test_publishing_the_same_bundle_again_keeps_its_version(registry: Registry, tmp_path: Path) -> None:
    first, bundle = published(registry, tmp_path / "one")
    second, _ = published(registry, tmp_path / "two", run="ward-2")
    assert (first, second) == (1, 2)
    assert registry.publish(tmp_path / "one", bundle) == 1
    assert [version.version for version in registry.versions("ward")] == [1, 2]


def test_the_run_is_tracked_round_by_round(registry: Registry, tmp_path: Path) -> None:
    bundle = sealed(tmp_path / "bundle")
    registry.publish(tmp_path / "bundle", bundle, run_metrics=[ROW, ROW | {"round": 2, "test": {"accuracy": 0.75}}])
    client = registry._client
    run = client.get_run(registry.version("ward", 1).mlflow_run)
    assert run.info.status == "FINISHED"
    assert run.data.params["privacy.unit"] == "record"
    assert run.data.params["model"] == "logistic"
    assert run.data.metrics["test.loss"] == 1.5
    assert run.data.metrics["epsilon_rdp.largest"] == 2.0
    assert run.data.metrics["variant.float32.score"] == 0.9
    rounds = client.get_metric_history(run.info.run_id, "test.accuracy")
    assert [(metric.step, metric.value) for metric in rounds] == [(1, 0.5), (2, 0.75)]


def test_aliases_move(registry: Registry, tmp_path: Path) -> None:
    published(registry, tmp_path / "one")
    published(registry, tmp_path / "two", run="ward-2")
    assert registry.alias("ward", "champion") is None
    registry.set_alias("ward", "champion", 1)
    registry.set_alias("ward", "champion", 2)
    assert registry.alias("ward", "champion") == 2
    assert registry.version("ward", 1).aliases == ()
    with pytest.raises(RegistryError, match="no version 3"):
        registry.set_alias("ward", "champion", 3)
    for alias in ("latest", "v1", "a b", "", "1", "ä"):
        with pytest.raises(RegistryError, match="alias"):
            registry.set_alias("ward", alias, 1)


def test_what_is_unknown_is_answered_with_the_nearest(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"known: \(none\)"):
        registry.versions("ward")
    published(registry, tmp_path / "one")
    registry.set_alias("ward", "champion", 1)
    for name, spec, said in (
        ("wart", 1, "did you mean 'ward'"),
        ("x' OR name LIKE '%", 1, "not in"),
        ("ward", 7, "no version 7 that Confide published; there are: 1"),
        ("ward", "@champoin", "did you mean 'champion'"),
        ("ward", "latest", "give a version's number"),
        ("ward", "-1", "give a version's number"),
        ("ward", "01", "give a version's number"),
    ):
        with pytest.raises(RegistryError) as refused:
            registry.version(name, spec)
        assert said in str(refused.value)


def test_a_registry_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    for url in (str(tmp_path / "typo"), f"sqlite:///{tmp_path}/typo.db", (tmp_path / "typo").as_uri()):
        with pytest.raises(RegistryError, match="no registry there"):
            Registry.at(url, keys=[PUBLIC]).names()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "artifacts", "said"),
    [
        ("ftp://host/x", None, "unknown scheme 'ftp'"),
        ("databricks://x", None, "unknown scheme"),
        ("", None, "give a folder"),
        ("sqlite://x", None, "four slashes"),
        ("sqlite:///a?b", None, "question mark"),
        ("file://elsewhere/x", None, "a folder of this machine"),
        ("postgresql://user:secret@host/db", None, "name a folder or URL for artifacts"),
    ],
)
def test_a_url_of_no_use_is_refused(url: str, artifacts: str | None, said: str) -> None:
    with pytest.raises(RegistryError) as refused:
        Registry.at(url, artifacts=artifacts, keys=[PUBLIC])
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_does_not_answer_is_an_error_at_once_and_shows_no_password(tmp_path: Path) -> None:
    for url in ("http://user:secret@127.0.0.1:9/", "postgresql://user:secret@127.0.0.1:9/db"):
        with pytest.raises(RegistryError, match=r"127\.0\.0\.1") as refused:
            Registry.at(url, artifacts=str(tmp_path), keys=[PUBLIC]).names()
        assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, " * 100)
    with pytest.raises(RegistryError, match="no SQLite database"):
        Registry.at(str(tmp_path), keys=[PUBLIC]).names()


def test_where_things_lie(tmp_path: Path) -> None:
    given = place(str(tmp_path))
    assert (given.database, given.folder) == (tmp_path / "mlflow.db", tmp_path / "artifacts")
    assert place(tmp_path.as_uri()).database == given.database
    assert place(f"sqlite:///{tmp_path}/x.db").folder == tmp_path / "artifacts"
    assert place("http://host:5000").folder is None
    assert place("http://host:5000", "s3://bucket/models").artifacts == "s3://bucket/models"
    assert place("http://host:5000", str(tmp_path)).folder == tmp_path


def test_a_registry_can_be_moved(registry: Registry, tmp_path: Path) -> None:
    _, bundle = published(registry, tmp_path / "one")
    assert registry.place.database is not None
    moved = registry.place.database.parent.rename(tmp_path / "moved")
    _, fetched = Registry.at(str(moved), keys=[PUBLIC]).fetch("ward", 1, tmp_path / "cache")
    assert fetched.digest == bundle.digest


def test_models_of_others_are_left_alone(registry: Registry, tmp_path: Path) -> None:
    published(registry, tmp_path / "one")
    client = registry._client
    client.create_registered_model("theirs")
    client.create_model_version("ward", str(tmp_path), await_creation_for=0)
    assert registry.names() == ["ward"]
    assert [version.version for version in registry.versions("ward")] == [1]
    with pytest.raises(RegistryError, match="no version 2 that Confide published"):
        registry.version("ward", 2)


PUBLISH = """
import sys
from pathlib import Path
from models.bundle import verify
from server.publishing.registry import Registry
key, registry, folder = bytes.fromhex(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
print(Registry.at(registry, keys=[key]).publish(folder, verify(folder, [key])))
"""


@pytest.mark.slow
def test_two_publishers_at_once_make_a_registry_and_two_versions(tmp_path: Path) -> None:
    folders = [sealed(tmp_path / str(k), run=f"ward-{k}").folder for k in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PUBLISH, PUBLIC.hex(), str(tmp_path / "registry"), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert sorted(said.strip() for said, _ in ended) == ["1", "2"], ended
    assert not any(noise for _, noise in ended), ended
    registry = Registry.at(str(tmp_path / "registry"), keys=[PUBLIC])
    assert {version.run for version in registry.versions("ward")} == {"ward-0", "ward-1"}
    assert not [file.name for file in (tmp_path / "registry").iterdir() if file.name.endswith(".tmp")]


def test_mlflow_is_quiet_and_sends_nothing(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(record=True) as noticed, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        published(registry, tmp_path / "one")
    assert not [str(warning.message) for warning in noticed]
    assert not [record for record in caplog.records if record.name.startswith(("mlflow", "alembic"))]
    from mlflow.telemetry.client import get_telemetry_client

    assert get_telemetry_client() is None


def test_without_mlflow_the_extra_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RegistryError, match=r"pip install 'confide\[publish\]'"):
        registry.names()


def test_a_registry_that_cannot_be_written_makes_no_version(registry: Registry, tmp_path: Path) -> None:
    bundle = sealed(tmp_path / "bundle")
    _ = registry.names()
    assert registry.place.database is not None
    with sqlite3.connect(registry.place.database) as file:
        file.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(RegistryError, match="disk is full"):
        registry.publish(tmp_path / "bundle", bundle)
    assert registry.versions("ward") == []


def test_a_bundle_that_is_not_signed_by_our_key_is_not_published(registry: Registry, tmp_path: Path) -> None:
    bundle = sealed(tmp_path / "bundle")
    foreign = Registry(registry.place, (STRANGER.public_key().public_bytes_raw(),))
    with pytest.raises(BundleError, match="no good signature"):
        foreign.publish(tmp_path / "bundle", bundle)
    other = sealed(tmp_path / "other", run="ward-2")
    with pytest.raises(BundleError, match="another bundle"):
        registry.publish(tmp_path / "other", bundle)
    assert other.digest != bundle.digest
    assert registry.names() == []


def test_the_template_is_a_whole_registry(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    assert Registry.at(str(tmp_path), keys=[PUBLIC]).names() == []
