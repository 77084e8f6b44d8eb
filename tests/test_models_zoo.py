"""Every model builds, has the shape it promises, is a function of its seed, and learns."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from models_cases import SHAPES, Case, each_case, records_of, signature_of, targets_of
from torch import nn

from models import zoo
from models.errors import BadHyperparameter, SignatureMismatch, UnknownModel
from models.signature import Kind, Signature, Target
from models.vector import to_vector


def test_the_contracted_models_are_there() -> None:
    names = "cnn lstm gru transformer mlp logistic linear-svm linear"
    assert set(zoo.MODELS) == set(names.split())


@each_case
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_forward_shape(case: Case, batch: int) -> None:
    model = zoo.build(case.name, case.signature, seed=0)
    outputs = model(records_of(case.signature, batch))
    assert outputs.shape == (batch, case.signature.outputs)
    assert outputs.dtype == torch.float32
    assert outputs.isfinite().all()


@each_case
def test_a_record_is_scored_alone(case: Case) -> None:
    model = zoo.build(case.name, case.signature, seed=0)
    records = records_of(case.signature, 4)
    together = model(records)
    alone = torch.cat([model(record[None]) for record in records])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@each_case
def test_seed_decides_the_weights_and_leaves_the_generator_alone(case: Case) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = to_vector(zoo.build(case.name, case.signature, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert np.array_equal(first, to_vector(zoo.build(case.name, case.signature, seed=1)))
    assert not np.array_equal(first, to_vector(zoo.build(case.name, case.signature, seed=2)))
    assert not np.array_equal(
        to_vector(zoo.build(case.name, case.signature)), to_vector(zoo.build(case.name, case.signature))
    )


@each_case
def test_a_few_steps_of_sgd_lower_the_loss(case: Case) -> None:
    model = zoo.build(case.name, case.signature, seed=3)
    task = case.task
    records = records_of(case.signature, 64, seed=1)
    targets = targets_of(case.signature, records)
    # Normalised features are long, so a squared error on them is steep.
    steep = case.name in {"cnn", "linear", "transformer"}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01 if steep else 0.2)
    history: list[float] = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = task.losses(model(records), targets).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.95 * history[0]


@each_case
def test_only_layers_with_known_per_record_gradients(case: Case) -> None:
    allowed = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding, nn.LSTM, nn.GRU)
    model = zoo.build(case.name, case.signature, seed=0)
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            assert isinstance(module, allowed)
        assert not isinstance(module, nn.Dropout)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_defaults_are_valid_and_survive_json(name: str) -> None:
    values = zoo.hyperparameters(name)
    assert zoo.validate_hyperparameters(name, {}) == values
    assert zoo.validate_hyperparameters(name, json.loads(json.dumps(values))) == values


@pytest.mark.parametrize("name", zoo.MODELS)
@pytest.mark.parametrize("kind", SHAPES)
def test_other_kinds_are_refused_with_a_model_that_fits(name: str, kind: Kind) -> None:
    if kind in zoo.MODELS[name].kinds:
        return
    with pytest.raises(SignatureMismatch, match=f"kind='{kind}'.*use one of"):
        zoo.build(name, signature_of(kind))


@pytest.mark.parametrize(("name", "target"), [("logistic", "value"), ("linear-svm", "value"), ("linear", "classes")])
def test_other_targets_are_refused(name: str, target: Target) -> None:
    with pytest.raises(SignatureMismatch, match=f"target='{target}'.*use one of"):
        zoo.build(name, signature_of("vector", target))


def test_default_losses() -> None:
    assert zoo.default_loss("logistic", signature_of("vector")) == "cross-entropy"
    assert zoo.default_loss("linear-svm", signature_of("vector")) == "hinge"
    assert zoo.default_loss("linear", signature_of("vector", "value")) == "mse"
    assert zoo.default_loss("cnn", signature_of("image", "value")) == "mse"


@pytest.mark.parametrize("call", [zoo.hyperparameters, zoo.spec])
def test_an_unknown_model_names_the_nearest(call: Any) -> None:
    with pytest.raises(UnknownModel, match=r"model='logistik': did you mean 'logistic'\? known: cnn, gru, "):
        call("logistik")
    with pytest.raises(UnknownModel, match="model='resnet50': known: "):
        call("resnet50")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("cnn", {"chanels": [8]}, r"'chanels' is no hyper-parameter of 'cnn': did you mean 'channels'\?"),
        ("logistic", {"hidden": 8}, r"known: \(none\)"),
        ("cnn", {"channels": 8}, r"cnn.channels=8: must be a list"),
        ("cnn", {"channels": []}, r"cnn.channels has 0 entries"),
        ("cnn", {"channels": [8] * 9}, r"cnn.channels has 9 entries"),
        ("cnn", {"channels": [8, 0]}, r"cnn.channels\[1\]=0: must lie in \[1, 8192\]"),
        ("cnn", {"channels": [8.0]}, r"cnn.channels\[0\]=8.0: must be an integer"),
        ("cnn", {"norm": "batch"}, r"cnn.norm='batch': must be one of 'group', 'none'"),
        ("cnn", {"norm": ["group"]}, r"cnn.norm=\['group'\]"),
        ("lstm", {"hidden": "64"}, r"lstm.hidden='64': must be an integer"),
        ("gru", {"layers": True}, r"gru.layers=True: must be an integer"),
        ("gru", {"layers": 17}, r"gru.layers=17"),
        ("mlp", {"activation": "gelu"}, r"mlp.activation='gelu'"),
    ],
)
def test_a_bad_hyperparameter_is_named(name: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(BadHyperparameter, match=message):
        zoo.validate_hyperparameters(name, values)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(BadHyperparameter, match=r"transformer.width=30: must be a multiple of heads=4; try 32"):
        zoo.build("transformer", signature_of("sequence"), {"width": 30})


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True])
def test_a_bad_seed_is_named(seed: Any) -> None:
    with pytest.raises(BadHyperparameter, match="seed="):
        zoo.build("linear", signature_of("vector", "value"), seed=seed)


@pytest.mark.parametrize(
    ("name", "signature", "values"),
    [
        ("logistic", Signature(kind="vector", shape=(2**22,), target="classes", outputs=10_000), {}),
        ("mlp", signature_of("vector"), {"hidden": [8192] * 8}),
        (
            "lstm",
            Signature(kind="tokens", shape=(4,), vocabulary=2**20, target="classes", outputs=2),
            {"embedding": 8192},
        ),
    ],
)
def test_a_giant_is_refused_before_it_is_allocated(
    name: str, signature: Signature, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.device
    asked: list[str] = []

    def device(kind: str | torch.device) -> torch.device:
        asked.append(str(kind))
        return real(kind)

    monkeypatch.setattr(torch, "device", device)
    with pytest.raises(BadHyperparameter, match="at most 50000000"):
        zoo.build(name, signature, values, seed=0)
    assert set(asked) == {"meta"}


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
def test_padding_at_the_end_changes_nothing(name: str) -> None:
    model = zoo.build(name, signature_of("tokens"), seed=0)
    padded = torch.tensor([[3, 4, 0, 0, 0], [5, 0, 0, 0, 0]])
    with torch.no_grad():
        before = model(padded)
        model.get_parameter("embedding.weight")[0] += 5
        after = model(padded)
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before[0], before[1])


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
def test_a_record_of_padding_alone_is_finite(name: str) -> None:
    model = zoo.build(name, signature_of("tokens"), seed=0)
    outputs = model(torch.zeros(2, 5, dtype=torch.int64))
    outputs.sum().backward()
    assert outputs.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_order_of_steps_matters() -> None:
    for name in ("lstm", "gru", "transformer"):
        model = zoo.build(name, signature_of("tokens"), seed=0)
        assert not torch.allclose(model(torch.tensor([[1, 2, 3, 4, 5]])), model(torch.tensor([[2, 1, 3, 4, 5]])))


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 9), (1, 28, 28), (2, 32, 4)])
@pytest.mark.parametrize("norm", ["group", "none"])
def test_cnn_takes_any_small_image(shape: tuple[int, int, int], norm: str) -> None:
    signature = Signature(kind="image", shape=shape, target="classes", outputs=10)
    model = zoo.build("cnn", signature, {"channels": [6, 7, 8], "norm": norm}, seed=0)
    assert model(torch.randn(2, *shape)).shape == (2, 10)
    assert model(torch.randn(1, *shape)).isfinite().all()


def test_cnn_names_the_way_out_for_a_tiny_image() -> None:
    with pytest.raises(SignatureMismatch, match=r"shape=\(1, 3, 8\): 'cnn' needs images of at least 4x4; use 'mlp'"):
        zoo.build("cnn", Signature(kind="image", shape=(1, 3, 8), target="classes", outputs=2))
