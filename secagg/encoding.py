"""Real vectors as unsigned integers whose sum over a cohort cannot wrap, and back.

A *layout* is a list of lanes with public bounds; the vector that is masked holds them in order, and behind them
``one`` (always 1) and ``zero`` (always 0), by which the server sees that what it unmasked is a sum of the members
it thinks. Stochastic rounding makes the sum unbiased (``docs/secagg-spec.md``, "Encoding").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EncodingError
from secagg.masks import keystream
from secagg.primitives import enc, u8, u32, u64
from secagg.thresholds import check_cohort, check_size

# Elements at a time: its three buffers stay in the cache.
_CHUNK = 1 << 14
_WORD = 2.0**-32
_RESERVED = ("one", "zero")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """One part of the vector.

    Attributes:
        name: unique in the layout; ``one`` and ``zero`` are taken.
        length: number of elements, at least 1.
        bound: a real element is clipped to ``[-bound, bound]``; an integer must lie in ``[0, bound]``.
        integer: whole numbers, sent exactly.

    Raises:
        EncodingError: a field is out of range.
    """

    name: str
    length: int
    bound: float
    integer: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise EncodingError("lane: its name must not be empty")
        if not 1 <= self.length < 1 << 40:
            raise EncodingError(f"lane {self.name}: length = {self.length}; must be at least 1")
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise EncodingError(f"lane {self.name}: bound = {self.bound}; must be positive and finite")
        if self.integer and self.bound != math.floor(self.bound):
            raise EncodingError(f"lane {self.name}: bound = {self.bound}; must be whole for an integer lane")


@dataclass(frozen=True)
class Encoding:
    """How the vectors of one round's cohort are encoded.

    Attributes:
        lanes: the run's lanes, in the order of the vector.
        cohort: number of members, at least 3.

    Raises:
        EncodingError: no lanes, a name twice or reserved, a bound too large for exact sums over this cohort or so
            small that its scale is no finite number.
        FloorError: the cohort is too small, or cohort and vector together too large.
    """

    lanes: tuple[Lane, ...]
    cohort: int

    def __post_init__(self) -> None:
        check_cohort(self.cohort)
        names = [lane.name for lane in self.lanes]
        if not names or len({*names, *_RESERVED}) < len(names) + len(_RESERVED):
            raise EncodingError(f"lanes {names}: at least one, names unique and neither 'one' nor 'zero'")
        # A real value rounds to at most L + 1 and an integer is at most L, so that no sum passes 2^31 - 1.
        if self.limit < 1 or self.cohort * (self.limit + 1) > 2**31 - 1:
            raise EncodingError(f"cohort = {self.cohort}: too many members for sums of 32 bits")
        for lane in self.lanes:
            if lane.integer and lane.bound > self.limit:
                raise EncodingError(f"lane {lane.name}: bound = {lane.bound:.0f}; at most {self.limit} fits a sum")
            if not (math.isfinite(self.limit / lane.bound) and lane.bound / self.limit > 0):
                raise EncodingError(f"lane {lane.name}: bound = {lane.bound}; too small to scale")
        check_size(self.cohort, self.size)

    @property
    def limit(self) -> int:
        """``L``: the largest integer that a real element at its bound becomes, but for rounding."""
        return (2**31 - 1) // self.cohort - 1

    @property
    def size(self) -> int:
        """Elements of the vector, ``one`` and ``zero`` included."""
        return sum(lane.length for lane in self.lanes) + len(_RESERVED)

    def describe(self) -> bytes:
        """Return the layout as bytes, for ``layout_hash``.

        ``enc`` of: the cohort (u32), then for every lane its name, its length (u64), its bound (IEEE 754 double,
        big-endian) and 1 for integers or 0 (u8).
        """
        fields = [u32(self.cohort)]
        for lane in self.lanes:
            fields += [lane.name.encode(), u64(lane.length), struct.pack(">d", lane.bound), u8(lane.integer)]
        return enc(*fields)

    def quantum(self, name: str) -> float:
        """Return the step between neighbouring values of a lane (1 for integers)."""
        lane = self._lane(name)
        return 1.0 if lane.integer else 1.0 / self._scale(lane)

    def error_bound(self, name: str) -> float:
        """Return what the rounding of a whole cohort's sum stays below, per element (0 for integers)."""
        return 0.0 if self._lane(name).integer else self.cohort * self.quantum(name)

    def encode(self, values: Mapping[str, NDArray[Any]], key: bytes) -> tuple[NDArray[np.uint32], int]:
        """Return the vector of shape ``(size,)``, uint32, and how many real elements were clipped.

        Args:
            values: for every lane an array of shape ``(length,)``; floating-point for real lanes, floating-point,
                integer or boolean for integer lanes.
            key: 32 fresh random bytes, the source of the rounding; never used again.

        Raises:
            EncodingError: a lane missing, unknown or of another shape or type; NaN or infinity; in an integer
                lane anything but whole numbers within its bound.
        """
        if values.keys() != {lane.name for lane in self.lanes}:
            raise EncodingError(f"lanes {sorted(values)}: must be {sorted(lane.name for lane in self.lanes)}")
        if len(key) != 32:
            raise EncodingError(f"rounding key: {len(key)} bytes instead of 32")
        vector = np.empty(self.size, dtype=np.uint32)
        rounding = _Rounding(key)
        saturated = 0
        for lane, part in self._parts(vector):
            value = values[lane.name]
            if value.shape != (lane.length,) or value.dtype.kind not in ("fiub" if lane.integer else "f"):
                raise EncodingError(
                    f"lane {lane.name}: {value.dtype} of shape {value.shape}; must be "
                    f"{'whole numbers' if lane.integer else 'floating-point'} of shape ({lane.length},)"
                )
            if lane.integer:
                _encode_whole(lane, value, part)
            else:
                saturated += rounding.encode(lane, value, self._scale(lane), part)
        vector[-2:] = 1, 0
        return vector, saturated

    def decode(self, total: NDArray[np.uint32], contributors: int) -> dict[str, NDArray[np.float64]]:
        """Return every lane of a sum over ``contributors`` members, float64 of shape ``(length,)``.

        Raises:
            EncodingError: the sum is not one of that many vectors of this encoding: another size, the lanes
                ``one`` and ``zero`` wrong, or an element larger than that many members can have.
        """
        if total.shape != (self.size,) or total.dtype != np.uint32:
            raise EncodingError(f"sum: {total.dtype} of shape {total.shape}; must be uint32 of shape ({self.size},)")
        if not 1 <= contributors <= self.cohort:
            raise EncodingError(f"contributors = {contributors}: must lie between 1 and the cohort's {self.cohort}")
        if total[-2] != contributors or total[-1] != 0:
            raise EncodingError(
                f"sum over {contributors} members: its constant lanes are {total[-2]} and {total[-1]} instead of "
                f"{contributors} and 0; a member sent a wrong vector or seed, or they were told different things"
            )
        decoded: dict[str, NDArray[np.float64]] = {}
        for lane, part in self._parts(total.view(np.int32)):
            most = contributors * (int(lane.bound) if lane.integer else self.limit + 1)
            if int(part.min()) < (0 if lane.integer else -most) or int(part.max()) > most:
                raise EncodingError(
                    f"sum over {contributors} members: lane {lane.name} is larger than they can have; "
                    "a member sent a wrong vector or seed"
                )
            decoded[lane.name] = part / np.float64(1.0 if lane.integer else self._scale(lane))
        return decoded

    def _scale(self, lane: Lane) -> float:
        """Integers per unit of a real lane."""
        return self.limit / lane.bound

    def _lane(self, name: str) -> Lane:
        """The lane of this name."""
        for lane in self.lanes:
            if lane.name == name:
                return lane
        raise EncodingError(f"lane {name!r}: unknown; must be one of {[lane.name for lane in self.lanes]}")

    def _parts(self, vector: NDArray[Any]) -> Iterator[tuple[Lane, NDArray[Any]]]:
        """Every lane with its part of a vector."""
        start = 0
        for lane in self.lanes:
            yield lane, vector[start : start + lane.length]
            start += lane.length


