"""Shamir's secret sharing of 32-byte secrets (Shamir 1979, doi 10.1145/359168.359176).

Shares are values of a random polynomial over the integers modulo :data:`PRIME`, the smallest prime above 2^256.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

from secagg.errors import EncodingError

PRIME = 2**256 + 297

_SECRET_BYTES = 32
_SHARE_BYTES = 33
# Horner's rule on unreduced integers is quickest while they stay this short.
_SPARE_BITS = 256


def split(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, bytes]:
    """Return a share (33 bytes, big-endian) for every point.

    Any ``threshold`` shares determine the secret; fewer say nothing about it.

    Args:
        secret: 32 bytes.
        threshold: how many shares reconstruct the secret; the polynomial's degree is one less.
        points: where the polynomial is evaluated: distinct, from 1 to 2^32 - 1.

    Raises:
        EncodingError: another length, threshold or points than these.
    """
    if len(secret) != _SECRET_BYTES:
        raise EncodingError(f"secret: {len(secret)} bytes instead of {_SECRET_BYTES}")
    _check_points(points)
    if not 1 <= threshold <= len(points):
        raise EncodingError(f"threshold = {threshold}: must lie between 1 and the {len(points)} points")
    # From the highest power down, as Horner's rule wants them.
    coefficients = [*(secrets.randbelow(PRIME) for _ in range(threshold - 1)), int.from_bytes(secret, "big")]
    return {point: _evaluate(coefficients, point).to_bytes(_SHARE_BYTES, "big") for point in points}


def reconstruct(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret (32 bytes) that shares by point determine; all that are given are used.

    The shares of a dealer who did not follow the protocol give another value, or an error.

    Raises:
        EncodingError: no shares, a share of another length or beyond the prime, or a value of more than 32 bytes.
    """
    _check_points(tuple(shares))
    total = 0
    for factor, (point, share) in zip(_lagrange(tuple(shares)), shares.items(), strict=True):
        value = int.from_bytes(share, "big")
        if len(share) != _SHARE_BYTES or value >= PRIME:
            raise EncodingError(f"share at point {point}: must be {_SHARE_BYTES} bytes below the prime")
        total += factor * value
    total %= PRIME
    if total >> 256:
        raise EncodingError("shares: they determine no secret of 32 bytes; their dealer did not follow the protocol")
    return total.to_bytes(_SECRET_BYTES, "big")


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    """The polynomial's value modulo the prime, by Horner's rule, reduced only every few steps."""
    stride = max(1, _SPARE_BITS // point.bit_length())
    value = 0
    for start in range(0, len(coefficients), stride):
        for coefficient in coefficients[start : start + stride]:
            value = value * point + coefficient
        value %= PRIME
    return value


@lru_cache(maxsize=64)
def _lagrange(points: tuple[int, ...]) -> tuple[int, ...]:
    """The factor of each point's share in the polynomial's value at zero."""
    product = math.prod(points) % PRIME
    return tuple(
        product * pow(x * math.prod(other - x for other in points if other != x), -1, PRIME) % PRIME for x in points
    )


def _check_points(points: Sequence[int]) -> None:
    """Refuse points that coincide, or at which the secret itself would stand."""
    if not points or len(set(points)) < len(points):
        raise EncodingError(f"points: {len(points)}, not all distinct; give at least one, none twice")
    if min(points) < 1 or max(points) >= 1 << 32:
        raise EncodingError("points: must lie between 1 and 2^32 - 1")
