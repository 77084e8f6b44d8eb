"""Scores to answers: the numbers of training, and nothing that JSON cannot hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from models.answers import MOST_CLASSES, answers, softmax
from models.errors import SignatureMismatch
from models.signature import Signature, Target
from models.task import Task

SCORES = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=5)


def signature(target: Target = "classes", outputs: int = 3) -> Signature:
    return Signature(kind="vector", shape=(2,), target=target, outputs=outputs)


@examples(max_examples=60, deadline=None, derandomize=True)
@given(rows=SCORES)
def test_probabilities_are_torchs(rows: list[list[float]]) -> None:
    scores = np.array(rows, np.float32)
    task = Task(signature=signature(), loss_name="cross-entropy").to_dict()
    found = answers(scores, task, signature(), ["a", "b", "c"])
    wanted = torch.from_numpy(scores).double().softmax(dim=1).numpy()
    for answer, row, raw in zip(found, wanted, scores, strict=True):
        assert list(answer["probabilities"]) == ["a", "b", "c"]
        np.testing.assert_allclose(list(answer["probabilities"].values()), row, rtol=1e-12, atol=1e-300)
        assert answer["prediction"] == "abc"[int(raw.argmax())]
        assert answer["probability"] == answer["probabilities"][answer["prediction"]]
    json.dumps(found, allow_nan=False)


@examples(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=20),
    low=st.floats(-1e5, 1e5),
    width=st.floats(1, 1e6),
)
def test_values_are_the_tasks_bit_for_bit(rows: list[float], low: float, width: float) -> None:
    one = signature("value", 1)
    task = Task(signature=one, loss_name="mse", target_bounds=(low, low + width))
    scores = np.array(rows, np.float32)[:, None]
    wanted = task.unscale(torch.from_numpy(scores)).squeeze(1).tolist()
    assert [answer["prediction"] for answer in answers(scores, task.to_dict(), one, None)] == wanted


def test_several_values_are_a_list() -> None:
    two = signature("value", 2)
    task = Task(signature=two, loss_name="mse", target_bounds=(0.0, 10.0)).to_dict()
    assert answers(np.array([[0, 5]], np.float32), task, two, None) == [{"prediction": [5.0, 10.0]}]
    with pytest.raises(SignatureMismatch, match="target_bounds: missing"):
        answers(np.zeros((1, 2), np.float32), {"loss_name": "mse"}, two, None)


def test_margins_are_no_probabilities() -> None:
    task = Task(signature=signature(), loss_name="hinge").to_dict()
    found = answers(np.array([[-1, 2.5, 0]], np.float32), task, signature(), None)
    assert found == [{"prediction": "1", "score": 2.5, "scores": {"0": -1.0, "1": 2.5, "2": 0.0}}]


def test_scores_that_are_not_finite_are_no_answer() -> None:
    task = Task(signature=signature(), loss_name="cross-entropy").to_dict()
    scores = np.array([[0, 1, 0], [np.nan, 0, 0], [0, np.inf, 0]], np.float32)
    found = answers(scores, task, signature(), None)
    assert [answer["prediction"] for answer in found] == ["1", None, None]
    assert "not finite" in found[1]["reason"]
    value = signature("value", 1)
    regression = Task(signature=value, loss_name="mse", target_bounds=(0.0, 1.0)).to_dict()
    assert answers(scores[1:2, :1], regression, value, None)[0]["prediction"] is None


def test_of_many_classes_the_likeliest_are_listed() -> None:
    many = signature(outputs=500)
    task = Task(signature=many, loss_name="cross-entropy").to_dict()
    scores = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
    for answer, row, chances in zip(answers(scores, task, many, None), scores, softmax(scores), strict=True):
        assert len(answer["probabilities"]) == MOST_CLASSES
        assert answer["prediction"] == str(row.argmax()) == next(iter(answer["probabilities"]))
        assert answer["probability"] == chances.max()


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SignatureMismatch, match="this model returns"):
        answers(np.zeros(shape, np.float32), {"loss_name": "hinge"}, signature(), None)
    with pytest.raises(SignatureMismatch, match="2 names for 3 outputs"):
        answers(np.zeros((1, 3), np.float32), {"loss_name": "hinge"}, signature(), ["a", "b"])
