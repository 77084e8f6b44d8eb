"""Signatures refuse what no model could take, and survive JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadSignature, ModelError
from models.signature import MAX_ELEMENTS, MAX_OUTPUTS, MAX_VOCABULARY, Signature

VECTOR: dict[str, Any] = {"kind": "vector", "shape": (4,), "target": "classes", "outputs": 3}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "audio"}, "kind='audio'"),
        ({"kind": ["vector"]}, "kind="),
        ({"target": "class"}, "target='class'"),
        ({"shape": ()}, r"shape=\(\)"),
        ({"shape": (0,)}, "positive"),
        ({"shape": (True,)}, "positive"),
        ({"shape": (2.0,)}, "positive"),
        ({"shape": [4]}, "tuple"),
        ({"shape": (4, 4)}, r"\(D,\)"),
        ({"shape": (MAX_ELEMENTS + 1,)}, "reduce it"),
        ({"kind": "image", "shape": (1, 2**12, 2**12)}, "reduce it"),
        ({"kind": "tokens"}, "vocabulary=None"),
        ({"kind": "tokens", "vocabulary": 1}, "vocabulary=1"),
        ({"kind": "tokens", "vocabulary": MAX_VOCABULARY + 1}, "vocabulary=1048577"),
        ({"vocabulary": 10}, "leave it out"),
        ({"outputs": 1}, "outputs=1"),
        ({"outputs": 2.0}, "outputs=2.0"),
        ({"outputs": MAX_OUTPUTS + 1}, "outputs=10001"),
        ({"target": "value", "outputs": 0}, "outputs=0"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BadSignature, match=field):
        Signature(**{**VECTOR, **change})


def test_the_bounds_themselves_are_allowed() -> None:
    Signature(**{**VECTOR, "shape": (MAX_ELEMENTS,), "outputs": MAX_OUTPUTS})
    Signature(kind="tokens", shape=(1,), vocabulary=MAX_VOCABULARY, target="value", outputs=1)


@given(
    shape=st.tuples(*[st.integers(1, 64)] * 3),
    outputs=st.integers(2, MAX_OUTPUTS),
    target=st.sampled_from(["classes", "value"]),
)
def test_json_round_trip(shape: tuple[int, int, int], outputs: int, target: Any) -> None:
    signature = Signature(kind="image", shape=shape, target=target, outputs=outputs)
    assert Signature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature


@pytest.mark.parametrize("values", [None, [], {}, {**VECTOR, "vocabulary": None, "colour": 3}, VECTOR])
def test_fields_from_outside_must_be_exactly_ours(values: object) -> None:
    with pytest.raises(BadSignature, match="signature: "):
        Signature.from_dict(values)


def test_one_tree() -> None:
    assert issubclass(BadSignature, ModelError)
    assert issubclass(ModelError, ValueError)