class _Rounding:
    """Stochastic rounding with one keystream word an element."""

    def __init__(self, key: bytes) -> None:
        self._stream = keystream(key)
        self._zeros = memoryview(bytes(4 * _CHUNK))
        self._words = np.empty(_CHUNK, dtype="<u4")
        self._octets = self._words.view(np.uint8).data
        self._scaled = np.empty(_CHUNK)
        self._uniform = np.empty(_CHUNK)

    def encode(self, lane: Lane, value: NDArray[Any], scale: float, out: NDArray[np.uint32]) -> int:
        """Write a real lane; returns how many elements were clipped."""
        saturated = 0
        signed = out.view(np.int32)
        for start in range(0, lane.length, _CHUNK):
            piece = value[start : start + _CHUNK]
            size = piece.size
            # The extremes are NaN if any element is.
            low, high = float(piece.min()), float(piece.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise EncodingError(f"lane {lane.name}: NaN or infinite; nothing may be sent of such an update")
            scaled, uniform = self._scaled[:size], self._uniform[:size]
            np.copyto(scaled, piece, casting="same_kind")
            if low < -lane.bound or high > lane.bound:
                saturated += int(np.count_nonzero(np.abs(scaled) > lane.bound))
                # In double precision: a bound rounded to the update's own type may be larger.
                np.clip(scaled, -lane.bound, lane.bound, out=scaled)
            np.multiply(scaled, scale, out=scaled)
            self._stream.update_into(self._zeros[: 4 * size], self._octets[: 4 * size])
            np.multiply(self._words[:size], _WORD, out=uniform)
            np.add(scaled, uniform, out=scaled)
            np.floor(scaled, out=scaled)
            np.copyto(signed[start : start + size], scaled, casting="unsafe")
        return saturated


def _encode_whole(lane: Lane, value: NDArray[Any], out: NDArray[np.uint32]) -> None:
    """Write an integer lane."""
    low, high = float(value.min()), float(value.max())
    # Written so that NaN is refused too.
    if not (low >= 0 and high <= lane.bound) or (value.dtype.kind == "f" and bool(np.any(value != np.floor(value)))):
        raise EncodingError(f"lane {lane.name}: must be whole numbers from 0 to {lane.bound:.0f}")
    np.copyto(out, value, casting="unsafe")
