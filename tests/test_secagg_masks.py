"""Masks: the keystream as specified, however many threads and whatever the length, and sums that cancel."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.errors import EncodingError
from secagg.masks import CHUNK, add_masks, keystream

KEYS = [hashlib.sha256(bytes([n])).digest() for n in range(6)]


def prg(key: bytes, size: int) -> NDArray[np.uint32]:
    """AES-256 of the counter blocks 0, 1, …, one block at a time."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  # counter mode, written out
    counters = b"".join(block.to_bytes(16, "big") for block in range(-(-size // 4)))
    return np.frombuffer(cipher.update(counters), dtype="<u4")[:size].astype(np.uint32)


def numbers(size: int) -> NDArray[np.uint32]:
    return np.random.default_rng(7).integers(0, 1 << 32, size, dtype=np.uint32)


def test_the_keystream_is_the_published_one() -> None:
    """NIST SP 800-38A has no zero counter; this is FIPS 197's cipher on the zero block under the zero key."""
    target = np.zeros(4, dtype=np.uint32)
    add_masks(target, [(bytes(32), 1)])
    assert target.astype("<u4").tobytes().hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize("size", [0, 1, 3, 4, 1001, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5, 3 * CHUNK])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_masks_are_added_as_specified(size: int, threads: int) -> None:
    target = numbers(size)
    expected = target + prg(KEYS[0], size) - prg(KEYS[1], size)
    add_masks(target, [(KEYS[0], 1), (KEYS[1], -1)], threads=threads)
    assert np.array_equal(target, expected)


def test_the_number_of_cores_changes_nothing() -> None:
    one, any_number = numbers(5 * CHUNK + 3), numbers(5 * CHUNK + 3)
    masks = [(key, 1) for key in KEYS]
    add_masks(one, masks, threads=1)
    add_masks(any_number, masks)
    assert np.array_equal(one, any_number)


@settings(max_examples=25)
@given(n=st.integers(2, 5), size=st.integers(1, 40))
def test_pairwise_masks_cancel_in_the_sum(n: int, size: int) -> None:
    plain = [numbers(size) + np.uint32(i) for i in range(n)]
    masked = [vector.copy() for vector in plain]
    for i in range(n):
        pairs = [(hashlib.sha256(bytes([min(i, j), max(i, j)])).digest(), 1 if j > i else -1) for j in range(n)]
        add_masks(masked[i], pairs[:i] + pairs[i + 1 :])
        assert n == 1 or not np.array_equal(masked[i], plain[i])
    assert np.array_equal(np.sum(masked, axis=0, dtype=np.uint32), np.sum(plain, axis=0, dtype=np.uint32))


def test_the_keystream_can_start_within() -> None:
    assert keystream(KEYS[0], 8).update(bytes(16)) == prg(KEYS[0], 12)[8:].astype("<u4").tobytes()


def test_memory_does_not_grow_with_masks_or_vector() -> None:
    target = np.zeros(1 << 20, dtype=np.uint32)
    masks = [(key, 1) for key in KEYS]
    tracemalloc.start()
    add_masks(target, masks, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < target.nbytes / 4


@pytest.mark.parametrize(
    "target",
    [np.zeros(4, np.int32), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2], np.zeros(4, ">u4")],
    ids=["signed", "matrix", "strided", "swapped"],
)
def test_other_vectors_are_refused(target: NDArray[np.uint32]) -> None:
    with pytest.raises(EncodingError, match="target"):
        add_masks(target, [(KEYS[0], 1)])


@pytest.mark.parametrize("mask", [(bytes(16), 1), (bytes(32), 0), (bytes(32), 2)])
def test_other_masks_are_refused_before_anything_is_added(mask: tuple[bytes, int]) -> None:
    target = np.zeros(4, dtype=np.uint32)
    with pytest.raises(EncodingError, match="mask"):
        add_masks(target, [(KEYS[0], 1), mask])
    assert not target.any()
