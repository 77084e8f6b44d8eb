"""Token ids back to words: those of the caller's own text, or of a public vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ExplainError
from models.inputs.sections import RESERVED_TOKENS, TextSettings

# The rule by which texts were cut for training; any other would put attributions under the wrong words.
from models.inputs.tokens import PADDING, TOKEN, UNKNOWN, token_ids

_LISTED: Final = 50
_MISSING: Final = "(missing)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """The words of tokenised records.

    Attributes:
        ids: int64 ``(N, T)``.
        spoken: the words of each record, one for each id that is no padding.
        known: the words an id was seen to stand for; hashed words may share one.
    """

    ids: NDArray[np.int64]
    spoken: tuple[tuple[str, ...], ...]
    known: Mapping[int, tuple[str, ...]]

    def of(self, record: int) -> tuple[str, ...]:
        """Return a record's words."""
        return self.spoken[record]

    def sums(self, record: int, values: NDArray[np.float64]) -> dict[str, float]:
        """Return what each word of a record adds, over all its places."""
        found: dict[str, float] = {}
        for word, value in zip(self.spoken[record], values.tolist(), strict=False):
            found[word] = found.get(word, 0.0) + value
        return found

    def overall(self, values: NDArray[np.float64]) -> dict[str, float]:
        """Return the mean absolute attribution a record of the 50 tokens that matter most."""
        used = self.ids != PADDING
        totals = np.bincount(self.ids[used], weights=abs(values[used]))
        order = [int(code) for code in np.argsort(-totals, kind="stable")[:_LISTED] if totals[code] > 0]
        return {self._name(code): float(totals[code] / len(self.ids)) for code in order}

    def _name(self, code: int) -> str:
        """Name an id by the words seen to have it."""
        return " / ".join(self.known.get(code, (f"#{code}",)))


def words_of(
    text: TextSettings,
    ids: NDArray[Any],
    cells: Sequence[Mapping[str, str]] | None,
    *,
    known: Words | None = None,
) -> Words:
    """Return the words of tokenised records.

    Without ``cells`` an id is named by the public vocabulary, by what ``known`` knows, or by its number.

    Raises:
        ExplainError: the cells hold other texts than those the ids were made of.
    """
    names: dict[int, tuple[str, ...]] = {UNKNOWN: ("(unknown)",)}
    names |= {RESERVED_TOKENS + index: (token,) for index, token in enumerate(text.tokens or ())}
    if known is not None:
        names = {**known.known, **names}
    if cells is None:
        spoken = [tuple(names.get(code, (f"#{code}",))[0] for code in row if code != PADDING) for row in ids.tolist()]
        return Words(ids=ids, spoken=tuple(spoken), known=names)
    if any(text.column not in each for each in cells):
        raise ExplainError(f"cells: a record lacks {text.column!r}; take them from Requests.cells")
    spoken = [_said(row, each[text.column], text) for row, each in zip(ids, cells, strict=True)]
    seen: dict[int, list[str]] = {}
    for row, said in zip(ids.tolist(), spoken, strict=True):
        for code, word in zip(row, said, strict=False):
            if code not in names and word not in seen.setdefault(code, []) and len(seen[code]) < 3:
                seen[code].append(word)
    return Words(ids=ids, spoken=tuple(spoken), known=names | {code: tuple(found) for code, found in seen.items()})


def spoken_words(record: str, text: TextSettings) -> list[str]:
    """Cut a text into the words that are read of it, as ``token_ids`` does.

    >>> spoken_words("Free entry!", TextSettings(column="t", length=9, vocabulary=100))
    ['free', 'entry', '!']
    """
    return TOKEN.findall(record.lower() if text.lowercase else record)[: text.length]


def _said(row: NDArray[np.int64], record: str, text: TextSettings) -> tuple[str, ...]:
    """Return the words behind one record's ids."""
    if np.array_equal(token_ids([record], text)[0], row):
        return tuple(spoken_words(record, text)) or (_MISSING,)
    # A text that the specification lists as missing is read as an empty one.
    if np.array_equal(token_ids([""], text)[0], row):
        return (_MISSING,)
    raise ExplainError("cells: not the texts these inputs were made of; take both from one request")
