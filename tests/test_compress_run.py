"""Variants made, measured and chosen: every figure is that of the file that was written."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
from compress_cases import CASES
from torch import nn

from models import zoo
from models.compress import quantise
from models.compress.measure import Bench, Measured, latency_ms
from models.compress.plan import CompressionPlan
from models.compress.run import Compressed, compress
from models.errors import CompressionError, StoreError
from models.export import run, session
from models.public import PublicRecords
from models.signature import Signature
from models.task import Task, task_for

MLP = CASES["mlp"]
WANTED = ["float16", "int8-dynamic", "prune:0.25", "prune:0.25+int8-dynamic", "distill:0.05", "distill:0.05+float16"]
KEYS = {
    "name", "file", "format", "steps", "bytes", "sha256", "ratio", "parameters", "metric", "score", "score_change",
    "accuracy", "accuracy_change", "agreement", "latency_ms_b1", "latency_ms_b32",
}  # fmt: skip


@cache
def evaluation() -> PublicRecords:
    """Labels that the full model gets right, but for one in ten."""
    inputs = MLP.records(400, seed=77).inputs
    with torch.no_grad():
        labels = MLP.model(torch.tensor(inputs)).argmax(1).numpy()
    labels = np.where(np.arange(400) % 10 == 0, (labels + 1) % 3, labels)
    return PublicRecords.declared(inputs, labels, origin="test set", source="made up")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Compressed, list[str]]:
    folder, told = tmp_path_factory.mktemp("bundle"), list[str]()
    plan = CompressionPlan.parse(WANTED, tolerance=0.04, training_steps=150)
    found = compress(
        MLP.model, name="mlp", task=MLP.task, hyperparameters=MLP.hyperparameters, plan=plan,
        calibration=MLP.records(300), evaluation=evaluation(), folder=folder, watch=told.append,
    )  # fmt: skip
    return folder, found, told


def small(tmp_path: Path, model: nn.Module, task: Task, name: str, variants: list[str], **more: Any) -> Compressed:
    """A run of a model that has no hyper-parameters."""
    records = PublicRecords.synthetic(task.signature, records=80, seed=0)
    given: dict[str, Any] = {"calibration": records, "evaluation": None, "folder": tmp_path, **more}
    return compress(model, name=name, task=task, hyperparameters={}, plan=CompressionPlan.parse(variants), **given)


def test_every_variant_is_accounted_for(done: tuple[Path, Compressed, list[str]]) -> None:
    folder, found, told = done
    assert [one.name for one in found.kept] == ["float32", *WANTED[:4]]
    assert [one.name for one in found.dropped] == WANTED[4:]
    assert len(told) == 1 + len(WANTED)
    assert told[0].startswith("float32: kept")
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {*(str(one.file) for one in found.kept), "variants/prune-0.25.safetensors"}


def test_figures_are_those_of_the_file(done: tuple[Path, Compressed, list[str]]) -> None:
    folder, found, _ = done
    judged = evaluation()
    full = None
    for one in found.kept:
        path = folder / str(one.file)
        encoded = path.read_bytes()
        ready = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        # In the same batches: int8-dynamic takes its ranges from all the records it is given at once.
        chunks = np.split(judged.inputs, [256])
        scores = np.concatenate([ready.run(None, {"records": chunk})[0] for chunk in chunks])
        guesses = scores.argmax(axis=1)
        full = guesses if full is None else full
        accuracy = float((guesses == judged.targets).mean())
        assert (one.bytes, one.sha256) == (len(encoded), hashlib.sha256(encoded).hexdigest())
        assert one.ratio == len(encoded) / (folder / "variants/float32.onnx").stat().st_size
        assert one.metric == "accuracy"
        assert one.score == pytest.approx(accuracy)
        assert one.score_change == pytest.approx(accuracy - 0.9)
        assert one.agreement == pytest.approx((guesses == full).mean())
        assert one.latency_ms_b1 is not None
        assert 0 < one.latency_ms_b1 < 100
    assert found.kept[0].score == pytest.approx(0.9)
    assert found.kept[0].ratio == found.kept[0].agreement == 1
    assert found.kept[0].score_change == 0
    assert (found.kept[2].ratio or 1) < 0.6


def test_dropped_variants_tell_why(done: tuple[Path, Compressed, list[str]]) -> None:
    _, found, told = done
    for one in found.dropped:
        assert not one.kept
        assert one.file is None
        assert one.score_change is not None
        assert one.score_change < -0.04
        assert one.reason == f"its accuracy is {-one.score_change:.4f} lower, more than 0.04"
        assert f"{one.name}: dropped, {one.reason}" in told


def test_the_form_of_the_bundle(done: tuple[Path, Compressed, list[str]]) -> None:
    _, found, _ = done
    for one in (*found.kept, *found.dropped):
        told = one.to_dict()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert set(told) == (KEYS if one.kept else {*KEYS, "reason"})
        assert told["accuracy"] == told["score"]


def test_smaller_models_can_be_built_again(done: tuple[Path, Compressed, list[str]]) -> None:
    folder, found, _ = done
    path = folder / "variants/prune-0.25.safetensors"
    with safetensors.safe_open(path, framework="pt") as stored:
        built = json.loads(stored.metadata()["confide"])
    assert built == {"model": "mlp", "hyperparameters": {"activation": "tanh", "hidden": [18, 12]}}
    model = zoo.build(built["model"], MLP.signature, built["hyperparameters"])
    model.load_state_dict(safetensors.torch.load_file(path))
    assert found.kept[3].parameters == sum(p.numel() for p in model.parameters())
    encoded = (folder / "variants/prune-0.25.onnx").read_bytes()
    with torch.no_grad():
        wanted = model(torch.tensor(evaluation().inputs)).numpy()
    assert np.allclose(run(session(encoded), evaluation().inputs), wanted, atol=1e-5)


LINES = Signature(kind="vector", shape=(5,), target="value", outputs=1)


def test_values_are_scored_in_their_own_units(tmp_path: Path) -> None:
    model = zoo.build("linear", LINES, seed=0)
    task = task_for("linear", LINES, target_bounds=(0.0, 10.0))
    inputs = PublicRecords.synthetic(LINES, records=50, seed=9).inputs
    with torch.no_grad():
        exact = task.unscale(model(torch.tensor(inputs))).numpy()
    judged = PublicRecords.declared(inputs, (exact - 0.25).clip(0), origin="file", source="x")
    found = small(tmp_path, model, task, "linear", ["prune:0.5", "int8-dynamic"], evaluation=judged)
    (full, *kept), dropped = found.kept, found.dropped
    assert full.metric == "mae"
    assert full.score == pytest.approx(0.25, abs=0.01)
    assert full.to_dict()["accuracy"] is None
    assert [one.name for one in dropped if one.bytes is None] == ["prune:0.5"]
    assert "model='linear': cannot be pruned" in dropped[0].reason
    rounded = next(one for one in (*kept, *dropped) if one.name == "int8-dynamic")
    assert 0.98 < (rounded.agreement or 0) < 1
    # Half a percent of the error, not of the range.
    assert rounded.kept == ((rounded.score_change or 0) <= 0.005 * (full.score or 0))
    assert set(dropped[0].to_dict()) == {*KEYS, "reason"}


def test_without_evaluation_records_agreement_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a step that fails drops its own variants alone."""

    def broken(encoded: bytes) -> bytes:
        raise CompressionError("float16: broken for the test")

    monkeypatch.setattr(quantise, "float16", broken)
    signature = Signature(kind="vector", shape=(5,), target="classes", outputs=2)
    model, task = zoo.build("logistic", signature, seed=0), task_for("logistic", signature)
    told: list[str] = []
    found = small(tmp_path, model, task, "logistic", ["float16", "int8-dynamic"], watch=told.append)
    assert found.kept[0].name == "float32"
    assert ("float16", "float16: broken for the test") in [(one.name, one.reason) for one in found.dropped]
    assert "float16: dropped, float16: broken for the test" in told
    assert {file.name for file in (tmp_path / "variants").iterdir()} == {f"{one.name}.onnx" for one in found.kept}
    for one in found.kept:
        assert one.metric is one.score is one.score_change is None
        assert (one.agreement or 0) >= 0.995


