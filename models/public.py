"""Records that a published model may be compressed, measured and described with: public or made up, never private.

What is computed from records ends up in a published file: quantisation ranges are calibrated with them, pruned
and distilled weights are trained on them. None of that is paid for in privacy, so only records that cost nothing
may be used. They have a type of their own, and the functions that use them take nothing else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from models.errors import CompressionError, PrivateDataRefused
from models.signature import Signature

Declared: TypeAlias = Literal["bundled", "test set", "file"]
Origin: TypeAlias = Declared | Literal["synthetic"]

_FACTORY: Final = object()
_MOST: Final = 1_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class PublicRecords:
    """Model inputs (and targets) that are public; made by :meth:`declared` or :meth:`synthetic`, by nothing else.

    Attributes:
        inputs: float32 ``(N, *shape)``, for tokens int64 ``(N, T)``; read-only.
        targets: int64 ``(N,)`` labels, float32 ``(N, outputs)`` values in their own units, or None; read-only.
        origin: where they come from, as the published lineage says it.
        source: which set, file or generator, for people; no path of a machine.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any] | None
    origin: Origin
    source: str
    _made_by: InitVar[object] = None

    def __post_init__(self, _made_by: object) -> None:
        if _made_by is not _FACTORY:
            raise PrivateDataRefused(
                "PublicRecords: made directly; say where the records come from with PublicRecords.declared, "
                "or make them up with PublicRecords.synthetic"
            )

    @classmethod
    def declared(cls, inputs: object, targets: object = None, *, origin: Declared, source: str) -> Self:
        """Return records that the caller vouches for as public; a copy is kept.

        Whether they are is the caller's to judge: this notes the claim, which is published.

        Raises:
            CompressionError: an array has another dtype or shape, a NaN, or no record; or the origin is unknown.
        """
        if origin not in get_args(Declared):
            raise CompressionError(f"origin={origin!r}: must be one of {', '.join(get_args(Declared))}")
        if not isinstance(source, str) or not source or len(source) > 200:
            raise CompressionError("source: must name where the records come from in 1 to 200 characters")
        kept = _checked_inputs(inputs)
        return cls(
            inputs=kept, targets=_checked_targets(targets, len(kept)), origin=origin, source=source, _made_by=_FACTORY
        )

    @classmethod
    def synthetic(cls, signature: Signature, *, records: int, seed: int) -> Self:
        """Return records drawn within the public input domain, without targets; a function of the arguments.

        Vectors are uniform in [-1, 1]. Images (in [0, 1]) and sequences (in [-1, 1]) are uniform noise, smooth
        shapes, and mixtures of both, a third each, since networks behave differently on noise and on pictures.
        Tokens are uniform ids behind which a random tail is padding.

        Raises:
            CompressionError: the number of records is not in [1, 1 000 000], or the seed is negative.
        """
        if type(seed) is not int or seed < 0:
            raise CompressionError(f"seed={seed!r}: must be an integer of at least 0")
        if type(records) is not int or not 1 <= records <= _MOST:
            raise CompressionError(f"records={records!r}: must be an integer in [1, {_MOST}]")
        made = _sampled(signature, records, np.random.default_rng(seed))
        made.setflags(write=False)
        source = f"uniform and smooth {signature.kind} records, seed {seed}"
        return cls(inputs=made, targets=None, origin="synthetic", source=source, _made_by=_FACTORY)

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over dtype, shape and bytes of the inputs and of the targets."""
        found = hashlib.sha256(b"confide/public-records/v1\n")
        for array in (self.inputs, self.targets):
            if array is None:
                found.update(b"null\n")
                continue
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            found.update(json.dumps([little.dtype.str, list(little.shape)]).encode() + b"\n")
            found.update(little.tobytes())
        return found.hexdigest()

    def check(self, signature: Signature) -> None:
        """Refuse records that do not fit a model.

        Raises:
            CompressionError: a shape, dtype, token id or label does not suit the signature.
        """
        wanted = np.dtype(np.int64 if signature.kind == "tokens" else np.float32)
        if self.inputs.shape[1:] != signature.shape or self.inputs.dtype != wanted:
            raise CompressionError(
                f"inputs {self.inputs.dtype} {self.inputs.shape}: the model takes {wanted} (N, "
                f"{', '.join(map(str, signature.shape))}); prepare the records with the run's own data settings"
            )
        if signature.vocabulary is not None and not _within(self.inputs, signature.vocabulary):
            raise CompressionError(f"inputs: a token id lies outside [0, {signature.vocabulary}); fix the vocabulary")
        if self.targets is None:
            return
        if signature.target == "value":
            if self.targets.dtype != np.float32 or self.targets.shape != (len(self), signature.outputs):
                raise CompressionError(
                    f"targets {self.targets.dtype} {self.targets.shape}: needs float32 (N, {signature.outputs})"
                )
        elif self.targets.dtype != np.int64 or not _within(self.targets, signature.outputs):
            raise CompressionError(f"targets: must be int64 labels in [0, {signature.outputs}); fix the classes")

    def head(self, most: int) -> Self:
        """Return at most ``most`` of the records, spread evenly over all of them."""
        return self if len(self) <= most else self._picked(np.linspace(0, len(self) - 1, most).astype(np.int64))

    def split(self, share: float, *, seed: int) -> tuple[Self, Self]:
        """Return the records in two disjoint parts, at random: of ``share`` and of the rest, neither of them empty.

        Raises:
            CompressionError: there are fewer than two records.
        """
        if len(self) < 2:
            raise CompressionError(f"records={len(self)}: two parts need at least 2; give more public records")
        order = np.random.default_rng(seed).permutation(len(self))
        first = min(max(round(share * len(self)), 1), len(self) - 1)
        return self._picked(np.sort(order[:first])), self._picked(np.sort(order[first:]))

    def _picked(self, rows: NDArray[np.int64]) -> Self:
        """Return some of the records."""
        inputs, targets = self.inputs[rows], None if self.targets is None else self.targets[rows]
        inputs.setflags(write=False)
        if targets is not None:
            targets.setflags(write=False)
        return type(self)(inputs=inputs, targets=targets, origin=self.origin, source=self.source, _made_by=_FACTORY)


def public_only(records: object, field: str) -> PublicRecords:
    """Return ``records`` if they are declared public or made up, else refuse them.

    Raises:
        PrivateDataRefused: arrays, tensors, data sets and loaders alike, whatever they hold.
    """
    if not isinstance(records, PublicRecords):
        raise PrivateDataRefused(
            f"{field}: got {type(records).__name__}, but compression takes PublicRecords alone; declare public "
            "records with PublicRecords.declared, or use PublicRecords.synthetic"
        )
    return records


def _checked_inputs(inputs: object) -> NDArray[Any]:
    """Return a read-only copy of inputs of the right form."""
    if (
        not isinstance(inputs, np.ndarray)
        or inputs.dtype not in (np.float32, np.int64)
        or inputs.ndim < 2
        or not 1 <= len(inputs) <= _MOST
    ):
        given = f"{inputs.dtype} {inputs.shape}" if isinstance(inputs, np.ndarray) else type(inputs).__name__
        raise CompressionError(
            f"inputs: needs an array float32 (N, ...) or int64 (N, T) of 1 to {_MOST} records, got {given}"
        )
    return _frozen(inputs, "inputs")


def _checked_targets(targets: object, records: int) -> NDArray[Any] | None:
    """Return a read-only copy of targets of the right form; values get their second axis."""
    if targets is None:
        return None
    if isinstance(targets, np.ndarray) and len(targets) == records:
        if targets.dtype == np.float32 and targets.ndim in (1, 2):
            return _frozen(targets.reshape(records, -1), "targets")
        if targets.dtype == np.int64 and targets.ndim == 1:
            return _frozen(targets, "targets")
    given = f"{targets.dtype} {targets.shape}" if isinstance(targets, np.ndarray) else type(targets).__name__
    raise CompressionError(f"targets: needs int64 ({records},) or float32 ({records}, outputs), got {given}")


def _frozen(array: NDArray[Any], field: str) -> NDArray[Any]:
    """Return a contiguous copy nobody can write to."""
    if not np.isfinite(array).all():
        raise CompressionError(f"{field}: a NaN or an infinity; remove those records")
    copy = np.array(array, order="C")
    copy.setflags(write=False)
    return copy


def _within(values: NDArray[Any], end: int) -> bool:
    """True if every integer lies in ``[0, end)``."""
    return bool(values.min() >= 0 and values.max() < end)


def _sampled(signature: Signature, records: int, generator: np.random.Generator) -> NDArray[Any]:
    """Draw records of any kind."""
    shape = (records, *signature.shape)
    if signature.vocabulary is not None:
        ids = generator.integers(1, signature.vocabulary, shape, dtype=np.int64)
        lengths = generator.integers(1, signature.shape[0] + 1, (records, 1))
        return np.where(np.arange(signature.shape[0]) < lengths, ids, 0)
    noise = generator.uniform(-1, 1, shape).astype(np.float32)
    if signature.kind == "vector":
        return noise
    smooth = _waves(signature, records, generator)
    share = np.resize(np.array([0.0, 1.0, 0.6], np.float32), records).reshape(-1, *[1] * len(signature.shape))
    mixed = (share * smooth + (1 - share) * noise).astype(np.float32)
    return (mixed + 1) / 2 if signature.kind == "image" else mixed


def _waves(signature: Signature, records: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw a few plane waves a channel, clipped to [-1, 1]: over (H, W) of an image, over (T,) of a sequence."""
    channels, *sides = signature.shape if signature.kind == "image" else (signature.shape[1], signature.shape[0])
    total = np.zeros((records, channels, *sides), np.float32)
    for _ in range(3):
        phase = generator.uniform(0, 2 * np.pi, (records, channels, *[1] * len(sides)))
        for axis, side in enumerate(sides):
            turns = generator.uniform(-2, 2, (records, channels, *[1] * len(sides)))
            line = np.linspace(0, 1, side).reshape([-1 if axis == other else 1 for other in range(len(sides))])
            phase = phase + 2 * np.pi * turns * line
        total += np.sin(phase).astype(np.float32)
    total = total.clip(-1, 1)
    return total if signature.kind == "image" else np.ascontiguousarray(total.transpose(0, 2, 1))
