"""Shamir's secret sharing: any threshold of shares, fewer, and shares of those who do not follow the protocol."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import shamir
from secagg.errors import EncodingError
from secagg.shamir import PRIME, reconstruct, split

SECRET = bytes(range(32))


def probably_prime(n: int) -> bool:
    """Miller and Rabin's test to the first twelve bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        power = pow(base, odd, n)
        if power not in {1, n - 1} and all((power := power * power % n) != n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_the_modulus_is_the_smallest_prime_above_every_secret() -> None:
    assert probably_prime(PRIME)
    assert not any(probably_prime(n) for n in range(2**256, PRIME))


@settings(max_examples=60)
@given(st.data())
def test_any_threshold_of_shares_gives_the_secret(data: st.DataObject) -> None:
    points = data.draw(st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=9, unique=True))
    threshold = data.draw(st.integers(1, len(points)))
    secret = data.draw(st.binary(min_size=32, max_size=32))
    shares = split(secret, threshold, points)
    assert list(shares) == points
    assert all(len(share) == 33 for share in shares.values())
    chosen = data.draw(st.permutations(points))[: data.draw(st.integers(threshold, len(points)))]
    assert reconstruct({point: shares[point] for point in chosen}) == secret


def test_every_subset_below_the_threshold_gives_something_else() -> None:
    shares = split(SECRET, 4, range(1, 7))
    for few in itertools.combinations(shares, 3):
        try:
            assert reconstruct({point: shares[point] for point in few}) != SECRET
        except EncodingError:  # one value in 2^247 needs a 33rd byte
            continue


@pytest.mark.parametrize("threshold", [1, 2, 34, 77])
@pytest.mark.parametrize("points", [range(1, 101), range(2**32 - 101, 2**32 - 1)], ids=["small", "large"])
def test_shares_are_values_of_the_polynomial(threshold: int, points: range, monkeypatch: pytest.MonkeyPatch) -> None:
    coefficients = [(PRIME - 7) // (n + 1) for n in range(1, threshold)]
    drawn = iter(coefficients)
    monkeypatch.setattr(shamir.secrets, "randbelow", lambda below: next(drawn) % below)
    shares = split(SECRET, threshold, points)
    powers = [int.from_bytes(SECRET, "big"), *reversed(coefficients)]
    for point in points:
        value = sum(c * pow(point, k, PRIME) for k, c in enumerate(powers)) % PRIME
        assert int.from_bytes(shares[point], "big") == value


def test_two_splits_of_a_secret_differ() -> None:
    assert split(SECRET, 2, [1, 2]) != split(SECRET, 2, [1, 2])


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [
        (bytes(31), 2, [1, 2]),
        (SECRET, 0, [1, 2]),
        (SECRET, 3, [1, 2]),
        (SECRET, 1, []),
        (SECRET, 2, [1, 1]),
        (SECRET, 2, [0, 1]),
        (SECRET, 2, [1, 2**32]),
    ],
)
def test_impossible_splits_are_refused(secret: bytes, threshold: int, points: list[int]) -> None:
    with pytest.raises(EncodingError):
        split(secret, threshold, points)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "points"),
        ({0: bytes(33)}, "points"),
        ({1: bytes(32)}, "point 1"),
        ({1: PRIME.to_bytes(33, "big")}, "point 1"),
        ({1: (2**256).to_bytes(33, "big")}, "no secret"),
    ],
)
def test_impossible_shares_are_refused(shares: dict[int, bytes], message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        reconstruct(shares)
