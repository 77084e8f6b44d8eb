"""Which records are held out: by a keyed hash of each record alone, so that no record's place depends on another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from models.inputs.errors import SettingsIncomplete

_KEY_BYTES: Final = range(16, 65)  # 128 bits of secret at least; BLAKE2b takes 64 bytes at most
_SPLIT: Final = b"confide/split/1"
# Which records a simulation's ``test.share`` sets aside is no secret.
_PUBLIC: Final = hashlib.blake2b(b"confide simulation: public test set", digest_size=32).digest()


def split_by_key(keys: Sequence[bytes], key: bytes, share: float) -> npt.NDArray[np.bool_]:
    """Return which records are held out for validation: bool ``(N,)``, each True with probability ``share``.

    A record is held out when its keyed BLAKE2b hash, read as a number in [0, 1), is below ``share``. The
    answer for one record depends on no other and on no order; equal keys go the same way; a larger
    share only adds.

    Args:
        keys: one byte string per record, or per person.
        key: the data set's secret, 16 to 64 bytes.
        share: in [0, 1].

    Raises:
        SettingsIncomplete: a key of the wrong length.
    """
    check_key(key)
    limit = int(share * 2.0**64)
    return np.fromiter((keyed(record, key, _SPLIT) < limit for record in keys), np.bool_, len(keys))


def set_aside(keys: Sequence[bytes], share: float) -> npt.NDArray[np.bool_]:
    """Return which records are a simulation's public test set: bool ``(N,)``. One key per record, or person."""
    return split_by_key(keys, _PUBLIC, share)


def keyed(content: bytes, key: bytes, person: bytes) -> int:
    """Return 64 bits of the keyed hash of some bytes."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key, person=person).digest(), "big")


def check_key(key: bytes) -> None:
    """Refuse a key that is too short to be secret or too long for BLAKE2b."""
    if len(key) not in _KEY_BYTES:
        raise SettingsIncomplete(
            f"split_key of {len(key)} bytes: give {_KEY_BYTES.start} to {_KEY_BYTES.stop - 1} random bytes"
        )
