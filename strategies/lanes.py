"""The one vector that leaves a department: its lanes, and what a sum of such vectors means.

Lanes are the weighted update, SCAFFOLD's control update, the weight and the validation metrics.
In clear they travel as float32; sealed, as integers mod 2^32 (:func:`sealed_encoding`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.task import Task
from secagg.encoding import Encoding, Lane
from secagg.errors import EncodingError, SecaggError
from strategies.errors import MessageError, SettingsError
from strategies.settings import RunSettings

FloatVector = npt.NDArray[np.float32]
MAX_WEIGHT = 1e12  # the largest size a department may declare
# Noised metrics lie outside these many standard deviations once in 10^15; there they are clipped.
NOISE_DEVIATIONS = 8.0
# Clipped elements are counted up to here, in runs without privacy: under it the count would be an un-noised statistic.
MAX_SATURATED = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """What one department contributes to a round.

    ``update`` float32 (P,), unweighted; ``weight`` above 0; ``control`` float32 (P,) or None;
    ``metrics`` float64 (L,).
    """

    update: FloatVector
    weight: float
    control: FloatVector | None
    metrics: npt.NDArray[np.float64]

    @property
    def finite(self) -> bool:
        """Whether no element is NaN or infinite."""
        lanes = (self.update, self.metrics) if self.control is None else (self.update, self.metrics, self.control)
        return all(bool(np.isfinite(lane).all()) for lane in lanes)

    def nothing(self) -> Lanes:
        """The same department, having learnt and measured nothing."""
        return replace(
            self,
            update=np.zeros_like(self.update),
            control=None if self.control is None else np.zeros_like(self.control),
            metrics=np.zeros_like(self.metrics),
        )


@dataclass(frozen=True, kw_only=True)
class Total:
    """The departments' vectors added up, lane by lane, in float64.

    ``update`` (P,) is the sum of weight times update, ``control`` (P,) the sum of control
    updates or None, ``weight`` the sum of weights, ``metrics`` (L,) the summed metric lanes.
    ``saturated`` counts elements that were clipped, where that is known.
    """

    update: npt.NDArray[np.float64]
    weight: float
    control: npt.NDArray[np.float64] | None
    metrics: npt.NDArray[np.float64]
    saturated: int | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each lane lies: update, control (SCAFFOLD only), weight, metrics."""

    parameters: int
    control: bool
    metrics: tuple[str, ...]

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self.parameters * (2 if self.control else 1) + 1 + len(self.metrics)

    def check_lanes(self, lanes: Lanes) -> None:
        """Raise :class:`MessageError` unless every lane is finite and of the agreed length."""
        if (lanes.control is not None) != self.control:
            raise MessageError("control: to be given if, and only if, the strategy has control variates")
        given: dict[str, tuple[npt.NDArray[Any], int]] = {
            "update": (lanes.update, self.parameters),
            "metrics": (lanes.metrics, len(self.metrics)),
        }
        if lanes.control is not None:
            given["control"] = (lanes.control, self.parameters)
        for name, (lane, length) in given.items():
            if lane.shape != (length,):
                raise MessageError(f"{name}: of shape {lane.shape}, agreed was ({length},)")
            if not np.isfinite(lane).all():
                raise MessageError(f"{name}: holds NaN or infinite values")

    def pack(self, lanes: Lanes) -> FloatVector:
        """One clear vector of a department's lanes.

        Raises :class:`MessageError` if a lane has another length than agreed, or if any
        value is not finite: such a vector is never sent.
        """
        self.check_lanes(lanes)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            parts = [np.asarray(lanes.update, np.float64) * lanes.weight]
            if lanes.control is not None:
                parts.append(np.asarray(lanes.control, np.float64))
            parts += [np.array([lanes.weight]), np.asarray(lanes.metrics, np.float64)]
            vector = np.concatenate(parts).astype(np.float32)
        self.check(vector)
        return vector

    def check(self, vector: FloatVector) -> None:
        """Raise :class:`MessageError` unless ``vector`` is finite float32 of this layout, with a weight."""
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise MessageError(
                f"vector: {vector.dtype} of shape {vector.shape}, agreed was float32 of shape ({self.size},)"
            )
        if not np.isfinite(vector).all():
            raise MessageError("vector: holds NaN or infinite values")
        weight = float(vector[self.parameters * (2 if self.control else 1)])
        if not 0 < weight <= MAX_WEIGHT:
            raise MessageError(f"vector: its weight lane must be above 0 and at most {MAX_WEIGHT:g}")

    def total(self, vectors: Sequence[FloatVector]) -> Total:
        """Sum checked vectors lane by lane, in the order given."""
        summed = np.zeros(self.size, np.float64)
        for vector in vectors:
            summed += vector
        p = self.parameters
        offset = 2 * p if self.control else p
        return Total(
            update=summed[:p],
            control=summed[p:offset] if self.control else None,
            weight=float(summed[offset]),
            metrics=summed[offset + 1 :],
        )


