"""Messages: what goes over the wire, and that nothing malformed gets past the door."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from federation_cases import reply
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strategies.errors import MessageError
from strategies.lanes import Lanes, Layout
from strategies.status import Status
from strategies.wire import VERSION, Instruction, answer, from_bytes, read_answer, to_bytes

PLAIN = Layout(parameters=3, control=False, metrics=("records", "loss"))
WITH_CONTROL = Layout(parameters=3, control=True, metrics=("records", "loss"))

finite = st.floats(-1e6, 1e6, width=32)


def vectors(size: int) -> st.SearchStrategy[Any]:
    return hnp.arrays(np.float32, size, elements=finite)


def instruction(**changes: Any) -> Instruction:
    values: dict[str, Any] = {
        "run": "toy-1",
        "round": 2,
        "spec": "{}",
        "train": True,
        "evaluate": False,
        "model": np.arange(3, dtype=np.float32),
    }
    return Instruction(**(values | changes))


def tampered(**changes: Any) -> RecordDict:
    """An instruction's record with some entries changed, or left out where None."""
    config = dict(instruction().to_record().config_records["instruction"]) | changes
    return RecordDict({"instruction": ConfigRecord({k: v for k, v in config.items() if v is not None})})


@given(
    run=st.text(),
    number=st.integers(1, 2**31),
    spec=st.text(),
    train=st.booleans(),
    evaluate=st.booleans(),
    model=vectors(4),
    control=st.none() | vectors(4),
)
def test_an_instruction_survives_the_trip(
    run: str, number: int, spec: str, train: bool, evaluate: bool, model: Any, control: Any
) -> None:
    sent = Instruction(run=run, round=number, spec=spec, train=train, evaluate=evaluate, model=model, control=control)
    received = Instruction.from_record(sent.to_record())
    assert (received.run, received.round, received.spec) == (run, number, spec)
    assert (received.train, received.evaluate) == (train, evaluate)
    assert received.model.tobytes() == model.tobytes()
    assert (received.control is None) == (control is None)
    if control is not None:
        assert received.control is not None
        assert received.control.tobytes() == control.tobytes()


def test_received_vectors_can_be_written_to() -> None:
    received = Instruction.from_record(instruction().to_record())
    received.model[0] = 1  # bytes off the wire are read-only; a trainer must not stumble over that


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"instruction": ConfigRecord()}),
        RecordDict({"instruction": MetricRecord({"round": 1})}),
        RecordDict({"other": ConfigRecord({"version": VERSION})}),
        tampered(version=VERSION + 1),
        tampered(version="1"),
        tampered(version=True),
        tampered(version=None),
        tampered(run=None),
        tampered(run=3),
        tampered(run=["toy"]),
        tampered(spec=b"{}"),
        tampered(spec=None),
        tampered(round=0),
        tampered(round=-1),
        tampered(round=1.0),
        tampered(round=True),
        tampered(round="1"),
        tampered(train=1),
        tampered(train=None),
        tampered(evaluate="yes"),
        tampered(model=None),
        tampered(model=[1.0, 2.0]),
        tampered(model="0000"),
        tampered(model=b""),
        tampered(model=b"\0" * 7),
        tampered(control=b"\0" * 3),
        tampered(control=1.5),
    ],
    ids=range(28),
)
def test_malformed_instructions_are_message_errors(record: RecordDict) -> None:
    with pytest.raises(MessageError):
        Instruction.from_record(record)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_vector_or_a_message_error(data: bytes) -> None:
    try:
        vector = from_bytes(data, "model")
    except MessageError:
        assert not data or len(data) % 4
    else:
        assert vector.dtype == np.float32
        assert to_bytes(vector) == data


@given(st.lists(st.tuples(vectors(3), st.floats(0.5, 1e6), vectors(2)), min_size=1, max_size=6))
def test_totals_are_exact_sums_of_what_was_packed(departments: list[tuple[Any, float, Any]]) -> None:
    packed = [
        PLAIN.pack(Lanes(update=update, weight=weight, control=None, metrics=metrics.astype(np.float64)))
        for update, weight, metrics in departments
    ]
    total = PLAIN.total(packed)
    # What is sent is rounded to float32 once; the sum of what was sent is exact to float64's last bits.
    sent = np.array([[*(u.astype(np.float64) * w), w, *m] for u, w, m in departments], dtype=np.float64).astype(
        np.float32
    )
    expected = sent.astype(np.float64).sum(axis=0)
    scale = np.abs(sent.astype(np.float64)).sum(axis=0)
    found = np.concatenate([total.update, [total.weight], total.metrics])
    assert (np.abs(found - expected) <= 1e-15 * len(departments) * scale).all()
    assert total.control is None