def bench(tmp_path: Path, records: PublicRecords, tolerance: float, encoded: list[bytes]) -> list[Measured]:
    """Measure files without a run."""
    measuring = Bench(MLP.task, records, tolerance=tolerance)
    (tmp_path / "variants").mkdir()
    found = []
    for steps, content in zip([("float32",), ("float16",)], encoded, strict=False):
        (tmp_path / f"variants/{steps[0]}.onnx").write_bytes(content)
        found.append(measuring.measure(tmp_path, steps, parameters=1))
    return found


def worse() -> bytes:
    """The same, with a weight in a hundred lost."""
    proto = quantise.runtime()[0].load_from_string(MLP.encoded)
    first = proto.graph.initializer[0]
    values = np.frombuffer(first.raw_data, np.float32) * np.where(np.arange(len(first.raw_data) // 4) % 7, 1, 0)
    first.raw_data = values.astype(np.float32).tobytes()
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("scored", [True, False])
def test_the_tolerance_is_a_line(tmp_path: Path, scored: bool) -> None:
    records = evaluation() if scored else PublicRecords.declared(evaluation().inputs, origin="file", source="x")
    _, lower = bench(tmp_path, records, 1.0, [MLP.encoded, worse()])
    loss = -(lower.score_change or 0) if scored else 1 - (lower.agreement or 0)
    assert loss > 0.01
    for number, (tolerance, kept) in enumerate([(loss + 1e-6, True), (loss - 1e-3, False)]):
        (tmp_path / str(number)).mkdir()
        again = bench(tmp_path / str(number), records, tolerance, [MLP.encoded, worse()])[1]
        assert (again.kept, again.file is not None) == (kept, kept)
        assert kept or ("lower" in again.reason if scored else "agrees with float32" in again.reason)


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"float32\.onnx"):
        Bench(MLP.task, evaluation(), tolerance=0).measure(tmp_path, ("float32",), parameters=1)


def refused(tmp_path: Path, **more: Any) -> str:
    given: dict[str, Any] = {
        "name": "mlp", "task": MLP.task, "hyperparameters": MLP.hyperparameters, "plan": CompressionPlan.parse([]),
        "calibration": MLP.records(20), "evaluation": evaluation(), "folder": tmp_path, **more,
    }  # fmt: skip
    with pytest.raises(CompressionError) as error:
        compress(given.pop("model", MLP.model), **given)
    assert not list(tmp_path.rglob("*.onnx"))
    return str(error.value)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    assert "calibration records" in refused(tmp_path, calibration=evaluation())
    assert "PublicRecords.split" in refused(tmp_path, calibration=evaluation().head(40))
    assert "hyper-parameters" in refused(tmp_path, hyperparameters={"hidden": (3,)})
    assert "inputs int64" in refused(tmp_path, calibration=CASES["lstm"].records(5))
    assert "inputs int64" in refused(tmp_path, evaluation=CASES["lstm"].records(5))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(tmp_path, folder=tmp_path / "file")


def test_a_model_that_is_not_sound_is_not_published(tmp_path: Path) -> None:
    model = zoo.build("mlp", MLP.signature, MLP.hyperparameters, seed=0)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    assert "NaN" in refused(tmp_path, model=model)


def test_latency_is_a_median() -> None:
    turns: list[int] = []
    assert latency_ms(lambda: turns.append(1)) < 1
    assert len(turns) == 205


def test_the_same_run_gives_the_same_files(done: tuple[Path, Compressed, list[str]]) -> None:
    folder, _, _ = done
    assert (folder / "variants/float32.onnx").read_bytes() == MLP.encoded