def control_bound(settings: RunSettings) -> float:
    """Bound of every element of a control update: an update of ``update_range``, per step and learning rate."""
    training = settings.training
    return settings.secagg.update_range * max(1.0, 2 / (training.local_steps * training.learning_rate))


def largest_bound(settings: RunSettings) -> float:
    """The largest bound of what training may change: what a roster's ``range_max`` limits."""
    return control_bound(settings) if settings.strategy.name == "scaffold" else settings.secagg.update_range


def sealed_encoding(settings: RunSettings, layout: Layout, task: Task, cohort: int) -> Encoding:
    """How a cohort of that size writes its lanes as integers mod 2^32; the same on both sides.

    Weights are at most ``secagg.max_size``, so the update lane holds weight / max_size times the
    update. Every metric lane adds up to at most one a record. Raises :class:`SettingsError` where the
    sum of the cohort's lanes could wrap around.
    """
    secagg, privacy = settings.secagg, settings.privacy
    lanes = [Lane(name="update", length=layout.parameters, bound=secagg.update_range)]
    if layout.control:
        lanes.append(Lane(name="control", length=layout.parameters, bound=control_bound(settings)))
    lanes.append(Lane(name="weight", length=1, bound=largest_weight(settings), integer=True))
    if layout.metrics:
        noise = (privacy.metric_noise or 0.0) * task.lane_sensitivity
        lanes.append(Lane(name="metrics", length=len(layout.metrics), bound=secagg.max_size + NOISE_DEVIATIONS * noise))
    if not privacy.on:
        lanes.append(Lane(name="saturated", length=1, bound=MAX_SATURATED, integer=True))
    try:
        return Encoding(lanes=tuple(lanes), cohort=cohort)
    except SecaggError as error:
        raise SettingsError(
            f"secagg.max_size = {secagg.max_size}, secagg.update_range = {secagg.update_range:g}: "
            f"{cohort} departments cannot be summed so: {error}"
        ) from None


def largest_weight(settings: RunSettings) -> int:
    """The largest weight a department may have."""
    return settings.secagg.max_size if settings.strategy.weights == "declared" else 1


def sealed_values(settings: RunSettings, layout: Layout, lanes: Lanes) -> dict[str, npt.NDArray[Any]]:
    """The lanes as :meth:`secagg.encoding.Encoding.encode` takes them.

    Without privacy a vector that is not finite is sent as nothing learnt, with every element counted as clipped: to
    refuse would tell, outside the sum, that a model chosen by the server overflows on a record of this department.

    Raises :class:`MessageError` if a lane is not finite or has another length than agreed, or if the
    weight is none that may be sent.
    """
    wild = not settings.privacy.on and not lanes.finite
    if wild:
        lanes = lanes.nothing()
    layout.check_lanes(lanes)
    most = largest_weight(settings)
    if not 1 <= lanes.weight <= most or lanes.weight != math.floor(lanes.weight):
        raise MessageError(f"weight = {lanes.weight:g}: must be a whole number from 1 to secagg.max_size = {most}")
    bound = settings.secagg.update_range
    clipped = np.clip(lanes.update, -bound, bound)
    values: dict[str, npt.NDArray[Any]] = {
        "update": clipped * np.float64(lanes.weight / most),
        "weight": np.array([lanes.weight]),
    }
    if lanes.control is not None:
        values["control"] = lanes.control
    if layout.metrics:
        values["metrics"] = lanes.metrics
    if not settings.privacy.on:
        beyond = MAX_SATURATED if wild else int((clipped != lanes.update).sum())
        values["saturated"] = np.array([min(beyond, MAX_SATURATED)])
    return values


def sealed_total(settings: RunSettings, encoding: Encoding, summed: npt.NDArray[np.uint32], contributors: int) -> Total:
    """What the sum of ``contributors`` sealed vectors means.

    Raises :class:`secagg.errors.EncodingError` if lanes whose sum is known do not hold it: then
    somebody's vector was garbage, or masks did not cancel.
    """
    lanes = encoding.decode(summed, contributors)
    most = largest_weight(settings)
    weight = float(lanes["weight"][0])
    if not contributors <= weight <= contributors * most:
        raise EncodingError(f"weight = {weight:g}: {contributors} departments cannot weigh that; the sum is left out")
    saturated = lanes.get("saturated")
    return Total(
        update=lanes["update"] * most,
        weight=weight,
        control=lanes.get("control"),
        metrics=lanes.get("metrics", np.zeros(0)),
        saturated=None if saturated is None else int(saturated[0]),
    )
