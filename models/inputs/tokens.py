"""Texts to token ids, by a public rule: the same text gives the same ids on every machine.

A token is a run of letters and digits, or a single mark. Id 0 is padding and id 1 an unknown token; a text
without tokens is one unknown token, so that no record is padding alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from models.inputs.sections import RESERVED_TOKENS, TextSettings

PADDING: Final = 0
UNKNOWN: Final = 1

TOKEN: Final = re.compile(r"\w+|[^\w\s]")
_HASH_PERSON: Final = b"confide/token/1"


def hashed_id(token: str, vocabulary: int) -> int:
    """Return the id of a token in a hashed vocabulary: BLAKE2b, 8 bytes, little-endian, modulo.

    >>> hashed_id("free", 1000)
    938
    """
    content = hashlib.blake2b(token.encode(), digest_size=8, person=_HASH_PERSON).digest()
    return RESERVED_TOKENS + int.from_bytes(content, "little") % (vocabulary - RESERVED_TOKENS)


def token_ids(records: Sequence[str], text: TextSettings) -> npt.NDArray[np.int64]:
    """Return the first ``length`` token ids of each text, padded at the end: int64 ``(N, length)``.

    ``text`` has either ``vocabulary`` (hashing) or ``tokens`` (look-up); a vocabulary file is read by
    ``models.inputs.resolve.resolve``.
    """
    ids = np.full((len(records), text.length), PADDING, np.int64)
    known: dict[str, int] = {}
    for index, token in enumerate(text.tokens or ()):
        known.setdefault(token.lower() if text.lowercase else token, RESERVED_TOKENS + index)
    for row, record in enumerate(records):
        found = TOKEN.findall(record.lower() if text.lowercase else record)[: text.length]
        if not found:
            ids[row, 0] = UNKNOWN
        for position, token in enumerate(found):
            code = known.get(token)
            if code is None:
                code = UNKNOWN if text.vocabulary is None else hashed_id(token, text.vocabulary)
                known[token] = code
            ids[row, position] = code
    return ids
