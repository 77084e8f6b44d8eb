"""Attributions: exact where mathematics says what they are, complete for every model, under the right names."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from models_cases import Case, each_case, records_of
from request_cases import IMAGE, JSON, SEQUENCE, TABLE, TEXT, body, requests_of
from torch import nn

from models import zoo
from models.errors import CompressionError, ExplainError
from models.explain.attribute import TOLERANCE, attribute
from models.explain.run import explain
from models.inputs.requests import Requests
from models.public import PublicRecords
from models.task import Task, task_for


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def lively(name: str, task: Task) -> nn.Module:
    """A model with larger weights than a fresh one, hence a more crooked function."""
    model = zoo.build(name, task.signature, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


@each_case
def test_attributions_are_complete(case: Case) -> None:
    model = lively(case.name, case.task)
    model.train()
    inputs = records_of(case.signature, 3).numpy()
    if case.signature.kind == "tokens":
        inputs[0, 2:] = 0
    found = attribute(model, case.signature, inputs, np.array([0, 1, 2]))
    assert found.values.shape == inputs.shape
    assert found.complete.all()
    with torch.no_grad():
        scores = model(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(found.scores, scores[[0, 1, 2], [0, 1, 2]], rtol=1e-4, atol=1e-5)
    sums = found.values.reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(sums, found.scores - found.baselines, atol=TOLERANCE * 10)
    assert abs(sums).max() > 0.01
    if case.signature.kind == "tokens":
        assert (found.values[0, 2:] == 0).all()
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_linear_model_is_attributed_exactly() -> None:
    reader = requests_of(TABLE)
    model = zoo.build("logistic", reader.signature, seed=0)
    inputs = reader.parse(body(instances=[{"age": 70, "sex": 1}, {"age": None, "sex": 0}]), JSON)
    found = attribute(model, reader.signature, inputs, np.array([1, 0]))
    weights = dict(model.named_parameters())["1.weight"].detach().numpy()
    np.testing.assert_allclose(found.values, weights[[1, 0]] * inputs, atol=1e-6)


def test_a_columns_features_are_summed_to_it() -> None:
    reader = requests_of(TABLE)
    task = task_for("logistic", reader.signature)
    model = zoo.build("logistic", reader.signature, seed=0)
    content = body(instances=[{"age": 70, "sex": 1}, {"age": None, "sex": 0}, {"age": 1, "sex": 7}])
    inputs = reader.parse(content, JSON)
    found = explain(
        model, task, reader.signature, reader.settings, inputs, cells=reader.cells(content, JSON), limit=2, output=1
    )
    weights = dict(model.named_parameters())["1.weight"].detach().numpy()[1]
    # age, age is missing; sex = 0, = 1, = 1.50, unlisted, missing
    assert found.records[0].parts == pytest.approx({"age": 0.4 * weights[0], "sex": weights[3]}, abs=1e-6)
    assert found.records[1].parts == pytest.approx({"age": weights[1], "sex": weights[2]}, abs=1e-6)
    assert found.records[1].cells == {"age": "", "sex": "0"}
    assert [record.name for record in found.records] == ["1", "1"]
    assert (found.left_out, found.overall.records) == (1, 3)
    assert found.overall.origin == "the request's own records"
    assert list(found.overall.parts) == ["age", "sex"]


def test_values_are_explained_in_their_own_units() -> None:
    changes = {"classes": None, "target_bounds": [100, 300]}
    reader = requests_of(TABLE, **changes)
    task = task_for("linear", reader.signature, target_bounds=(100.0, 300.0))
    model = zoo.build("linear", reader.signature, seed=3)
    inputs = reader.parse(body(instances=[{"age": 60, "sex": 1}]), JSON)
    found = explain(model, task, reader.signature, reader.settings, inputs)
    record = found.records[0]
    assert isinstance(record.parts, dict)
    assert record.answer["prediction"] == pytest.approx(record.score, rel=1e-5)
    assert record.baseline_score + sum(record.parts.values()) == pytest.approx(record.score, rel=1e-5)
    bias = dict(model.named_parameters())["1.bias"].item()
    assert record.baseline_score == pytest.approx(200 + 100 * bias, rel=1e-5)
    assert found.unit == "the target's own units"


def spoken(reader: Requests, *texts: str) -> tuple[nn.Module, Task, np.ndarray, list[dict[str, str]]]:
    """A model to which one word means anything, and what it is asked."""
    task = task_for("lstm", reader.signature)
    model = lively("lstm", task)
    word = int(reader.parse(body(instances=["prize"]), JSON)[0, 0])
    table = dict(model.named_parameters())["embedding.weight"]
    with torch.no_grad():
        kept = table[word].clone()
        table.zero_()
        table[word] = kept
    content = body(instances=list(texts))
    cells = reader.cells(content, JSON)
    assert cells is not None
    return model, task, reader.parse(content, JSON), cells


def test_the_word_that_counts_is_found_and_shown_as_written() -> None:
    reader = requests_of(TEXT)
    model, task, inputs, cells = spoken(reader, "a PRIZE for you", "nothing new", "one two three four five six prize")
    found = explain(model, task, reader.signature, reader.settings, inputs, cells=cells)
    first, second, third = found.records
    assert first.words == ("a", "prize", "for", "you")
    assert first.weights is not None
    assert np.flatnonzero(abs(first.weights) > 1e-6).tolist() == [1]
    assert first.weights[1] == pytest.approx(first.score - first.baseline_score, abs=1e-4)
    assert second.weights is not None
    assert not second.weights.any()
    assert third.words == ("one", "two", "three", "four", "five", "six")  # a text is cut after six tokens
    assert isinstance(found.overall.parts, dict)
    assert next(iter(found.overall.parts)) == "prize"
    assert found.overall.parts["prize"] == pytest.approx(abs(first.weights[1]) / 3, rel=1e-5)
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [part["token"] for part in written["records"][0]["attributions"]] == list(first.words)


def test_ids_have_names_only_where_they_are_known() -> None:
    reader = requests_of(TEXT)
    model, task, inputs, _ = spoken(reader, "a prize")
    found = explain(model, task, reader.signature, reader.settings, inputs)
    assert all(word.startswith("#") for word in found.records[0].words)
    listed = requests_of({**TEXT, "text": {"column": "message", "length": 6, "tokens": ["free", "prize"]}})
    model, task, inputs, _ = spoken(listed, "a prize")
    found = explain(model, task, listed.signature, listed.settings, inputs)
    assert found.records[0].words == ("(unknown)", "prize")
    with pytest.raises(ExplainError, match="not the texts"):
        explain(model, task, listed.signature, listed.settings, inputs, cells=[{"message": "free"}])
    with pytest.raises(ExplainError, match="lacks 'message'"):
        explain(model, task, listed.signature, listed.settings, inputs, cells=[{"text": "a prize"}])


def test_a_missing_text_is_one_token() -> None:
    reader = requests_of(TEXT, missing=["n/a", ""])
    model, task, inputs, cells = spoken(reader, "n/a", "", "...")
    found = explain(model, task, reader.signature, reader.settings, inputs, cells=cells)
    assert [record.words for record in found.records] == [("(missing)",), ("(missing)",), (".", ".", ".")]


def test_overall_is_over_public_records_where_there_are_some() -> None:
    reader = requests_of(SEQUENCE)
    task = task_for("gru", reader.signature)
    model = lively("gru", task)
    public = PublicRecords.synthetic(reader.signature, records=200, seed=0)
    inputs = reader.parse(body(instances=[[0.5] * 12]), JSON)
    found = explain(model, task, reader.signature, reader.settings, inputs, public=public)
    assert found.overall.records == 128
    assert "synthetic" in found.overall.origin
    assert np.asarray(found.overall.parts).shape == (4, 3)
    again = explain(model, task, reader.signature, reader.settings, inputs, public=public)
    assert json.dumps(found.to_dict()) == json.dumps(again.to_dict())
    other = PublicRecords.synthetic(requests_of(IMAGE).signature, records=3, seed=0)
    with pytest.raises(CompressionError, match="the model takes"):
        explain(model, task, reader.signature, reader.settings, inputs, public=other)


def test_arguments_that_do_not_fit_are_refused() -> None:
    reader = requests_of(IMAGE)
    task = task_for("mlp", reader.signature)
    model = zoo.build("mlp", reader.signature, seed=0)
    good = np.zeros((2, 1, 8, 8), np.float32)

    def refused(part: str, inputs: np.ndarray = good, **changes: object) -> None:
        with pytest.raises(ExplainError, match=part):
            explain(model, task, reader.signature, reader.settings, inputs, **changes)  # type: ignore[arg-type]  # on purpose

    refused("float64", good.astype(np.float64))
    refused("needs float32", good[:, 0])
    refused("at least one record", good[:0])
    refused("a NaN", good * np.float32("nan"))
    refused("limit=0", limit=0)
    refused("limit=True", limit=True)
    refused("output=3", output=3)
    refused("cells: 1 for 2 records", cells=[{}])
    with pytest.raises(ExplainError, match="another signature"):
        explain(model, task, requests_of(TABLE).signature, reader.settings, good)
    words = requests_of(TEXT)
    lstm = zoo.build("lstm", words.signature, seed=0)
    with pytest.raises(ExplainError, match=r"outside \[0, 50\)"):
        explain(lstm, task_for("lstm", words.signature), words.signature, words.settings, np.full((1, 6), 50))
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    refused("not finite")


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = requests_of(IMAGE)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ExplainError, match=r"pip install 'confide\[explain\]'"):
        attribute(
            zoo.build("mlp", reader.signature), reader.signature, np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, int)
        )
