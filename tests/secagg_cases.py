"""A small federation in one process, for tests of sealed sums: everything travels as bytes, nothing over a network.

::

    world = World(5)                                  members 0..4 with ids 10, 20, ... named site-0, site-1, ...
    world.run_setup()
    total, contributors = world.run_round(vectors, drops={10: "upload"})

``world.members[10]`` has a driver's duties: it keeps pins and state (as bytes, with ``durable=True``) before it
replies. Every step can also be taken by hand, see :meth:`World.run_round` for the order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from secagg import client, thresholds
from secagg.client import Bindings, EpochState, Me, Opened, Pins
from secagg.errors import SecaggError
from secagg.primitives import policy_hash
from secagg.roster import Member, Permit, Roster, federation_id, sign_permit, sign_roster
from secagg.server import Epoch, SealedRound
from secagg.thresholds import Floors, Mode

Vector = NDArray[np.uint32]
# Where a member falls silent: "open" before it uploads; then after uploading, before it confirms or unmasks.
Stage = Literal["open", "confirm", "unmask"]

NOW = 1_800_000_000
DAY = 86_400
SIZE = 7
RUN = "digits-7"
POLICY = policy_hash(b'{"model":"digits"}')
BINDINGS = Bindings(policy=POLICY, model=b"m" * 32, layout=b"l" * 32, config=b"c" * 32)


def identity(number: int, *, kind: int = 1) -> Ed25519PrivateKey:
    """A key that is the same in every test run."""
    return Ed25519PrivateKey.from_private_bytes(bytes([kind]) + number.to_bytes(31, "big"))


def random_vector(size: int, seed: int) -> Vector:
    return np.random.default_rng(seed).integers(0, 1 << 32, size, dtype=np.uint32)


def vectors_for(world: World, size: int = SIZE) -> dict[int, Vector]:
    """A vector for every member, the same in every test run."""
    return {i: random_vector(size, i) for i in world.ids}


def ready(members: int = 5, *, durable: bool = False, mode: Mode = "sealed") -> World:
    """A world whose members have set an epoch up."""
    world = World(members, mode=mode, durable=durable)
    world.run_setup()
    return world


def plain_sum(vectors: Mapping[int, Vector], ids: Collection[int]) -> Vector:
    total = np.zeros_like(next(iter(vectors.values())))
    for member in ids:
        total += vectors[member]
    return total


@dataclass
class Site:
    """A member with a driver: pins and state are replaced before a reply is handed out."""

    id: int
    me: Me
    durable: bool = False
    pins: Pins = field(default_factory=Pins)
    state: EpochState | None = None

    @property
    def known(self) -> EpochState:
        assert self.state is not None
        return self.state

    def keep(self, pins: Pins, state: EpochState) -> None:
        """Keep, through bytes if ``durable``, so that a restart between any two steps would change nothing."""
        if self.durable:
            pins = Pins.from_bytes(pins.to_bytes())
            state = EpochState.from_bytes(state.to_bytes(), upload_reply=state.upload_reply)
        self.pins, self.state = pins, state

    def advertise(self, invite: bytes, *, run: str = RUN, policy: bytes = POLICY, now: int = NOW) -> bytes:
        pins, state, reply = client.advertise(
            self.me, self.pins, invite, run=run, policy=policy, now=now, state=self.state
        )
        self.keep(pins, state)
        return reply

    def encapsulate(self, directory: bytes) -> bytes:
        state, reply = client.encapsulate(self.me, self.known, directory)
        self.keep(self.pins, state)
        return reply

    def open(self, opening: bytes, *, now: int = NOW) -> Opened:
        state, opened = client.open_round(self.me, self.pins, self.known, opening, now=now)
        self.keep(self.pins, state)
        return opened

    def upload(self, opened: Opened, x: Vector, *, bindings: Bindings = BINDINGS) -> bytes:
        pins, state, reply = client.upload(self.me, self.pins, self.known, opened, bindings, x.copy())
        self.keep(pins, state)
        return reply

    def open_and_upload(self, opening: bytes, x: Vector, *, bindings: Bindings = BINDINGS, now: int = NOW) -> bytes:
        opened = self.open(opening, now=now)
        return self.upload(opened, x, bindings=bindings)

    def confirm(self, request: bytes) -> bytes:
        pins, state, reply = client.confirm(self.me, self.pins, self.known, request)
        self.keep(pins, state)
        return reply

    def unmask(self, request: bytes) -> bytes:
        pins, state, reply = client.unmask(self.me, self.pins, self.known, request)
        self.keep(pins, state)
        return reply


class World:
    """A governance key, its roster and permit, members, and a server."""

    def __init__(
        self,
        members: int,
        *,
        mode: Mode = "sealed",
        colluders: int | None = None,
        min_honest: int | None = None,
        max_rounds: int = 1000,
        floors: Floors | None = None,
        durable: bool = False,
        governance: Ed25519PrivateKey | None = None,
    ) -> None:
        self.governance = governance or identity(0, kind=2)
        self.ids = tuple(10 * (number + 1) for number in range(members))
        self.keys = {i: identity(i) for i in self.ids}
        c, m = thresholds.defaults(members)
        self.roster = Roster(
            version=1,
            federation=self.federation,
            issued=NOW - DAY,
            expires=NOW + 365 * DAY,
            mode=mode,
            colluders=c if colluders is None else colluders,
            min_honest=m if min_honest is None else min_honest,
            range_max=64.0,
            members=tuple(
                Member(id=i, name=f"site-{number}", key=self.keys[i].public_key().public_bytes_raw())
                for number, i in enumerate(self.ids)
            ),
        )
        self.permit = self.make_permit(max_rounds=max_rounds)
        self.members = {i: Site(i, self.me(i, floors or Floors()), durable) for i in self.ids}
        self._epoch: Epoch | None = None
        self.last_epoch = 0
        self.last_round = 0

    @cached_property
    def governance_public(self) -> bytes:
        return self.governance.public_key().public_bytes_raw()

    @cached_property
    def federation(self) -> bytes:
        return federation_id(self.governance_public)

    @property
    def epoch(self) -> Epoch:
        assert self._epoch is not None, "run_setup() first"
        return self._epoch

    def me(self, member: int, floors: Floors) -> Me:
        return Me(key=self.keys[member], governance=self.governance_public, floors=floors)

    def make_permit(
        self, *, serial: int = 1, run: str = RUN, max_rounds: int = 1000, policy: bytes = POLICY, version: int = 1
    ) -> Permit:
        return Permit(
            serial=serial,
            federation=self.federation,
            run=run,
            roster_version=version,
            issued=NOW - DAY,
            expires=NOW + 30 * DAY,
            max_rounds=max_rounds,
            policy=policy,
        )

    def new_epoch(
        self,
        *,
        epoch: int | None = None,
        first_round: int | None = None,
        run: str = RUN,
        permit: Permit | None = None,
        roster: Roster | None = None,
    ) -> Epoch:
        """An epoch that nobody has entered yet."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        return Epoch(
            sign_roster(roster or self.roster, self.governance),
            roster or self.roster,
            sign_permit(permit or self.permit, self.governance),
            run,
            self.last_epoch,
            self.last_round + 1 if first_round is None else first_round,
        )

    def run_setup(
        self, *, only: Collection[int] | None = None, silent: Collection[int] = (), epoch: Epoch | None = None
    ) -> Epoch:
        """Set an epoch up with members ``only``; the ``silent`` advertise but do not encapsulate."""
        self._epoch = epoch = epoch or self.new_epoch()
        asked = [i for i in self.ids if only is None or i in only]
        for i in asked:
            epoch.add_advertise(i, self.members[i].advertise(epoch.invite()))
        directory = epoch.directory()
        for i in asked:
            reply = self.members[i].encapsulate(directory)
            if i not in silent:
                epoch.add_encapsulate(i, reply)
        return epoch

    def new_round(
        self,
        size: int,
        *,
        number: int | None = None,
        cohort: tuple[int, ...] | None = None,
        bindings: Bindings = BINDINGS,
    ) -> SealedRound:
        self.last_round = self.last_round + 1 if number is None else number
        return SealedRound(self.epoch, self.last_round, cohort or self.epoch.members, size=size, bindings=bindings)

    def run_round(
        self,
        vectors: Mapping[int, Vector],
        *,
        drops: Mapping[int, Stage] | None = None,
        number: int | None = None,
        cohort: tuple[int, ...] | None = None,
        bindings: Bindings = BINDINGS,
        answer: Callable[[int, bytes], bytes] = lambda _member, reply: reply,
    ) -> tuple[Vector, tuple[int, ...]]:
        """One round of honest members, some of which fall silent; ``answer`` may tamper with what they answer.

        Raises:
            AbandonedError: as :meth:`SealedRound.finish`; ``self.round`` is there to look at.
        """
        drops = drops or {}
        self.round = sealed = self.new_round(
            len(next(iter(vectors.values()))), number=number, cohort=cohort, bindings=bindings
        )
        live = [i for i in sealed.cohort if drops.get(i) != "open"]
        for i in live:
            upload = self.members[i].open_and_upload(sealed.opening(i), vectors[i], bindings=bindings)
            sealed.add_upload(i, upload)
        survivors = sealed.survivors()
        live = [i for i in survivors if drops.get(i) != "confirm"]
        if sealed.mode == "strict":
            for i in live:
                sealed.add_confirm(i, self.members[i].confirm(sealed.confirm_request(i)))
        for i in [i for i in live if drops.get(i) != "unmask"]:
            reply = answer(i, self.members[i].unmask(sealed.unmask_request(i)))
            try:
                sealed.add_answer(i, reply)
            except SecaggError:
                continue
        return sealed.finish()
