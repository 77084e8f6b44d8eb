"""Attacks of a lying server on keys, rosters and permits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from secagg_attack_cases import VICTIM, Coalition, kept
from secagg_cases import World, identity, ready, vectors_for

from secagg import primitives
from secagg.client import Me
from secagg.errors import (
    ConsistencyError,
    FloorError,
    FormatError,
    PermitError,
    ReplayError,
    RosterError,
    SecaggError,
    SignatureError,
)
from secagg.messages import Advertise, Directory, Encapsulate, Open
from secagg.primitives import PrivateKeys
from secagg.wire import Signed

# Every X25519 public key whose secrets are known to everybody: points of order 1, 2, 4 and 8 of the curve and its
# twist, and their encodings beyond 2^255 - 19 (RFC 7748, section 6.1; Bernstein's list).
P = 2**255 - 19
EIGHT = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW_ORDER = [0, 1, *EIGHT, P - 1, P, P + 1]


def advertised(world: World) -> dict[int, Advertise]:
    """Everybody's keys in a new epoch."""
    world._epoch = epoch = world.new_epoch()
    return {i: Advertise.from_bytes(world.members[i].advertise(epoch.invite())) for i in world.ids}


def directory(world: World, entries: dict[int, Advertise]) -> bytes:
    entry = next(iter(entries.values()))
    return Directory(run=entry.run, epoch=entry.epoch, entries=tuple(entries.values())).to_bytes()


def refused_directory(world: World, error: type[SecaggError], message: bytes) -> None:
    site = world.members[VICTIM]
    before = kept(site)
    with pytest.raises(error):
        site.encapsulate(message)
    assert kept(site) == before


# --- Keys ---


@pytest.mark.parametrize("high_bit", [0, 1])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_key_of_low_order_is_refused_by_members_and_server(point: int, high_bit: int) -> None:
    world = World(3)
    entries = advertised(world)
    low = (point | high_bit << 255).to_bytes(32, "little")
    # Signed by its owner, who colludes: anybody could compute the secrets it shares.
    bad = replace(entries[20], keys=low + entries[20].mlkem).sign(world.keys[20])
    refused_directory(world, ConsistencyError, directory(world, {**entries, 20: bad}))
    with pytest.raises(ConsistencyError):
        world.epoch.add_advertise(20, bad.to_bytes())


def test_a_malformed_ml_kem_key_is_refused_by_members_and_server() -> None:
    world = World(3)
    entries = advertised(world)
    bad = replace(entries[20], keys=entries[20].x25519 + b"\xff" * 1184).sign(world.keys[20])
    refused_directory(world, FormatError, directory(world, {**entries, 20: bad}))
    with pytest.raises(FormatError):
        world.epoch.add_advertise(20, bad.to_bytes())


def test_a_substituted_key_is_refused() -> None:
    world = World(4)
    entries = advertised(world)
    keys = PrivateKeys.generate().public
    server = identity(7, kind=9)
    forged = replace(entries[20], keys=keys)
    refused_directory(world, SignatureError, directory(world, {**entries, 20: forged}))
    refused_directory(world, SignatureError, directory(world, {**entries, 20: forged.sign(server)}))
    # Somebody else's key and signature under this name; somebody twice; a stranger; my own message changed.
    refused_directory(world, SignatureError, directory(world, {**entries, 20: replace(entries[30], sender=20)}))
    refused_directory(world, FormatError, directory(world, {**entries, 20: entries[30]}))
    refused_directory(world, FormatError, directory(world, {10: entries[10], 20: entries[20], 21: entries[20]}))
    stranger = replace(entries[20], sender=50).sign(server)
    refused_directory(world, ConsistencyError, directory(world, {**entries, 50: stranger}))
    mine = replace(entries[VICTIM], keys=keys)
    refused_directory(world, SignatureError, directory(world, {**entries, VICTIM: mine}))
    colluding = mine.sign(world.keys[VICTIM])
    refused_directory(world, ConsistencyError, directory(world, {**entries, VICTIM: colluding}))
    refused_directory(world, ConsistencyError, directory(world, {i: entries[i] for i in (20, 30, 40)}))


class Impostor(Me):
    """Says it is another: the server, in the place of every member but the victim."""

    @property
    def public(self) -> bytes:
        return self.claimed

    claimed: bytes = b""


def surrounded() -> tuple[World, Callable[[], Coalition]]:
    """A victim among members that are all the server, which has none of their identity keys."""
    world = World(5)
    for i in world.ids[1:]:
        fake = Impostor(key=identity(i, kind=9), governance=world.governance_public)
        object.__setattr__(fake, "claimed", world.members[i].me.public)
        world.members[i].me = fake

    def attack() -> Coalition:
        entries = advertised(world)
        shown = directory(world, entries)
        sent = {i: Encapsulate.from_bytes(world.members[i].encapsulate(shown)) for i in world.ids}
        coalition = Coalition(_relayed(world, shown, sent), corrupt=world.ids[1:])
        coalition.collect(vectors_for(world))
        coalition.ask(VICTIM, world.ids)
        return coalition

    return world, attack


def _relayed(world: World, shown: bytes, sent: dict[int, Encapsulate]) -> World:
    for i, entry in enumerate(Directory.from_bytes(shown).entries):
        world.epoch.add_advertise(world.ids[i], entry.to_bytes())
    world.epoch.directory()
    for i, message in sent.items():
        world.epoch.add_encapsulate(i, message.to_bytes())
    return world


def test_a_victim_is_not_surrounded_by_members_that_are_all_the_server() -> None:
    _, attack = surrounded()
    with pytest.raises(SignatureError):
        attack()


