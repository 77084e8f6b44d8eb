"""The server of sealed sums against members that send what they must not: they are left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from secagg_cases import RUN, SIZE, World, identity, plain_sum, random_vector, ready, vectors_for

from secagg.errors import (
    AbandonedError,
    ConsistencyError,
    FloorError,
    FormatError,
    ReplayError,
    SecaggError,
    SignatureError,
)
from secagg.messages import Advertise, Answer, Confirm, Encapsulate, Upload
from secagg.server import Epoch


def test_an_epoch_needs_three_members_and_sound_documents() -> None:
    world = World(5)
    epoch = world.new_epoch()
    for i in world.ids[:2]:
        epoch.add_advertise(i, world.members[i].advertise(epoch.invite()))
    with pytest.raises(AbandonedError):
        epoch.directory()
    epoch.add_advertise(30, world.members[30].advertise(epoch.invite()))
    epoch.directory()
    with pytest.raises(ReplayError):
        epoch.add_advertise(40, world.members[40].advertise(epoch.invite()))
    for wrong in (b"", b"[]", b"{}", b'{"payload": 3}'):
        with pytest.raises(FormatError):
            Epoch(wrong, world.roster, wrong, RUN, 1, 1)
    for numbers in ((0, 1), (1, 0)):
        with pytest.raises(FormatError):
            world.new_epoch(epoch=numbers[0], first_round=numbers[1])


def test_keys_that_everybody_would_refuse_are_left_out() -> None:
    world = World(5)
    epoch = world.new_epoch()
    sent = {i: Advertise.from_bytes(world.members[i].advertise(epoch.invite())) for i in world.ids}
    own = sent[10]
    for error, other in [
        (ConsistencyError, replace(own, keys=bytes(32) + own.mlkem).sign(identity(10))),
        (FormatError, replace(own, keys=own.x25519 + b"\xff" * 1184).sign(identity(10))),
        (SignatureError, own.sign(identity(20))),
        (ConsistencyError, replace(own, epoch=2).sign(identity(10))),
        (ConsistencyError, sent[20]),
    ]:
        with pytest.raises(error):
            epoch.add_advertise(10, other.to_bytes())
    with pytest.raises(ConsistencyError):
        epoch.add_advertise(60, replace(own, sender=60).sign(identity(60)).to_bytes())
    for i, message in sent.items():
        epoch.add_advertise(i, message.to_bytes())
    with pytest.raises(ReplayError):
        epoch.add_advertise(10, replace(own, keys=sent[20].keys).sign(identity(10)).to_bytes())


def test_ciphertexts_that_others_would_refuse_are_left_out() -> None:
    world = World(5)
    epoch = world.new_epoch()
    for i in world.ids[:4]:
        epoch.add_advertise(i, world.members[i].advertise(epoch.invite()))
    directory = epoch.directory()
    own = Encapsulate.from_bytes(world.members[10].encapsulate(directory))
    for error, other in [
        (ConsistencyError, replace(own, setup_hash=bytes(32))),
        (ConsistencyError, replace(own, hashes=own.hashes[1:], ciphertexts=own.ciphertexts[1:])),
        (ConsistencyError, replace(own, ciphertexts=own.ciphertexts[::-1])),
        (ConsistencyError, replace(own, sender=20)),
    ]:
        with pytest.raises(error):
            epoch.add_encapsulate(10, other.sign(identity(other.sender)).to_bytes())
    with pytest.raises(ConsistencyError):
        epoch.add_encapsulate(50, replace(own, sender=50).sign(identity(50)).to_bytes())
    stranger = replace(own, sender=50, hashes=(), ciphertexts=()).sign(identity(50))
    with pytest.raises(ConsistencyError, match="not in the directory"):
        epoch.add_encapsulate(50, stranger.to_bytes())
    assert epoch.members == ()


def test_ciphertexts_are_sent_once() -> None:
    world = World(5)
    epoch = world.new_epoch()
    for i in world.ids:
        epoch.add_advertise(i, world.members[i].advertise(epoch.invite()))
    site = world.members[10]
    before = site.known
    epoch.add_encapsulate(10, site.encapsulate(epoch.directory()))
    # A machine restored from a copy makes other keys.
    site.state = before
    other = site.encapsulate(epoch.directory())
    with pytest.raises(ReplayError):
        epoch.add_encapsulate(10, other)


def test_cohorts_are_members_and_rounds_go_up() -> None:
    world = ready()
    for error, cohort in [
        (ConsistencyError, (10, 20, 30, 60)),
        (ConsistencyError, (20, 10, 30)),
        (ConsistencyError, (10, 10, 20)),
        (FloorError, (10, 20)),
    ]:
        with pytest.raises(error):
            world.new_round(SIZE, cohort=cohort, number=1)
    with pytest.raises(FloorError):
        world.new_round(2 * 10**9 + 1, number=1)
    sealed = world.new_round(SIZE, number=1)
    with pytest.raises(ReplayError):
        world.new_round(SIZE, number=1)
    with pytest.raises(ConsistencyError):
        sealed.opening(60)


def test_an_upload_counts_only_if_it_holds() -> None:
    world = ready()
    sealed = world.new_round(SIZE)
    vectors = vectors_for(world)
    sent = {i: Upload.from_bytes(world.members[i].open_and_upload(sealed.opening(i), vectors[i])) for i in world.ids}
    own, key = sent[10], identity(10)

    def bound(message: Upload) -> Upload:
        return replace(message, h=message.parts_hash()).sign(key)

    for error, other in [
        (ConsistencyError, replace(own, y=sent[20].y)),
        (ConsistencyError, replace(own, seed_hash=bytes(32))),
        (ConsistencyError, replace(own, shares=own.shares[::-1])),
        (ConsistencyError, replace(own, h=bytes(32)).sign(key)),
        (SignatureError, replace(own, signature=bytes(64))),
        (ConsistencyError, bound(replace(own, context=bytes(32)))),
        (ConsistencyError, bound(replace(own, y=bytes(4 * SIZE + 4)))),
        (ConsistencyError, bound(replace(own, commitments=own.commitments[:4], shares=own.shares[:3]))),
        (ConsistencyError, bound(replace(own, commitments=(*own.commitments[:4], (60, bytes(32)))))),
        (ConsistencyError, sent[20]),
    ]:
        with pytest.raises(error):
            sealed.add_upload(10, other.to_bytes())
    assert sealed.uploaded == 0
    with pytest.raises(AbandonedError):
        sealed.survivors()
    for i, message in sent.items():
        sealed.add_upload(i, message.to_bytes())
    # Another one under the same key, as a restored machine would send.
    with pytest.raises(ReplayError):
        sealed.add_upload(10, bound(replace(own, seed_hash=bytes(32))).to_bytes())
    for i in world.ids:
        sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
    assert np.array_equal(sealed.finish()[0], plain_sum(vectors, world.ids))


def test_what_a_member_sends_does_not_fix_the_survivors() -> None:
    world = ready(mode="strict")
    sealed = world.new_round(SIZE)
    vectors = vectors_for(world)
    for i in world.ids[:4]:
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
    context = Upload.from_bytes(world.members[10].known.upload_reply).context
    early: dict[str, Any] = {"run": world.epoch.run, "epoch": 1, "sender": 10, "context": context}
    with pytest.raises(ConsistencyError):
        sealed.add_confirm(10, Confirm(**early, survivors_hash=bytes(32)).sign(identity(10)).to_bytes())
    with pytest.raises(ConsistencyError):
        sealed.add_answer(10, Answer(**early, entries=()).sign(identity(10)).to_bytes())
    assert not sealed.can_finish()
    sealed.add_upload(50, world.members[50].open_and_upload(sealed.opening(50), vectors[50]))
    assert sealed.survivors() == world.ids
    with pytest.raises(ConsistencyError):
        sealed.add_confirm(10, Confirm(**early, survivors_hash=bytes(32)).sign(identity(10)).to_bytes())


def test_a_late_upload_is_not_counted() -> None:
    world = ready()
    sealed = world.new_round(SIZE)
    vectors = vectors_for(world)
    replies = {i: world.members[i].open_and_upload(sealed.opening(i), vectors[i]) for i in world.ids}
    for i in world.ids[:4]:
        sealed.add_upload(i, replies[i])
    sealed.survivors()
    with pytest.raises(ReplayError, match="late"):
        sealed.add_upload(50, replies[50])
    for i in world.ids[:4]:
        sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
    assert np.array_equal(sealed.finish()[0], plain_sum(vectors, world.ids[:4]))


@pytest.mark.parametrize("step", ["advertise", "encapsulate", "upload", "confirm", "answer"])
def test_nothing_but_refusals_comes_of_noise(step: str) -> None:
    random = Random(11)
    world = World(4, mode="strict")
    epoch = world.new_epoch()
    advertised = {i: world.members[i].advertise(epoch.invite()) for i in world.ids}
    replies: dict[str, tuple[Callable[[int, bytes], None], bytes]] = {
        "advertise": (epoch.add_advertise, advertised[10])
    }
    if step != "advertise":
        for i, reply in advertised.items():
            epoch.add_advertise(i, reply)
        directory = epoch.directory()
        encapsulated = {i: world.members[i].encapsulate(directory) for i in world.ids}
        replies["encapsulate"] = (epoch.add_encapsulate, encapsulated[10])
    if step not in replies:
        for i, reply in encapsulated.items():
            epoch.add_encapsulate(i, reply)
        world._epoch = epoch
        sealed = world.new_round(SIZE)
        sent = {i: world.members[i].open_and_upload(sealed.opening(i), random_vector(SIZE, i)) for i in world.ids}
        replies["upload"] = (sealed.add_upload, sent[10])
    if step not in replies:
        for i, reply in sent.items():
            sealed.add_upload(i, reply)
        confirmed = {i: world.members[i].confirm(sealed.confirm_request(i)) for i in world.ids}
        replies["confirm"] = (sealed.add_confirm, confirmed[10])
    if step not in replies:
        for i, reply in confirmed.items():
            sealed.add_confirm(i, reply)
        replies["answer"] = (sealed.add_answer, world.members[10].unmask(sealed.unmask_request(10)))
    add, reply = replies[step]
    for _ in range(150):
        noisy = bytearray(reply)
        for _ in range(random.randint(1, 3)):
            noisy[random.randrange(len(noisy))] ^= 1 << random.randrange(8)
        if bytes(noisy) != reply:
            with pytest.raises(SecaggError):
                add(10, bytes(noisy))
    add(10, reply)
