"""Vectors of the encoding: limits and scales, elements that need no rounding, both neighbours of those that do."""

from __future__ import annotations

from hashlib import sha256

import secagg_reference as ref
from fixed import Vector, seed
from formulas import Files, vector

ALMOST_ONE = (2**32 - 1) / 2**32
COHORTS = (3, 10, 50)


def limits() -> list[Vector]:
    return [
        vector("limit", f"n = {n}: n (L + 1) does not pass 2^31 - 1", n=n, expected=ref.limit(n))
        for n in (3, 4, 5, 7, 10, 50, 99, 100, 1000, 100_000)
    ]


def scales() -> list[Vector]:
    return [
        vector(
            "scale",
            f"n = {n}, bound = {bound}; as IEEE double",
            n=n,
            bound=bound.hex(),
            expected=(ref.limit(n) / bound).hex(),
        )
        for n in COHORTS
        for bound in (1.0, 0.15, 8.5, 1e-3, 1e6)
    ]


def exact() -> list[Vector]:
    """Scale 2^20, so that every multiple of 2^-20 is a whole number and no draw changes it."""
    made = []
    for n in COHORTS:
        bound = ref.limit(n) / 2**20
        values = [0.0, -0.0, 0.5, -0.5, 1.25, -3.0, 2.0**-20, -(2.0**-20), bound, -bound, 2 * bound, -2 * bound, 1e300]
        encoded = [ref.encode(value, bound, n, 0.0) for value in values]
        made.append(
            vector(
                "encode_exact",
                f"n = {n}: whole numbers; the last three are clipped",
                n=n,
                bound=bound.hex(),
                values=[value.hex() for value in values],
                expected=[number % 2**32 for number in encoded],
            )
        )
    return made


def neighbours() -> list[Vector]:
    """For values that are rounded: the least and the greatest result that any draw may give."""
    made = []
    for n in COHORTS:
        for bound in (1.0, 0.15, 8.5):
            values = [0.1, -0.1, 1 / 3, -1 / 3, 1e-12, -1e-12, bound, -bound, 0.99999 * bound]
            made.append(
                vector(
                    "encode_between",
                    f"n = {n}, bound = {bound}; signed results for u = 0 and for u = 1 - 2^-32",
                    n=n,
                    bound=bound.hex(),
                    values=[value.hex() for value in values],
                    least=[ref.encode(value, bound, n, 0.0) for value in values],
                    greatest=[ref.encode(value, bound, n, ALMOST_ONE) for value in values],
                )
            )
    return made


def sums() -> list[Vector]:
    made = []
    for n in COHORTS:
        top = ref.limit(n) + 1
        for bound in (1.0, 0.15):
            totals = [0, 1, 2**32 - 1, n * top, 2**32 - n * top]
            made.append(
                vector(
                    "decode",
                    f"n = {n}, bound = {bound}: sums as uint32, among them the greatest and the least there can be",
                    n=n,
                    bound=bound.hex(),
                    totals=totals,
                    expected=[ref.decode(total, bound, n).hex() for total in totals],
                )
            )
    return made


def refused() -> list[Vector]:
    base = {"n": 3, "bound": (1.0).hex(), "integer": False}
    whole = {"n": 3, "bound": (100.0).hex(), "integer": True}
    cases: list[tuple[str, Vector]] = [
        ("NaN", {**base, "values": [0.0, float("nan")]}),
        ("infinity", {**base, "values": [float("inf"), 0.0]}),
        ("minus infinity", {**base, "values": [0.0, float("-inf")]}),
        ("integer lane: a fraction", {**whole, "values": [1.0, 0.5]}),
        ("integer lane: negative", {**whole, "values": [-1.0, 0.0]}),
        ("integer lane: above its bound", {**whole, "values": [101.0, 0.0]}),
        ("integer lane: NaN", {**whole, "values": [float("nan"), 0.0]}),
        ("integer lane: a bound above L", {**whole, "bound": float(ref.limit(3) + 1).hex(), "values": [0.0, 0.0]}),
        ("bound 0", {**base, "bound": (0.0).hex(), "values": [0.0, 0.0]}),
        ("negative bound", {**base, "bound": (-1.0).hex(), "values": [0.0, 0.0]}),
        ("bound NaN", {**base, "bound": "nan", "values": [0.0, 0.0]}),
        ("bound infinite", {**base, "bound": "inf", "values": [0.0, 0.0]}),
        ("a bound so small that the scale is infinite", {**base, "bound": (5e-324).hex(), "values": [0.0, 0.0]}),
    ]
    made: list[Vector] = []
    for comment, case in cases:
        values = [value.hex() for value in case["values"]]
        made.append({"op": "encode_refused", "comment": comment, **case, "values": values, "error": "encoding"})
    return made


