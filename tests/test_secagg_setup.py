"""Entering an epoch of sealed sums: what a member refuses of roster, permit and directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from secagg_cases import (
    DAY,
    NOW,
    World,
    identity,
)

from secagg.client import Floors
from secagg.errors import (
    ClockError,
    ConsistencyError,
    FloorError,
    FormatError,
    PermitError,
    ReplayError,
    RosterError,
    SecaggError,
    SignatureError,
)
from secagg.messages import (
    Advertise,
    Directory,
    Invite,
)
from secagg.roster import Roster


def entering(error: type[SecaggError], world: World, invite: bytes, **asked: object) -> None:
    """Entering by this invite raises, and leaves nothing behind."""
    site = world.members[10]
    with pytest.raises(error):
        site.advertise(invite, **asked)  # type: ignore[arg-type]  # each test gives the keywords it means
    assert site.state is None
    assert not site.pins.runs


def test_documents_are_checked_before_an_epoch_is_entered() -> None:
    world = World(5)
    invite = world.new_epoch().invite()
    entering(ClockError, world, invite, now=NOW + 31 * DAY)
    entering(ClockError, world, invite, now=NOW - 2 * DAY)
    entering(ConsistencyError, world, invite, run="another run")
    entering(PermitError, world, invite, policy=b"p" * 32)
    entering(ConsistencyError, world, world.new_epoch(first_round=1001).invite())
    entering(PermitError, world, world.new_epoch(permit=world.make_permit(version=2)).invite())
    entering(PermitError, world, world.new_epoch(permit=world.make_permit(run="another run")).invite())
    entering(ConsistencyError, world, replace(Invite.from_bytes(invite), sender=3).to_bytes())
    stranger = World(5, governance=identity(1, kind=3))
    entering(SignatureError, world, stranger.new_epoch().invite())
    world.members[10].advertise(invite)


def terms(world: World, **changes: object) -> Roster:
    return replace(world.roster, **changes)  # type: ignore[arg-type]  # each test gives the fields it means


@pytest.mark.parametrize(
    ("changes", "floors"),
    [
        ({"colluders": 0}, Floors()),
        ({"min_honest": 2}, Floors()),
        ({}, Floors(min_cohort=11)),
        ({}, Floors(min_colluders=2)),
        ({}, Floors(min_honest=4)),
        ({"colluders": 8}, Floors()),
        ({"colluders": 4, "min_honest": 7}, Floors()),
    ],
)
def test_the_roster_must_meet_the_members_own_floors(changes: dict[str, object], floors: Floors) -> None:
    world = World(10, floors=floors)
    entering(FloorError, world, world.new_epoch(roster=terms(world, **changes)).invite())


def test_whoever_is_not_in_the_roster_stays_out() -> None:
    world = World(5)
    entering(RosterError, world, world.new_epoch(roster=terms(world, members=world.roster.members[1:])).invite())


def test_documents_never_get_older() -> None:
    world = World(5)
    site = world.members[10]
    newer, permit = terms(world, version=2), world.make_permit(version=2, serial=5)
    site.advertise(world.new_epoch(roster=newer, permit=permit).invite())
    refused = [
        (ReplayError, world.roster, world.make_permit(serial=6)),
        (RosterError, terms(world, version=2, range_max=65.0), permit),
        (ReplayError, newer, world.make_permit(version=2, serial=4)),
    ]
    for error, roster, other in refused:
        with pytest.raises(error):
            site.advertise(world.new_epoch(roster=roster, permit=other).invite())
    # A serial is one run's, whichever run is asked first.
    same = world.make_permit(version=2, serial=5, run="other")
    with pytest.raises(ReplayError):
        site.advertise(world.new_epoch(roster=newer, permit=same, run="other").invite(), run="other")
    higher = world.make_permit(version=2, serial=8, run="other")
    site.advertise(world.new_epoch(roster=newer, permit=higher, run="other").invite(), run="other")
    # The first run's own serial still holds, though another run has a higher one.
    site.advertise(world.new_epoch(roster=newer, permit=permit).invite())


def advertised(world: World) -> Directory:
    epoch = world.new_epoch()
    entries = [Advertise.from_bytes(world.members[i].advertise(epoch.invite())) for i in world.ids]
    return Directory(run=entries[0].run, epoch=1, entries=tuple(entries))


def forged(entry: Advertise, **changes: object) -> Advertise:
    changed = replace(entry, **changes)  # type: ignore[arg-type]  # each test gives the fields it means
    return changed.sign(identity(changed.sender))


@pytest.mark.parametrize(
    ("error", "tamper"),
    [
        (ConsistencyError, lambda e: e[1:]),
        (ConsistencyError, lambda e: [forged(e[0], keys=e[1].keys), *e[1:]]),
        (SignatureError, lambda e: [*e[:4], replace(e[4], keys=e[3].keys)]),
        (SignatureError, lambda e: [*e[:3], replace(e[3], signature=e[4].signature), e[4]]),
        (ConsistencyError, lambda e: [*e, forged(e[4], sender=60)]),
        (ConsistencyError, lambda e: [*e[:4], forged(e[4], epoch=2)]),
        (ConsistencyError, lambda e: [*e[:4], forged(e[4], run=b"r" * 32)]),
        (FormatError, lambda e: [*e[:4], e[3]]),
        (FormatError, lambda e: [e[0], e[2], e[1], *e[3:]]),
        # A point of low order, and ML-KEM coefficients beyond the modulus.
        (ConsistencyError, lambda e: [*e[:4], forged(e[4], keys=bytes(32) + e[4].mlkem)]),
        (FormatError, lambda e: [*e[:4], forged(e[4], keys=e[4].x25519 + b"\xff" * 1184)]),
    ],
)
def test_a_directory_that_is_not_everybodys_is_refused(
    error: type[SecaggError], tamper: Callable[[list[Advertise]], list[Advertise]]
) -> None:
    world = World(5)
    directory = advertised(world)
    site = world.members[10]
    with pytest.raises(error):
        site.encapsulate(replace(directory, entries=tuple(tamper(list(directory.entries)))).to_bytes())
    site.encapsulate(directory.to_bytes())


def test_an_epoch_has_one_directory() -> None:
    world = World(5)
    directory = advertised(world)
    site = world.members[10]
    with pytest.raises(ConsistencyError, match="epoch"):
        site.encapsulate(replace(directory, epoch=2).to_bytes())
    reply = site.encapsulate(directory.to_bytes())
    # Sound in itself, and so another set of keys.
    with pytest.raises(ReplayError):
        site.encapsulate(replace(directory, entries=directory.entries[:4]).to_bytes())
    assert site.encapsulate(directory.to_bytes()) == reply


@pytest.mark.parametrize("me", [10, 50])
def test_a_malformed_key_is_refused_by_those_before_and_after_its_owner(me: int) -> None:
    world = World(5)
    directory = advertised(world)
    entries = list(directory.entries)
    entries[2] = forged(entries[2], keys=entries[2].x25519 + b"\xff" * 1184)
    with pytest.raises(FormatError):
        world.members[me].encapsulate(replace(directory, entries=tuple(entries)).to_bytes())
