"""What may be compressed with, and what may be asked for."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compress_cases import CASES, SEQUENCE, TOKENS
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from models.compress.distill import teach
from models.compress.plan import CompressionPlan, file_of, name_of, split
from models.compress.quantise import int8_static
from models.compress.run import compress
from models.errors import CompressionError, PrivateDataRefused
from models.inputs.prepare import Prepared
from models.public import PublicRecords
from models.signature import Signature

VECTORS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
LABELS = np.arange(6, dtype=np.int64) % 3
MLP = CASES["mlp"]


def declared(inputs: object = VECTORS, targets: object = LABELS, **more: Any) -> PublicRecords:
    return PublicRecords.declared(inputs, targets, **{"origin": "file", "source": "a public file", **more})


# --- Public records ---


def offers() -> dict[str, object]:
    """Everything a caller might pass without having said that it is public."""
    images = torch.zeros(8, *MLP.signature.shape)
    prepared = object.__new__(Prepared)
    return {
        "array": images.numpy(),
        "tensor": images,
        "pair": (images.numpy(), LABELS),
        "list": images.tolist(),
        "data set": TensorDataset(images),
        "loader": DataLoader(TensorDataset(images)),
        "a department's": prepared,
        "path": Path("records.parquet"),
        "class": PublicRecords,
        "nothing": None,
    }


def compressing(field: str) -> Callable[[object], object]:
    public = MLP.records(8)

    def offered(records: object) -> object:
        given: dict[str, Any] = {"calibration": public, "evaluation": public, field: records}
        plan = CompressionPlan.parse([])
        return compress(
            MLP.model, name=MLP.name, task=MLP.task, hyperparameters=MLP.hyperparameters, plan=plan,
            folder=Path("/nonexistent"), **given,
        )  # fmt: skip

    return offered


USES: dict[str, Callable[[Any], object]] = {
    "compress, calibration": compressing("calibration"),
    "compress, evaluation": compressing("evaluation"),
    "int8_static": lambda records: int8_static(b"", records),
    "teach": lambda records: teach(MLP.model, MLP.model, records, task=MLP.task, steps=1, seed=0),
}


@pytest.mark.parametrize(
    ("use", "offer"),
    # Evaluation records may be left out.
    [(use, offer) for use in USES for offer in offers() if (use, offer) != ("compress, evaluation", "nothing")],
)
def test_nothing_but_public_records_is_compressed_with(use: str, offer: str) -> None:
    with pytest.raises(PrivateDataRefused, match="takes PublicRecords alone"):
        USES[use](offers()[offer])


def test_the_refusal_quotes_no_record() -> None:
    with pytest.raises(PrivateDataRefused) as refused:
        int8_static(b"", np.full((1, 2), 123456, np.float32))  # type: ignore[arg-type]  # it is what is refused
    assert "123456" not in str(refused.value)


ALLOWED = {
    "models": {"compress", "errors", "export", "files", "onnx_session", "public", "signature", "task", "vector", "zoo"},
    "torch": None, "numpy": None, "onnx": None, "onnxruntime": None, "safetensors": None,
}  # fmt: skip
STANDARD = {
    "__future__", "collections", "contextlib", "copy", "dataclasses", "hashlib", "itertools", "json", "logging", "math",
    "pathlib", "statistics", "tempfile", "time", "typing",
}  # fmt: skip
READERS = {"load", "fromfile", "loadtxt", "genfromtxt", "memmap", "read_text", "open_memmap", "DataLoader", "open"}


def test_compression_cannot_reach_departments_data() -> None:
    """No module of it imports what reads records, from files or from anywhere else."""
    modules = sorted((Path(__file__).parents[1] / "models/compress").glob("*.py"))
    assert len(modules) == 7
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                room, _, rest = name.partition(".")
                assert room in {*ALLOWED, *STANDARD}, f"{module.name} imports {name}"
                inner = ALLOWED.get(room)
                assert inner is None or rest.partition(".")[0] in inner, f"{module.name} imports {name}"
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                assert called not in READERS, f"{module.name}:{node.lineno} calls {called}"


def test_public_records_are_made_in_two_ways_only() -> None:
    with pytest.raises(PrivateDataRefused, match="made directly"):
        PublicRecords(inputs=VECTORS, targets=None, origin="file", source="x")
    with pytest.raises(CompressionError, match="origin='synthetic'"):
        declared(origin="synthetic")
    with pytest.raises((PrivateDataRefused, ValueError)):
        dataclasses.replace(declared(), inputs=VECTORS)


def test_public_records_cannot_change() -> None:
    mine = VECTORS.copy()
    records = declared(mine)
    digest = records.digest
    mine[:] = 0
    assert np.array_equal(records.inputs, VECTORS)
    for array in (records.inputs, records.targets, records.head(2).inputs, records.split(0.5, seed=0)[0].targets):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    assert PublicRecords.declared(VECTORS, LABELS, origin="file", source="other").digest == digest


@pytest.mark.parametrize(
    ("other", "targets"),
    [
        (VECTORS.reshape(6, 2, 2), LABELS),
        (VECTORS[::-1], LABELS),
        (VECTORS, LABELS[::-1]),
        (VECTORS, None),
        (VECTORS.view(np.int32).astype(np.int64), LABELS),
    ],
)
def test_the_digest_is_of_everything(other: np.ndarray, targets: np.ndarray | None) -> None:
    assert declared(other, targets).digest != declared().digest


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (VECTORS.astype(np.float64), None),
        (VECTORS[0], None),
        (VECTORS[:0], None),
        (torch.zeros(2, 2), None),
        (np.array([["a"]], dtype=object), None),
        (np.full((2, 2), np.nan, np.float32), None),
        (VECTORS, LABELS[:5]),
        (VECTORS, LABELS.astype(np.int32)),
        (VECTORS, np.full(6, np.inf, np.float32)),
        (VECTORS, [0] * 6),
    ],
)
def test_malformed_records_are_refused(inputs: object, targets: object) -> None:
    with pytest.raises(CompressionError, match=r"^(inputs|targets)"):
        declared(inputs, targets)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_synthetic_records_lie_in_the_public_domain(case: Any) -> None:
    made = case.records(300, seed=1)
    made.check(case.signature)
    assert made.targets is None
    assert made.digest == case.records(300, seed=1).digest != case.records(300, seed=2).digest
    low = 0 if case.signature.kind in ("image", "tokens") else -1
    high = case.signature.vocabulary - 1 if case.signature.kind == "tokens" else 1
    assert low <= made.inputs.min() < made.inputs.max() <= high
    # Neither all alike nor confined to a corner.
    assert made.inputs.max() - made.inputs.min() > 0.9 * (high - low)


def test_synthetic_texts_end_in_padding() -> None:
    ids = PublicRecords.synthetic(TOKENS, records=200, seed=0).inputs
    real = ids != 0
    assert real[:, 0].all()
    assert (np.diff(real.astype(int), axis=1) <= 0).all()
    assert 0.3 < real.mean() < 0.8


@pytest.mark.parametrize(("records", "seed"), [(0, 0), (-1, 0), (1.5, 0), (True, 0), (10**7, 0), (5, -1), (5, "x")])
def test_impossible_synthetic_records_are_refused(records: Any, seed: Any) -> None:
    with pytest.raises(CompressionError, match=r"records=|seed="):
        PublicRecords.synthetic(SEQUENCE, records=records, seed=seed)


@given(st.integers(2, 60), st.floats(0, 1), st.integers(0, 9))
def test_split_is_a_partition(count: int, share: float, seed: int) -> None:
    records = declared(np.arange(count, dtype=np.float32)[:, None], np.arange(count))
    parts = records.split(share, seed=seed)
    assert sorted(np.concatenate([part.inputs[:, 0] for part in parts])) == list(range(count))
    for part in parts:
        assert len(part) >= 1
        assert part.targets is not None
        assert np.array_equal(part.inputs[:, 0], part.targets)
        assert part.origin == records.origin


def test_one_record_cannot_be_split() -> None:
    with pytest.raises(CompressionError, match="records=1"):
        declared(VECTORS[:1], None).split(0.5, seed=0)


def test_records_must_fit_the_model() -> None:
    classes = Signature(kind="vector", shape=(4,), target="classes", outputs=3)
    values = Signature(kind="vector", shape=(4,), target="value", outputs=1)
    declared().check(classes)
    declared(targets=np.zeros(6, np.float32)).check(values)
    for records, signature, told in [
        (declared(), SEQUENCE, "inputs float32"),
        (declared(), values, "targets int64"),
        (declared(targets=np.zeros(6, np.float32)), classes, "int64 labels"),
        (declared(targets=LABELS + 1), classes, "int64 labels"),
        (declared(np.full((2, 7), 120), None), TOKENS, r"outside \[0, 120\)"),
    ]:
        with pytest.raises(CompressionError, match=told):
            records.check(signature)


# --- Plans ---


def test_a_plan_begins_with_float32_and_has_everything_once() -> None:
    plan = CompressionPlan.parse(["prune:0.50 + int8-static", "float32", "prune:.5+int8-static", "distill:0.25"])
    assert plan.variants == (("float32",), ("prune:0.5", "int8-static"), ("distill:0.25",))
    assert name_of(plan.variants[1]) == "prune:0.5+int8-static"
    assert file_of(plan.variants[1]) == "variants/prune-0.5+int8-static.onnx"
    assert split(plan.variants[1]) == ("prune:0.5", "int8-static")
    assert split(plan.variants[0]) == (None, None)


@given(
    st.sampled_from(["", "prune:", "distill:"]),
    st.floats(0.05, 0.95),
    st.sampled_from(["", "float16", "int8-dynamic", "int8-static"]),
)
def test_names_are_read_back(model: str, share: float, file: str) -> None:
    steps = [f"{model}{share}"] * bool(model) + [file] * bool(file)
    plan = CompressionPlan.parse(["+".join(steps)] if steps else [])
    assert CompressionPlan.parse(name_of(variant) for variant in plan.variants) == plan
    assert all(":" not in file_of(variant) for variant in plan.variants)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("int8-dynamc", "did you mean 'int8-dynamic'"),
        ("purne:0.5", "did you mean 'prune'"),
        ("", "no step ''"),
        ("prune", "needs a share"),
        ("prune:1", "needs a share"),
        ("prune:nan", "needs a share"),
        ("prune:half", "needs a share"),
        ("distill:0", "needs a share"),
        ("int8-dynamic:2", "no step 'int8-dynamic:2'"),
        ("int8-dynamic+prune:0.5", "at most one of prune"),
        ("prune:0.5+distill:0.5", "at most one of prune"),
        ("float16+int8-static", "at most one of"),
        ("float32+float16", "leave it out"),
        (7, "must be text"),
    ],
)
def test_what_cannot_be_done_is_refused(text: Any, told: str) -> None:
    with pytest.raises(CompressionError, match=told):
        CompressionPlan.parse([text])


@pytest.mark.parametrize(
    "fields",
    [
        {"tolerance": -0.1},
        {"tolerance": float("nan")},
        {"tolerance": "0.1"},
        {"tolerance": True},
        {"seed": -1},
        {"seed": 1.0},
        {"training_steps": 0},
        {"training_steps": 2.5},
    ],
)
def test_numbers_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CompressionError, match=next(iter(fields))):
        CompressionPlan.parse([], **fields)


def test_plans_made_by_hand_are_checked_too() -> None:
    for variants in [(), (("float16",),), (("float32",), ("float32",)), (("float32",), ("prune:0.50",))]:
        with pytest.raises(CompressionError):
            CompressionPlan(variants=variants)
    with pytest.raises(CompressionError, match="must be a list"):
        CompressionPlan.parse("float16")
    with pytest.raises(CompressionError, match="at most 32"):
        CompressionPlan.parse([f"prune:{k / 100}" for k in range(10, 50)])


def test_flat_models_are_not_asked_to_shrink() -> None:
    assert len(CompressionPlan.usual("cnn").variants) == 7
    assert CompressionPlan.usual("logistic").variants == (
        ("float32",), ("float16",), ("int8-dynamic",), ("int8-static",),
    )  # fmt: skip
