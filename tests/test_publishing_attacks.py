"""Where the parts of publishing meet: what one of them checked is what the next one uses, whoever interferes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_cases import DATA, KEY, PUBLIC, linear_onnx
from ledger_cases import honest, key_of, manifest, public
from registry_cases import published, registry_at
from request_cases import CSV, IMAGE, JSON, TABLE, body, requests_of
from test_gates import LABEL, evidence, failed, judged, model, run
from verify_cases import without_pld

from models import zoo
from models.bundle import verify
from models.compress.measure import Measured
from models.compress.run import Compressed
from models.errors import PrivateDataRefused, RequestError
from models.inputs.resolve import resolve
from models.inputs.schema import DataSettings
from models.public import PublicRecords
from models.store import MANIFEST, WEIGHTS, describe, save
from models.task import task_for
from server import models_cli
from server.errors import PublishError, RegistryError, RunError
from server.planning import create, prepare
from server.publishing import draft
from server.publishing.gates import evaluation_gate
from server.publishing.public_data import public_data
from server.publishing.publish import _aliases, publish_run
from server.publishing.registry import Registry
from server.publishing.registry_place import Place, place
from server.publishing.signing import Signer
from server.runs import RunDirectory
from strategies.errors import SettingsError
from strategies.runfile import parse
from strategies.settings import PublishSettings

SIGNER = Signer(key=KEY, whose="a test")


def weights(seed: int) -> torch.nn.Module:
    """A linear model of the three columns."""
    return zoo.build("logistic", DataSettings.model_validate(DATA).signature(), {}, seed=seed)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A finished simulation without privacy, and a compression that only writes the float32 file."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    numbers = np.random.default_rng(0).random((60, 3)) * [100, 5, 170] + [0, 0, 30]
    rows = [",".join(f"{cell:.3f}" for cell in row) + f",{'yes' if k % 3 else 'no'}" for k, row in enumerate(numbers)]
    (tmp_path / "ward.csv").write_text("\n".join(["age,dose,pulse,ill", *rows]) + "\n")
    data = DATA | {"path": str(tmp_path / "ward.csv"), "test": {"share": 0.4}, "partition": {"departments": 3}}
    settings = prepare(
        parse({"name": "ward", "model": {"name": "logistic"}, "data": data, "privacy": {"mode": "off"}}), real=False
    )
    made = create(settings, tmp_path, engine="simulation", name="ward-1")
    made.update(status="finished")
    task = task_for("logistic", settings.data.signature())
    told = {
        "name": "ward",
        "description": "",
        "run": made.name,
        "rounds": 1,
        "data": settings.data.public_part(),
        "privacy": {"mode": "off", "statement": "trained WITHOUT differential privacy"},
        "spec_digest": made.document()["spec_digest"],
        "versions": {},
        "metrics": {"accuracy": 0.9},
    }
    save(made.model_directory, weights(0), manifest=describe("logistic", task, {}) | told)
    monkeypatch.setattr(draft, "compress", compressed)
    return made


def compressed(*_: Any, folder: Path, **__: Any) -> Compressed:
    """What ``compress`` returns, without an exporter."""
    data = linear_onnx()
    (folder / "variants").mkdir(parents=True)
    (folder / "variants/float32.onnx").write_bytes(data)
    full = Measured(
        name="float32",
        steps=("float32",),
        file="variants/float32.onnx",
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        ratio=1.0,
        parameters=8,
        metric="accuracy",
        score=0.95,
        score_change=0.0,
        agreement=1.0,
        latency_ms_b1=0.01,
        latency_ms_b32=0.02,
        kept=True,
        reason="within the tolerance",
    )
    return Compressed(kept=(full,), dropped=())


def make(directory: RunDirectory) -> Path:
    made = draft.make(directory, SIGNER, settings=PublishSettings(), without_privacy=True)
    assert made.bundle is not None, made.gates
    return made.bundle


# --- What was checked is what is used ------------------------------------------------------------------------


def test_a_model_that_is_exchanged_meanwhile_is_not_published(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = (directory.model_directory / WEIGHTS).read_bytes()
    told = json.loads((directory.model_directory / MANIFEST).read_text())

    def exchange(*given: Any, **more: Any) -> Compressed:
        save(directory.model_directory, weights(7), manifest=told)
        return compressed(*given, **more)

    monkeypatch.setattr(draft, "compress", exchange)
    bundle = verify(make(directory), [PUBLIC])
    assert bundle.read("model/model.safetensors") == mine
    assert bundle.lineage["weights_sha256"] == hashlib.sha256(mine).hexdigest()


def test_weights_whose_last_renaming_was_cut_off_are_published(directory: RunDirectory) -> None:
    file = directory.model_directory / WEIGHTS
    mine = file.read_bytes()
    file.rename(file.with_name(f"{WEIGHTS}.next"))
    file.write_bytes(b"an earlier version")
    assert verify(make(directory), [PUBLIC]).read("model/model.safetensors") == mine


def test_the_model_of_another_run(directory: RunDirectory) -> None:
    directory.update(spec_digest="0" * 64)
    with pytest.raises(PublishError, match="model of another run"):
        make(directory)


@pytest.mark.parametrize("field", ["settings", "engine", "status", "spec_digest"])
def test_a_run_file_that_lacks_something(directory: RunDirectory, field: str) -> None:
    document = directory.document()
    del document[field]
    (directory.path / "run.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=field):
        make(directory)


@pytest.mark.parametrize(
    "field", ["name", "data", "privacy", "metrics", "rounds", "spec_digest", "versions", "ledgers"]
)
def test_a_manifest_that_lacks_something(directory: RunDirectory, field: str) -> None:
    file = directory.model_directory / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: None}))
    with pytest.raises(RunError, match=field):
        make(directory)


def test_a_run_whose_files_are_rubbish(directory: RunDirectory) -> None:
    directory.metrics_file.write_text('{"round": 1}\n3\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        directory.metrics()
    (directory.path / "run.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match=r"run\.json"):
        directory.document()


def test_a_bundle_that_no_registry_took_is_not_left_behind(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        place = Place(url="there", shown="there", database=None, artifacts=None)

        def ready(self) -> None:
            """It is there."""

        def publish(self, folder: Path, *_: Any, **__: Any) -> int:
            assert verify(folder, [PUBLIC]).name == "ward"
            raise RegistryError("no space")

    monkeypatch.setattr(Registry, "at", lambda *_, **__: Full())
    with pytest.raises(RegistryError, match="no space"):
        publish_run(directory, PublishSettings(), key=SIGNER, registry="there", without_privacy=True)
    assert list((directory.path / draft.BUNDLES).iterdir()) == []


def test_a_version_that_got_no_alias_is_named(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful:
        place = Place(url="there", shown="there", database=None, artifacts=None)

        def ready(self) -> None:
            """It is there."""

        def publish(self, *_: Any, **__: Any) -> int:
            return 7

        def set_alias(self, *_: Any) -> None:
            raise RegistryError("gone")

    monkeypatch.setattr(Registry, "at", lambda *_, **__: Forgetful())
    with pytest.raises(PublishError, match=r"ward/7: is registered.*gone.*confide models promote ward/7"):
        publish_run(directory, PublishSettings(), key=SIGNER, registry="there", without_privacy=True)


# --- Gates that nothing should pass vacuously ----------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pld(monkeypatch)


@pytest.mark.usefixtures("quick")
def test_what_is_not_known_to_be_a_simulation_needs_evidence(tmp_path: Path) -> None:
    assert failed(judged(run(tmp_path, engine="Federation"), {"privacy": LABEL})) == {"ledgers", "caps"}


@pytest.mark.usefixtures("quick")
def test_a_department_of_the_label_whose_ledger_the_manifest_does_not_name(tmp_path: Path) -> None:
    made = honest()
    folder = evidence(tmp_path / "evidence", made)
    label = LABEL | {"departments": [*LABEL["departments"], {"department": "south", "pld": 2.9}]}  # type: ignore[misc]  # a list
    gates = judged(run(tmp_path), model(made, privacy=label), folder, governance=public(key_of("governance")))
    assert manifest(made)
    assert failed(gates) == {"ledgers"}
    assert "south" in gates["ledgers"].detail


@pytest.mark.parametrize("rows", [[], None, [{"department": "north"}], [{"department": "north", "pld": None}], [3]])
def test_a_label_that_does_not_say_what_was_spent(tmp_path: Path, rows: object) -> None:
    gates = judged(run(tmp_path, engine="simulation"), {"privacy": LABEL | {"departments": rows}})
    assert failed(gates) == {"privacy"}


@pytest.mark.parametrize(("error", "passed"), [(0.9, True), (1.0, False), (5.0, False)])
def test_values_that_are_no_better_than_a_constant(error: float, passed: bool) -> None:
    targets = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    records = PublicRecords.declared(np.zeros((4, 2), np.float32), targets, origin="test set", source="test")
    gate = evaluation_gate("mae", error, records=records, released={}, floor=None)
    assert gate.passed is passed
    assert "constant answer would have 1.0000" in gate.detail


@pytest.mark.parametrize("value", [float("nan"), None, True, "0.9"])
def test_a_released_metric_that_is_no_number(value: Any) -> None:
    assert not evaluation_gate(None, None, records=None, released={"accuracy": value}, floor=None).passed


def test_a_lax_tolerance_for_variants_is_not_one_for_champions(tmp_path: Path) -> None:
    registry = registry_at(tmp_path / "registry")
    settings = PublishSettings(promote=True, tolerance=0.5)
    for accuracy, wanted in ((0.9, ["candidate", "champion"]), (0.6, ["candidate"])):
        version, _ = published(registry, tmp_path / str(accuracy), run=f"ward-{accuracy}", accuracy=accuracy)
        assert _aliases(registry, "ward", version, settings)[0] == wanted
    assert registry.alias("ward", "champion") == 1


# --- Private records ----------------------------------------------------------------------------------------


def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A department on this machine."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "client").mkdir(parents=True)
    (tmp_path / "home" / "client" / "client.toml").write_text(text)


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_test_set_that_a_department_here_has_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    secret = tmp_path / "claims.csv"
    secret.write_text("unreadable as data\n")
    registered(tmp_path, monkeypatch, f'name = "north"\n[dataset.claims]\npath = "{prefix}{secret}"\n')
    data = DataSettings.model_validate(DATA | {"test": {"path": f"{prefix}{secret}"}})
    with pytest.raises(PrivateDataRefused, match=r"data\.test\.path.*claims\.path"):
        public_data(data, data.signature(), simulated=False)


def test_a_test_set_that_a_simulation_trained_on(directory: RunDirectory, tmp_path: Path) -> None:
    source = str(tmp_path / "ward.csv")
    data = DataSettings.model_validate(DATA | {"path": source, "test": {"path": source}})
    with pytest.raises(PrivateDataRefused, match=r"private source data\.path"):
        public_data(data, resolve(data).signature(), simulated=True)


def test_where_nobody_can_tell_what_is_private_nothing_is_taken_for_public(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(tmp_path, monkeypatch, "[dataset")
    data = DataSettings.model_validate(DATA)
    with pytest.raises(SettingsError, match=r"client\.toml"):
        public_data(data, data.signature(), simulated=False, calibration=str(tmp_path / "ward.csv"))


# --- Requests -----------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@pytest.mark.parametrize("form", [JSON, CSV])
def test_a_name_that_stands_twice_is_found_in_one_pass(form: str) -> None:
    """Comparing every name with every other would keep a thread busy for hours, for 8 MiB of names."""
    names = [f"n{k}" for k in range(40_000)]
    names.append(names[-1])
    sent = ",".join(names).encode() + b"\n" if form == CSV else body(dataframe_split={"columns": names, "data": []})

    def ask() -> None:
        with pytest.raises(RequestError, match="'n39999' stands twice"):
            requests_of(TABLE).parse(sent, form)

    assert seconds(ask) < 5


def test_a_large_image_in_columns_is_read_at_once() -> None:
    reader = requests_of(IMAGE | {"image": {"shape": [3, 80, 80]}})
    width = 3 * 80 * 80
    header = ",".join(f"p{k}" for k in range(width)) + ",label\n"
    sent = header + (",".join(["51"] * width) + ",a\n") * 2
    got: list[Any] = []
    assert seconds(lambda: got.append(reader.parse(sent.encode(), CSV))) < 5
    assert got[0].shape == (2, 3, 80, 80)
    assert np.allclose(got[0], 0.2)


def test_what_is_wrong_in_a_column_of_an_image_is_said() -> None:
    reader = requests_of(IMAGE)
    header = ",".join(f"p{k}" for k in range(64)) + "\n"
    good = ",".join(["1"] * 64)
    bad = ",".join(["1"] * 9 + ["secret"] + ["1"] * 54)
    with pytest.raises(RequestError, match=r"record 2, 'p9': not a number; send a finite number") as caught:
        reader.parse((header + good + "\n" + bad + "\n").encode(), CSV)
    assert "secret" not in str(caught.value)
    with pytest.raises(RequestError, match=r"63 columns besides the label; shape \[1, 8, 8\] needs 64"):
        reader.parse((",".join(f"p{k}" for k in range(63)) + "\n" + ",".join(["1"] * 63)).encode(), CSV)


# --- Registries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE model_versions SET creation_time = ? WHERE version = 2", 10**17),
        ("UPDATE model_versions SET creation_time = ? WHERE version = 2", "soon"),
        ("UPDATE model_version_tags SET value = ? WHERE version = 2", None),
        ("UPDATE model_version_tags SET value = ? WHERE version = 2", b"\xff\x00"),
    ],
)
def test_one_row_of_rubbish_takes_no_other_version_away(tmp_path: Path, statement: str, value: object) -> None:
    registry = registry_at(tmp_path / "registry")
    published(registry, tmp_path / "one", run="ward-1")
    published(registry, tmp_path / "two", run="ward-2")
    assert registry.place.database is not None
    with contextlib.closing(sqlite3.connect(registry.place.database)) as file, file:
        file.execute(statement, (value,))
    assert 1 in [version.version for version in registry.versions("ward")]
    assert registry.fetch("ward", 1, tmp_path / "cache")[1].run == "ward-1"


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port", "postgresql://me:hush@host:port/x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(RegistryError, match="give a folder") as caught:
        place(url, "artifacts")
    assert "hush" not in str(caught.value)


def test_a_folder_of_a_models_name_is_not_that_model(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_at(tmp_path / "registry")
    published(registry, tmp_path / "one")
    registry.set_alias("ward", "champion", 1)
    (tmp_path / "here" / "ward").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    version, bundle = models_cli._fetched("ward", str(tmp_path / "registry"), None, [PUBLIC.hex()])
    assert version is not None
    assert (version.version, bundle.name) == (1, "ward")
