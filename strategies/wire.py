"""What is in a message.

Server to department: an :class:`Instruction` (the spec, the round, the global model).
Department to server: a status code from a fixed list and, where it is ``ok``, ONE vector whose
lanes are the weighted update, the weight and the validation metrics (:mod:`strategies.lanes`).
It leaves sealed, inside a message of :mod:`secagg`; only simulations, and departments that say so,
send it as clear float32. Nothing else leaves a department: no metric, count, loss or error text
outside the vector. The other messages of sealed sums travel as a :class:`SealedStep`; what a run
will cost, and that it was written down before, as a :class:`LedgerStep` and its :class:`Statement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from strategies.errors import MessageError
from strategies.lanes import FloatVector, Layout
from strategies.status import Status

VERSION = 3
STEP = "sealed-step"
LEDGER = "ledger-step"
HASH_BYTES = 32


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


@dataclass(frozen=True, kw_only=True)
class LedgerStep:
    """Asks a department to reserve a run's cost in its ledger, or (``closing``) to settle it.

    ``witness`` and ``key`` (Ed25519, 32 bytes) say who cosigns checkpoints; ``note`` is the newest of this
    department's checkpoints that it cosigned, empty where it knows none.
    """

    run: str
    spec: str
    witness: str
    key: bytes
    note: str
    closing: bool

    def to_record(self) -> RecordDict:
        """As a Flower record."""
        config: dict[str, int | str | bool | bytes] = {
            "version": VERSION,
            "run": self.run,
            "spec": self.spec,
            "witness": self.witness,
            "key": self.key,
            "note": self.note,
            "closing": self.closing,
        }
        return RecordDict({LEDGER: ConfigRecord(dict(config))})

    @classmethod
    def from_record(cls, record: RecordDict) -> LedgerStep:
        """From a Flower record; raises :class:`MessageError` on anything unexpected."""
        try:
            config = record.config_records[LEDGER]
            _check_version(config["version"])
            run, spec, witness, note = (config[name] for name in ("run", "spec", "witness", "note"))
            key, closing = config["key"], config["closing"]
        except KeyError as error:
            raise MessageError(f"{LEDGER}: {error.args[0]} is missing") from None
        if not (isinstance(run, str) and isinstance(spec, str) and isinstance(witness, str) and isinstance(note, str)):
            raise MessageError(f"{LEDGER}: run, spec, witness and note must be text")
        if not isinstance(key, bytes) or len(key) != HASH_BYTES or not isinstance(closing, bool):
            raise MessageError(f"{LEDGER}: key must be {HASH_BYTES} bytes and closing true or false")
        return cls(run=run, spec=spec, witness=witness, key=key, note=note, closing=closing)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A department's word on its ledger: its checkpoint, proofs, and the entry that pays for the run.

    ``key`` is its ledger key (32 bytes), ``proof`` shows that the checkpoint continues the one the witness knows,
    ``inclusion`` that ``entry`` is its leaf ``seq``; ``rounds_left`` is how many more rounds of such a run would
    be admitted: a function of policy and public plans alone, never of data.
    """

    checkpoint: str
    key: bytes
    proof: tuple[bytes, ...]
    entry: str
    seq: int
    inclusion: tuple[bytes, ...]
    rounds_left: int

    def to_config(self) -> dict[str, int | str | bytes]:
        """As fields of a reply."""
        return {
            "checkpoint": self.checkpoint,
            "key": self.key,
            "proof": b"".join(self.proof),
            "entry": self.entry,
            "seq": self.seq,
            "inclusion": b"".join(self.inclusion),
            "rounds_left": self.rounds_left,
        }


def asked(record: RecordDict) -> Instruction | SealedStep | LedgerStep:
    """What the server asks for; raises :class:`MessageError` on anything unexpected."""
    if STEP in record.config_records:
        return SealedStep.from_record(record)
    return LedgerStep.from_record(record) if LEDGER in record.config_records else Instruction.from_record(record)


def answer(
    status: Status,
    vector: FloatVector | None = None,
    *,
    sealed: bytes | None = None,
    statement: Statement | None = None,
) -> RecordDict:
    """A department's whole reply: a status, and a clear vector, a message of sealed sums or a statement."""
    config: dict[str, int | str | bytes] = {"version": VERSION, "code": str(status)}
    if status is Status.OK and vector is not None:
        config["vector"] = to_bytes(vector)
    if status is Status.OK and sealed is not None:
        config["sealed"] = sealed
    if status is Status.OK and statement is not None:
        config |= statement.to_config()
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


def read_statement(message: Message) -> Statement:
    """The statement in a reply; raises :class:`MessageError` with the reason to leave the department out."""
    config = _ok(message)
    checkpoint, key, entry = config.get("checkpoint"), config.get("key"), config.get("entry")
    seq, rounds_left = config.get("seq"), config.get("rounds_left")
    if not (isinstance(checkpoint, str) and isinstance(entry, str)):
        raise MessageError("statement: checkpoint and entry must be text")
    if not isinstance(key, bytes) or len(key) != HASH_BYTES:
        raise MessageError(f"statement: key must be {HASH_BYTES} bytes")
    if not all(type(number) is int and number >= 0 for number in (seq, rounds_left)):
        raise MessageError("statement: seq and rounds_left must be whole numbers from 0")
    return Statement(
        checkpoint=checkpoint,
        key=key,
        proof=_hashes(config.get("proof"), "proof"),
        entry=entry,
        seq=cast("int", seq),
        inclusion=_hashes(config.get("inclusion"), "inclusion"),
        rounds_left=cast("int", rounds_left),
    )


def _hashes(data: object, name: str) -> tuple[bytes, ...]:
    """A proof out of its bytes."""
    if not isinstance(data, bytes) or len(data) % HASH_BYTES or len(data) > 256 * HASH_BYTES:
        raise MessageError(f"statement: {name} must be at most 256 hashes of {HASH_BYTES} bytes")
    return tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES))


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
