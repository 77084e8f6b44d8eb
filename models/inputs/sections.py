"""The parts of a run's public data specification: one model for each sub-table of ``[data]``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_TOKENS = 50_000
MAX_TOKEN_LENGTH = 64
RESERVED_TOKENS = 2  # id 0 is padding, id 1 an unknown token

_WHOLE = re.compile(r"([+-]?\d+)\.0*")


class Section(BaseModel):
    """A frozen table of a TOML file in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical(text: str) -> str:
    """Return the form in which two cell texts are compared: stripped, and ``1.0`` written ``1``.

    >>> canonical(" 1.0"), canonical("1.50"), canonical("007")
    ('1', '1.50', '007')
    """
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _as_text(value: object) -> object:
    """Let a whole number stand for its text, so that ``classes = [0, 1]`` means what it says."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a list in which two entries would match the same cell."""
    seen: set[str] = set()
    for value in values:
        if canonical(value) in seen:
            raise ValueError(f"{value!r} is listed twice; list each value once")
        seen.add(canonical(value))
    return tuple(canonical(value) for value in values)


def _interval(bounds: tuple[float, float]) -> tuple[float, float]:
    """Refuse bounds that are not two finite numbers in rising order."""
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(high - low) and low < high):
        raise ValueError(f"bounds = [{low:g}, {high:g}]: give two finite numbers, the lower first")
    return bounds


Text: TypeAlias = Annotated[str, BeforeValidator(_as_text)]
Texts: TypeAlias = Annotated[tuple[Text, ...], AfterValidator(_distinct)]
Bounds: TypeAlias = Annotated[tuple[float, float], AfterValidator(_interval)]
Side: TypeAlias = Annotated[int, Field(ge=1)]


class ColumnSettings(Section):
    """One column of a table: ``bounds`` makes it numeric, ``categories`` one-hot; exactly one is given.

    Attributes:
        bounds: numbers are clipped to ``[low, high]`` and scaled to [-1, 1].
        categories: the public list of values; texts are compared stripped, and ``1.0`` equals ``1``.
    """

    bounds: Bounds | None = None
    categories: Texts | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        """Refuse a column that is both numeric and categorical, or neither."""
        if (self.bounds is None) == (self.categories is None):
            raise ValueError("give either bounds = [low, high] for numbers or categories = [...] for listed values")
        if self.categories is not None and not self.categories:
            raise ValueError("categories = []: list at least one value")
        return self


class TextSettings(Section):
    """How a text becomes ``length`` token ids: words and punctuation marks, hashed or looked up.

    Attributes:
        column: the column that holds the text.
        length: tokens kept per record; longer texts are cut, shorter ones padded with id 0.
        vocabulary: with hashing, the number of ids including padding (0) and unknown (1).
        vocabulary_file: a public UTF-8 file, one token a line; replaced by ``tokens`` before it travels.
        tokens: the public tokens themselves, ids 2, 3, … in this order.
        lowercase: fold case before tokens are looked up.
    """

    column: str
    length: int = Field(ge=1, le=65_536)
    vocabulary: int | None = Field(default=None, ge=RESERVED_TOKENS + 2, le=2**20)
    vocabulary_file: str | None = None
    tokens: tuple[str, ...] | None = None
    lowercase: bool = True

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        """Exactly one source of token ids."""
        if sum(part is not None for part in (self.vocabulary, self.vocabulary_file, self.tokens)) != 1:
            raise ValueError("give exactly one of vocabulary, vocabulary_file and tokens")
        if self.tokens is not None:
            check_tokens(self.tokens)
        return self


def check_tokens(tokens: Sequence[str]) -> None:
    """Refuse a vocabulary that is empty, too long to send, or holds blank, long or repeated tokens.

    Raises:
        ValueError: naming the first offending entry (vocabularies are public).
    """
    if not 1 <= len(tokens) <= MAX_TOKENS:
        raise ValueError(f"vocabulary of {len(tokens)} tokens: give between 1 and {MAX_TOKENS}")
    seen: set[str] = set()
    for number, token in enumerate(tokens, start=1):
        if not token.strip() or len(token) > MAX_TOKEN_LENGTH:
            raise ValueError(f"token {number}: give 1 to {MAX_TOKEN_LENGTH} characters")
        if token in seen:
            raise ValueError(f"token {number} ({token!r}) is listed twice; list each token once")
        seen.add(token)


class ImageSettings(Section):
    """Images: ``shape`` is (channels, height, width); pixels are clipped to ``bounds``, scaled to [0, 1]."""

    shape: tuple[Side, Side, Side]
    bounds: Bounds = (0.0, 255.0)


class SequenceSettings(Section):
    """Sequences: ``shape`` is (steps, features); values are clipped to ``bounds``, scaled to [-1, 1]."""

    shape: tuple[Side, Side]
    bounds: Bounds


class PartitionSettings(Section):
    """Simulation only: how one source is dealt out to departments (see ``simulations.partition``)."""

    kind: Literal["iid", "dirichlet", "quantity", "column"] = "iid"
    departments: int | None = Field(default=None, ge=1, le=100_000)
    alpha: float = Field(default=0.5, gt=0.0, le=1e6)
    column: str | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """A column belongs to kind "column"; every other kind needs a number of departments."""
        if (self.kind == "column") != (self.column is not None):
            raise ValueError('column is needed by kind = "column" and by no other kind')
        if self.kind != "column" and self.departments is None:
            raise ValueError(f"kind = {self.kind!r} needs departments = NUMBER")
        return self


class TestSettings(Section):
    """A public test set, held by the server; it never comes from a department.

    Attributes:
        path, labels_path: a source of its own.
        share: simulation only: this share of ``data.path``'s records is set aside before departments get theirs.
    """

    __test__ = False  # pytest would otherwise take the name for a test class

    path: str | None = None
    labels_path: str | None = None
    share: float | None = Field(default=None, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        """Exactly one of a source and a share."""
        if (self.path is None) == (self.share is None):
            raise ValueError("give either path, a public test file, or share, a part of data.path")
        return self
