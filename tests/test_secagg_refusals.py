"""Rounds of sealed sums: what a member refuses of openings and of requests to confirm and unmask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from secagg_cases import (
    BINDINGS,
    DAY,
    NOW,
    SIZE,
    Site,
    World,
    identity,
    random_vector,
    ready,
)

from secagg import thresholds
from secagg.client import Floors
from secagg.errors import (
    ClockError,
    ConsistencyError,
    EncodingError,
    FloorError,
    PermitError,
    ReplayError,
    SecaggError,
    SignatureError,
    StateError,
)
from secagg.messages import (
    COMPLAINT,
    PAIR_SEED,
    SELF_SHARE,
    Answer,
    DealtShare,
    Open,
    Survivors,
    Unmask,
    Upload,
    Uploaded,
)
from secagg.server import SealedRound


def uploaded(world: World, sealed: SealedRound, absent: tuple[int, ...] = ()) -> dict[int, Upload]:
    """Let everybody but ``absent`` open and upload; return what they sent."""
    sent = {}
    for i in sealed.cohort:
        if i not in absent:
            reply = world.members[i].open_and_upload(sealed.opening(i), random_vector(SIZE, i))
            sealed.add_upload(i, reply)
            sent[i] = Upload.from_bytes(reply)
    return sent


def swapped(opening: Open) -> Open:
    """Two members' ciphertexts for me, exchanged."""
    (i, first), (j, second), *others = opening.ciphertexts
    return replace(opening, ciphertexts=((i, second), (j, first), *others))


def relisted(opening: Open, at: int, **changes: object) -> Open:
    """The list of one member replaced by another that it would have signed."""
    lists = list(opening.lists)
    lists[at] = replace(lists[at], **changes).sign(identity(lists[at].sender))  # type: ignore[arg-type]  # as above
    return replace(opening, lists=tuple(lists))


OPENINGS: list[tuple[type[SecaggError], Callable[[Open], Open]]] = [
    (ConsistencyError, lambda o: replace(o, lists=(), ciphertexts=())),
    (ConsistencyError, lambda o: replace(o, lists=o.lists[:2] + o.lists[3:])),
    (ConsistencyError, lambda o: replace(o, ciphertexts=o.ciphertexts[:1])),
    (ConsistencyError, lambda o: replace(o, ciphertexts=(*o.ciphertexts, (40, bytes(1088))))),
    (ConsistencyError, swapped),
    (ConsistencyError, lambda o: relisted(o, 0, setup_hash=b"t" * 32)),
    (ConsistencyError, lambda o: relisted(o, 0, hashes=o.lists[0].hashes[:1])),
    (ConsistencyError, lambda o: relisted(o, 0, epoch=2)),
    (ConsistencyError, lambda o: relisted(o, 2, hashes=((40, bytes(32)), (50, bytes(32))))),
    (SignatureError, lambda o: replace(o, lists=(replace(o.lists[0], signature=bytes(64)), *o.lists[1:]))),
    (ConsistencyError, lambda o: replace(o, attempt=1)),
    (ConsistencyError, lambda o: replace(o, round=1001)),
    (ConsistencyError, lambda o: replace(o, epoch=2)),
    (ConsistencyError, lambda o: replace(o, run=bytes(32))),
    (ConsistencyError, lambda o: replace(o, sender=10)),
    (ConsistencyError, lambda o: replace(o, cohort=(10, 20, 40, 50))),
    (ConsistencyError, lambda o: replace(o, cohort=(10, 20, 30, 40, 60))),
    (FloorError, lambda o: replace(o, cohort=(20, 30))),
    (FloorError, lambda o: replace(o, cohort=(30,))),
    (FloorError, lambda o: replace(o, cohort=())),
    (ReplayError, lambda o: replace(o, round=0)),
]


