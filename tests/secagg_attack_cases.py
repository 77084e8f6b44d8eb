"""A server that lies, and the members in league with it: they keep all they see and compute all they can.

::

    world = ready(5)
    coalition = Coalition(world, corrupt={50})
    coalition.collect(vectors_for(world))                  open and upload, everybody in the same round
    coalition.ask(10, view={10, 20, 30, 50})               one member's answer, shown these survivors
    coalition.stripped({10})                               y_10 without the masks that they can remove
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from itertools import combinations

import numpy as np
import pytest
from secagg_cases import BINDINGS, Site, Vector, World, vectors_for

from secagg import primitives, shamir, transcript
from secagg.client import Bindings, EpochState, Pins
from secagg.errors import EncodingError, SecaggError
from secagg.masks import add_masks
from secagg.messages import (
    PAIR_SEED,
    SELF_SHARE,
    Answer,
    Confirm,
    DealtShare,
    Survivors,
    Unmask,
    Upload,
    Uploaded,
)

VICTIM = 10


class Coalition:
    """The server of one round and ``corrupt`` members, who give it all that they hold and sign all that it asks."""

    def __init__(
        self,
        world: World,
        *,
        corrupt: Collection[int] = (),
        cohort: tuple[int, ...] | None = None,
        number: int | None = None,
    ) -> None:
        self.world, self.corrupt = world, frozenset(corrupt)
        self.cohort = cohort or world.epoch.members
        world.last_round = self.number = world.last_round + 1 if number is None else number
        world.epoch.begin(self.number)
        self.uploads: dict[int, Upload] = {}
        # What they know: shares by (context, dealer) and point, pair seeds by (context, pair).
        self.shares: dict[tuple[bytes, int], dict[int, bytes]] = defaultdict(dict)
        self.seeds: dict[tuple[bytes, frozenset[int]], bytes] = {}

    @property
    def honest(self) -> tuple[int, ...]:
        return tuple(i for i in self.cohort if i not in self.corrupt)

    def site(self, member: int) -> Site:
        return self.world.members[member]

    def opening(self, member: int, *, cohort: tuple[int, ...] | None = None, number: int | None = None) -> bytes:
        epoch = self.world.epoch
        return epoch.opening(member, number or self.number, cohort or self.cohort, set_up=member not in epoch.complete)

    def keep(self, reply: bytes) -> Upload:
        """Keep an upload; of a corrupt member also what it can read of the others'."""
        upload = Upload.from_bytes(reply)
        self.uploads[upload.sender] = upload
        self.world.epoch.complete.add(upload.sender)
        return upload

    def collect(
        self,
        vectors: Mapping[int, Vector],
        *,
        bindings: Mapping[int, Bindings] | None = None,
        cohorts: Mapping[int, tuple[int, ...]] | None = None,
    ) -> None:
        """Let everybody upload; some may be told another thing than the rest."""
        for i in self.cohort:
            opening = self.opening(i, cohort=(cohorts or {}).get(i))
            told = (bindings or {}).get(i, BINDINGS)
            self.keep(self.site(i).open_and_upload(opening, vectors[i], bindings=told))
        for z in self.corrupt:
            self.betray(z)

    def betray(self, member: int) -> None:
        """What a corrupt member knows: its pair seeds, and the shares that were dealt to it."""
        state = self.site(member).known
        assert state.round is not None
        context = state.round.context
        self.shares[context, member][member + 1] = state.round.own_share
        for j, key in state.pair_keys.items():
            self.seeds[context, frozenset((member, j))] = primitives.mask_seed(key, context)
            upload = self.uploads.get(j)
            if upload is not None and upload.context == context:
                dealt = self.dealt(j, member)
                share = primitives.open_share(key, context, j, member, dealt.commitment, dealt.ciphertext)
                self.shares[context, j][member + 1] = share

    def dealt(self, dealer: int, receiver: int) -> DealtShare:
        """One of the shares that came with an upload."""
        upload = self.uploads[dealer]
        receivers = [j for j, _ in upload.commitments if j != dealer]
        return DealtShare(dealer, dict(upload.commitments)[receiver], upload.shares[receivers.index(receiver)])

    # --- What members are shown ---

    def listed(self, view: Collection[int]) -> tuple[Uploaded, ...]:
        return tuple(Uploaded(i, self.uploads[i].h, self.uploads[i].signature) for i in sorted(view))

    def survivors(self, member: int, view: Collection[int]) -> Survivors:
        return Survivors(
            run=self.world.epoch.run,
            epoch=self.world.epoch.number,
            context=self.uploads[member].context,
            uploads=self.listed(view),
        )

    def unmask(self, member: int, view: Collection[int], *, confirmations: Mapping[int, bytes] | None = None) -> Unmask:
        return Unmask(
            run=self.world.epoch.run,
            epoch=self.world.epoch.number,
            context=self.uploads[member].context,
            uploads=self.listed(view),
            confirmations=tuple(sorted((confirmations or {}).items())),
            shares=tuple(self.dealt(i, member) for i in sorted(view) if i != member),
        )

    def confirmed(self, views: Mapping[int, Collection[int]]) -> dict[frozenset[int], dict[int, bytes]]:
        """Let honest members confirm what each is shown, and the corrupt confirm everything; signatures by view."""
        signed: dict[frozenset[int], dict[int, bytes]] = defaultdict(dict)
        for member, view in views.items():
            reply = Confirm.from_bytes(self.site(member).confirm(self.survivors(member, view).to_bytes()))
            signed[frozenset(view)][member] = reply.signature
        for view, signatures in signed.items():
            signatures.update({z: self.forge_confirm(z, view) for z in self.corrupt & view})
        return signed

    def forge_confirm(self, member: int, view: Collection[int]) -> bytes:
        """A corrupt member's confirmation, of whatever the server likes."""
        context = self.uploads[member].context
        hashed = transcript.survivors_hash(context, {i: self.uploads[i].h for i in view})
        run, epoch = self.world.epoch.run, self.world.epoch.number
        blank = Confirm(run=run, epoch=epoch, sender=member, context=context, survivors_hash=hashed)
        return blank.sign(self.world.keys[member]).signature

    def ask(self, member: int, view: Collection[int], *, confirmations: Mapping[int, bytes] | None = None) -> Answer:
        """Show a member these survivors, and learn from its answer."""
        request = self.unmask(member, view, confirmations=confirmations)
        return self.learn(self.site(member).unmask(request.to_bytes()))

    def ask_everybody(self, view: Collection[int]) -> None:
        """Ask every honest member in a view about just that view."""
        for i in self.honest:
            if i in view:
                self.ask(i, view)

    def learn(self, reply: bytes) -> Answer:
        answer = Answer.from_bytes(reply)
        for j, kind, content in answer.entries:
            if kind == SELF_SHARE:
                self.shares[answer.context, j][answer.sender + 1] = content
            if kind == PAIR_SEED:
                self.seeds[answer.context, frozenset((answer.sender, j))] = content[1:]
        return answer

    # --- What they compute ---

    def seed(self, member: int) -> bytes | None:
        """The seed of a member's own mask, if enough shares are known."""
        upload = self.uploads[member]
        shares = self.shares.get((upload.context, member), {})
        return _seed(upload.context, upload.seed_hash, tuple(sorted(shares.items())))

    def stripped(self, members: Collection[int], *, seeds: Mapping[int, bytes] | None = None) -> Vector:
        """The sum of what these members uploaded, without every mask that they can remove."""
        total = np.zeros(self.uploads[min(members)].vector().size, np.uint32)
        for i in members:
            upload = self.uploads[i]
            total += upload.vector()
            own = (seeds or {}).get(i) or self.seed(i)
            if own is not None:
                total -= _mask(primitives.self_key, own, upload.context, total.size)
            for j, _ in upload.commitments:
                seed = self.seeds.get((upload.context, frozenset((i, j))))
                cancels = j in members and self.uploads[j].context == upload.context
                if j != i and seed is not None and not cancels:
                    mask = _mask(primitives.pair_mask_key, seed, upload.context, total.size)
                    total += mask if j < i else -mask
        return total

    def reads(self, victim: int, x: Vector) -> bool:
        """Whether they have one member's vector."""
        return np.array_equal(self.stripped({victim}), x)

    def learnt(self, vectors: Mapping[int, Vector]) -> set[frozenset[int]]:
        """The sets of honest members whose sum they have, by trying every set there is."""
        found = set()
        for size in range(1, len(self.honest) + 1):
            for members in combinations(self.honest, size):
                truth = sum((vectors[i] for i in members), np.zeros_like(vectors[members[0]]))
                if np.array_equal(self.stripped(members), truth):
                    found.add(frozenset(members))
        return found


def kept(site: Site) -> tuple[Pins, EpochState]:
    """A copy of all that a member has on its disk."""
    return site.pins, site.known


def refused(site: Site, error: type[SecaggError], request: bytes, *, match: str | None = None) -> None:
    """An unmask request is refused and leaves no trace."""
    before = kept(site)
    with pytest.raises(error, match=match):
        site.unmask(request)
    assert kept(site) == before


def uploaded(world: World, *, corrupt: Collection[int] = ()) -> Coalition:
    coalition = Coalition(world, corrupt=corrupt)
    coalition.collect(vectors_for(world))
    return coalition


# A search tries every set of members, and meets the same seeds and masks again and again.
@lru_cache(maxsize=4096)
def _seed(context: bytes, seed_hash: bytes, shares: tuple[tuple[int, bytes], ...]) -> bytes | None:
    try:
        found = shamir.reconstruct(dict(shares))
    except EncodingError:
        return None
    return found if transcript.self_seed_hash(context, found) == seed_hash else None


@lru_cache(maxsize=256)
def _mask(key: Callable[[bytes, bytes], bytes], seed: bytes, context: bytes, size: int) -> Vector:
    mask = np.zeros(size, np.uint32)
    add_masks(mask, [(key(seed, context), 1)])
    return mask
