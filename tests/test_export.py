"""Models as ONNX: what they compute, what the file does not tell, and what cannot be exported."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compress_cases import CASES, Case
from torch import Tensor, nn

from models import export, zoo
from models.errors import CompressionError
from models.export import session, to_onnx
from models.onnx_session import INPUT, OUTPUT
from models.public import PublicRecords
from models.signature import Signature
from privacy.dpsgd import PrivateTrainer
from privacy.noise import SecureRandom
from privacy.plan import PrivacyPlan

each_case = pytest.mark.parametrize("label", CASES)
VECTOR = Signature(kind="vector", shape=(4,), target="classes", outputs=3)


def mlp() -> nn.Module:
    return zoo.build("mlp", VECTOR, {"hidden": (5,)}, seed=0)


@cache
def small() -> bytes:
    return to_onnx(mlp(), VECTOR)


@each_case
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_onnx_runtime_computes_what_pytorch_does(label: str, batch: int) -> None:
    case: Case = CASES[label]
    ready = onnxruntime.InferenceSession(case.encoded, providers=["CPUExecutionProvider"])
    records = np.array(PublicRecords.synthetic(case.signature, records=batch, seed=99).inputs)
    with torch.no_grad():
        wanted = case.model(torch.from_numpy(records)).numpy()
    (given,) = ready.run(None, {INPUT: records})
    assert given.dtype == np.float32
    assert given.shape == (batch, case.signature.outputs)
    assert np.abs(given - wanted).max() <= 1e-5 * (1 + np.abs(wanted).max())


@each_case
def test_the_interface_is_that_of_the_bundle(label: str) -> None:
    case = CASES[label]
    graph = onnx.load_from_string(case.encoded).graph
    (given,), (returned,) = graph.input, graph.output
    assert (given.name, returned.name) == (INPUT, OUTPUT) == ("records", "scores")
    sides = [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim]
    assert sides == ["batch", *case.signature.shape]
    wanted = onnx.TensorProto.INT64 if case.signature.kind == "tokens" else onnx.TensorProto.FLOAT
    assert given.type.tensor_type.elem_type == wanted


@each_case
def test_recurrent_weights_are_constants(label: str) -> None:
    graph = onnx.load_from_string(CASES[label].encoded).graph
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("LSTM", "GRU"):
            assert set(node.input[1:3]) <= constants


def parts(message: Any) -> Iterator[Any]:
    """A protocol buffer and everything in it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in value if field.is_repeated else [value]:
                yield from parts(one)


@each_case
def test_the_file_does_not_tell_where_it_was_made(label: str) -> None:
    case = CASES[label]
    for part in parts(onnx.load_from_string(case.encoded)):
        assert not getattr(part, "doc_string", "")
        assert not getattr(part, "metadata_props", [])
    for trace in (b".py", b"site-packages", b"/home", b"/root", b"/work", b"torch", b"namespace", b"Users"):
        assert trace not in case.encoded, trace
    weights = 4 * sum(parameter.numel() for parameter in case.model.parameters())
    constants = 4 * math.prod(case.signature.shape[:1]) * 64 if label == "transformer" else 0
    assert len(case.encoded) < weights + constants + 16_000


def test_the_same_weights_give_the_same_bytes_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    model = mlp().train()
    again = to_onnx(model, VECTOR)
    assert again == small()
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")
    # And the model stays as it was.
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_stripping_reaches_functions_and_inner_graphs() -> None:
    proto = onnx.load_from_string(small())
    inner = onnx.helper.make_graph([], "secret-graph", [], [onnx.helper.make_tensor_value_info("x", 1, [1])])
    inner.doc_string = "secret"
    inner.output[0].doc_string = "secret"
    branch = onnx.helper.make_node("If", ["condition"], ["unused"], then_branch=inner, else_branch=inner, name="secret")
    export._clear_nodes(onnx.helper.make_graph([branch], "outer", [], []))
    outer = onnx.helper.make_graph([branch], "outer", [], [])
    export._clear_graph(outer)
    assert b"secret" not in outer.SerializeToString()
    proto.doc_string = "secret"
    proto.graph.node[0].doc_string = "secret"
    proto.graph.node[0].metadata_props.add(key="secret", value="secret")
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("secret", 1, [1]))
    function = onnx.helper.make_function(
        "confide", "F", ["x"], ["y"], [onnx.helper.make_node("Relu", ["x"], ["y"], name="secret", doc_string="secret")],
        [onnx.helper.make_opsetid("", 20)], doc_string="secret",
    )  # fmt: skip
    function.metadata_props.add(key="secret", value="secret")
    proto.functions.append(function)
    proto.opset_import.append(onnx.helper.make_opsetid("confide", 1))
    assert b"secret" not in export.stripped(proto)


def test_a_file_that_computes_something_else_is_refused() -> None:
    model = mlp().eval()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(CompressionError, match="differs from PyTorch by nan"):
        export._compare(model, VECTOR, small())
    with pytest.raises(CompressionError, match="differs from PyTorch by"):
        export._compare(zoo.build("mlp", VECTOR, {"hidden": (5,)}, seed=1).eval(), VECTOR, small())
    wide = Signature(kind="vector", shape=(4,), target="classes", outputs=4)
    with pytest.raises(CompressionError, match=r"returns \(1, 3\) for a batch of 1"):
        export._compare(zoo.build("mlp", wide, {"hidden": (5,)}, seed=1).eval(), VECTOR, small())


class Moody(nn.Module):
    """What it does depends on the values."""

    def forward(self, records: Tensor) -> Tensor:
        return records[:, :3] if bool(records.sum() > 0) else records[:, 1:]


class Fixed(nn.Module):
    """Takes batches of 2 alone."""

    def forward(self, records: Tensor) -> Tensor:
        return records.reshape(2, 4)[:, :3].clone()


def test_a_model_that_has_no_onnx_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"model 'Moody': cannot be exported to ONNX \(.*use a model of the zoo"):
        to_onnx(Moody(), VECTOR)
    with pytest.raises(CompressionError, match="cannot take a batch of 1"):
        export._compare(Fixed(), VECTOR, small())


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(CompressionError, match="cannot run the file"):
        session(b"no model")
    with pytest.raises(CompressionError, match="cannot run the file"):
        export.run(session(small()), np.zeros((1, 9), np.float32))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}", name=name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CompressionError, match=rf"package '{package}' is missing; .*confide\[publish\]"):
        to_onnx(mlp(), VECTOR)


@each_case
def test_private_training_leaves_torchs_own_layers(label: str) -> None:
    """So that what is exported is what was trained: no layer is replaced, wrapped or left hooked."""
    case = CASES[label]
    model = zoo.build(case.name, case.signature, case.hyperparameters, seed=0)
    kinds = [type(module) for module in model.modules()]
    plan = PrivacyPlan(
        sampling_rate=0.5, noise_multiplier=1.0, max_grad_norm=1.0, steps_per_round=2, rounds=1, declared_size=8,
        delta=1e-6,
    )  # fmt: skip
    records = torch.tensor(PublicRecords.synthetic(case.signature, records=8, seed=0).inputs)
    PrivateTrainer(model, case.task.losses, plan).train(
        records, torch.arange(8) % 3, learning_rate=0.1, random=SecureRandom.seeded(1)
    )
    assert [type(module) for module in model.modules()] == kinds
    for module in model.modules():
        assert type(module).__module__.partition(".")[0] in ("torch", "models")
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