@pytest.mark.parametrize(("error", "tamper"), OPENINGS)
def test_an_opening_that_contradicts_the_epoch_is_refused(
    error: type[SecaggError], tamper: Callable[[Open], Open]
) -> None:
    # Five members, c = 1 and m = 2; member 30 has two before it and two after it.
    world = ready()
    site = world.members[30]
    opening = Open.from_bytes(world.new_round(SIZE).opening(30))
    kept = site.pins.to_bytes(), site.known.to_bytes()
    with pytest.raises(error):
        site.open(tamper(opening).to_bytes())
    assert (site.pins.to_bytes(), site.known.to_bytes()) == kept
    opened = site.open(opening.to_bytes())
    assert (opened.n, opened.threshold, opened.mode, opened.range_max) == (5, 4, "sealed", 64.0)


@pytest.mark.parametrize(
    ("cohort", "floors"),
    [((10, 20, 30), Floors()), ((10, 20, 30, 40, 50), Floors(min_cohort=6)), ((10, 20, 30, 40), Floors(min_cohort=5))],
)
def test_a_cohort_must_meet_the_floors_too(cohort: tuple[int, ...], floors: Floors) -> None:
    # Six members, c = 1 and m = 3: of three only two would be honest.
    world = World(6, floors=floors)
    world.run_setup()
    opening = Open.from_bytes(world.new_round(SIZE).opening(10))
    with pytest.raises(FloorError):
        world.members[10].open(replace(opening, cohort=cohort).to_bytes())


def test_members_of_an_epoch_do_not_change() -> None:
    world = ready()
    site = world.members[30]
    opening = Open.from_bytes(world.new_round(SIZE).opening(30))
    site.open(opening.to_bytes())
    for other in (swapped(opening), replace(opening, lists=opening.lists[:4]), replace(opening, lists=())):
        with pytest.raises(ConsistencyError, match="other members"):
            site.open(replace(other, round=2).to_bytes())
    site.open(replace(opening, round=2, lists=(), ciphertexts=()).to_bytes())


def test_rounds_end_with_the_documents() -> None:
    world = ready()
    opening = world.new_round(SIZE).opening(10)
    for now in (NOW + 30 * DAY, NOW - DAY - 301):
        with pytest.raises(ClockError):
            world.members[10].open(opening, now=now)
    world.members[10].open(opening, now=NOW + 30 * DAY - 1)


def test_a_round_comes_after_the_set_up() -> None:
    world = World(5)
    epoch = world.new_epoch()
    site = world.members[10]
    site.advertise(epoch.invite())
    opening = Open(run=epoch.run, epoch=1, round=1, cohort=world.ids)
    with pytest.raises(StateError):
        site.open(opening.to_bytes())
    with pytest.raises(StateError):
        site.unmask(Unmask(run=epoch.run, epoch=1, context=bytes(32), uploads=()).to_bytes())


def test_an_upload_is_of_permitted_settings_and_a_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    world = ready()
    site = world.members[10]
    opened = site.open(world.new_round(SIZE).opening(10))
    with pytest.raises(PermitError):
        site.upload(opened, random_vector(SIZE, 1), bindings=replace(BINDINGS, policy=b"p" * 32))
    wrongs: tuple[np.ndarray[Any, Any], ...] = (
        np.zeros(SIZE, np.int64),
        np.zeros(0, np.uint32),
        np.zeros((2, 2), np.uint32),
    )
    for wrong in wrongs:
        with pytest.raises(EncodingError):
            site.upload(opened, wrong)
    with monkeypatch.context() as patch, pytest.raises(FloorError, match="elements"):
        patch.setattr(thresholds, "MAX_ELEMENTS", 5 * SIZE - 1)
        site.upload(opened, random_vector(SIZE, 1))
    with pytest.raises(ConsistencyError):
        site.upload(replace(opened, epoch=2), random_vector(SIZE, 1))
    assert not site.pins.runs[site.known.run].uploaded_round


@pytest.mark.parametrize("field", ["model", "layout", "config"])
def test_whoever_is_told_something_else_is_left_out(field: str) -> None:
    world = ready()
    sealed = world.new_round(SIZE)
    told = replace(BINDINGS, **{field: b"!" * 32})
    reply = world.members[10].open_and_upload(sealed.opening(10), random_vector(SIZE, 1), bindings=told)
    with pytest.raises(ConsistencyError, match="sees it otherwise"):
        sealed.add_upload(10, reply)


