"""Adding pairwise and self masks to a vector: AES-256-CTR keystreams as little-endian uint32.

The keystream (NIST SP 800-38A) starts at a zero counter block; a mask is as long as the vector it hides.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from secagg.errors import EncodingError

# Elements at a time: 256 KiB, so that vector and keystream meet in the cache, and long enough that threads
# seldom wait for the interpreter, which is free only during the two calls that work on a chunk.
CHUNK = 1 << 16
_KEY_BYTES = 32
_WORD = 4
_BLOCK_WORDS = 4
_ZEROS = memoryview(bytes(_WORD * CHUNK))


def add_masks(target: NDArray[np.uint32], masks: Sequence[tuple[bytes, int]], *, threads: int | None = None) -> None:
    """Add ``sign * PRG(key)`` to ``target`` in place, modulo 2^32, for every ``(key, sign)``.

    Memory beside the vector: 256 KiB a thread, and one cipher context a mask and thread.

    Args:
        target: vector of shape ``(d,)``, uint32, contiguous.
        masks: AES-256 keys of 32 bytes, each with +1 or -1.
        threads: how many threads share the work; None: one for every core this process may use.

    Raises:
        EncodingError: a vector, key or sign other than these.
    """
    if target.dtype != np.uint32 or target.ndim != 1 or not target.flags.c_contiguous:
        raise EncodingError(f"target: {target.dtype} of shape {target.shape}; must be contiguous uint32 of shape (d,)")
    for key, sign in masks:
        if len(key) != _KEY_BYTES or sign not in (1, -1):
            raise EncodingError(f"mask: key of {len(key)} bytes, sign {sign}; must be {_KEY_BYTES} bytes and +1 or -1")
    # A thread with less than a chunk costs more than it saves.
    workers = max(1, min(threads or _cores(), target.size // CHUNK))
    if workers == 1:
        _add(target, 0, masks)
        return
    blocks = target.size // _BLOCK_WORDS
    edges = [_BLOCK_WORDS * (blocks * worker // workers) for worker in range(workers)] + [target.size]
    with ThreadPoolExecutor(workers - 1, thread_name_prefix="masks") as pool:
        others = [pool.submit(_add, target[edges[w] : edges[w + 1]], edges[w], masks) for w in range(1, workers)]
        _add(target[: edges[1]], 0, masks)
        for other in others:
            other.result()


def keystream(key: bytes, start: int = 0) -> CipherContext:
    """Return the keystream of a 32-byte key from element ``start`` on, a multiple of four."""
    counter = (start // _BLOCK_WORDS).to_bytes(16, "big")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def _add(part: NDArray[np.uint32], start: int, masks: Sequence[tuple[bytes, int]]) -> None:
    """Add the masks to the part of a vector that begins at element ``start``."""
    streams = [(keystream(key, start), np.add if sign > 0 else np.subtract) for key, sign in masks]
    # Little-endian whatever the machine: numpy swaps where it must.
    words = np.empty(min(CHUNK, part.size), dtype="<u4")
    octets = words.view(np.uint8).data
    for begin in range(0, part.size, CHUNK):
        piece = part[begin : begin + CHUNK]
        size = piece.size
        source, sink, mask = _ZEROS[: _WORD * size], octets[: _WORD * size], words[:size]
        for stream, combine in streams:
            stream.update_into(source, sink)
            combine(piece, mask, out=piece)


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
