"""A small bundle: a linear classifier of three columns in two classes, made without training or torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from models.bundle import Bundle, seal, verify
from models.inputs.schema import DataSettings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))

DATA: dict[str, Any] = {
    "kind": "tabular",
    "label": "ill",
    "classes": ["no", "yes"],
    "columns": {"age": {"bounds": [0, 100]}, "dose": {"bounds": [0, 5]}, "pulse": {"bounds": [30, 200]}},
}
TASK = {"loss_name": "cross-entropy", "target_bounds": None, "loss_bound": 4.0, "auroc_bins": 32}


def linear_onnx(bias: Sequence[float] = (0.0, 0.0)) -> bytes:
    """Scores are ``records @ W + bias``; a large bias makes the answer tell which version gave it."""
    weights = np.array([[1, -1], [0.5, -0.5], [0, 1]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["records", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
        ],
        "linear",
        [helper.make_tensor_value_info("records", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array(bias, np.float32), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def variant_of(name: str, data: bytes, *, accuracy: float | None = 0.9, base: int | None = None) -> dict[str, Any]:
    """A variant's entry in ``bundle.json``."""
    return {
        "name": name,
        "file": f"variants/{name}.onnx",
        "format": "onnx",
        "steps": [] if name == "float32" else [name],
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "ratio": len(data) / (base or len(data)),
        "parameters": 8,
        "metric": None if accuracy is None else "accuracy",
        "score": accuracy,
        "score_change": None if accuracy is None else 0.0,
        "accuracy": accuracy,
        "accuracy_change": None if accuracy is None else 0.0,
        "agreement": 1.0,
        "latency_ms_b1": 0.01,
        "latency_ms_b32": 0.02,
    }


def write_bundle(
    folder: Path,
    *,
    name: str = "ward",
    run: str = "ward-1",
    accuracy: float | None = 0.9,
    bias: Sequence[float] = (0.0, 0.0),
    privacy: dict[str, Any] | None = None,
    gates: Sequence[dict[str, Any]] = ({"name": "finished", "passed": True, "detail": "10 of 10 rounds"},),
    measured_on: str = "ef" * 32,
) -> Path:
    """Write a bundle's files, unsigned."""
    signature = DataSettings.model_validate(DATA).signature().to_dict()
    data = linear_onnx(bias)
    weights = save({"bias": np.array(bias, np.float32)})
    variant = variant_of("float32", data, accuracy=accuracy)
    departments = [{"department": "north", "opacus_rdp": 2.9, "opacus_prv": 2.5, "pld": 2.4}]
    documents: dict[str, Any] = {
        "bundle.json": {
            "format": "confide-bundle/1",
            "name": name,
            "description": "Who needs a bed.",
            "created": "2026-01-02T03:04:05+00:00",
            "run": run,
            "task": TASK,
            "signature": signature,
            "model": {"name": "logistic", "hyperparameters": {}, "file": "model/model.safetensors"},
            "data": DATA,
            "default": "float32",
            "variants": [variant],
        },
        "model/manifest.json": {
            "format": "confide-model/1",
            "model": "logistic",
            "hyperparameters": {},
            "signature": signature,
            "task": TASK,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        },
        "privacy.json": privacy
        or {
            "mode": "record",
            "unit": "record",
            "adjacency": "zero-out",
            "delta": 1e-5,
            "departments": departments,
            "statement": "each department's records: epsilon 2.4 at delta 1e-5",
        },
        "evaluation.json": {
            "records": 400,
            "source": "test set",
            "digest": measured_on,
            "metric": "accuracy",
            "scores": {"accuracy": accuracy},
            "variants": [variant | {"kept": True, "reason": ""}],
            "dropped": [],
            "gates": list(gates),
        },
        "lineage.json": {
            "run": run,
            "rounds": 10,
            "spec_digest": "ab" * 32,
            "versions": {"torch": "2"},
            "ledgers": {},
            "calibration": {"origin": "synthetic", "source": "", "digest": "cd" * 32, "records": 64},
            "created": "2026-01-02T03:04:05+00:00",
        },
        "reference.json": {"origin": "synthetic", "records": 64},
        "card.json": {"name": name},
    }
    for file, document in documents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    (folder / "card.md").write_text(f"# {name}\n")
    (folder / "model/model.safetensors").write_bytes(weights)
    (folder / "variants").mkdir(exist_ok=True)
    (folder / "variants/float32.onnx").write_bytes(data)
    return folder


def sealed(folder: Path, **parts: Any) -> Bundle:
    """A signed bundle in ``folder``, verified."""
    seal(write_bundle(folder, **parts), KEY)
    return verify(folder, [PUBLIC])


def edit(folder: Path, file: str, **changes: Any) -> None:
    """Change fields of a document, leaving every signature as it was."""
    document = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(document | changes, indent=2, sort_keys=True) + "\n")
