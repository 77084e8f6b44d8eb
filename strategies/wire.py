"""What is in a message.

Server to department: an :class:`Instruction` (the spec, the round, the global model).
Department to server: a status code from a fixed list and, where it is ``ok``, ONE float32
vector whose lanes are the weighted update, the weight and the validation metrics. Nothing
else leaves a department: no metric, count, loss or error text outside the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Message, RecordDict

from strategies.errors import MessageError
from strategies.status import Status

VERSION = 1
FloatVector = npt.NDArray[np.float32]
MAX_WEIGHT = 1e12  # the largest size a department may declare


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One round's request to a department.

    ``model`` and ``control`` (SCAFFOLD's server variate) are float32 vectors of shape (P,).
    """

    run: str
    round: int
    spec: str
    train: bool
    evaluate: bool
    model: FloatVector
    control: FloatVector | None = None

    def to_record(self) -> RecordDict:
        """As a Flower record.

        One record of scalars and bytes instead of Flower's nested arrays: every nested object would be
        a request of its own on both sides of the SuperLink, half of a leg's time.
        """
        config: dict[str, int | str | bool | bytes] = {
            "version": VERSION,
            "run": self.run,
            "round": self.round,
            "spec": self.spec,
            "train": self.train,
            "evaluate": self.evaluate,
            "model": to_bytes(self.model),
        }
        if self.control is not None:
            config["control"] = to_bytes(self.control)
        return RecordDict({"instruction": ConfigRecord(dict(config))})

    @classmethod
    def from_record(cls, record: RecordDict) -> Instruction:
        """From a Flower record; raises :class:`MessageError` on anything unexpected."""
        try:
            config = record.config_records["instruction"]
            if type(config["version"]) is not int or config["version"] != VERSION:
                raise MessageError(f"version = {config['version']!r}: this installation speaks {VERSION}")
            run, number, spec = config["run"], config["round"], config["spec"]
            train, evaluate = config["train"], config["evaluate"]
        except KeyError as error:
            raise MessageError(f"instruction: {error.args[0]} is missing") from None
        if not (isinstance(run, str) and isinstance(spec, str)):
            raise MessageError("instruction: run and spec must be text")
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise MessageError("instruction: round must be a whole number from 1")
        if not (isinstance(train, bool) and isinstance(evaluate, bool)):
            raise MessageError("instruction: train and evaluate must be true or false")
        control = config.get("control")
        return cls(
            run=run,
            round=number,
            spec=spec,
            train=train,
            evaluate=evaluate,
            model=from_bytes(config.get("model"), "model"),
            control=None if control is None else from_bytes(control, "control"),
        )


@dataclass(frozen=True, kw_only=True)
class Total:
    """The departments' vectors added up, lane by lane, in float64.

    ``update`` (P,) is the sum of weight times update, ``control`` (P,) the sum of control
    updates or None, ``weight`` the sum of weights, ``metrics`` (L,) the summed metric lanes.
    """

    update: npt.NDArray[np.float64]
    weight: float
    control: npt.NDArray[np.float64] | None
    metrics: npt.NDArray[np.float64]


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

    def pack(
        self,
        *,
        update: FloatVector,
        weight: float,
        control: FloatVector | None,
        metrics: npt.NDArray[np.float64],
    ) -> FloatVector:
        """One vector from a department's unweighted update and its other lanes.

        Raises :class:`MessageError` if a lane has another length than agreed, or if any
        value is not finite: such a vector is never sent.
        """
        if (control is not None) != self.control:
            raise MessageError("control: to be given if, and only if, the strategy has control variates")
        lanes: dict[str, tuple[npt.NDArray[Any], int]] = {
            "update": (update, self.parameters),
            "metrics": (metrics, len(self.metrics)),
        }
        if control is not None:
            lanes["control"] = (control, self.parameters)
        for name, (lane, length) in lanes.items():
            if lane.shape != (length,):
                raise MessageError(f"{name}: of shape {lane.shape}, agreed was ({length},)")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            parts = [np.asarray(update, np.float64) * weight]
            if control is not None:
                parts.append(np.asarray(control, np.float64))
            parts += [np.array([weight]), np.asarray(metrics, np.float64)]
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


def answer(status: Status, vector: FloatVector | None = None) -> RecordDict:
    """A department's whole reply."""
    config: dict[str, int | str | bytes] = {"version": VERSION, "code": str(status)}
    if status is Status.OK and vector is not None:
        config["vector"] = to_bytes(vector)
    return RecordDict({"answer": ConfigRecord(dict(config))})


def read_answer(message: Message, layout: Layout) -> FloatVector:
    """The vector in a reply; raises :class:`MessageError` with the reason to leave it out."""
    if message.has_error():
        raise MessageError(f"flower-error-{message.error.code}")
    config = message.content.config_records.get("answer", ConfigRecord())
    version, code = config.get("version"), config.get("code")
    if type(version) is not int or version != VERSION:
        raise MessageError(f"malformed reply: not of version {VERSION}")
    # A list instead of a text would not even be comparable with the known codes.
    if not isinstance(code, str) or code not in set(Status):
        raise MessageError("malformed reply: unknown status")
    if code != Status.OK:
        raise MessageError(code)
    vector = from_bytes(config.get("vector"), "vector")
    layout.check(vector)
    return vector


def to_bytes(vector: FloatVector) -> bytes:
    """A float32 vector as little-endian bytes."""
    return vector.astype("<f4", copy=False).tobytes()


def from_bytes(data: object, name: str) -> FloatVector:
    """A float32 vector out of little-endian bytes; raises :class:`MessageError` if it is none."""
    if not isinstance(data, bytes):
        raise MessageError(f"{name}: missing, or not bytes")
    if not data or len(data) % 4:
        raise MessageError(f"{name}: {len(data)} bytes are no vector of float32")
    return np.frombuffer(data, "<f4").astype(np.float32)  # a copy: the bytes are read-only
