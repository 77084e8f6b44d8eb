"""Messages of sealed sums as bytes: canonical, and of every other form refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_cases import identity

from secagg.errors import ConsistencyError, FormatError, SignatureError
from secagg.messages import (
    ADVERTISE_BYTES,
    HEADER_BYTES,
    Advertise,
    Answer,
    Confirm,
    DealtShare,
    Directory,
    Encapsulate,
    Entry,
    Invite,
    Message,
    Open,
    Signed,
    Survivors,
    Unmask,
    Upload,
    Uploaded,
)
from secagg.primitives import SERVER

RUN = b"r" * 32
CTX = b"x" * 32
SIGNATURE = b"s" * 64
FROM_MEMBER: dict[str, Any] = {"run": RUN, "epoch": 3, "sender": 7, "signature": SIGNATURE}
FROM_SERVER: dict[str, Any] = {"run": RUN, "epoch": 3}
KEYS = b"k" * 1216


def advertised(sender: int) -> Advertise:
    return Advertise(run=RUN, epoch=3, sender=sender, signature=SIGNATURE, keys=KEYS)


def listed(sender: int) -> Encapsulate:
    return Encapsulate(
        run=RUN, epoch=3, sender=sender, signature=SIGNATURE, setup_hash=b"t" * 32, hashes=((9, b"h" * 32),)
    )


UPLOADED = (Uploaded(7, b"h" * 32, SIGNATURE), Uploaded(9, b"i" * 32, SIGNATURE))
EXAMPLES: list[Message] = [
    Invite(**FROM_SERVER, first_round=1, roster=b"{roster}", permit=b"{permit}"),
    Advertise(**FROM_MEMBER, keys=KEYS),
    Directory(**FROM_SERVER, entries=(advertised(0), advertised(7))),
    Encapsulate(
        **FROM_MEMBER,
        setup_hash=b"t" * 32,
        hashes=((8, b"a" * 32), (9, b"b" * 32)),
        ciphertexts=(b"c" * 1088, b"d" * 1088),
    ),
    Open(
        **FROM_SERVER,
        round=4,
        cohort=(2, 7, 9),
        lists=(listed(2), listed(7)),
        ciphertexts=((2, b"c" * 1088),),
    ),
    Upload(
        **FROM_MEMBER,
        context=CTX,
        h=b"h" * 32,
        seed_hash=b"b" * 32,
        commitments=((2, b"p" * 32), (7, b"q" * 32)),
        shares=(b"e" * 49,),
        y=memoryview(b"\1\2\3\4\5\6\7\10"),
    ),
    Survivors(**FROM_SERVER, context=CTX, uploads=UPLOADED),
    Confirm(**FROM_MEMBER, context=CTX, survivors_hash=b"u" * 32),
    Unmask(
        **FROM_SERVER,
        context=CTX,
        uploads=UPLOADED,
        confirmations=((7, SIGNATURE), (9, SIGNATURE)),
        shares=(DealtShare(9, b"p" * 32, b"e" * 49),),
    ),
    Answer(**FROM_MEMBER, context=CTX, entries=(Entry(2, 2, b"\0" * 33), Entry(7, 1, b"w" * 33))),
]
SIZES = {
    "invite": 4 + 4 + 8 + 4 + 8,
    "advertise": 32 + 1184 + 64,
    "directory": 4 + 2 * 1325,
    "encapsulate": 32 + 4 + 2 * 36 + 64 + 2 * 1088,
    "open": 4 + 4 + 4 + 3 * 4 + 4 + 2 * (4 + 45 + 32 + 4 + 36 + 64) + 4 + 4 + 1088,
    "upload": 64 + 64 + 32 + 4 + 2 * 36 + 49 + 8,
    "survivors": 32 + 4 + 2 * 100,
    "confirm": 64 + 64,
    "unmask": 32 + 4 + 2 * 100 + 4 + 2 * 68 + 4 + 85,
    "answer": 32 + 4 + 2 * 38 + 64,
}

each_message = pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.NAME)


@each_message
def test_bytes_are_those_of_the_specification(message: Message) -> None:
    data = message.to_bytes()
    assert data[:45] == b"CFS1" + bytes([message.TYPE]) + RUN + b"\0\0\0\3" + message.sender.to_bytes(4, "big")
    assert len(data) == HEADER_BYTES + SIZES[message.NAME]
    assert message.sender == (7 if isinstance(message, Signed) else SERVER)
    assert type(message).from_bytes(data) == message


def test_types_are_numbered_in_order() -> None:
    assert [message.TYPE for message in EXAMPLES] == list(range(1, 11))
    assert len(EXAMPLES[1].to_bytes()) == ADVERTISE_BYTES == 1325


@each_message
def test_every_other_length_is_refused(message: Message) -> None:
    data = message.to_bytes()
    shorter = range(0, len(data) - 8) if len(data) < 1000 else [*range(0, 500), *range(500, len(data) - 8, 97)]
    for length in [*shorter, *range(len(data) - 7, len(data))]:
        # What is cut off an upload's vector in whole elements leaves a shorter vector, which its hash gives away.
        if isinstance(message, Upload) and length == len(data) - 4:
            continue
        with pytest.raises(FormatError):
            type(message).from_bytes(data[:length])
    with pytest.raises(FormatError):
        type(message).from_bytes(data + b"\0")


@each_message
def test_another_version_or_type_is_refused(message: Message) -> None:
    data = message.to_bytes()
    with pytest.raises(FormatError, match="version"):
        type(message).from_bytes(b"CFS2" + data[4:])
    for other in EXAMPLES:
        if other is not message:
            with pytest.raises(FormatError, match="type"):
                type(message).from_bytes(other.to_bytes())


@pytest.mark.parametrize("data", [None, "text", 5, bytearray(100), memoryview(b"CFS1")])
def test_only_bytes_are_read(data: object) -> None:
    with pytest.raises(FormatError):
        Answer.from_bytes(data)  # type: ignore[arg-type]  # what a careless transport might hand over


@pytest.mark.parametrize(
    "message",
    [
        Directory(**FROM_SERVER, entries=(advertised(7), advertised(7))),
        Directory(**FROM_SERVER, entries=(advertised(7), advertised(0))),
        Directory(**FROM_SERVER, entries=(advertised(7), advertised(SERVER))),
        Encapsulate(**FROM_MEMBER, setup_hash=b"t" * 32, hashes=((9, CTX), (9, CTX)), ciphertexts=(bytes(1088),) * 2),
        Open(**FROM_SERVER, round=1, cohort=(7, 2)),
        Open(**FROM_SERVER, round=1, cohort=(2, 2, 7)),
        Open(**FROM_SERVER, round=1, cohort=(2, SERVER)),
        Open(**FROM_SERVER, round=1, cohort=(2,), lists=(listed(7), listed(2))),
        Open(**FROM_SERVER, round=1, cohort=(2,), ciphertexts=((3, bytes(1088)), (3, bytes(1088)))),
        Upload(**FROM_MEMBER, context=CTX, h=CTX, seed_hash=CTX, commitments=((7, CTX), (7, CTX)), shares=(b"e" * 49,)),
        Upload(**FROM_MEMBER, context=CTX, h=CTX, seed_hash=CTX, commitments=((2, CTX),), y=bytes(4)),
        Upload(**FROM_MEMBER, context=CTX, h=CTX, seed_hash=CTX, commitments=((7, CTX),), y=b""),
        Upload(**FROM_MEMBER, context=CTX, h=CTX, seed_hash=CTX, commitments=((7, CTX),), y=bytes(6)),
        Upload(**FROM_MEMBER, context=CTX, h=CTX, seed_hash=CTX, commitments=(), y=bytes(4)),
        Survivors(**FROM_SERVER, context=CTX, uploads=UPLOADED[::-1]),
        Unmask(**FROM_SERVER, context=CTX, uploads=UPLOADED * 2),
        Unmask(**FROM_SERVER, context=CTX, uploads=UPLOADED, confirmations=((9, SIGNATURE),) * 2),
        Unmask(**FROM_SERVER, context=CTX, uploads=UPLOADED, shares=(DealtShare(9, CTX, b"e" * 49),) * 2),
        Answer(**FROM_MEMBER, context=CTX, entries=(Entry(7, 1, bytes(33)), Entry(7, 2, bytes(33)))),
    ],
    ids=lambda message: message.NAME,
)
def test_lists_strictly_increase_and_vectors_are_whole(message: Message) -> None:
    with pytest.raises(FormatError):
        type(message).from_bytes(message.to_bytes())


def test_a_list_in_an_opening_is_a_signed_part_and_no_more() -> None:
    part = listed(2).signed_part()
    opening = Open(**FROM_SERVER, round=1, cohort=(2,), lists=(listed(2),)).to_bytes()
    assert Open.from_bytes(opening).lists == (listed(2),)
    longer = opening.replace(len(part).to_bytes(4, "big") + part, (len(part) + 1).to_bytes(4, "big") + part + b"!")
    assert len(longer) == len(opening) + 1
    with pytest.raises(FormatError, match="too many"):
        Open.from_bytes(longer)


def test_a_count_is_checked_before_it_is_used() -> None:
    head = Answer(**FROM_MEMBER, context=CTX, entries=()).to_bytes()[: HEADER_BYTES + 32]
    with pytest.raises(FormatError, match="163208757210 bytes needed"):
        Answer.from_bytes(head + b"\xff" * 4 + bytes(200))


@each_message
@given(data=st.data())
def test_whatever_is_read_is_written_the_same(message: Message, data: st.DataObject) -> None:
    original = message.to_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = type(message).from_bytes(bytes(changed))
    except FormatError:
        return
    assert parsed.to_bytes() == bytes(changed)


@each_message
@given(tail=st.binary(max_size=300))
def test_noise_is_refused(message: Message, tail: bytes) -> None:
    try:
        parsed = type(message).from_bytes(message.header() + tail)
    except FormatError:
        return
    assert parsed.to_bytes() == message.header() + tail


def test_a_signature_is_for_one_name_run_epoch_sender_and_body() -> None:
    key = identity(7)
    public = key.public_key().public_bytes_raw()
    given_ = Confirm(run=RUN, epoch=3, sender=7, context=CTX, survivors_hash=b"u" * 32).sign(key)
    given_.verify(public)
    others: list[Signed] = [
        replace(given_, run=b"q" * 32),
        replace(given_, epoch=4),
        replace(given_, sender=8),
        replace(given_, context=b"y" * 32),
        replace(given_, survivors_hash=b"v" * 32),
        # The same body under another name.
        Upload(run=RUN, epoch=3, sender=7, context=CTX, h=b"u" * 32, signature=given_.signature),
    ]
    assert others[-1].body() == given_.body()
    for other in others:
        with pytest.raises(SignatureError):
            other.verify(public)
    with pytest.raises(SignatureError):
        given_.verify(identity(8).public_key().public_bytes_raw())


def test_require_names_what_differs() -> None:
    message = Confirm(**FROM_MEMBER, context=CTX, survivors_hash=CTX)
    message.require(run=RUN, epoch=3, sender=7)
    for run, epoch, sender, word in [(CTX, 3, 7, "run"), (RUN, 4, 7, "epoch"), (RUN, 3, 8, "from 7")]:
        with pytest.raises(ConsistencyError, match=word):
            message.require(run=run, epoch=epoch, sender=sender)


def test_a_masked_vector_is_not_copied_when_it_is_read() -> None:
    message = EXAMPLES[5]
    data = message.to_bytes()
    vector = Upload.from_bytes(data).vector()
    assert vector.tolist() == [0x04030201, 0x08070605]
    assert np.shares_memory(vector, np.frombuffer(data, np.uint8))
    assert not vector.flags.writeable


def test_no_secret_shows() -> None:
    answer = repr(EXAMPLES[9])
    assert "www" not in answer
