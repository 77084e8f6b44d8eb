"""What each step does to a model: pruning, teaching, and fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compress_cases import CASES, IMAGE, SEQUENCE, TOKENS
from torch import Tensor, nn

from models import zoo
from models.compress.distill import student, teach
from models.compress.prune import prune
from models.compress.quantise import float16, int8_dynamic, int8_static
from models.errors import CompressionError, SignatureMismatch
from models.export import run, session
from models.public import PublicRecords
from models.signature import Signature
from models.task import task_for

VALUE = Signature(kind="vector", shape=(5,), target="value", outputs=1)


# --- Pruning ---


def silence(state: dict[str, Tensor], keys: Mapping[str, int], hidden: int) -> None:
    """Let nothing read every other unit: columns of the weights that do, runs of them where a map is flattened."""
    for key, run_length in keys.items():
        columns = state[key].view(len(state[key]), hidden, run_length, -1)
        columns[:, 1::2] = 0


EXACT: dict[str, tuple[str, Signature, dict[str, Any], list[tuple[dict[str, int], int]], dict[str, Any]]] = {
    "mlp": (
        "mlp", IMAGE, {"hidden": (8, 6)}, [({"3.weight": 1}, 8), ({"5.weight": 1}, 6)], {"hidden": (4, 3)},
    ),
    "cnn": (
        "cnn", IMAGE, {"channels": (6, 8), "norm": "none"}, [({"3.weight": 1}, 6), ({"7.weight": 4}, 8)],
        {"channels": (3, 4)},
    ),
    "lstm": (
        "lstm", TOKENS, {"hidden": 8, "layers": 2, "embedding": 5},
        [
            ({"recurrent.weight_hh_l0": 1, "recurrent.weight_ih_l1": 1}, 8),
            ({"recurrent.weight_hh_l1": 1, "head.weight": 1}, 8),
        ],
        {"hidden": 4},
    ),
    "gru": (
        "gru", SEQUENCE, {"hidden": 6}, [({"recurrent.weight_hh_l0": 1, "head.weight": 1}, 6)], {"hidden": 3},
    ),
    "transformer": (
        "transformer", SEQUENCE, {"width": 8, "heads": 2, "layers": 2, "feedforward": 10},
        [({f"blocks.{block}.feedforward.3.weight": 1}, 10) for block in (0, 1)],
        {"feedforward": 5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("label", EXACT)
def test_units_that_nothing_reads_are_pruned_without_a_trace(label: str) -> None:
    name, signature, values, silenced, wanted = EXACT[label]
    full = zoo.build(name, signature, values, seed=1).eval()
    state = full.state_dict()
    for keys, hidden in silenced:
        silence(state, keys, hidden)
    smaller, found = prune(full, name=name, signature=signature, hyperparameters=values, sparsity=0.5)
    assert found == {**zoo.validate_hyperparameters(name, values), **wanted}
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in full.parameters())
    records = torch.tensor(PublicRecords.synthetic(signature, records=20, seed=0).inputs)
    with torch.no_grad():
        assert torch.allclose(smaller.eval()(records), full(records), atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "sparsity", "wanted"),
    [
        ((16, 32), 0.5, (8, 16)),
        ((8, 12), 0.75, (4, 4)),
        ((6, 5), 0.5, (2, 3)),
        ((8, 4), 0.9, (4, 4)),
        ((8, 2, 1), 0.5, (4, 2, 1)),
    ],
)
def test_channels_keep_their_groups(channels: tuple[int, ...], sparsity: float, wanted: tuple[int, ...]) -> None:
    values: dict[str, object] = {"channels": channels}
    full = zoo.build("cnn", IMAGE, values, seed=0)
    smaller, found = prune(full, name="cnn", signature=IMAGE, hyperparameters=values, sparsity=sparsity)
    assert found["channels"] == wanted
    groups = [[m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)] for model in (full, smaller)]
    assert groups[0] == groups[1]


def test_of_each_group_the_strongest_channels_stay() -> None:
    full = zoo.build("cnn", IMAGE, {"channels": (8,)}, seed=0)
    first = next(full.parameters())
    with torch.no_grad():
        first[[1, 2, 4, 7]] *= 10
    smaller, _ = prune(full, name="cnn", signature=IMAGE, hyperparameters={"channels": (8,)}, sparsity=0.5)
    assert torch.equal(next(smaller.parameters()), first[[1, 2, 4, 7]])


def test_pruning_leaves_the_full_model_alone() -> None:
    case = CASES["mlp"]
    before = [p.clone() for p in case.model.parameters()]
    prune(case.model, name="mlp", signature=case.signature, hyperparameters=case.hyperparameters, sparsity=0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, case.model.parameters(), strict=True))


def test_a_model_without_units_is_named() -> None:
    model = zoo.build("logistic", IMAGE, seed=0)
    with pytest.raises(CompressionError, match="model='logistic': cannot be pruned"):
        prune(model, name="logistic", signature=IMAGE, hyperparameters={}, sparsity=0.5)
    full = zoo.build("cnn", IMAGE, {"channels": (4,)}, seed=0)
    with pytest.raises(CompressionError, match=r"no unit to spare at prune:0\.9"):
        prune(full, name="cnn", signature=IMAGE, hyperparameters={"channels": (4,)}, sparsity=0.9)
    with pytest.raises(SignatureMismatch, match="is no 'cnn'"):
        prune(full, name="cnn", signature=IMAGE, hyperparameters={"channels": (4,), "norm": "none"}, sparsity=0.5)
    with pytest.raises(CompressionError, match="model='logistic': cannot be distilled"):
        student(name="logistic", signature=IMAGE, hyperparameters={}, fraction=0.5, seed=0)


# --- Teaching ---


@pytest.mark.parametrize(
    ("name", "signature", "values", "wanted"),
    [
        ("mlp", IMAGE, {"hidden": (64, 9)}, {"hidden": (32, 4)}),
        ("cnn", IMAGE, {}, {"channels": (8, 16)}),
        ("gru", SEQUENCE, {"layers": 3}, {"hidden": 32, "embedding": 16, "layers": 3}),
        ("transformer", SEQUENCE, {"width": 12, "heads": 4}, {"width": 8, "heads": 4, "feedforward": 64}),
    ],
)
def test_a_student_is_narrower(name: str, signature: Signature, values: dict[str, object], wanted: object) -> None:
    model, found = student(name=name, signature=signature, hyperparameters=values, fraction=0.5, seed=3)
    assert {key: found[key] for key in wanted} == wanted  # type: ignore[attr-defined]  # a mapping
    again, _ = student(name=name, signature=signature, hyperparameters=values, fraction=0.5, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def gap(one: nn.Module, other: nn.Module, records: PublicRecords) -> float:
    inputs = torch.tensor(records.inputs)
    with torch.no_grad():
        return float((one(inputs).softmax(1) - other(inputs).softmax(1)).abs().mean())


def test_a_pupil_learns_the_teachers_scores_and_no_label() -> None:
    case = CASES["mlp"]
    records, unseen = case.records(300), case.records(100, seed=8)
    wrong = PublicRecords.declared(records.inputs, np.zeros(300, np.int64), origin="file", source="wrong labels")
    pupils = []
    for lesson in (records, wrong):
        pupil, _ = student(
            name="mlp", signature=case.signature, hyperparameters=case.hyperparameters, fraction=0.5, seed=0
        )
        before = gap(pupil, case.model, unseen)
        teach(pupil, case.model, lesson, task=case.task, steps=150, seed=0)
        assert gap(pupil, case.model, unseen) < 0.4 * before
        pupils.append(pupil)
    assert all(torch.equal(a, b) for a, b in zip(*(p.parameters() for p in pupils), strict=True))


def test_values_are_taught_too() -> None:
    teacher = zoo.build("mlp", VALUE, {"hidden": (16,)}, seed=0).eval()
    pupil = zoo.build("mlp", VALUE, {"hidden": (8,)}, seed=1)
    records = PublicRecords.synthetic(VALUE, records=200, seed=0)
    inputs = torch.tensor(records.inputs)
    task = task_for("mlp", VALUE, target_bounds=(0.0, 10.0))
    before = float((pupil(inputs) - teacher(inputs)).detach().abs().mean())
    teach(pupil, teacher, records, task=task, steps=150, seed=0)
    assert float((pupil(inputs) - teacher(inputs)).detach().abs().mean()) < 0.2 * before


def test_a_teacher_without_numbers_teaches_nothing() -> None:
    case = CASES["mlp"]
    teacher = zoo.build("mlp", case.signature, case.hyperparameters, seed=0)
    pupil = zoo.build("mlp", case.signature, case.hyperparameters, seed=0)
    with torch.no_grad():
        next(teacher.parameters()).fill_(torch.inf)
    with pytest.raises(CompressionError, match="diverged"):
        teach(pupil, teacher, case.records(20), task=case.task, steps=3, seed=0)


# --- Fewer bits ---

each_case = pytest.mark.parametrize("label", CASES)
STEPS = {"float16": float16, "int8-dynamic": int8_dynamic, "int8-static": None}


def made(label: str, step: str) -> bytes:
    make = STEPS[step]
    return int8_static(CASES[label].encoded, CASES[label].records()) if make is None else make(CASES[label].encoded)


@each_case
@pytest.mark.parametrize(
    ("step", "most", "near"), [("float16", 0.6, 2e-3), ("int8-dynamic", 0.5, 0.06), ("int8-static", 0.5, 0.09)]
)
def test_fewer_bits_say_nearly_the_same(label: str, step: str, most: float, near: float) -> None:
    case = CASES[label]
    encoded = made(label, step)
    # These models are so small that the graph is a good part of them.
    graph = 9_000 if label in ("lstm", "gru", "transformer") else 4_000
    assert len(encoded) < most * len(case.encoded) + graph
    ready = session(encoded)
    for batch in (1, 40):
        inputs = case.records(batch, seed=7).inputs
        full, small = run(session(case.encoded), inputs), run(ready, inputs)
        assert small.shape == full.shape
        assert np.abs(small - full).max() <= near * np.abs(full).max()
    # Something was stored in fewer bits.
    assert not np.array_equal(small, full)


@each_case
@pytest.mark.parametrize("step", STEPS)
def test_large_weights_are_stored_small(label: str, step: str) -> None:
    encoded = made(label, step)
    for tensor in onnx.load_from_string(encoded).graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            assert np.prod(tensor.dims) < 512, tensor.dims
    assert encoded == made(label, step)
    for trace in (b"/tmp", b".py", b"onnxruntime", b"quantised"):
        assert trace not in encoded


def test_integer_products_are_of_unsigned_bytes() -> None:
    """Signed weights saturate on processors without VNNI, and the scores depend on the machine."""
    for label in ("cnn", "mlp", "transformer"):
        graph = onnx.load_from_string(made(label, "int8-dynamic")).graph
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        products = [node for node in graph.node if node.op_type in ("MatMulInteger", "ConvInteger")]
        assert products
        assert {types[node.input[1]] for node in products} == {onnx.TensorProto.UINT8}


def test_recurrent_layers_have_the_form_there_is() -> None:
    lstm = onnx.load_from_string(made("lstm", "int8-dynamic")).graph
    assert [node.op_type for node in lstm.node].count("DynamicQuantizeLSTM") == 1
    gru = onnx.load_from_string(made("gru", "int8-dynamic")).graph
    assert [node.op_type for node in gru.node].count("DequantizeLinear") == 1


def test_a_weight_too_large_for_half_precision_is_refused() -> None:
    proto = onnx.load_from_string(CASES["mlp"].encoded)
    largest = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = np.full(len(largest.raw_data) // 4, 1e5, np.float32).tobytes()
    with pytest.raises(CompressionError, match="float16: a weight passes 65504"):
        float16(proto.SerializeToString())


def test_what_cannot_be_quantised_is_refused() -> None:
    proto = onnx.load_from_string(CASES["mlp"].encoded)
    proto.graph.node[0].op_type = "Unheard"
    for make in (int8_dynamic, lambda encoded: int8_static(encoded, CASES["mlp"].records(5))):
        with pytest.raises(CompressionError, match=r"int8-\w+: ONNX Runtime cannot quantise"):
            make(proto.SerializeToString())
