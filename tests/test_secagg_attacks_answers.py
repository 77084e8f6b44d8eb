"""Strict mode's confirmations, and members whose shares are bad: what fails, and who is convicted."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_attack_cases import VICTIM, Coalition, kept, refused, uploaded
from secagg_cases import SIZE, World, plain_sum, random_vector, ready, vectors_for

from secagg import primitives, shamir
from secagg.encoding import Encoding, Lane
from secagg.errors import (
    AbandonedError,
    ConsistencyError,
    EncodingError,
    FloorError,
    ReplayError,
    SecaggError,
    SignatureError,
)
from secagg.messages import COMPLAINT, PAIR_SEED, SELF_SHARE, Answer, Entry, Unmask, Upload
from secagg.shamir import PRIME

# --- Strict mode ---


def strict() -> tuple[World, Coalition]:
    world = ready(5, mode="strict")
    return world, uploaded(world, corrupt={50})


def test_an_answer_needs_enough_confirmations_of_just_these_survivors() -> None:
    world, coalition = strict()
    everybody, fewer = frozenset(world.ids), frozenset((10, 20, 30, 50))
    signed = coalition.confirmed({10: everybody, 20: everybody, 30: everybody, 40: everybody})[everybody]
    site = world.members[VICTIM]

    def asking(confirmations: dict[int, bytes], view: Collection[int] = world.ids) -> bytes:
        return coalition.unmask(VICTIM, view, confirmations=confirmations).to_bytes()

    refused(site, FloorError, asking({}), match="confirmations = 0")
    refused(site, FloorError, asking({i: signed[i] for i in (10, 20, 50)}), match="confirmations = 3")
    # Nobody counts twice, under an own name or another's.
    message = Unmask.from_bytes(asking(signed))
    twice = tuple((i, signed[10]) for i in (10, 10, 10, 10))
    refused(site, SecaggError, replace(message, confirmations=twice).to_bytes(), match="strictly increase")
    refused(site, SignatureError, asking(dict.fromkeys((10, 20, 30, 40), signed[10])))
    # A confirmation of other survivors is none of these.
    other = coalition.forge_confirm(50, fewer)
    refused(site, SignatureError, asking({**{i: signed[i] for i in (10, 20, 30)}, 50: other}))
    refused(site, ConsistencyError, asking(signed, fewer), match="not the survivors that I confirmed")
    refused(site, ConsistencyError, asking({**{i: signed[i] for i in (10, 20, 30)}, 60: other}), match="no survivor")
    coalition.learn(site.unmask(asking(signed)))


def test_survivors_are_confirmed_once_and_in_strict_mode_only() -> None:
    world, coalition = strict()
    site = world.members[VICTIM]
    coalition.confirmed({VICTIM: world.ids})
    with pytest.raises(ReplayError):
        site.confirm(coalition.survivors(VICTIM, {10, 20, 30, 50}).to_bytes())
    world = ready(5)
    coalition = uploaded(world)
    with pytest.raises(ConsistencyError, match="not strict"):
        world.members[VICTIM].confirm(coalition.survivors(VICTIM, world.ids).to_bytes())
    request = coalition.unmask(VICTIM, world.ids, confirmations={20: bytes(64)})
    refused(world.members[VICTIM], ConsistencyError, request.to_bytes(), match="not strict")


def test_without_its_own_confirmation_a_member_answers_nothing() -> None:
    world, coalition = strict()
    everybody = frozenset(world.ids)
    signed = coalition.confirmed(dict.fromkeys((20, 30, 40), everybody))[everybody]
    request = coalition.unmask(VICTIM, world.ids, confirmations=signed)
    refused(world.members[VICTIM], ConsistencyError, request.to_bytes(), match="not the survivors that I confirmed")


# --- Bad shares ---


def test_a_bad_share_for_a_survivor_never_gets_its_pair_seed() -> None:
    world = ready(5)
    coalition = uploaded(world)
    request = coalition.unmask(20, world.ids)
    spoilt = tuple(s._replace(ciphertext=bytes(49)) if s.dealer == VICTIM else s for s in request.shares)
    missing = tuple(share for share in request.shares if share.dealer != VICTIM)
    before = kept(world.members[20])
    for shares in (spoilt, missing):
        world.members[20].keep(*before)
        answer = Answer.from_bytes(world.members[20].unmask(replace(request, shares=shares).to_bytes()))
        assert answer.entries[0] == Entry(VICTIM, COMPLAINT, bytes(33))
        assert {entry.kind for entry in answer.entries[1:]} == {SELF_SHARE}


def test_an_answerer_that_changes_a_share_is_convicted_and_the_sum_is_right() -> None:
    world = ready(6)
    vectors = vectors_for(world)

    def tampered(member: int, reply: bytes) -> bytes:
        answer = Answer.from_bytes(reply)
        if member != 30:
            return reply
        entries = (answer.entries[0]._replace(content=bytes(33)), *answer.entries[1:])
        return replace(answer, entries=entries).sign(world.keys[30]).to_bytes()

    total, contributors = world.run_round(vectors, answer=tampered)
    assert np.array_equal(total, plain_sum(vectors, contributors))
    assert set(world.round.faults.convicted) == {30}


@pytest.mark.parametrize("beyond", [False, True])
def test_a_dealer_of_shares_of_no_seed_is_convicted(beyond: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    world = ready(6)
    split, dealers = shamir.split, iter(world.ids)

    def bad(secret: bytes, threshold: int, points: list[int]) -> dict[int, bytes]:
        if next(dealers) != 30:
            return split(secret, threshold, points)
        if beyond:
            return {point: (PRIME + point).to_bytes(33, "big") for point in points}
        return split(bytes(32), threshold, points)

    monkeypatch.setattr(shamir, "split", bad)
    with pytest.raises(AbandonedError):
        world.run_round(vectors_for(world))
    assert set(world.round.faults.convicted) == {30}


def test_a_dealer_whose_shares_do_not_open_is_convicted_by_more_than_can_collude(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = ready(6)
    seal = primitives.seal_share

    def spoilt(pair: bytes, ctx: bytes, dealer: int, receiver: int, commitment: bytes, share: bytes) -> bytes:
        good = seal(pair, ctx, dealer, receiver, commitment, share)
        return bytes(49) if (dealer, receiver) in {(30, 10), (30, 20), (40, 10)} else good

    monkeypatch.setattr(primitives, "seal_share", spoilt)
    with pytest.raises(AbandonedError):
        world.run_round(vectors_for(world))
    assert world.round.faults.complaints == {(10, 30), (20, 30), (10, 40)}
    assert set(world.round.faults.convicted) == {30}


# --- Members that attack one another, or the sum ---


def test_as_many_as_may_collude_cannot_convict_an_honest_dealer_by_complaining() -> None:
    world = ready(6)
    vectors = vectors_for(world)

    def complaining(*members: int) -> Callable[[int, bytes], bytes]:
        def answer(member: int, reply: bytes) -> bytes:
            given = Answer.from_bytes(reply)
            entries = (Entry(VICTIM, COMPLAINT, bytes(33)), *given.entries[1:])
            return replace(given, entries=entries).sign(world.keys[member]).to_bytes() if member in members else reply

        return answer

    total, contributors = world.run_round(vectors, answer=complaining(60))
    assert np.array_equal(total, plain_sum(vectors, contributors))
    assert not world.round.faults.convicted
    assert world.round.faults.complaints == {(60, VICTIM)}
    # One more than the roster's c = 1: then at least one of them is honest.
    with pytest.raises(AbandonedError):
        world.run_round(vectors, answer=complaining(50, 60))
    assert set(world.round.faults.convicted) == {VICTIM}


ENTRIES = st.tuples(
    st.sampled_from([0, 1, 2, 3, 255]),
    st.sampled_from([bytes(33), b"\0" + b"s" * 32, b"\xff" * 33, PRIME.to_bytes(33, "big")])
    | st.binary(min_size=33, max_size=33),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from([10, 20, 30, 40, 50, 60, 61]), st.none() | ENTRIES, min_size=1), st.booleans())
def test_whatever_a_member_answers_only_itself_is_convicted(
    changes: dict[int, tuple[int, bytes] | None], drop: bool
) -> None:
    world = ready(6)
    vectors = vectors_for(world)

    def nonsense(member: int, reply: bytes) -> bytes:
        if member != 60:
            return reply
        given = Answer.from_bytes(reply)
        entries = {j: (kind, content) for j, kind, content in given.entries}
        for j, entry in changes.items():
            if entry is None:
                entries.pop(j, None)
            else:
                entries[j] = entry
        told = tuple(Entry(j, *entries[j]) for j in sorted(entries))
        return replace(given, entries=told).sign(world.keys[60]).to_bytes()

    try:
        total, contributors = world.run_round(vectors, drops={20: "open"} if drop else {}, answer=nonsense)
    except AbandonedError:
        # The seed of the pair that lost a member is lost with the other's answer.
        assert drop
    else:
        # Of a pair whose other end dropped, nobody can tell whether the seed is right; see the next test.
        assert drop or np.array_equal(total, plain_sum(vectors, contributors))
    assert world.round.faults.convicted.keys() <= {60}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(["seed_hash", "commitment", "share", "vector"]),
    st.integers(0, 5),
    st.binary(min_size=49, max_size=49),
)
def test_whatever_a_member_uploads_only_itself_is_convicted(part: str, at: int, noise: bytes) -> None:
    world = ready(6)
    sealed = world.new_round(SIZE)
    vectors = vectors_for(world)
    for i in world.ids:
        upload = Upload.from_bytes(world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
        if i == 60:
            commitments, shares = list(upload.commitments), list(upload.shares)
            commitments[at] = (commitments[at][0], noise[:32] if part == "commitment" else commitments[at][1])
            shares[at % 5] = noise if part == "share" else shares[at % 5]
            upload = replace(
                upload,
                seed_hash=noise[:32] if part == "seed_hash" else upload.seed_hash,
                commitments=tuple(commitments),
                shares=tuple(shares),
                y=noise[: 4 * SIZE] if part == "vector" else upload.y,
            )
            upload = replace(upload, h=upload.parts_hash()).sign(world.keys[60])
            site = world.members[60]
            assert site.known.round is not None
            site.state = replace(site.known, round=replace(site.known.round, h=upload.h))
        sealed.add_upload(i, upload.to_bytes())
    for i in world.ids:
        try:
            sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
        except SecaggError:
            assert i == 60
    with suppress(AbandonedError):
        sealed.finish()
    assert sealed.faults.convicted.keys() <= {60}
    assert {dealer for _, dealer in sealed.faults.complaints} <= {60}
    # What shares are about is proven against the dealer; a wrong vector is what it says it is.
    assert (60 in sealed.faults.convicted or bool(sealed.faults.complaints)) == (part != "vector")


@pytest.mark.parametrize("part", ["seed", "vector"])
def test_a_wrong_seed_or_vector_spoils_the_sum_unattributed_and_is_seen(part: str) -> None:
    world = ready(6)
    encoding = Encoding((Lane(name="delta", length=5, bound=1.0),), 6)
    vectors = {i: encoding.encode({"delta": np.full(5, 0.25)}, bytes([i]) * 32)[0] for i in world.ids}
    if part == "vector":
        vectors[60] = random_vector(encoding.size, 60)

    def answer(member: int, reply: bytes) -> bytes:
        given = Answer.from_bytes(reply)
        if (member, part) != (60, "seed"):
            return reply
        entries = tuple(e._replace(content=b"\0" + b"s" * 32) if e.kind == PAIR_SEED else e for e in given.entries)
        return replace(given, entries=entries).sign(world.keys[60]).to_bytes()

    total, contributors = world.run_round(vectors, drops={20: "open"}, answer=answer)
    assert not world.round.faults.convicted
    with pytest.raises(EncodingError, match="constant lanes"):
        encoding.decode(total, len(contributors))
