"""What goes into a model and what comes out, as public numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, TypeAlias, get_args

from models.errors import BadSignature, ModelError

Kind: TypeAlias = Literal["vector", "image", "sequence", "tokens"]
Target: TypeAlias = Literal["classes", "value"]

MAX_ELEMENTS = 2**22
MAX_VOCABULARY = 2**20
MAX_OUTPUTS = 10_000

_AXES: dict[str, str] = {"vector": "(D,)", "image": "(C, H, W)", "sequence": "(T, D)", "tokens": "(T,)"}
_RANK: dict[str, int] = {"vector": 1, "image": 3, "sequence": 2, "tokens": 1}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The shape of one record and of its label; public by definition, never read off private data.

    Attributes:
        kind: what a record is.
        shape: one record without the batch axis: vector ``(D,)``, image ``(C, H, W)``, sequence ``(T, D)``,
            tokens ``(T,)``; at most ``2**22`` elements.
        vocabulary: tokens only: ids lie in ``[0, vocabulary)`` and id 0 is padding; at most ``2**20``.
        target: ``"classes"`` (an int64 label per record) or ``"value"`` (float32 regression targets).
        outputs: number of classes (2 or more), or of regression targets (1 or more); at most 10 000.

    Inputs are float32 ``(B, *shape)``, for tokens int64 ``(B, T)``; models return float32 ``(B, outputs)``.

    Raises:
        BadSignature: a field is of the wrong type, out of bounds or in conflict with ``kind``.

    >>> Signature(kind="image", shape=(1, 8, 8), target="classes", outputs=10).elements
    64
    """

    kind: Kind
    shape: tuple[int, ...]
    vocabulary: int | None = None
    target: Target
    outputs: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise BadSignature(f"kind={self.kind!r}: must be one of {', '.join(get_args(Kind))}")
        if self.target not in get_args(Target):
            raise BadSignature(f"target={self.target!r}: must be one of {', '.join(get_args(Target))}")
        self._check_shape()
        self._check_vocabulary()
        least = 2 if self.target == "classes" else 1
        if not _is_int(self.outputs) or not least <= self.outputs <= MAX_OUTPUTS:
            raise BadSignature(
                f"outputs={self.outputs!r}: target={self.target!r} needs an integer in [{least}, {MAX_OUTPUTS}]"
            )

    @property
    def elements(self) -> int:
        """Number of scalars (or token ids) in one record."""
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON can hold them."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Rebuild what :meth:`to_dict` returned.

        Raises:
            BadSignature: a field is missing, unknown or invalid.
        """
        given = dict(known_fields(cls, values, BadSignature))
        if isinstance(given.get("shape"), list):
            given["shape"] = tuple(given["shape"])
        return cls(**given)

    def _check_shape(self) -> None:
        """Refuse a shape of the wrong rank or size."""
        rank = _RANK[self.kind]
        if (
            not isinstance(self.shape, tuple)
            or len(self.shape) != rank
            or not all(_is_int(side) and side >= 1 for side in self.shape)
        ):
            raise BadSignature(
                f"shape={self.shape!r}: kind={self.kind!r} needs a tuple {_AXES[self.kind]} of positive integers"
            )
        if self.elements > MAX_ELEMENTS:
            raise BadSignature(
                f"shape={self.shape!r}: {self.elements} elements a record; reduce it to at most {MAX_ELEMENTS}"
            )

    def _check_vocabulary(self) -> None:
        """Tokens need a vocabulary; nothing else may have one."""
        if self.kind != "tokens":
            if self.vocabulary is not None:
                raise BadSignature(
                    f"vocabulary={self.vocabulary!r}: only kind='tokens' has one; leave it out for {self.kind!r}"
                )
        elif not _is_int(self.vocabulary) or not 2 <= (self.vocabulary or 0) <= MAX_VOCABULARY:
            raise BadSignature(
                f"vocabulary={self.vocabulary!r}: kind='tokens' needs an integer in [2, {MAX_VOCABULARY}] "
                "(id 0 is padding)"
            )


def known_fields(cls: type[Any], values: object, error: type[ModelError]) -> Mapping[str, Any]:
    """Return ``values`` if it has exactly the fields of the dataclass ``cls``, else raise ``error``."""
    names = {field.name for field in fields(cls)}
    if not isinstance(values, Mapping):
        raise error(f"{cls.__name__.lower()}: must be an object with the fields {', '.join(sorted(names))}")
    if values.keys() != names:
        odd = sorted(str(name) for name in values.keys() ^ names)
        raise error(f"{cls.__name__.lower()}: missing or unknown fields {', '.join(odd)}")
    return values


def _is_int(value: object) -> bool:
    """True for integers that are not booleans."""
    return isinstance(value, int) and not isinstance(value, bool)
