"""What is in a message.

Server to department: an :class:`Instruction` (the spec, the round, the global model).
Department to server: a status code from a fixed list and, where it is ``ok``, ONE float32
vector whose lanes are the weighted update, the weight and the validation metrics. Nothing
else leaves a department: no metric, count, loss or error text outside the vector.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.lib import format as npy

from strategies.errors import MessageError
from strategies.status import Status

VERSION = 1
FloatVector = npt.NDArray[np.float32]


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
        """As a Flower record."""
        arrays = {"model": Array(self.model)}
        if self.control is not None:
            arrays["control"] = Array(self.control)
        config: dict[str, int | str | bool] = {
            "version": VERSION,
            "run": self.run,
            "round": self.round,
            "spec": self.spec,
            "train": self.train,
            "evaluate": self.evaluate,
        }
        return RecordDict({"arrays": ArrayRecord(arrays), "instruction": ConfigRecord(dict(config))})

    @classmethod
    def from_record(cls, record: RecordDict) -> Instruction:
        """From a Flower record; raises :class:`MessageError` on anything unexpected."""
        try:
            config, arrays = record.config_records["instruction"], record.array_records["arrays"]
            if config["version"] != VERSION:
                raise MessageError(f"version = {config['version']}: this installation speaks {VERSION}")
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
        control = arrays.get("control")
        return cls(
            run=run,
            round=number,
            spec=spec,
            train=train,
            evaluate=evaluate,
            model=_vector(arrays.get("model"), "model"),
            control=None if control is None else _vector(control, "control"),
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
        parts = [np.asarray(update, np.float64) * weight]
        if self.control:
            if control is None:
                raise MessageError("control: missing, though the strategy needs it")
            parts.append(np.asarray(control, np.float64))
        parts += [np.array([weight]), metrics]
        with np.errstate(over="ignore"):  # an overflow becomes infinite, and is refused below
            vector = np.concatenate(parts).astype(np.float32)
        self.check(vector)
        return vector

    def check(self, vector: FloatVector) -> None:
        """Raise :class:`MessageError` unless ``vector`` is a finite float32 vector of this layout."""
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise MessageError(
                f"vector: {vector.dtype} of shape {vector.shape}, agreed was float32 of shape ({self.size},)"
            )
        if not np.isfinite(vector).all():
            raise MessageError("vector: holds NaN or infinite values")

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
    record = RecordDict({"status": ConfigRecord({"version": VERSION, "code": str(status)})})
    if status is Status.OK and vector is not None:
        record["vector"] = ArrayRecord({"vector": Array(vector)})
    return record


def read_answer(message: Message, layout: Layout) -> FloatVector:
    """The vector in a reply; raises :class:`MessageError` with the reason to leave it out."""
    if message.has_error():
        raise MessageError(f"flower-error-{message.error.code}")
    try:
        code = message.content.config_records["status"]["code"]
    except KeyError:
        raise MessageError("malformed reply: no status") from None
    known = {status.value for status in Status}
    if code not in known:
        raise MessageError("malformed reply: unknown status")
    if code != Status.OK:
        raise MessageError(str(code))
    arrays = message.content.array_records.get("vector")
    vector = _vector(None if arrays is None else arrays.get("vector"), "vector")
    layout.check(vector)
    return vector


def _vector(array: Array | None, name: str) -> FloatVector:
    """A one-dimensional float32 array out of a Flower array, checked before use."""
    if array is None:
        raise MessageError(f"{name}: missing")
    if array.dtype != "float32" or len(array.shape) != 1 or array.stype != "numpy.ndarray":
        raise MessageError(
            f"{name}: {array.stype} {array.dtype} of shape {tuple(array.shape)}, not a float32 vector"
        )
    stream = io.BytesIO(array.data)
    try:  # the header is read before anything is allocated: it may lie about the size
        if npy.read_magic(stream) != (1, 0):
            raise ValueError
        shape, _, dtype = npy.read_array_header_1_0(stream)
    except ValueError:
        raise MessageError(f"{name}: cannot be read as an array") from None
    body = array.data[stream.tell() :]
    if dtype != np.dtype("<f4") or shape != tuple(array.shape) or len(body) != 4 * shape[0]:
        raise MessageError(f"{name}: does not hold what it declares")
    return np.frombuffer(body, "<f4").astype(np.float32)  # a copy: the bytes are read-only
