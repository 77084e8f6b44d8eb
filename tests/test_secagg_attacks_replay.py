"""Attacks with what was said before, and on members whose disk is put back to an older copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from secagg_attack_cases import VICTIM, Coalition, kept, uploaded
from secagg_cases import RUN, SIZE, Site, World, random_vector, ready, vectors_for

from secagg import primitives
from secagg.client import EpochState, Pins
from secagg.errors import SecaggError, StateError
from secagg.messages import Upload

# --- What was said before ---


class Recorder(Site):
    """Remembers every request that it answered."""

    def __init__(self, site: Site, log: list[tuple[int, str, bytes, bytes]]) -> None:
        super().__init__(site.id, site.me, pins=site.pins, state=site.state)
        self.log = log

    def _noted(self, step: str, request: bytes, reply: bytes) -> bytes:
        self.log.append((self.id, step, request, reply))
        return reply

    def advertise(self, invite: bytes, **asked: object) -> bytes:
        return self._noted("advertise", invite, super().advertise(invite, **asked))  # type: ignore[arg-type]  # as given

    def encapsulate(self, directory: bytes) -> bytes:
        return self._noted("encapsulate", directory, super().encapsulate(directory))

    def open_and_upload(self, opening: bytes, x: object, **told: object) -> bytes:
        return self._noted("open", opening, super().open_and_upload(opening, x, **told))  # type: ignore[arg-type]  # as given

    def confirm(self, request: bytes) -> bytes:
        return self._noted("confirm", request, super().confirm(request))

    def unmask(self, request: bytes) -> bytes:
        return self._noted("unmask", request, super().unmask(request))


def test_nothing_that_was_said_before_gets_another_reply() -> None:
    # Two epochs of two rounds in strict mode, and every request of either once more to every member.
    world = World(4, mode="strict")
    log: list[tuple[int, str, bytes, bytes]] = []
    world.members = {i: Recorder(site, log) for i, site in world.members.items()}
    for _ in range(2):
        world.run_setup()
        for _ in range(2):
            world.run_round(vectors_for(world))
    said = list(log)
    again = set()
    for i, site in world.members.items():
        upload = partial(site.open_and_upload, x=random_vector(SIZE, 99))
        steps: dict[str, Callable[[bytes], bytes]] = {
            "advertise": site.advertise,
            "encapsulate": site.encapsulate,
            "open": upload,
            "confirm": site.confirm,
            "unmask": site.unmask,
        }
        before = kept(site)
        replies = {(step, request): reply for member, step, request, reply in said if member == i}
        for _, step, request, _ in said:
            try:
                reply = steps[step](request)
            except SecaggError:
                continue
            assert reply == replies[step, request]
            again.add((i, step, request))
        assert kept(site) == before
    # Only the last round's three requests are still answered.
    assert sorted((i, step) for i, step, _ in again) == [
        (i, step) for i in world.ids for step in ("confirm", "open", "unmask")
    ]


def test_the_server_counts_nothing_that_was_said_before() -> None:
    world = World(4, mode="strict")
    log: list[tuple[int, str, bytes, bytes]] = []
    world.members = {i: Recorder(site, log) for i, site in world.members.items()}
    world.run_setup()
    world.run_round(vectors_for(world))
    old = world.round
    world.run_setup()
    world.run_round(vectors_for(world))
    said = list(log)
    sealed = world.new_round(SIZE)
    for i in world.ids:
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), random_vector(SIZE, i)))
    sealed.survivors()
    takes = (
        *(sealed.add_upload, sealed.add_confirm, sealed.add_answer),
        *(world.epoch.add_advertise, world.epoch.add_encapsulate),
    )
    # The set-up of this epoch is what it was; all of the epoch before, and of the round before, is too late.
    assert len(said) == 2 * 4 * 5
    for i, step, _, reply in said:
        current = step in {"advertise", "encapsulate"} and reply[37:41] == primitives.u32(2)
        for add in takes:
            for sender in {i, VICTIM}:
                if not current or add not in takes[3:]:
                    with pytest.raises(SecaggError):
                        add(sender, reply)
    assert not sealed.faults.convicted
    assert not old.faults.convicted


class Elsewhere(Recorder):
    """In another run."""

    def advertise(self, invite: bytes, **asked: object) -> bytes:
        return super().advertise(invite, **{**asked, "run": "another"})


def there(what: str) -> list[tuple[int, str, bytes, bytes]]:
    """The same members' first round in another run, under another permit or in another epoch."""
    world = World(4, mode="strict")
    log: list[tuple[int, str, bytes, bytes]] = []
    kind = Elsewhere if what == "run" else Recorder
    world.members = {i: kind(site, log) for i, site in world.members.items()}
    permit = {
        "run": world.make_permit(run="another"),
        "permit": world.make_permit(serial=2),
        "epoch": world.make_permit(),
    }[what]
    run = "another" if what == "run" else RUN
    world.run_setup(epoch=world.new_epoch(run=run, permit=permit, epoch=2 if what == "epoch" else 1))
    world.run_round(vectors_for(world))
    return log


