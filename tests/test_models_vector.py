"""A model and its vector are the same thing, and only a vector that fits is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models_cases import CASES, Case, each_case
from torch import nn

from models import zoo
from models.errors import SignatureMismatch
from models.signature import Signature
from models.vector import layout, layout_digest, load_vector, size, to_vector

SMALL = Signature(kind="vector", shape=(3,), target="classes", outputs=2)


@each_case
def test_round_trip(case: Case) -> None:
    model, other = (zoo.build(case.name, case.signature, seed=seed) for seed in (1, 2))
    vector = to_vector(model)
    assert vector.shape == (size(model),)
    assert vector.dtype == np.float32
    load_vector(other, vector)
    for (_, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b)


@given(vector=hnp.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
@settings(max_examples=50)
def test_any_finite_vector_comes_back(vector: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    model = zoo.build("logistic", SMALL, seed=0)
    load_vector(model, vector)
    assert to_vector(model).tobytes() == vector.tobytes()


def test_order_is_that_of_named_parameters() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.fill_(3.0)
    assert layout(model) == (("weight", (1, 2)), ("bias", (1,)))
    assert to_vector(model).tolist() == [1.0, 2.0, 3.0]


def test_the_vector_and_the_model_share_no_memory() -> None:
    model = zoo.build("logistic", SMALL, seed=0)
    vector = to_vector(model)
    vector[:] = 0
    assert to_vector(model).any()
    load_vector(model, vector)
    vector[:] = 9
    assert not to_vector(model).any()


def test_bytes_off_the_wire_and_strided_views_are_taken() -> None:
    model = zoo.build("logistic", SMALL, seed=0)
    wanted = np.arange(8, dtype=np.float32)
    load_vector(model, np.frombuffer(wanted.tobytes(), dtype=np.float32))
    assert np.array_equal(to_vector(model), wanted)
    load_vector(model, wanted[::-1])
    assert np.array_equal(to_vector(model), wanted[::-1])


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros(7, np.float32), r"needs a float32 array \(8,\).*got float32 \(7,\)"),
        (np.zeros((8, 1), np.float32), r"got float32 \(8, 1\)"),
        (np.zeros(8), r"got float64"),
        (np.zeros(8, ">f4"), r"got >f4"),
        ([0.0] * 8, r"got list"),
        (np.full(8, np.nan, np.float32), r"NaN or an infinity"),
        (np.array([0, 0, 0, 0, 0, 0, 0, np.inf], np.float32), r"NaN or an infinity"),
    ],
)
def test_a_vector_that_does_not_fit_changes_nothing(vector: Any, message: str) -> None:
    model = zoo.build("logistic", SMALL, seed=0)
    before = to_vector(model)
    with pytest.raises(SignatureMismatch, match=message):
        load_vector(model, vector)
    assert np.array_equal(to_vector(model), before)


def test_the_digest_tells_layouts_apart_and_ignores_values() -> None:
    def digest(case: Case, seed: int) -> str:
        return layout_digest(zoo.build(case.name, case.signature, seed=seed))

    assert len({digest(case, 1) for case in CASES}) > 5
    assert all(digest(case, 1) == digest(case, 2) for case in CASES)
    assert layout_digest(nn.Linear(2, 3)) != layout_digest(nn.Linear(3, 2))


def test_the_digest_is_pinned() -> None:
    # It is compared between machines, so changing how it is computed breaks a running federation.
    assert layout_digest(nn.Linear(2, 1)) == "3044b32f1d2f3d579ca07776d2157c8b59b4d114d71bfb2737d954eaada53617"


def test_running_statistics_are_refused_with_the_fix() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    for call in (to_vector, layout, layout_digest):
        with pytest.raises(SignatureMismatch, match=r"buffer '1.running_mean'.*use GroupNorm"):
            call(model)
    with pytest.raises(SignatureMismatch, match="running_mean"):
        load_vector(model, np.zeros(size(model), np.float32))


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(SignatureMismatch, match=r"parameter 'weight' is torch.float64"):
        to_vector(nn.Linear(2, 1).double())