def whole_vectors() -> list[Vector]:
    """A layout's whole vector and the sum of three of them, with the lanes `one` and `zero`."""
    n = 3
    bound = ref.limit(n) / 2**20
    delta, count = [0.5, -1.25, bound], [7, 100]
    lane = [ref.encode(value, bound, n, 0.0) % 2**32 for value in delta]
    layout = [
        {"name": "delta", "length": 3, "bound": bound.hex(), "integer": False},
        {"name": "count", "length": 2, "bound": (100.0).hex(), "integer": True},
    ]
    total = [3 * element % 2**32 for element in [*lane, *count, 1, 0]]
    decoded = {"delta": [(3 * value).hex() for value in delta], "count": [float(3 * c).hex() for c in count]}
    made = [
        vector(
            "encode_lanes",
            "the run's lanes, then one and zero",
            n=n,
            layout=layout,
            values={"delta": [value.hex() for value in delta], "count": [float(c).hex() for c in count]},
            expected=[*lane, *count, 1, 0],
        ),
        vector(
            "decode_lanes",
            "three of the vector above",
            n=n,
            layout=layout,
            total=total,
            contributors=3,
            expected=decoded,
        ),
    ]
    wrong = [
        ("one is not the number of contributors", total, 2),
        ("one is too small", [*total[:-2], 2, 0], 3),
        ("zero is not 0", [*total[:-1], 1], 3),
        ("zero is -1", [*total[:-1], 2**32 - 1], 3),
        ("a real lane beyond what two can have", [2 * (ref.limit(n) + 1) + 1, 0, 0, 14, 200, 2, 0], 2),
        ("a real lane below what two can have", [2**32 - 2 * (ref.limit(n) + 1) - 1, 0, 0, 14, 200, 2, 0], 2),
        ("too short", total[:-1], 3),
        ("too long", [*total, 0], 3),
        ("an integer lane beyond what three can have", [*total[:3], 301, 0, 3, 0], 3),
    ]
    return made + [
        vector("decode_lanes", comment, n=n, layout=layout, total=numbers, contributors=who, error="encoding")
        for comment, numbers, who in wrong
    ]


def rounded() -> list[Vector]:
    """Whole vectors whose rounding is drawn from a given key."""
    n, key = 3, seed("rounding")
    reals = {"weights": (0.15, [0.1, -0.1, 0.15, -0.15, 1 / 3, 1e-12]), "bias": (8.5, [0.0, 1 / 3, -1 / 7, 9.0])}
    u = iter(ref.draws(key, 10))
    encoded = {
        name: [ref.encode(value, bound, n, next(u)) % 2**32 for value in values]
        for name, (bound, values) in reals.items()
    }
    whole = {"name": "count", "length": 2, "bound": (100.0).hex(), "integer": True}
    layout = [
        {"name": name, "length": len(values), "bound": bound.hex(), "integer": False}
        for name, (bound, values) in reals.items()
    ]
    values = {name: [value.hex() for value in values] for name, (_, values) in reals.items()}
    many = [ref.encode(0.3, 1.0, n, draw) for draw in ref.draws(key, 40_000)]
    return [
        vector(
            "encode_lanes",
            "drawn from a key; integers between real lanes draw nothing",
            n=n,
            layout=[layout[0], whole, layout[1]],
            key=key,
            values={**values, "count": [(7.0).hex(), (100.0).hex()]},
            expected=[*encoded["weights"], 7, 100, *encoded["bias"], 1, 0],
        ),
        vector(
            "encode_many",
            "one value many times: the stream goes on; SHA-256 of the vector's little-endian bytes",
            n=n,
            layout=[{"name": "w", "length": len(many), "bound": (1.0).hex(), "integer": False}],
            key=key,
            value=(0.3).hex(),
            expected=sha256(ref.vector_bytes([*many, 1, 0])).digest(),
        ),
    ]


def layouts() -> list[Vector]:
    cases: list[tuple[str, int, list[tuple[str, int, float, bool]]]] = [
        ("one lane", 3, [("delta", 4, 0.15, False)]),
        ("the same for another cohort", 4, [("delta", 4, 0.15, False)]),
        ("two lanes, UTF-8", 50, [("Größe", 2**27, 1e-3, False), ("count", 1, 100.0, True)]),
    ]
    made = []
    for comment, n, lanes in cases:
        data = ref.layout_bytes(n, lanes)
        listed = [
            {"name": name, "length": size, "bound": bound.hex(), "integer": whole} for name, size, bound, whole in lanes
        ]
        made.append(vector("layout", comment, n=n, layout=listed, expected=data, layout_hash=ref.layout_hash(data)))
    return made


def files() -> Files:
    vectors = (
        limits() + scales() + exact() + neighbours() + sums() + whole_vectors() + rounded() + layouts() + refused()
    )
    return {"encoding": ("Encoding of lanes; real numbers are C99 hexadecimal doubles", vectors)}
