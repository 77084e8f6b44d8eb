"""The encoding: unbiased, exact to a known error, and with sums that cannot wrap."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.encoding import Encoding, Lane
from secagg.errors import EncodingError, FloorError
from secagg.masks import keystream

KEY = bytes(range(32))
ENCODING = Encoding((Lane(name="update", length=5, bound=2.0), Lane(name="weight", length=1, bound=9, integer=True)), 4)


def keys(seed: int) -> bytes:
    return seed.to_bytes(32, "big")


def update(*values: float, weight: Any = 3) -> dict[str, NDArray[Any]]:
    return {"update": np.array(values or (0.0,) * 5, dtype=np.float32), "weight": np.array([weight])}


def real(length: int, bound: float, cohort: int) -> Encoding:
    return Encoding((Lane(name="x", length=length, bound=bound),), cohort)


def test_the_vector_holds_the_lanes_and_two_constants() -> None:
    vector, saturated = ENCODING.encode(update(0.0, 2.0, -2.0, 0.0, 0.0), KEY)
    assert vector.dtype == np.uint32
    assert ENCODING.size == vector.size == 5 + 1 + 2
    assert ENCODING.limit == 2**29 - 2
    assert vector.tolist() == [0, 2**29 - 2, 2**32 - (2**29 - 2), 0, 0, 3, 1, 0]
    assert saturated == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_elements_are_rounded_as_specified(dtype: type) -> None:
    length = 40_000  # more than two chunks
    values = np.random.default_rng(1).normal(0, 1, length).astype(dtype)
    lanes = (Lane(name="a", length=3, bound=1.0), Lane(name="b", length=length, bound=1.5))
    encoding = Encoding(lanes, 11)
    vector, saturated = encoding.encode({"a": np.zeros(3), "b": values}, KEY)
    words = np.frombuffer(keystream(KEY).update(bytes(4 * (length + 3))), dtype="<u4")[3:]
    clipped = np.clip(values.astype(np.float64), -1.5, 1.5)
    expected = np.floor(clipped * (encoding.limit / 1.5) + words / 2.0**32).astype(np.int64)
    assert np.array_equal(vector[3:-2].view(np.int32), expected)
    assert saturated == np.count_nonzero(np.abs(values.astype(np.float64)) > 1.5) > 0


@settings(max_examples=60)
@given(data=st.data())
def test_a_sum_is_exact_to_its_error_bound(data: st.DataObject) -> None:
    cohort = data.draw(st.integers(3, 12))
    present = data.draw(st.integers(1, cohort))
    bound = data.draw(st.floats(1e-6, 1e6))
    elements = st.floats(-bound, bound, allow_subnormal=False)
    encoding = real(4, bound, cohort)
    vectors = [np.array(data.draw(st.lists(elements, min_size=4, max_size=4))) for _ in range(present)]
    total = np.zeros(encoding.size, dtype=np.uint32)
    for seed, vector in enumerate(vectors):
        total += encoding.encode({"x": vector}, keys(seed))[0]
    error = np.abs(encoding.decode(total, present)["x"] - np.sum(vectors, axis=0))
    assert encoding.error_bound("x") == pytest.approx(cohort * bound / encoding.limit)
    assert np.all(error < encoding.error_bound("x"))


def test_rounding_is_unbiased() -> None:
    """A quarter of a step is rounded up a quarter of the time: standard error 0.0014, so 5 of them."""
    encoding = real(100_000, 1.0, 3)
    value = np.full(100_000, 1000.25 * encoding.quantum("x"))
    rounded = encoding.encode({"x": value}, KEY)[0][:-2]
    assert set(rounded.tolist()) == {1000, 1001}
    assert abs(float(np.mean(rounded)) - 1000.25) < 0.007
    again = encoding.encode({"x": value}, keys(1))[0][:-2]
    assert not np.array_equal(rounded, again)


@pytest.mark.parametrize("cohort", [3, 4, 7, 50, 999, 100_000])
@pytest.mark.parametrize("bound", [0.1, 1 / 3, 64.0, 1e-30, 1e30])
def test_no_sum_wraps(cohort: int, bound: float) -> None:
    """Single precision's 0.1 is larger than 0.1: clipped in single precision, three of them would wrap."""
    encoding = real(2, bound, cohort)
    for sign in (1.0, -1.0):
        value = sign * np.full(2, bound, dtype=np.float32)
        highest = [encoding.encode({"x": value * np.float32(2)}, keys(seed))[0][:2].view(np.int32) for seed in range(9)]
        highest += [encoding.encode({"x": value}, keys(seed))[0][:2].view(np.int32) for seed in range(9)]
        extreme = int(np.max(np.abs(np.array(highest, dtype=np.int64))))
        assert encoding.limit - 1 - encoding.limit * 1e-6 <= extreme <= encoding.limit + 1
        assert cohort * extreme <= 2**31 - 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 20_000, -1])
def test_not_a_number_is_refused(bad: float, place: int) -> None:
    value = np.zeros(40_000, dtype=np.float32)
    value[place] = bad
    with pytest.raises(EncodingError, match="lane x: NaN or infinite"):
        real(40_000, 1.0, 3).encode({"x": value}, KEY)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -1, 10, 0.5, 9.5, -0.5, 2**40])
def test_integer_lanes_take_whole_numbers_within_their_bound(weight: Any) -> None:
    with pytest.raises(EncodingError, match="lane weight"):
        ENCODING.encode(update(weight=weight), KEY)