def test_without_signatures_it_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signed, "verify", lambda *_: None)
    world, attack = surrounded()
    assert attack().reads(VICTIM, vectors_for(world)[VICTIM])


def test_a_swapped_ciphertext_is_refused_before_it_is_decapsulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("decapsulated")

    monkeypatch.setattr(PrivateKeys, "decapsulate", never)
    world = ready(4)
    world.epoch.begin(1)
    site = world.members[40]
    opening = Open.from_bytes(world.epoch.opening(40, 1, world.ids, set_up=True))
    (i, first), (j, second), last = opening.ciphertexts
    to_another = Open.from_bytes(world.epoch.opening(30, 1, world.ids, set_up=True)).ciphertexts
    own = primitives.encapsulate(PrivateKeys.generate().public[32:])[1]
    for ciphertexts in (
        ((i, second), (j, first), last),
        ((i, to_another[0][1]), (j, second), last),
        ((i, own), (j, second), last),
        ((i, first), (j, second)),
    ):
        with pytest.raises(ConsistencyError):
            site.open(replace(opening, ciphertexts=ciphertexts).to_bytes())


def test_members_with_different_directories_never_meet_in_a_round() -> None:
    # The server hides one member from half of the others, so that thresholds would be computed of different sets.
    world = World(5)
    entries = advertised(world)
    without = {i: entries[i] for i in world.ids[:4]}
    sent = {}
    for i in world.ids:
        shown = directory(world, without if i in (10, 20) else entries)
        sent[i] = Encapsulate.from_bytes(world.members[i].encapsulate(shown))
    lists = tuple(replace(sent[i], ciphertexts=()) for i in world.ids[:4])
    opening = Open(run=sent[10].run, epoch=1, round=1, cohort=world.ids[:4], lists=lists, ciphertexts=())
    for i in (10, 20, 30):
        with pytest.raises(ConsistencyError, match=r"another set-up|lists other members"):
            world.members[i].open(opening.to_bytes())


@pytest.mark.parametrize("what", ["roster", "permit", "first_round"])
def test_members_invited_on_different_terms_never_meet_in_a_round(what: str) -> None:
    world = World(5)
    wider = replace(world.roster, range_max=1e6)
    longer = world.make_permit(max_rounds=10**6)
    world._epoch = epoch = world.new_epoch()
    other = world.new_epoch(
        epoch=epoch.number,
        roster=wider if what == "roster" else None,
        permit=longer if what == "permit" else None,
        first_round=2 if what == "first_round" else None,
    )
    invited = {i: world.members[i].advertise((other if i in (10, 20) else epoch).invite()) for i in world.ids}
    shown = directory(world, {i: Advertise.from_bytes(reply) for i, reply in invited.items()})
    sent = {i: Encapsulate.from_bytes(world.members[i].encapsulate(shown)) for i in world.ids}
    for i in world.ids:
        opening = Open(
            run=epoch.run,
            epoch=epoch.number,
            round=2,
            cohort=world.ids,
            lists=tuple(replace(message, ciphertexts=()) for message in sent.values()),
            ciphertexts=tuple(
                (j, sent[j].ciphertexts[world.ids.index(i) - world.ids.index(j) - 1]) for j in world.ids if j < i
            ),
        )
        with pytest.raises(ConsistencyError, match="another set-up"):
            world.members[i].open(opening.to_bytes())


# --- Rosters and permits ---


def entering(world: World, **documents: object) -> None:
    """Ask the victim into a new epoch with these documents."""
    world.members[VICTIM].advertise(world.new_epoch(**documents).invite())  # type: ignore[arg-type]  # roster, permit


@pytest.mark.parametrize("terms", [{"mode": "sealed"}, {"colluders": 0}, {"min_honest": 2}, {"range_max": 1e9}])
def test_terms_are_the_governance_keys_and_of_the_newest_roster(terms: dict[str, object]) -> None:
    world = World(10, mode="strict")
    lowered = replace(world.roster, **terms)  # type: ignore[arg-type]  # a field and its value
    server = identity(7, kind=9)
    # Signed by the server; the true envelope with another text; one version signed twice; an older one brought back.
    forged = World(10, mode="strict")
    forged.governance = server
    forged.__dict__.update(governance_public=server.public_key().public_bytes_raw())
    forged.roster = replace(lowered, federation=primitives.digest("confide/federation/v1", forged.governance_public))
    forged.permit = replace(world.permit, federation=forged.roster.federation)
    with pytest.raises(SignatureError):
        world.members[VICTIM].advertise(forged.new_epoch().invite())
    entering(world)
    with pytest.raises((RosterError, FloorError)):
        entering(world, roster=lowered)
    newer = replace(world.roster, version=2)
    entering(world, roster=newer, permit=world.make_permit(serial=2, version=2))
    with pytest.raises((ReplayError, FloorError)):
        entering(world, roster=lowered, permit=world.make_permit(serial=3))
    with pytest.raises(ReplayError):
        entering(world, permit=world.make_permit(serial=3))


def test_permits_are_for_one_run_and_never_get_older() -> None:
    world = World(5)
    entering(world, permit=world.make_permit(serial=5))
    with pytest.raises(ReplayError):
        entering(world, permit=world.make_permit(serial=4, max_rounds=10**6))
    site = world.members[VICTIM]
    for serial in (4, 5):
        permit = world.make_permit(serial=serial, run="another")
        with pytest.raises(ReplayError):
            site.advertise(world.new_epoch(run="another", permit=permit).invite(), run="another")
    with pytest.raises(PermitError):
        site.advertise(world.new_epoch(permit=world.make_permit(serial=6, run="another")).invite())
    with pytest.raises(ConsistencyError):
        site.advertise(world.new_epoch(permit=world.make_permit(serial=6)).invite(), run="another")
