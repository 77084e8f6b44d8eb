"""What is in a message.

Server to department: an :class:`Instruction` (the spec, the round, the global model).
Department to server: a status code from a fixed list and, where it is ``ok``, ONE vector whose
lanes are the weighted update, the weight and the validation metrics (:mod:`strategies.lanes`).
It leaves sealed, inside a message of :mod:`secagg`; only simulations, and departments that say so,
send it as clear float32. Nothing else leaves a department: no metric, count, loss or error text
outside the vector. The other messages of sealed sums travel as a :class:`SealedStep`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from strategies.errors import MessageError
from strategies.lanes import FloatVector, Layout
from strategies.status import Status

VERSION = 2
STEP = "sealed-step"


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One round's request to a department.

    ``model`` and ``control`` (SCAFFOLD's server variate) are float32 vectors of shape (P,).
    ``opening`` opens the round under sealed sums (:class:`secagg.messages.Open`); None in clear.
    """

    run: str
    round: int
    spec: str
    train: bool
    evaluate: bool
    model: FloatVector
    control: FloatVector | None = None
    opening: bytes | None = None

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
        if self.opening is not None:
            config["opening"] = self.opening
        return RecordDict({"instruction": ConfigRecord(dict(config))})

    @classmethod
    def from_record(cls, record: RecordDict) -> Instruction:
        """From a Flower record; raises :class:`MessageError` on anything unexpected."""
        try:
            config = record.config_records["instruction"]
            _check_version(config["version"])
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
        control, opening = config.get("control"), config.get("opening")
        if opening is not None and not isinstance(opening, bytes):
            raise MessageError("instruction: opening must be bytes")
        return cls(
            run=run,
            round=number,
            spec=spec,
            train=train,
            evaluate=evaluate,
            model=from_bytes(config.get("model"), "model"),
            control=None if control is None else from_bytes(control, "control"),
            opening=opening,
        )


@dataclass(frozen=True, kw_only=True)
class SealedStep:
    """One step of the protocol of sealed sums besides training: set-up, confirmation, unmasking.

    ``message`` is of :mod:`secagg.messages`; it says itself which step it is.
    """

    run: str
    spec: str
    message: bytes

    def to_record(self) -> RecordDict:
        """As a Flower record."""
        config: dict[str, int | str | bytes] = {
            "version": VERSION,
            "run": self.run,
            "spec": self.spec,
            "message": self.message,
        }
        return RecordDict({STEP: ConfigRecord(dict(config))})

    @classmethod
    def from_record(cls, record: RecordDict) -> SealedStep:
        """From a Flower record; raises :class:`MessageError` on anything unexpected."""
        try:
            config = record.config_records[STEP]
            _check_version(config["version"])
            run, spec, message = config["run"], config["spec"], config["message"]
        except KeyError as error:
            raise MessageError(f"{STEP}: {error.args[0]} is missing") from None
        if not (isinstance(run, str) and isinstance(spec, str) and isinstance(message, bytes)):
            raise MessageError(f"{STEP}: run and spec must be text, message bytes")
        return cls(run=run, spec=spec, message=message)


def asked(record: RecordDict) -> Instruction | SealedStep:
    """What the server asks for; raises :class:`MessageError` on anything unexpected."""
    return SealedStep.from_record(record) if STEP in record.config_records else Instruction.from_record(record)


def answer(status: Status, vector: FloatVector | None = None, *, sealed: bytes | None = None) -> RecordDict:
    """A department's whole reply: a status, and a clear vector or a message of sealed sums."""
    config: dict[str, int | str | bytes] = {"version": VERSION, "code": str(status)}
    if status is Status.OK and vector is not None:
        config["vector"] = to_bytes(vector)
    if status is Status.OK and sealed is not None:
        config["sealed"] = sealed
    return RecordDict({"answer": ConfigRecord(dict(config))})


def read_answer(message: Message, layout: Layout) -> FloatVector:
    """The clear vector in a reply; raises :class:`MessageError` with the reason to leave it out."""
    vector = from_bytes(_ok(message).get("vector"), "vector")
    layout.check(vector)
    return vector


def read_sealed(message: Message) -> bytes:
    """The message of sealed sums in a reply; raises :class:`MessageError` with the reason to leave it out."""
    sealed = _ok(message).get("sealed")
    if not isinstance(sealed, bytes):
        raise MessageError("sealed: missing, or not bytes")
    return sealed


def _ok(message: Message) -> ConfigRecord:
    """A reply's record if its status is ok; raises :class:`MessageError` with the status otherwise."""
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
    return config


def _check_version(version: object) -> None:
    """Refuse another version than ours."""
    if type(version) is not int or version != VERSION:
        raise MessageError(f"version = {version!r}: this installation speaks {VERSION}")


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
