"""Publishing a run as its user does, and everything that may go wrong on the way."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federation_cases import toy_csv
from safetensors.numpy import load as load_arrays

import confide
from models.bundle import verify
from models.compress import run
from models.inputs.prepare import prepare_simulated_test
from models.signature import Signature
from models.store import load, save
from models.vector import to_vector
from server.errors import PublishError, RegistryError
from server.evaluation import TestSet, as_test_set
from server.publishing import draft
from server.publishing.publish import publish_run
from server.publishing.registry import Registry
from server.publishing.signing import signer, trusted
from server.runs import RunDirectory
from simulations.departments import bench
from simulations.simulate import Simulation
from strategies.runfile import parse
from strategies.settings import PublishSettings, RunSettings

RUN: dict[str, Any] = {
    "name": "toy",
    "model": {"name": "mlp", "hidden": [8]},
    "data": {
        "kind": "tabular",
        "label": "y",
        "classes": ["0", "1"],
        "columns": {"a": {"bounds": [-1, 1]}, "b": {"bounds": [-1, 1]}},
        "partition": {"departments": 3},
        "test": {"share": 0.4},
    },
    "training": {"rounds": 3, "local_steps": 4, "sampling_rate": 0.5, "learning_rate": 4.0},
    "privacy": {"noise_multiplier": 0.6, "metrics": "off"},
    "evaluation": {"baselines": False},
    "publish": {"variants": ["int8-dynamic"], "tolerance": 0.2, "description": "A toy."},
}


def trained(folder: Path) -> RunDirectory:
    """A finished simulation."""
    from server.planning import create, prepare

    source = toy_csv(folder / "toy.csv", 240)
    settings = prepare(parse(RUN | {"data": RUN["data"] | {"path": str(source)}}), real=False)
    directory = create(settings, folder, engine="simulation", name="toy-1")
    Simulation(settings=settings, bench=bench(settings), directory=directory, watch=lambda _: None, pictures=False).go()
    return directory


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made once."""
    folder = tmp_path_factory.mktemp("run")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return trained(folder).path.parent
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def directory(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A copy of it, on a machine of its own."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    shutil.copytree(once / "toy-1", tmp_path / "toy-1")
    return RunDirectory(tmp_path / "toy-1")


EXPORTED: dict[bytes, bytes] = {}


@pytest.fixture(autouse=True)
def exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter takes seconds; the same weights give the same file."""
    whole = run.to_onnx

    def known(model: torch.nn.Module, signature: Signature) -> bytes:
        key = to_vector(model).tobytes()
        if key not in EXPORTED:
            EXPORTED[key] = whole(model, signature)
        return EXPORTED[key]

    monkeypatch.setattr(run, "to_onnx", known)


def load_simulated_test(settings: RunSettings) -> TestSet:
    test = prepare_simulated_test(settings.data)
    assert test is not None
    return as_test_set(test)


def wanted(directory: RunDirectory) -> RunSettings:
    return parse(directory.document()["settings"])


def publish(directory: RunDirectory, registry: Path, **changes: Any) -> dict[str, Any]:
    settings = wanted(directory).publish.model_copy(update=changes)
    return publish_run(directory, settings, key=signer(), registry=str(registry))[0]


def nothing_was_published(directory: RunDirectory, registry: Path) -> None:
    assert not list((directory.path / draft.BUNDLES).glob("*")), "a bundle was left"
    store = Registry.at(str(registry), keys=trusted())
    assert [version for name in store.names() for version in store.versions(name)] == []


def test_from_a_run_to_a_version(directory: RunDirectory, tmp_path: Path) -> None:
    said = publish(directory, tmp_path / "registry", promote=True)
    assert (said["name"], said["version"], said["aliases"]) == ("toy", 1, ["candidate", "champion"])
    assert all(gate["passed"] for gate in said["gates"])
    assert [one["name"] for one in said["variants"]] == ["float32", "int8-dynamic"]
    bundle = verify(Path(said["bundle"]), trusted())
    assert bundle.digest == said["digest"]
    for one in said["variants"]:
        assert len(bundle.read(one["file"])) == Path(one["path"]).stat().st_size == one["bytes"]
    assert bundle.privacy["mode"] == "local"
    assert (bundle.lineage["run"], bundle.lineage["rounds"]) == ("toy-1", 3)
    assert bundle.lineage["calibration"]["origin"] == "test set"
    # The weights are those of the run.
    mine = load_arrays((directory.model_directory / "model.safetensors").read_bytes())
    theirs = load_arrays(bundle.read("model/model.safetensors"))
    assert all((mine[name] == theirs[name]).all() for name in mine)
    # Nothing of this machine is in it.
    for name in bundle.files:
        assert str(tmp_path).encode() not in bundle.read(name), name
    _, fetched = Registry.at(str(tmp_path / "registry"), keys=trusted()).fetch("toy", "@champion", tmp_path / "cache")
    assert fetched.digest == bundle.digest


def test_what_is_shown_was_measured_on_that_very_file(directory: RunDirectory, tmp_path: Path) -> None:
    import onnxruntime

    from server.publishing.public_data import public_data

    said = publish(directory, tmp_path / "registry")
    settings = wanted(directory)
    data = public_data(settings.data, settings.data.signature(), simulated=True).evaluation
    assert data is not None
    for one in said["variants"]:
        session = onnxruntime.InferenceSession((Path(said["bundle"]) / one["file"]).read_bytes())
        scores = session.run(None, {"records": data.inputs})[0]
        assert one["accuracy"] == pytest.approx(float(np.mean(scores.argmax(1) == data.targets)))


def test_again_is_another_version_with_the_same_weights(directory: RunDirectory, tmp_path: Path) -> None:
    first = publish(directory, tmp_path / "registry")
    second = publish(directory, tmp_path / "registry", description="Another.")
    assert (first["version"], second["version"]) == (1, 2)


def test_a_gate_that_fails(directory: RunDirectory, tmp_path: Path) -> None:
    said = publish(directory, tmp_path / "registry", min_accuracy=1.1)
    assert (said["version"], said["bundle"]) == (None, None)
    assert [gate["name"] for gate in said["gates"] if not gate["passed"]] == ["evaluation"]
    nothing_was_published(directory, tmp_path / "registry")


def test_a_stopped_run_is_not_even_compressed(directory: RunDirectory, tmp_path: Path) -> None:
    directory.update(status="stopped")
    said = publish(directory, tmp_path / "registry")
    assert [gate["name"] for gate in said["gates"] if not gate["passed"]] == ["finished"]
    assert said["variants"] == []
    nothing_was_published(directory, tmp_path / "registry")


@pytest.mark.parametrize("step", ["compress", "write_atomic", "seal", "verify"])
def test_power_is_cut(directory: RunDirectory, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(draft, step, cut)
        with pytest.raises(KeyboardInterrupt):
            publish(directory, tmp_path / "registry")
    nothing_was_published(directory, tmp_path / "registry")
    assert publish(directory, tmp_path / "registry")["version"] == 1


@pytest.mark.parametrize("when", [1, 4, 7])
def test_the_disk_is_full(directory: RunDirectory, tmp_path: Path, when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, whole = [], draft.write_atomic

    def full(path: Path, data: bytes, **more: Any) -> None:
        writes.append(path)
        if len(writes) == when:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        whole(path, data, **more)

    with monkeypatch.context() as patched:
        patched.setattr(draft, "write_atomic", full)
        with pytest.raises(PublishError, match="No space left on device; nothing was published"):
            publish(directory, tmp_path / "registry")
    nothing_was_published(directory, tmp_path / "registry")


def test_a_registry_that_cannot_be_reached_costs_no_work(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft, "compress", lambda *_, **__: pytest.fail("compressed all the same"))
    settings = wanted(directory).publish
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9"):
        publish_run(directory, settings, key=signer(), registry="http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="ftp"):
        publish_run(directory, settings, key=signer(), registry="ftp://example.org/models")


def test_a_worse_version_is_published_but_not_promoted(directory: RunDirectory, tmp_path: Path) -> None:
    publish(directory, tmp_path / "registry", promote=True)
    model, task, manifest = load(directory.model_directory)
    test = load_simulated_test(wanted(directory))
    *_, bias = model.parameters()
    for _ in range(200):  # a little more for one class at a time, until that shows
        with torch.no_grad():
            bias[0] += 0.05
        if test.metrics(model, task)["accuracy"] < 0.9:
            break
    save(directory.model_directory, model, manifest=manifest)
    said = publish(directory, tmp_path / "registry", promote=True, tolerance=0.01)
    assert said["aliases"] == ["candidate"]
    assert "accuracy" in said["not_promoted"][0]


def test_two_publishers_at_once(directory: RunDirectory, tmp_path: Path) -> None:
    """They begin with a registry, and a key, that neither has made yet."""
    publish_one = partial(publish, directory, tmp_path / "registry")
    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(publish_one, description=text) for text in ("One.", "Two.")]
    assert sorted(one.result()["version"] for one in begun) == [1, 2]


# --- The command -------------------------------------------------------------------------------------------


def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: Sequence[object]
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``confide …`` in this process."""
    monkeypatch.setattr(sys, "argv", ["confide", *map(str, arguments)])
    threads = torch.get_num_threads()
    code = 0
    try:
        confide.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        torch.set_num_threads(threads)
    told = capfd.readouterr()
    return code, told.out, told.err


def test_the_commands(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    registry, result = tmp_path / "registry", tmp_path / "published.json"

    def said(*arguments: object) -> Any:
        code, out, err = command(monkeypatch, capfd, [*arguments, "--json"])
        assert code == 0, err
        return json.loads(out)

    code, out, err = command(
        monkeypatch, capfd, ["publish", directory.path, "--to", registry, "--promote", "--json", result]
    )
    assert code == 0, err
    published = json.loads(result.read_text())
    assert published["version"] == 1
    assert "toy" in out
    again = [directory.path, "--to", registry, "--json", result, "--promote"]
    assert command(monkeypatch, capfd, ["publish", *again])[0] == 0
    rows = said("models", "list")
    assert [(row["name"], row["version"]) for row in rows] == [("toy", 1), ("toy", 2)]
    assert said("models", "verify", "toy@champion")["version"] == 2
    assert said("models", "rollback", "toy")["version"] == 1
    assert said("models", "verify", "toy")["version"] == 1
    assert said("models", "promote", "toy/2", "--tolerance", "0.5")["version"] == 2
    assert said("models", "show", "toy/1")["name"] == "toy"
    written = said("models", "export", "toy/1", "--out", tmp_path / "toy.onnx")
    assert (tmp_path / "toy.onnx").stat().st_size == written["bytes"]
    code, out, _ = command(monkeypatch, capfd, ["models", "show", "toy"])
    assert code == 0
    assert "A toy." in out
    why = said("models", "explain", "toy", "--out", tmp_path / "why")
    assert (tmp_path / "why" / "explanation.json").exists()
    assert why["digest"] == published["digest"] or why["name"] == "toy"

    # Offline, with the public key alone; and a flipped byte is named.
    bundle = Path(published["bundle"])
    assert said("models", "verify", bundle, "--key", published["key"])["verified"]
    weights = bundle / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    code, out, _ = command(monkeypatch, capfd, ["models", "verify", bundle, "--json"])
    assert code == 1
    assert "model/model.safetensors" in json.loads(out)["problem"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["publish", "{run}", "--variant", "int9"], "int9"),
        (["publish", "{run}", "--calibration", "{private}"], "private source data.path"),
        (["publish", "{run}", "--name", "no such/name"], "name"),
        (["publish", "nowhere"], "nowhere"),
        (["publish", "{run}", "--signing-key", "{private}"], "signing key"),
        (["models", "verify", "toy@champion", "--key", "beef"], "beef"),
        (["models", "show", "toy@champion"], "--key"),
        (["models", "rollback", "toy", "--key", "00" * 32], "no registry there"),
        (["models", "serve", "toy@champion", "--key", "00" * 32, "--port", "0"], "no registry there"),
        (["models", "list", "nosuch"], "no registry there"),
    ],
)
def test_mistakes_are_one_clear_line(
    directory: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.setenv("CONFIDE_REGISTRY", str(tmp_path / "registry"))
    places = {"run": str(directory.path), "private": wanted(directory).data.path or ""}
    filled = [each.format(**places) if each.startswith("{") else each for each in arguments]
    code, out, err = command(monkeypatch, capfd, filled)
    assert code == 2, out + err
    assert named in " ".join(err.split()), err
    assert "Traceback" not in err
    assert not (directory.path / draft.BUNDLES).exists() or not list((directory.path / draft.BUNDLES).iterdir())


def test_settings_of_the_run_file_are_checked_before_anything_is_done(directory: RunDirectory) -> None:
    from strategies.errors import SettingsError

    with pytest.raises(SettingsError, match="tolerance"):
        parse(RUN | {"publish": {"tolerance": 2}})
    assert PublishSettings().variants == ()


def test_a_simulation_is_not_said_to_be_a_federation(directory: RunDirectory, tmp_path: Path) -> None:
    bundle = verify(Path(publish(directory, tmp_path / "registry")["bundle"]), trusted())
    card = bundle.read("card.md").decode()
    assert "one process held" in card
    assert "kept their records to themselves" not in card
    assert "simulation" in bundle.privacy["trust_model"]


def test_evidence_that_is_named_must_be_there(directory: RunDirectory, tmp_path: Path) -> None:
    settings = wanted(directory).publish
    with pytest.raises(PublishError, match="a simulation has no ledgers"):
        publish_run(directory, settings, key=signer(), registry=str(tmp_path / "r"), evidence=tmp_path)
    directory.update(engine="federation")
    with pytest.raises(PublishError, match="no such folder"):
        publish_run(directory, settings, key=signer(), registry=str(tmp_path / "r"), evidence=tmp_path / "no")


def test_verify_looks_at_the_registry_and_not_at_what_was_fetched(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    publish(directory, tmp_path / "registry")
    arguments = ["models", "verify", "toy/1", "--registry", tmp_path / "registry", "--json"]
    assert command(monkeypatch, capfd, arguments)[0] == 0
    assert command(monkeypatch, capfd, [*arguments[:1], "show", *arguments[2:]])[0] == 0  # it is fetched and kept
    (stored,) = (tmp_path / "registry" / "artifacts").rglob("float32.onnx")
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(bytes(data))
    code, out, _ = command(monkeypatch, capfd, arguments)
    assert code == 1
    assert "float32.onnx" in json.loads(out)["problem"]
