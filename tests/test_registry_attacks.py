"""A registry in the hands of an attacker: its files, its database, its answers, a cache that others write to."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_cases import KEY, PUBLIC, STRANGER, edit, sealed, write_bundle
from registry_cases import published, registry_at

from models.bundle import STATEMENT, seal, verify
from models.errors import BundleError
from server.errors import RegistryError
from server.publishing import registry_files
from server.publishing.registry import Registry
from server.publishing.registry_place import Place


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registry with version 1 of "ward"; only read."""
    folder = tmp_path_factory.mktemp("registries")
    published(registry_at(folder / "registry"), folder / "one")
    return folder / "registry"


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> Registry:
    """A registry with version 1 of "ward"."""
    return Registry.at(str(shutil.copytree(template, tmp_path / "registry")), keys=[PUBLIC])


def stored(registry: Registry, version: int = 1, name: str = "ward") -> Path:
    """Where a version's bundle lies."""
    folder = registry.place.folder
    assert folder is not None
    return folder / name / registry.version(name, version).mlflow_run / "artifacts" / "bundle"


def write_sql(registry: Registry, statement: str, *values: object) -> None:
    assert registry.place.database is not None
    with contextlib.closing(sqlite3.connect(registry.place.database)) as file, file:
        assert file.execute(statement, values).rowcount > 0


def _flip(folder: Path) -> None:
    file = folder / "variants/float32.onnx"
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)


def _resign(folder: Path) -> None:
    edit(folder, "privacy.json", mode="off")
    seal(folder, STRANGER)


def _link(folder: Path) -> None:
    (folder / "card.md").unlink()
    (folder / "card.md").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip, "float32.onnx: differs"),
        (_resign, "no good signature by a trusted key"),
        (_link, "card.md: is a link"),
        (lambda folder: (folder / "privacy.json").unlink(), "privacy.json: cannot be read"),
        (lambda folder: (folder / STATEMENT).unlink(), "statement.dsse.json: cannot be read"),
        (shutil.rmtree, "cannot be read"),
        (lambda folder: (folder / STATEMENT).write_bytes(b""), "not JSON"),
    ],
)
def test_a_changed_file_is_never_given_out(
    registry: Registry, tmp_path: Path, damage: Callable[[Path], Any], said: str
) -> None:
    damage(stored(registry))
    with pytest.raises(BundleError) as refused:
        registry.fetch("ward", 1, tmp_path / "cache")
    assert str(refused.value).startswith("ward version 1: ")
    assert said in str(refused.value)
    assert not list((tmp_path / "cache").iterdir())


def test_files_that_were_not_signed_are_not_fetched(registry: Registry, tmp_path: Path) -> None:
    (stored(registry) / "evil.json").write_text("{}")
    _, bundle = registry.fetch("ward", 1, tmp_path / "cache")
    assert not (bundle.folder / "evil.json").exists()


def test_another_signed_bundle_in_its_place_is_noticed(registry: Registry, tmp_path: Path) -> None:
    _, second = published(registry, tmp_path / "two", run="ward-2")
    place = stored(registry)
    shutil.rmtree(place)
    shutil.copytree(second.folder, place)
    with pytest.raises(RegistryError, match="the registry holds bundle"):
        registry.fetch("ward", 1, tmp_path / "cache")


def test_a_bundle_signed_for_another_model_is_refused(registry: Registry, tmp_path: Path) -> None:
    other = sealed(tmp_path / "other", name="theatre", run="theatre-1")
    place = stored(registry)
    shutil.rmtree(place)
    shutil.copytree(other.folder, place)
    # Even with the database on the attacker's side.
    write_sql(registry, "UPDATE model_version_tags SET value = ? WHERE key = 'confide.digest'", other.digest)
    with pytest.raises(BundleError, match="signed for another model than ward"):
        registry.fetch("ward", 1, tmp_path / "cache")
    # ... or with the other model's bundle in the cache already.
    shutil.copytree(other.folder, tmp_path / "cache" / other.digest)
    with pytest.raises(BundleError, match="signed for another model than ward"):
        registry.fetch("ward", 1, tmp_path / "cache")


@pytest.mark.parametrize("source", ["http://127.0.0.1:9/x", "file:///etc", "s3://theirs/x", "../../.."])
def test_addresses_in_the_database_are_not_followed(registry: Registry, tmp_path: Path, source: str) -> None:
    write_sql(registry, "UPDATE model_versions SET source = ?, storage_location = ?", source, source)
    write_sql(registry, "UPDATE runs SET artifact_uri = ?", source)
    write_sql(registry, "UPDATE experiments SET artifact_location = ?", source)
    _, bundle = registry.fetch("ward", 1, tmp_path / "cache")
    assert bundle.name == "ward"
    published(registry, tmp_path / "two", run="ward-2")
    assert (stored(registry, 2) / STATEMENT).exists()