def test_a_control_variate_has_lanes_of_its_own() -> None:
    update, control = np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)
    vector = WITH_CONTROL.pack(Lanes(update=update, weight=2.0, control=control, metrics=np.array([7.0, 8.0])))
    assert vector.tolist() == [2, 4, 6, 4, 5, 6, 2, 7, 8]  # only the update is weighted
    assert len(vector) == WITH_CONTROL.size
    total = WITH_CONTROL.total([vector, vector])
    assert total.update.tolist() == [4, 8, 12]
    assert total.control is not None
    assert total.control.tolist() == [8, 10, 12]
    assert (total.weight, total.metrics.tolist()) == (4.0, [14, 16])


ZEROS = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("layout", "lanes"),
    [
        (PLAIN, {"update": np.zeros(4, np.float32), "metrics": np.zeros(1)}),  # right in sum, wrong in each
        (PLAIN, {"update": np.zeros((3, 1), np.float32)}),
        (PLAIN, {"metrics": np.zeros(3)}),
        (PLAIN, {"control": ZEROS}),
        (WITH_CONTROL, {"control": None}),
        (WITH_CONTROL, {"control": np.zeros(2, np.float32)}),
        (PLAIN, {"update": np.array([0, np.nan, 0], np.float32)}),
        (PLAIN, {"update": np.array([0, 3e38, 0], np.float32), "weight": 1e6}),
        (PLAIN, {"weight": float("inf")}),
        (PLAIN, {"metrics": np.array([1.0, 1e300])}),
        (PLAIN, {"metrics": np.array([1.0, np.nan])}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_does_not_fit_or_is_not_finite_is_never_packed(layout: Layout, lanes: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "update": ZEROS,
        "weight": 1.0,
        "control": ZEROS if layout.control else None,
        "metrics": np.zeros(2),
    }
    with pytest.raises(MessageError):
        layout.pack(Lanes(**(values | lanes)))


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_an_answer_that_is_not_ok_carries_a_code_and_nothing_else(status: Status) -> None:
    record = answer(status, np.ones(6, np.float32))
    assert {name: dict(part) for name, part in record.items()} == {"answer": {"version": VERSION, "code": status.value}}
    with pytest.raises(MessageError, match=f"^{status.value}$"):
        read_answer(reply(record), PLAIN)


def test_an_answer_is_one_code_and_one_vector() -> None:
    vector = np.arange(6, dtype=np.float32)
    record = answer(Status.OK, vector)
    assert {name: dict(part) for name, part in record.items()} == {
        "answer": {"version": VERSION, "code": "ok", "vector": vector.tobytes()}
    }
    assert read_answer(reply(record), PLAIN).tolist() == vector.tolist()


def ok(**changes: Any) -> RecordDict:
    config = dict(answer(Status.OK, np.zeros(6, np.float32)).config_records["answer"]) | changes
    return RecordDict({"answer": ConfigRecord({k: v for k, v in config.items() if v is not None})})


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"answer": ConfigRecord()}),
        RecordDict({"answer": ArrayRecord({"vector": Array(np.zeros(6, np.float32))})}),
        ok(version=2),
        ok(version=[1]),
        ok(version=None),
        ok(code="fine"),
        ok(code=["ok"]),
        ok(code=b"ok"),
        ok(code=1),
        ok(code=None),
        ok(vector=None),
        ok(vector=b""),
        ok(vector=[0.0] * 6),
        ok(vector="0" * 24),
        ok(vector=np.zeros(5, np.float32).tobytes()),
        ok(vector=np.zeros(6, np.float64).tobytes()),
        ok(vector=np.zeros(6, np.float32).tobytes() + b"\0"),
        ok(vector=np.array([0, 0, np.nan, 0, 0, 0], np.float32).tobytes()),
        ok(vector=np.array([0, 0, 0, 0, 0, -np.inf], np.float32).tobytes()),
    ],
    ids=range(20),
)
def test_malformed_answers_are_message_errors(record: RecordDict) -> None:
    with pytest.raises(MessageError):
        read_answer(reply(record), PLAIN)


def test_flower_s_own_error_replies_are_named_without_their_text() -> None:
    asked = reply(RecordDict())
    with pytest.raises(MessageError, match=r"^flower-error-3$"):
        read_answer(Message(Error(3, "private text of a traceback"), reply_to=asked), PLAIN)