UNMASKS: list[tuple[type[SecaggError], Callable[[Unmask], Unmask]]] = [
    (ConsistencyError, lambda u: replace(u, context=bytes(32))),
    (ConsistencyError, lambda u: replace(u, epoch=2)),
    (ConsistencyError, lambda u: replace(u, sender=20)),
    (ConsistencyError, lambda u: replace(u, uploads=u.uploads[1:])),
    (ConsistencyError, lambda u: replace(u, uploads=(u.uploads[0]._replace(h=u.uploads[1].h), *u.uploads[1:]))),
    (FloorError, lambda u: replace(u, uploads=u.uploads[:3])),
    (SignatureError, lambda u: replace(u, uploads=(*u.uploads[:4], u.uploads[4]._replace(h=bytes(32))))),
    (SignatureError, lambda u: replace(u, uploads=(*u.uploads[:4], u.uploads[4]._replace(signature=bytes(64))))),
    (ConsistencyError, lambda u: replace(u, uploads=(*u.uploads, Uploaded(60, bytes(32), bytes(64))))),
    (ConsistencyError, lambda u: replace(u, uploads=u.uploads[:4])),
    (ConsistencyError, lambda u: replace(u, shares=(DealtShare(10, bytes(32), bytes(49)), *u.shares))),
    (ConsistencyError, lambda u: replace(u, shares=(*u.shares, DealtShare(60, bytes(32), bytes(49))))),
    (ConsistencyError, lambda u: replace(u, confirmations=((20, bytes(64)),))),
    (ReplayError, lambda u: replace(u, shares=u.shares[:3])),
]


@pytest.mark.parametrize(("error", "tamper"), UNMASKS)
def test_an_unmask_request_that_does_not_hold_reveals_nothing(
    error: type[SecaggError], tamper: Callable[[Unmask], Unmask]
) -> None:
    world = ready()
    site = world.members[10]
    sealed = world.new_round(SIZE)
    uploaded(world, sealed)
    request = Unmask.from_bytes(sealed.unmask_request(10))
    if error is ReplayError:
        site.unmask(request.to_bytes())
    kept = site.pins.to_bytes(), site.known.to_bytes()
    with pytest.raises(error):
        site.unmask(tamper(request).to_bytes())
    assert (site.pins.to_bytes(), site.known.to_bytes()) == kept
    site.unmask(request.to_bytes())


def test_a_member_says_one_thing_of_every_member() -> None:
    world = ready()
    site = world.members[10]
    sealed = world.new_round(SIZE)
    uploaded(world, sealed, absent=(50,))
    request = Unmask.from_bytes(sealed.unmask_request(10))
    two, three, _ = request.shares
    # Of 20 the share is kept back, that of 30 is altered, that of 40 is another's: never a pair's seed instead.
    shares = (flipped(three), DealtShare(40, two.commitment, two.ciphertext))
    answer = Answer.from_bytes(site.unmask(replace(request, shares=shares).to_bytes()))
    assert [(e.member, e.kind) for e in answer.entries] == [
        (10, SELF_SHARE),
        (20, COMPLAINT),
        (30, COMPLAINT),
        (40, COMPLAINT),
        (50, PAIR_SEED),
    ]
    assert all(e.content == bytes(33) for e in answer.entries if e.kind == COMPLAINT)
    with pytest.raises(ReplayError):
        site.unmask(request.to_bytes())


def flipped(share: DealtShare) -> DealtShare:
    return share._replace(ciphertext=bytes([share.ciphertext[0] ^ 1]) + share.ciphertext[1:])


def strict_round() -> tuple[World, SealedRound]:
    """Six members in strict mode, t = 4 and 4 confirmations; all have uploaded."""
    world = ready(6, mode="strict")
    sealed = world.new_round(SIZE)
    uploaded(world, sealed)
    return world, sealed


