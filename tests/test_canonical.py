"""Canonical JSON: one way to write a value, and nothing else is read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import canonical
from privacy.canonical import CanonicalError

VECTORS = json.loads((Path(__file__).parent / "vectors/privacy/ledger.json").read_text(encoding="utf-8"))["canonical"]

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
def test_what_is_written_is_read(value: object) -> None:
    assert canonical.decode(canonical.encode(value)) == value


@given(values, st.sampled_from([{"indent": 1}, {"separators": (", ", ":")}, {"ensure_ascii": True}]))
def test_no_other_spelling_is_read(value: object, how: dict) -> None:
    settings = {"sort_keys": True, "ensure_ascii": False, "separators": (",", ":")} | how
    other = json.dumps(value, **settings).encode()
    if other != canonical.encode(value):
        with pytest.raises(CanonicalError):
            canonical.decode(other)


@pytest.mark.parametrize("case", VECTORS["written"])
def test_vectors(case: dict) -> None:
    assert canonical.encode(case["value"]) == bytes.fromhex(case["hex"])
    assert canonical.decode(bytes.fromhex(case["hex"])) == case["value"]


@pytest.mark.parametrize("refused", VECTORS["refused"])
def test_refused(refused: str) -> None:
    with pytest.raises(CanonicalError):
        canonical.decode(bytes.fromhex(refused))


@pytest.mark.parametrize("value", [1, 1.5, b"x", ("a",), {1: "a"}, {"ä": "a"}, ["\ud800"], {"a": [2]}])
def test_not_written(value: object) -> None:
    with pytest.raises(CanonicalError):
        canonical.encode(value)


def test_deep_nesting_is_an_error_like_others() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CanonicalError, match="deeply"):
        canonical.encode(deep)
    with pytest.raises(CanonicalError):
        canonical.decode(b"[" * 100_000 + b"]" * 100_000)
    while deep:  # taken apart by hand: freeing it at once recurses, too
        deep = deep.pop()


@given(st.floats(min_value=0, allow_infinity=False, allow_nan=False))
def test_reals(value: float) -> None:
    assert canonical.real(canonical.write_real(abs(value))) == value


@pytest.mark.parametrize("text", VECTORS["no reals"])
def test_no_reals(text: object) -> None:
    with pytest.raises(CanonicalError):
        canonical.real(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -0.0])
def test_reals_that_cannot_be_written(value: float) -> None:
    with pytest.raises(CanonicalError):
        canonical.write_real(value)


@given(st.integers(0, 10**18 - 1))
def test_integers(value: int) -> None:
    assert canonical.integer(canonical.write_integer(value)) == value


@pytest.mark.parametrize("text", ["", "-1", "+1", "01", "1.0", "1e3", " 1", "1\n", "٣", "1" * 19, 1, None, True])
def test_no_integers(text: object) -> None:
    with pytest.raises(CanonicalError):
        canonical.integer(text)


@pytest.mark.parametrize("value", [-1, 10**18, True, 1.0, "1"])
def test_integers_that_cannot_be_written(value: int) -> None:
    with pytest.raises(CanonicalError):
        canonical.write_integer(value)


@given(st.integers(0, 253402300799))
def test_times(unix: int) -> None:
    assert canonical.unix(canonical.timestamp(unix)) == unix


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-30T00:00:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00+00:00",
        "2026-01-01T00:00:00.0Z",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00z",
        "٢026-01-01T00:00:00Z",
        None,
    ],
)
def test_no_times(text: object) -> None:
    with pytest.raises(CanonicalError):
        canonical.unix(text)