@pytest.mark.parametrize("run_id", ["../../../../etc", "", "0" * 31 + "/"])
def test_a_run_in_the_database_cannot_lead_elsewhere(registry: Registry, tmp_path: Path, run_id: str) -> None:
    write_sql(registry, "UPDATE model_versions SET run_id = ?", run_id)
    with pytest.raises(RegistryError, match="names no run of ours"):
        registry.fetch("ward", 1, tmp_path / "cache")


@pytest.mark.parametrize(
    ("uri", "good"),
    [
        ("mlflow-artifacts:/0/abc/artifacts", True),
        ("mlflow-artifacts://evil:80/0/abc/artifacts", False),
        ("mlflow-artifacts:/0/../../x", False),
        ("http://169.254.169.254/latest", False),
        ("file:///etc", False),
        ("s3://theirs/x", False),
    ],
)
def test_a_server_cannot_send_us_elsewhere(uri: str, good: bool) -> None:
    class Client:
        def get_run(self, run_id: str) -> Any:
            return type("Run", (), {"info": type("Info", (), {"artifact_uri": uri})})

    place = Place(url="http://registry:5000", shown="http://registry:5000", database=None, artifacts=None)
    client: Any = Client()
    if good:
        assert registry_files.location(place, client, "ward", "0" * 32) == f"{uri}/bundle"
    else:
        with pytest.raises(RegistryError, match="elsewhere than the server itself"):
            registry_files.location(place, client, "ward", "0" * 32)


def test_a_damaged_cache_is_fetched_anew(registry: Registry, tmp_path: Path) -> None:
    _, bundle = registry.fetch("ward", 1, tmp_path / "cache")
    _flip(bundle.folder)
    _, again = registry.fetch("ward", 1, tmp_path / "cache")
    assert verify(again.folder, registry.keys).digest == bundle.digest
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [bundle.digest]


def test_a_cache_is_believed_only_for_our_keys(registry: Registry, tmp_path: Path) -> None:
    registry.fetch("ward", 1, tmp_path / "cache")
    with pytest.raises(BundleError, match="no good signature"):
        Registry(registry.place, (STRANGER.public_key().public_bytes_raw(),)).fetch("ward", 1, tmp_path / "cache")


def test_a_digest_in_the_database_is_no_path(registry: Registry, tmp_path: Path) -> None:
    write_sql(registry, "UPDATE model_version_tags SET value = ? WHERE key = 'confide.digest'", "../../etc")
    with pytest.raises(RegistryError, match="no version 1 that Confide published"):
        registry.fetch("ward", 1, tmp_path / "cache")


def _truncated(place: Place, where: str, folder: Path) -> None:
    upload = registry_files.upload
    upload(place, where, folder)
    assert place.folder is not None
    file = place.folder.joinpath(*where.split("/")[-4:]) / "model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _nothing(place: Place, where: str, folder: Path) -> None:
    """An upload that says it went well."""


def _full(place: Place, where: str, folder: Path) -> None:
    raise RegistryError(f"{place.shown}: No space left on device")


@pytest.mark.parametrize("broken", [_truncated, _nothing, _full])
def test_a_broken_upload_never_becomes_a_version(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., None]
) -> None:
    good = registry_files.upload
    bundle = sealed(tmp_path / "two", run="ward-2")
    with monkeypatch.context() as patch:
        # _truncated calls the real upload under the same name.
        patch.setattr(
            registry_files,
            "upload",
            lambda *given: (patch.setattr(registry_files, "upload", good), broken(*given)),
        )
        with pytest.raises(RegistryError, match=r"does not give back|No space left"):
            registry.publish(tmp_path / "two", bundle)
    assert [version.version for version in registry.versions("ward")] == [1]
    runs = registry._client.search_runs([registry._client.get_experiment_by_name("confide/ward").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    # And nothing is in the way of trying again.
    assert registry.publish(tmp_path / "two", bundle) == 2


def test_a_crash_between_upload_and_version_leaves_no_version(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = sealed(tmp_path / "two", run="ward-2")

    def crash(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "_create_version", crash)
        with pytest.raises(KeyboardInterrupt):
            registry.publish(tmp_path / "two", bundle)
    assert [version.version for version in registry.versions("ward")] == [1]
    assert registry.publish(tmp_path / "two", bundle) == 2


def test_a_cache_that_cannot_be_written_is_named(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RegistryError, match="cannot be written"):
        registry.fetch("ward", 1, tmp_path / "cache")


def test_publishing_a_changed_folder_is_refused(registry: Registry, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "two", run="ward-2")
    seal(folder, KEY)
    bundle = verify(folder, registry.keys)
    _flip(folder)
    with pytest.raises(BundleError, match="differs"):
        registry.publish(folder, bundle)