@pytest.mark.parametrize("what", ["run", "permit", "epoch"])
def test_nothing_that_is_said_elsewhere_counts_here(what: str) -> None:
    elsewhere = there(what)
    world = World(4, mode="strict")
    site = world.members[VICTIM]

    def unmoved(*steps: Callable[[bytes], object]) -> None:
        before = kept(site)
        for step in steps:
            for member, _, request, _ in elsewhere:
                if member == VICTIM:
                    with pytest.raises(SecaggError):
                        step(request)
        assert kept(site) == before

    def uncounted(*takes: Callable[[int, bytes], None]) -> None:
        for take in takes:
            for i, _, _, reply in elsewhere:
                with pytest.raises(SecaggError):
                    take(i, reply)

    world._epoch = epoch = world.new_epoch()
    # Keys say nothing of the permit: that everybody means the same one is in the hash of the set-up.
    if what != "permit":
        uncounted(epoch.add_advertise)
    for i in world.ids:
        epoch.add_advertise(i, world.members[i].advertise(epoch.invite()))
    unmoved(site.encapsulate, site.open)
    directory = epoch.directory()
    uncounted(epoch.add_advertise, epoch.add_encapsulate)
    for i in world.ids:
        epoch.add_encapsulate(i, world.members[i].encapsulate(directory))
    unmoved(site.encapsulate, site.open)
    sealed = world.new_round(SIZE)
    uncounted(sealed.add_upload)
    for i in world.ids:
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), random_vector(SIZE, i)))
    sealed.survivors()
    uncounted(sealed.add_upload, sealed.add_confirm, sealed.add_answer)
    unmoved(site.open, site.confirm, site.unmask)
    for i in world.ids:
        sealed.add_confirm(i, world.members[i].confirm(sealed.confirm_request(i)))
    unmoved(site.confirm, site.unmask)
    for i in world.ids:
        sealed.add_answer(i, world.members[i].unmask(sealed.unmask_request(i)))
    assert not sealed.faults.convicted
    sealed.finish()


# --- An older disk ---


def test_a_restored_disk_that_uploads_again_reuses_no_key_and_gains_the_server_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[bytes] = []

    class Spy:
        def __init__(self, key: bytes) -> None:
            self.key, self.cipher = key, AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            used.append(self.key + nonce)
            return self.cipher.encrypt(nonce, data, bound)

        def decrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            return self.cipher.decrypt(nonce, data, bound)

    monkeypatch.setattr(primitives, "AESGCM", Spy)
    world = ready(5)
    site = world.members[VICTIM]
    coalition = Coalition(world, corrupt={50})
    before = kept(site)
    first = Upload.from_bytes(site.open_and_upload(coalition.opening(VICTIM), random_vector(SIZE, 10)))
    site.keep(*before)
    vectors = vectors_for(world)
    coalition.collect(vectors)
    second = coalition.uploads[VICTIM]
    assert first.context == second.context
    assert first.seed_hash != second.seed_hash
    assert len(set(used)) == len(used) == 6 * 4
    # Half of the others is shown one upload and half the other: of neither seed are there enough shares.
    coalition.ask(10, world.ids)
    coalition.ask(40, world.ids)
    of_second = dict(coalition.shares[second.context, VICTIM])
    coalition.uploads[VICTIM] = first
    coalition.shares[second.context, VICTIM].clear()
    coalition.betray(50)
    coalition.ask(20, world.ids)
    coalition.ask(30, world.ids)
    assert len(of_second) == 3
    assert len(coalition.shares[first.context, VICTIM]) == 3
    assert coalition.learnt(vectors) == set()


def test_a_copy_of_one_file_is_noticed_at_every_step() -> None:
    world = ready(5, mode="strict")
    site = world.members[VICTIM]
    moments: list[tuple[Pins, EpochState]] = [kept(site)]
    coalition = uploaded(world)
    moments.append(kept(site))
    everybody = frozenset(world.ids)
    signed = coalition.confirmed(dict.fromkeys(world.ids, everybody))[everybody]
    moments.append(kept(site))
    survivors = coalition.survivors(VICTIM, everybody).to_bytes()
    request = coalition.unmask(VICTIM, everybody, confirmations=signed).to_bytes()
    site.unmask(request)
    moments.append(kept(site))
    opening = coalition.opening(VICTIM, number=2)
    steps = (lambda: site.confirm(survivors), lambda: site.unmask(request), lambda: site.open(opening))
    for a, (pins, _) in enumerate(moments):
        for b, (_, state) in enumerate(moments):
            # Before the first upload the state says nothing of rounds; its keys are of no round that was used.
            if a != b and b > 0:
                for step in steps:
                    site.keep(pins, state)
                    with pytest.raises(SecaggError, match="disagree"):
                        step()


def test_an_epoch_that_was_left_is_not_gone_back_to() -> None:
    world = ready(5)
    coalition = uploaded(world)
    site = world.members[VICTIM]
    _, left = kept(site)
    request = coalition.unmask(VICTIM, world.ids).to_bytes()
    opening = coalition.opening(VICTIM, number=2)
    world.run_setup()
    pins, _ = kept(site)
    for step in (lambda: site.unmask(request), lambda: site.open(opening)):
        site.keep(pins, left)
        with pytest.raises(StateError, match="epoch 2 was entered"):
            step()
