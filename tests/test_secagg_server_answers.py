"""Answers to the server of sealed sums: who is convicted, who is complained of, and when a round is abandoned."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from secagg_cases import SIZE, identity, plain_sum, ready, vectors_for

from secagg import shamir
from secagg.errors import (
    AbandonedError,
    ConsistencyError,
    ReplayError,
)
from secagg.messages import COMPLAINT, PAIR_SEED, SELF_SHARE, Answer, Entry


def altered(reply: bytes, member: int, change: Callable[[Entry], Entry]) -> bytes:
    """An answer in which the entry about ``member`` was changed, under a good signature."""
    answer = Answer.from_bytes(reply)
    entries = tuple(change(entry) if entry.member == member else entry for entry in answer.entries)
    return replace(answer, entries=entries).sign(identity(answer.sender)).to_bytes()


def test_a_wrong_share_convicts_the_one_who_sent_it() -> None:
    world = ready()
    vectors = vectors_for(world)

    def tamper(member: int, reply: bytes) -> bytes:
        if member != 20:
            return reply
        return altered(reply, 30, lambda e: e._replace(content=bytes(32) + bytes([e.content[-1] ^ 1])))

    total, contributors = world.run_round(vectors, answer=tamper)
    assert np.array_equal(total, plain_sum(vectors, contributors))
    assert world.round.faults.convicted.keys() == {20}


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e._replace(kind=PAIR_SEED),
        lambda e: e._replace(kind=3),
        lambda e: e._replace(kind=COMPLAINT),
        lambda e: e._replace(member=31),
    ],
)
def test_an_answer_says_of_a_survivor_only_what_it_may(change: Callable[[Entry], Entry]) -> None:
    world = ready()
    vectors = vectors_for(world)
    total, _ = world.run_round(vectors, answer=lambda i, reply: altered(reply, 30, change) if i == 20 else reply)
    assert np.array_equal(total, plain_sum(vectors, world.ids))
    assert not world.round.faults.complaints


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e._replace(kind=SELF_SHARE),
        lambda e: e._replace(kind=COMPLAINT, content=bytes(33)),
        lambda e: e._replace(content=b"\1" + e.content[1:]),
    ],
)
def test_an_answer_says_of_the_dropped_only_their_seed(change: Callable[[Entry], Entry]) -> None:
    world = ready()
    with pytest.raises(AbandonedError):
        world.run_round(
            vectors_for(world),
            drops={50: "open"},
            answer=lambda i, reply: altered(reply, 50, change) if i == 20 else reply,
        )


def cut(reply: bytes) -> bytes:
    answer = Answer.from_bytes(reply)
    return replace(answer, entries=answer.entries[:-1]).sign(identity(answer.sender)).to_bytes()


def test_an_answer_speaks_of_the_whole_cohort_once_and_in_time() -> None:
    world = ready()
    sealed = world.new_round(SIZE)
    vectors = vectors_for(world)
    for i in world.ids:
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
    answers = {i: world.members[i].unmask(sealed.unmask_request(i)) for i in world.ids}
    with pytest.raises(ConsistencyError, match="another cohort"):
        sealed.add_answer(10, cut(answers[10]))
    for i in world.ids[:4]:
        sealed.add_answer(i, answers[i])
    with pytest.raises(ReplayError):
        sealed.add_answer(10, altered(answers[10], 20, complain_of(20)))
    assert sealed.can_finish()
    total, _ = sealed.finish()
    with pytest.raises(ReplayError, match="late"):
        sealed.add_answer(50, answers[50])
    assert np.array_equal(total, plain_sum(vectors, world.ids))
    assert not sealed.faults.complaints


def test_confirmations_are_fixed_with_the_first_unmask_request() -> None:
    world = ready(6, mode="strict")
    sealed = world.new_round(SIZE)
    vectors = vectors_for(world)
    for i in world.ids:
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
    confirmed = {i: world.members[i].confirm(sealed.confirm_request(i)) for i in sealed.survivors()}
    for i in world.ids[:3]:
        sealed.add_confirm(i, confirmed[i])
    with pytest.raises(AbandonedError, match="4 needed"):
        sealed.unmask_request(10)
    sealed.add_confirm(40, confirmed[40])
    request = sealed.unmask_request(10)
    with pytest.raises(ReplayError, match="late"):
        sealed.add_confirm(50, confirmed[50])
    assert sealed.unmask_request(10) == request
    for i in world.ids[:4]:
        sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
    assert np.array_equal(sealed.finish()[0], plain_sum(vectors, world.ids))


def complain_of(dealer: int) -> Callable[[Entry], Entry]:
    return lambda entry: entry._replace(kind=COMPLAINT, content=bytes(33)) if entry.member == dealer else entry


def test_complaints_are_kept_and_too_many_convict() -> None:
    world = ready()
    vectors = vectors_for(world)
    total, _ = world.run_round(
        vectors, answer=lambda i, reply: altered(reply, 30, complain_of(30)) if i == 20 else reply
    )
    assert np.array_equal(total, plain_sum(vectors, world.ids))
    assert world.round.faults.complaints == {(20, 30)}
    assert not world.round.faults.convicted
    # c = 1: of two complaints one is honest.
    with pytest.raises(AbandonedError, match=r"\[30\]"):
        world.run_round(
            vectors, answer=lambda i, reply: altered(reply, 30, complain_of(30)) if i in {20, 40} else reply
        )
    assert world.round.faults.convicted.keys() == {30}


def test_nobody_complains_of_itself() -> None:
    world = ready()
    world.run_round(
        vectors_for(world), answer=lambda i, reply: altered(reply, 20, complain_of(20)) if i == 20 else reply
    )
    assert not world.round.faults.complaints


def cheating_split(points_wrong: int, value: Callable[[bytes], bytes]) -> Callable[..., dict[int, bytes]]:
    """Shamir's split by a dealer that alters its last shares, and commits to them as they are."""

    def split(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, bytes]:
        shares: Mapping[int, bytes] = honest(secret, threshold, points)
        return {p: value(s) if n < points_wrong else s for n, (p, s) in enumerate(shares.items())}

    honest = shamir.split
    return split


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda share: share[:-1] + bytes([share[-1] ^ 1]), "determine another seed"),
        (lambda share: shamir.PRIME.to_bytes(33, "big"), "beyond the prime"),
        (lambda share: b"\xff" * 33, "beyond the prime"),
    ],
)
def test_shares_of_no_seed_convict_their_dealer(
    value: Callable[[bytes], bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ready()
    sealed = world.new_round(SIZE)
    vectors = vectors_for(world)
    for i in world.ids:
        with monkeypatch.context() as patch:
            if i == 30:
                patch.setattr(shamir, "split", cheating_split(2, value))
            sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
    for i in world.ids:
        sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
    with pytest.raises(AbandonedError):
        sealed.finish()
    assert sealed.faults.convicted.keys() == {30}
    assert reason in sealed.faults.convicted[30]
    # Everybody else goes on without it.
    rest = (10, 20, 40, 50)
    total, _ = world.run_round(vectors, cohort=rest)
    assert np.array_equal(total, plain_sum(vectors, rest))


def test_a_wrong_pair_seed_gives_noise_where_the_zero_lane_shows_it() -> None:
    world = ready()
    zero = {i: np.zeros(SIZE, np.uint32) for i in world.ids}
    other = secrets.token_bytes(32)
    total, contributors = world.run_round(
        zero,
        drops={50: "open"},
        answer=lambda i, reply: altered(reply, 50, lambda e: e._replace(content=b"\0" + other)) if i == 20 else reply,
    )
    assert contributors == (10, 20, 30, 40)
    assert np.count_nonzero(total) == SIZE
    # Nobody can prove who it was.
    assert not world.round.faults.convicted
