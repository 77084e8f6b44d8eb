"""What a member keeps of sealed sums: crashes, replays, restored copies, new epochs, and secrets that are gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from secagg_cases import BINDINGS, NOW, SIZE, Site, Vector, World, plain_sum, random_vector, ready, vectors_for

from secagg import client, records
from secagg import state as epoch_state
from secagg.client import EpochState, Floors, Pins, RunRecord
from secagg.errors import ConsistencyError, ReplayError, SecaggError, StateError
from secagg.messages import Invite
from secagg.thresholds import Mode


def snapshot(site: Site) -> tuple[bytes, bytes]:
    return site.pins.to_bytes(), site.known.to_bytes()


class Repeater(Site):
    """A member that is asked everything three times, and then something else; it restarts from bytes in between."""

    def again(self, step: Callable[[bytes], bytes], request: bytes, reply: bytes) -> bytes:
        kept = snapshot(self)
        for _ in range(2):
            assert step(request) == reply
            assert snapshot(self) == kept
        for other in (request + b"\0", request[:-1], request[:-1] + bytes([request[-1] ^ 1]), b""):
            with pytest.raises(SecaggError):
                step(other)
            assert snapshot(self) == kept
        return reply

    def advertise(self, invite: bytes, **_: object) -> bytes:
        return self.again(super().advertise, invite, super().advertise(invite))

    def encapsulate(self, directory: bytes) -> bytes:
        return self.again(super().encapsulate, directory, super().encapsulate(directory))

    def open_and_upload(self, opening: bytes, x: Vector, **_: object) -> bytes:
        # Another vector the second time: what was sent counts, so nothing is masked again.
        other = random_vector(SIZE, 99)
        return self.again(
            lambda request: Site.open_and_upload(self, request, other), opening, super().open_and_upload(opening, x)
        )

    def confirm(self, request: bytes) -> bytes:
        return self.again(super().confirm, request, super().confirm(request))

    def unmask(self, request: bytes) -> bytes:
        return self.again(super().unmask, request, super().unmask(request))


@pytest.mark.parametrize("mode", ["sealed", "strict"])
def test_the_same_request_gets_the_same_bytes_and_another_is_refused(mode: Mode) -> None:
    world = World(4, mode=mode)
    for i in world.ids:
        world.members[i] = Repeater(i, world.me(i, Floors()), durable=True)
    vectors = vectors_for(world)
    for _ in range(2):
        world.run_setup()
        for _ in range(2):
            total, contributors = world.run_round(vectors)
            assert np.array_equal(total, plain_sum(vectors, contributors))


@pytest.mark.parametrize("mode", ["sealed", "strict"])
def test_the_server_takes_the_same_bytes_twice_and_counts_them_once(mode: Mode) -> None:
    world = World(4, mode=mode)
    world.run_setup()
    vectors = vectors_for(world)
    epoch, sealed = world.epoch, world.new_round(SIZE)
    for i in world.ids:
        assert sealed.opening(i) == sealed.opening(i)
        reply = world.members[i].open_and_upload(sealed.opening(i), vectors[i])
        sealed.add_upload(i, reply)
        sealed.add_upload(i, reply)
        assert world.members[i].open_and_upload(sealed.opening(i), vectors[i]) == reply
    assert sealed.uploaded == 4
    for i in sealed.survivors():
        if mode == "strict":
            for _ in range(2):
                sealed.add_confirm(i, world.members[i].confirm(sealed.confirm_request(i)))
    for i in sealed.survivors():
        for _ in range(2):
            sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
    for _ in range(2):
        assert np.array_equal(sealed.finish()[0], plain_sum(vectors, world.ids))
    for i in sealed.survivors():
        sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
        epoch.add_encapsulate(i, next(m.to_bytes() for m in epoch._lists if m.sender == i))


def test_a_reply_that_was_never_sent_may_be_made_anew() -> None:
    """A crash after computing and before keeping: the older state makes another reply, and the round goes on."""
    world = World(4)
    vectors = vectors_for(world)
    lost: list[EpochState] = []

    class Crasher(Site):
        def keep(self, pins: Pins, state: EpochState) -> None:
            if (len(lost) + 1) % 2:
                lost.append(state)
                raise OSError("no space left on device")
            lost.append(state)
            super().keep(pins, state)

    crasher = world.members[20] = Crasher(20, world.me(20, Floors()))
    epoch = world.new_epoch()

    def twice(step: Callable[[bytes], bytes], request: bytes) -> bytes:
        with pytest.raises(OSError, match="space"):
            step(request)
        return step(request)

    replies = {
        i: twice(site.advertise, epoch.invite()) if site is crasher else site.advertise(epoch.invite())
        for i, site in world.members.items()
    }
    for i, reply in replies.items():
        epoch.add_advertise(i, reply)
    for i, site in world.members.items():
        directory = epoch.directory()
        epoch.add_encapsulate(i, twice(site.encapsulate, directory) if site is crasher else site.encapsulate(directory))
    world._epoch = epoch
    sealed = world.new_round(SIZE)
    for i, site in world.members.items():
        opening = sealed.opening(i)
        if site is crasher:
            with pytest.raises(OSError, match="space"):
                site.open(opening)
            opened = site.open(opening)
            with pytest.raises(OSError, match="space"):
                site.upload(opened, vectors[i])
            sealed.add_upload(i, site.upload(opened, vectors[i]))
        else:
            sealed.add_upload(i, site.open_and_upload(opening, vectors[i]))
    for i in sealed.survivors():
        site, request = world.members[i], sealed.unmask_request(i)
        sealed.add_answer(i, twice(site.unmask, request) if site is crasher else site.unmask(request))
    assert np.array_equal(sealed.finish()[0], plain_sum(vectors, world.ids))
    # Two uploads of one round never had the same mask.
    first, second = (state.upload_reply for state in lost[6:8])
    assert first[-4 * SIZE :] != second[-4 * SIZE :]


def test_a_restored_copy_is_noticed_by_whichever_file_is_newer() -> None:
    world = ready(4)
    site, vectors = world.members[10], vectors_for(world)
    sealed = world.new_round(SIZE)
    uploads = {i: world.members[i].open_and_upload(sealed.opening(i), vectors[i]) for i in world.ids}
    for i, reply in uploads.items():
        sealed.add_upload(i, reply)
    before_answer = site.pins, site.known
    request = sealed.unmask_request(10)
    site.unmask(request)
    after = site.pins, site.known
    for pins, state in [(before_answer[0], after[1]), (after[0], before_answer[1])]:
        site.pins, site.state = pins, state
        with pytest.raises(StateError, match="restored"):
            site.unmask(request)
        with pytest.raises(StateError, match="restored"):
            site.open(sealed.opening(10))


def test_a_new_epoch_ends_the_old_one_and_renews_no_round() -> None:
    world = ready(4)
    vectors = vectors_for(world)
    sealed = world.new_round(SIZE)
    for i in world.ids:
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
    site, old = world.members[10], world.members[10].known
    world.run_setup(epoch=world.new_epoch(first_round=1))
    request = sealed.unmask_request(10)
    for state, error in [(site.known, ConsistencyError), (old, StateError)]:
        with pytest.raises(error):
            client.unmask(site.me, site.pins, state, request)
    # Round 1 was uploaded in the epoch before.
    with pytest.raises(ReplayError, match="round 1 was uploaded"):
        site.open(world.new_round(SIZE, number=1).opening(10))
    total, _ = world.run_round(vectors, number=2)
    assert np.array_equal(total, plain_sum(vectors, world.ids))


@pytest.mark.parametrize("epoch", [0, 1, 4, 5])
def test_epochs_only_go_up(epoch: int) -> None:
    world = World(4)
    world.run_setup(epoch=world.new_epoch(epoch=5))
    site = world.members[10]
    kept = snapshot(site)
    other = replace(Invite.from_bytes(world.new_epoch(epoch=6).invite()), epoch=epoch)
    with pytest.raises(ReplayError, match="epoch 5 was entered"):
        site.advertise(replace(other, first_round=2).to_bytes())
    assert snapshot(site) == kept
    # The state was lost: still no second set of keys for an epoch.
    with pytest.raises(ReplayError):
        client.advertise(
            site.me, site.pins, other.to_bytes(), run="digits-7", policy=BINDINGS.policy, now=NOW, state=None
        )


def test_an_old_state_does_not_enter_again() -> None:
    world = World(4)
    site, invite = world.members[10], world.new_epoch().invite()
    site.advertise(invite)
    old = site.known
    site.advertise(world.new_epoch().invite())
    site.state = old
    with pytest.raises(StateError, match="epoch 2 was entered"):
        site.advertise(invite)


def test_a_round_that_was_opened_twice_is_uploaded_once() -> None:
    world = ready(4)
    site, opening = world.members[10], world.new_round(SIZE).opening(10)
    opened, other = site.open(opening), site.open(opening)
    site.upload(opened, random_vector(SIZE, 1))
    with pytest.raises(ReplayError, match="round 1 was uploaded"):
        site.upload(other, random_vector(SIZE, 2))


def test_secrets_go_as_soon_as_they_are_not_needed() -> None:
    world = ready(4, durable=True)
    site, vectors = world.members[20], vectors_for(world)
    private = site.known.private
    assert len(private) == 96
    assert private.hex().encode() in site.known.to_bytes()
    sealed = world.new_round(SIZE)
    opened = site.open(sealed.opening(20))
    assert not site.known.private
    assert not site.known.exchanged
    assert private.hex().encode() not in site.known.to_bytes()
    sealed.add_upload(20, site.upload(opened, vectors[20]))
    assert site.known.encapsulated is None
    for i in (10, 30, 40):
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
    round_ = site.known.round
    assert round_ is not None
    secrets = [round_.own_share, *site.known.pair_keys.values()]
    assert all(secret.hex().encode() in site.known.to_bytes() for secret in secrets)
    site.unmask(sealed.unmask_request(20))
    kept = site.known.to_bytes().replace(site.known.round.answered.reply.hex().encode(), b"")  # type: ignore[union-attr]  # answered just now
    assert not any(secret.hex().encode() in kept for secret in secrets)


def test_nothing_secret_is_in_a_repr() -> None:
    world = ready(4)
    site = world.members[20]
    site.open_and_upload(world.new_round(SIZE).opening(20), random_vector(SIZE, 1))
    shown = repr(site.known) + repr(site.known.round) + repr(site.me)
    for secret in [site.known.round.own_share, *site.known.pair_keys.values()]:  # type: ignore[union-attr]  # uploaded just now
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


@pytest.mark.parametrize("what", ["pins", "state"])
def test_damage_is_noticed(what: str) -> None:
    world = ready(4)
    site = world.members[20]
    site.open_and_upload(world.new_round(SIZE).opening(20), random_vector(SIZE, 1))
    data = site.pins.to_bytes() if what == "pins" else site.known.to_bytes()
    read: Callable[[bytes], object] = Pins.from_bytes if what == "pins" else EpochState.from_bytes
    assert read(data) == (site.pins if what == "pins" else replace(site.known, upload_reply=b""))
    for position in range(0, len(data), 1 if what == "pins" else 41):
        with pytest.raises(StateError):
            read(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(StateError):
            read(data[:position])
    other = site.known.to_bytes() if what == "pins" else site.pins.to_bytes()
    for wrong in (other, b"", b"\xff" * 100, data + b"\0"):
        with pytest.raises(StateError):
            read(wrong)


def test_another_versions_files_are_refused() -> None:
    with pytest.raises(StateError, match="another version"):
        Pins.from_bytes(records.pack(records.KIND, {"roster_version": 1}))
    with pytest.raises(StateError, match="another version"):
        EpochState.from_bytes(records.pack(epoch_state.KIND, {"run": "00"}))


def test_pins_survive_as_bytes() -> None:
    record = RunRecord(
        serial=3, epoch=2, uploaded_round=9, answered_round=8, confirmed_round=9, confirmed_hash=b"u" * 32
    )
    pins = Pins(roster_version=4, roster_hash=b"h" * 32, serial=5, runs={b"r" * 32: record, b"q" * 32: replace(record)})
    assert Pins.from_bytes(pins.to_bytes()) == pins
    assert Pins.from_bytes(Pins().to_bytes()) == Pins()


def test_the_kept_upload_belongs_to_the_state() -> None:
    world = ready(4)
    site = world.members[20]
    first = world.new_round(SIZE)
    site.open_and_upload(first.opening(20), random_vector(SIZE, 1))
    older = site.known.upload_reply
    sealed = world.new_round(SIZE)
    reply = site.open_and_upload(sealed.opening(20), random_vector(SIZE, 2))
    data = site.known.to_bytes()
    assert EpochState.from_bytes(data, upload_reply=reply) == site.known
    for wrong in (older, reply[:-1] + bytes([reply[-1] ^ 1]), reply[:60] + b"?" + reply[61:], reply[:-4], b"no"):
        with pytest.raises(StateError):
            EpochState.from_bytes(data, upload_reply=wrong)
    site.state = EpochState.from_bytes(data)
    with pytest.raises(StateError, match="lost"):
        site.open(sealed.opening(20))


def test_unmasking_needs_no_kept_upload() -> None:
    world = ready(4, durable=True)
    vectors = vectors_for(world)
    sealed = world.new_round(SIZE)
    for i in world.ids:
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
        world.members[i].state = EpochState.from_bytes(world.members[i].known.to_bytes())
    for i in world.ids:
        sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
    assert np.array_equal(sealed.finish()[0], plain_sum(vectors, world.ids))
