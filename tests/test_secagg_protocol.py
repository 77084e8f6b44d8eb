"""The whole protocol of sealed sums over bytes: exact sums, or an abandoned round, by the rule and never otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, product
from random import Random

import numpy as np
import pytest
from secagg_cases import SIZE, Stage, World, plain_sum, ready, vectors_for

from secagg import primitives, thresholds
from secagg.errors import AbandonedError, ConsistencyError
from secagg.messages import Upload
from secagg.thresholds import Mode

SEALED: list[Stage | None] = [None, "open", "unmask"]
STRICT: list[Stage | None] = [None, "open", "confirm", "unmask"]


# How many of the patterns finish, counted by hand. Sealed: t = n, but n - 1 for n = 5 and 6: one member may be silent,
# at either stage. Strict: t = 3, 3, 4, 4; one may be silent for n = 4 and 5, at any stage, and two for n = 6, both
# before uploading or both after it.
FINISHED = {"sealed": {3: 1, 4: 1, 5: 11, 6: 13}, "strict": {3: 1, 4: 13, 5: 4, 6: 8}}


def patterns(mode: Mode, n: int) -> Iterator[tuple[Stage | None, ...]]:
    """Every way to fall silent; in strict mode with n > 4 every number of each, dealt out in one shuffled order."""
    if mode == "sealed" or n <= 4:
        yield from product(SEALED if mode == "sealed" else STRICT, repeat=n)
        return
    for seed, stages in enumerate(combinations_with_replacement(STRICT, n)):
        shuffled = list(stages)
        Random(seed).shuffle(shuffled)
        yield tuple(shuffled)


def finishes(world: World, silent: tuple[Stage | None, ...]) -> bool:
    """The specification's rule."""
    n, c, m = len(silent), world.roster.colluders, world.roster.min_honest
    mode = world.roster.mode
    t = thresholds.threshold(mode, n, c, m)
    uploads = sum(stage != "open" for stage in silent)
    confirmed = sum(stage in (None, "unmask") for stage in silent) if mode == "strict" else uploads
    answers = sum(stage is None for stage in silent)
    if uploads < t or (mode == "strict" and confirmed < thresholds.confirmations(n, c)):
        return False
    return answers >= t and uploads in {n, answers}


@pytest.mark.parametrize("mode", ["sealed", "strict"])
@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_every_drop_pattern_gives_the_exact_sum_or_abandons(n: int, mode: Mode) -> None:
    world = World(n, mode=mode, max_rounds=10_000, durable=n == 4)
    world.run_setup()
    vectors = vectors_for(world)
    finished = 0
    for silent in patterns(mode, n):
        drops = {i: stage for i, stage in zip(world.ids, silent, strict=True) if stage is not None}
        if not finishes(world, silent):
            with pytest.raises(AbandonedError):
                world.run_round(vectors, drops=drops)
            continue
        total, contributors = world.run_round(vectors, drops=drops)
        finished += 1
        assert contributors == tuple(i for i in world.ids if drops.get(i) != "open")
        assert np.array_equal(total, plain_sum(vectors, contributors))
        assert not world.round.faults.convicted
        assert not world.round.faults.complaints
    assert finished == FINISHED[mode][n]


def test_a_masked_vector_is_nothing_like_the_vector() -> None:
    world = ready()
    sealed = world.new_round(1000)
    sent = {}
    for i in world.ids:
        zero = np.zeros(1000, np.uint32)
        sent[i] = Upload.from_bytes(world.members[i].open_and_upload(sealed.opening(i), zero)).vector()
        assert np.unique(sent[i]).size > 990
    # Masks cancel in pairs; what is left in the sum is everybody's own mask.
    assert np.count_nonzero(sum(sent.values())) > 990


def test_sums_wrap_modulo_two_to_the_32() -> None:
    world = ready(3)
    total, _ = world.run_round({i: np.full(4, 0xFFFFFFFF, np.uint32) for i in world.ids})
    assert total.tolist() == [2**32 - 3] * 4


@pytest.mark.parametrize("cohort", [(10, 20, 30, 40, 50), (20, 30, 40, 50, 60), (10, 30, 40, 60)])
def test_a_cohort_may_be_part_of_the_epoch(cohort: tuple[int, ...]) -> None:
    world = ready(6, durable=True)
    vectors = vectors_for(world)
    for _ in range(2):
        total, contributors = world.run_round(vectors, cohort=cohort)
        assert contributors == cohort
        assert np.array_equal(total, plain_sum(vectors, cohort))
    # The others' first opening comes later; their keys skip the rounds that they were not in.
    total, contributors = world.run_round(vectors)
    assert np.array_equal(total, plain_sum(vectors, world.ids))


def test_without_its_ciphertexts_a_member_is_not_of_the_epoch() -> None:
    world = World(6)
    world.run_setup(silent=[30])
    assert world.epoch.members == (10, 20, 40, 50, 60)
    vectors = vectors_for(world)
    total, _ = world.run_round(vectors)
    assert np.array_equal(total, plain_sum(vectors, world.epoch.members))
    with pytest.raises(ConsistencyError):
        world.new_round(SIZE, cohort=world.ids)


def test_members_come_and_go_between_epochs() -> None:
    world = World(6)
    vectors = vectors_for(world)
    for only in [world.ids, (10, 20, 40, 50, 60), world.ids]:
        world.run_setup(only=only)
        total, contributors = world.run_round(vectors)
        assert contributors == only
        assert np.array_equal(total, plain_sum(vectors, only))


@pytest.mark.parametrize("jump", [1, 2, 500])
def test_rounds_may_be_skipped_and_older_keys_are_gone(jump: int) -> None:
    world = ready(durable=True)
    vectors = vectors_for(world)
    world.run_round(vectors)
    before = dict(world.members[10].known.pair_keys)
    total, _ = world.run_round(vectors, number=1 + jump)
    assert np.array_equal(total, plain_sum(vectors, world.ids))
    after = world.members[10].known
    assert after.key_round == 2 + jump
    assert {20, 30, 40, 50} == before.keys() == after.pair_keys.keys()
    for j, key in before.items():
        assert after.pair_keys[j] == primitives.ratchet_to(key, 2, 2 + jump)
        assert key.hex().encode() not in after.to_bytes()


def test_a_round_that_everybody_missed_does_no_harm() -> None:
    world = ready()
    vectors = vectors_for(world)
    sealed = world.new_round(SIZE)
    for i in world.ids[:2]:
        sealed.add_upload(i, world.members[i].open_and_upload(sealed.opening(i), vectors[i]))
    world.members[30].open(sealed.opening(30))
    total, _ = world.run_round(vectors)
    assert np.array_equal(total, plain_sum(vectors, world.ids))