@pytest.mark.parametrize("weight", [0, 9, 9.0, np.uint8(7), True])
def test_integer_lanes_are_exact(weight: Any) -> None:
    vector, _ = ENCODING.encode(update(weight=weight), KEY)
    assert ENCODING.decode(vector, 1)["weight"].tolist() == [float(weight)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"update": np.zeros(5)}, "lanes"),
        (update() | {"more": np.zeros(1)}, "lanes"),
        (update(1.0, 2.0), "shape"),
        (update() | {"update": np.zeros((5, 1))}, "shape"),
        (update() | {"update": np.zeros(5, dtype=np.int64)}, "int64"),
        (update() | {"update": np.zeros(5, dtype=np.complex64)}, "complex64"),
        (update() | {"weight": np.array(["3"])}, "<U1"),
    ],
)
def test_other_values_are_refused(values: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        ENCODING.encode(values, KEY)


def test_another_rounding_key_is_refused() -> None:
    with pytest.raises(EncodingError, match="16 bytes"):
        ENCODING.encode(update(), KEY[:16])


def summed(members: int) -> NDArray[np.uint32]:
    vectors = [ENCODING.encode(update(1.0, -1.0, 0.5, 0.0, 2.0), keys(n))[0] for n in range(members)]
    return np.sum(vectors, axis=0, dtype=np.uint32)


def test_a_sum_is_decoded() -> None:
    decoded = ENCODING.decode(summed(3), 3)
    assert decoded["weight"].tolist() == [9.0]
    assert decoded["update"] == pytest.approx([3.0, -3.0, 1.5, 0.0, 6.0], abs=ENCODING.error_bound("update"))
    assert ENCODING.error_bound("weight") == 0.0
    assert ENCODING.quantum("weight") == 1.0


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (-2, 2, "constant lanes are 2 and 0"),
        (-1, 1, "constant lanes are 3 and 1"),
        (5, 28, "lane weight"),
        (5, 2**32 - 1, "lane weight"),
        (0, 3 * (2**29 - 1) + 1, "lane update"),
        (4, 2**32 - 3 * (2**29 - 1) - 1, "lane update"),
    ],
)
def test_what_cannot_be_a_sum_is_refused(index: int, value: int, message: str) -> None:
    total = summed(3)
    total[index] = value
    with pytest.raises(EncodingError, match=message):
        ENCODING.decode(total, 3)


def test_an_unmasked_vector_that_is_noise_is_refused() -> None:
    noise = np.frombuffer(keystream(KEY).update(bytes(4 * ENCODING.size)), dtype=np.uint32)
    with pytest.raises(EncodingError, match="constant lanes"):
        ENCODING.decode(noise, 4)


@pytest.mark.parametrize(
    ("total", "contributors"),
    [
        (np.zeros(7, np.uint32), 3),
        (np.zeros(8, np.int32), 3),
        (np.zeros((8, 1), np.uint32), 3),
        (summed(3), 0),
        (summed(3), 5),
    ],
)
def test_sums_of_other_shapes_are_refused(total: NDArray[Any], contributors: int) -> None:
    with pytest.raises(EncodingError, match=r"sum|contributors"):
        ENCODING.decode(total, contributors)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"length": 0},
        {"bound": 0.0},
        {"bound": -1.0},
        {"bound": float("nan")},
        {"bound": float("inf")},
        {"bound": 1.5, "integer": True},
    ],
    ids=str,
)
def test_impossible_lanes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EncodingError, match="lane"):
        Lane(**{"name": "x", "length": 1, "bound": 1.0} | wrong)


def test_impossible_layouts_are_refused() -> None:
    lane = Lane(name="x", length=1, bound=1.0)
    for lanes in (
        (),
        (lane, lane),
        (Lane(name="one", length=1, bound=1.0),),
        (Lane(name="zero", length=1, bound=1.0),),
    ):
        with pytest.raises(EncodingError, match="lanes"):
            Encoding(lanes, 3)
    with pytest.raises(EncodingError, match="at most 536870910"):
        Encoding((Lane(name="x", length=1, bound=2.0**29 - 1, integer=True),), 4)
    Encoding((Lane(name="x", length=1, bound=2.0**29 - 2, integer=True),), 4)
    with pytest.raises(EncodingError, match="too small to scale"):
        Encoding((Lane(name="x", length=1, bound=5e-324),), 4)
    with pytest.raises(EncodingError, match="too many members"):
        Encoding((lane,), 2**30 + 1)
    with pytest.raises(FloorError, match="at least 3 members"):
        Encoding((lane,), 2)
    with pytest.raises(FloorError, match="in all"):
        real(10**8, 1.0, 101)
    with pytest.raises(EncodingError, match="'y': unknown"):
        ENCODING.quantum("y")


def test_the_description_holds_everything_that_is_summed() -> None:
    def field(content: bytes) -> bytes:
        return struct.pack(">Q", len(content)) + content

    update_lane = [b"update", struct.pack(">Q", 5), struct.pack(">d", 2.0), b"\0"]
    weight_lane = [b"weight", struct.pack(">Q", 1), struct.pack(">d", 9.0), b"\1"]
    fields = [struct.pack(">I", 4), *update_lane, *weight_lane]
    assert ENCODING.describe() == b"".join(map(field, fields))
    lane = Lane(name="x", length=2, bound=4.0)
    variants = [
        Encoding((lane,), 3),
        Encoding((lane,), 4),
        Encoding((Lane(name="y", length=2, bound=4.0),), 3),
        Encoding((Lane(name="x", length=3, bound=4.0),), 3),
        Encoding((Lane(name="x", length=2, bound=np.nextafter(4.0, 5.0)),), 3),
        Encoding((Lane(name="x", length=2, bound=4.0, integer=True),), 3),
        Encoding((lane, Lane(name="z", length=1, bound=1.0)), 3),
    ]
    assert len({variant.describe() for variant in variants}) == len(variants)