def test_survivors_are_confirmed_once_and_only_those_are_unmasked() -> None:
    world, sealed = strict_round()
    site = world.members[10]
    survivors = Survivors.from_bytes(sealed.confirm_request(10))
    for error, uploads in [
        (FloorError, survivors.uploads[:3]),
        (ConsistencyError, survivors.uploads[1:]),
        (ConsistencyError, (*survivors.uploads, Uploaded(70, bytes(32), bytes(64)))),
        (SignatureError, (*survivors.uploads[:5], survivors.uploads[5]._replace(h=bytes(32)))),
    ]:
        with pytest.raises(error):
            site.confirm(replace(survivors, uploads=uploads).to_bytes())
    for misplaced in (replace(survivors, epoch=2), replace(survivors, context=bytes(32))):
        with pytest.raises(ConsistencyError):
            site.confirm(misplaced.to_bytes())
    for i in world.ids:
        sealed.add_confirm(i, world.members[i].confirm(sealed.confirm_request(i)))
    with pytest.raises(ReplayError):
        site.confirm(replace(survivors, uploads=survivors.uploads[:5]).to_bytes())
    request = Unmask.from_bytes(sealed.unmask_request(10))
    given = request.confirmations
    for error, changed in [
        (FloorError, replace(request, confirmations=given[:3])),
        (FloorError, replace(request, confirmations=())),
        (SignatureError, replace(request, confirmations=(*given[:5], (60, given[0][1])))),
        (ConsistencyError, replace(request, confirmations=(*given[:5], (70, given[5][1])))),
        # Five survivors in place of six, though more than t, and enough confirmations.
        (ConsistencyError, replace(request, uploads=request.uploads[:5], shares=request.shares[:4])),
    ]:
        with pytest.raises(error):
            site.unmask(changed.to_bytes())
    site.unmask(request.to_bytes())


def test_who_has_not_confirmed_does_not_answer() -> None:
    world, sealed = strict_round()
    for i in world.ids[1:]:
        sealed.add_confirm(i, world.members[i].confirm(sealed.confirm_request(i)))
    with pytest.raises(ConsistencyError):
        sealed.unmask_request(10)
    request = Unmask.from_bytes(sealed.unmask_request(20))
    mine = tuple(share for share in request.shares if share.dealer != 10)
    with pytest.raises(ConsistencyError, match="not the survivors that I confirmed"):
        world.members[10].unmask(replace(request, shares=mine).to_bytes())


def test_in_sealed_mode_nobody_confirms() -> None:
    world = ready()
    sealed = world.new_round(SIZE)
    uploaded(world, sealed)
    with pytest.raises(ConsistencyError, match="mode"):
        world.members[10].confirm(sealed.confirm_request(10))


def test_noise_is_refused_or_harmless() -> None:
    """Every request with a few bits changed: nothing but a refusal of this room, which leaves all as it was."""
    random = Random(7)
    world, sealed = strict_round()
    for i in world.ids:
        sealed.add_confirm(i, world.members[i].confirm(sealed.confirm_request(i)))
    fresh = ready()
    entered = World(5)
    epoch = entered.new_epoch()
    for i in entered.ids:
        epoch.add_advertise(i, entered.members[i].advertise(epoch.invite()))
    site, new, first = world.members[20], entered.members[20], fresh.members[20]
    requests: list[tuple[Site, Callable[[bytes], object], bytes]] = [
        (site, site.advertise, world.new_epoch().invite()),
        (new, new.encapsulate, epoch.directory()),
        (first, first.open, fresh.new_round(SIZE).opening(20)),
        (site, site.confirm, sealed.confirm_request(20)),
        (site, site.unmask, sealed.unmask_request(20)),
    ]
    refused = 0
    for asked, step, request in requests:
        kept = asked.pins, asked.known
        for _ in range(120):
            noisy = bytearray(request)
            for _ in range(random.randint(1, 3)):
                # Half of the noise is near the front, where the counts are.
                end = len(noisy) if random.random() < 0.5 else min(len(noisy), 200)
                noisy[random.randrange(end)] ^= 1 << random.randrange(8)
            try:
                reply = step(bytes(noisy))
            except SecaggError:
                refused += 1
                assert (asked.pins, asked.known) == kept
                continue
            # A round's number or a share's ciphertext may change unnoticed; then the answer has complaints.
            if step == site.unmask and isinstance(reply, bytes):
                kinds = {entry.kind for entry in Answer.from_bytes(reply).entries}
                assert kinds <= {SELF_SHARE, COMPLAINT}
            asked.pins, asked.state = kept
    assert refused > 450
