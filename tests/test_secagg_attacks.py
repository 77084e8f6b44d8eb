"""Attacks of a lying server on a round, each failing against real members, and where it can against weakened ones.

What can be told about drop-outs is searched in full in ``test_secagg_views.py``; attacks on the set-up and on rosters
and permits are in ``test_secagg_attacks_setup.py``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from secagg_attack_cases import VICTIM, Coalition, kept, refused, uploaded
from secagg_cases import BINDINGS, SIZE, World, random_vector, ready, vectors_for

from secagg import primitives, transcript
from secagg.client import RunRecord
from secagg.errors import (
    ConsistencyError,
    FloorError,
    ReplayError,
    SecaggError,
    SignatureError,
)
from secagg.messages import (
    PAIR_SEED,
    SELF_SHARE,
    Open,
    Unmask,
    Upload,
)
from secagg.thresholds import Floors

WEAK_FLOORS = Floors(min_cohort=3, min_honest=2, min_colluders=0)


# --- One thing for one member, another for the rest ---


@pytest.mark.parametrize("field", ["model", "layout", "config"])
def test_who_is_told_something_else_is_noise(field: str) -> None:
    world = ready(5)
    coalition = Coalition(world, corrupt={50})
    told = replace(BINDINGS, **{field: b"x" * 32})
    vectors = {i: np.zeros(4096, np.uint32) for i in world.ids}
    coalition.collect(vectors, bindings={VICTIM: told})
    refused(world.members[VICTIM], SignatureError, coalition.unmask(VICTIM, world.ids).to_bytes())
    for i in (20, 30, 40):
        refused(world.members[i], SignatureError, coalition.unmask(i, world.ids).to_bytes())
    for i in (20, 30, 40):
        coalition.ask(i, {20, 30, 40, 50})
    assert coalition.learnt(vectors) == {frozenset({20, 30, 40})}
    # What is left of the victim's zeros has as many ones as noise has, whatever they strip.
    for members in ({VICTIM}, {VICTIM, 20}, set(coalition.honest)):
        bits = np.unpackbits(coalition.stripped(members).view(np.uint8))
        assert abs(bits.mean() - 0.5) < 0.01


# Everybody trains for one round as told; told a learning rate of zero, members send a zero update.
@pytest.mark.parametrize("field", ["model", "layout", "config"])
def test_were_it_not_in_the_context_the_sum_would_be_one_members_vector(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = transcript.round_context
    monkeypatch.setattr(transcript, "round_context", lambda **fields: context(**{**fields, f"{field}_hash": bytes(32)}))
    world = ready(5)
    coalition = Coalition(world)
    vectors = {i: random_vector(SIZE, i) if i == VICTIM else np.zeros(SIZE, np.uint32) for i in world.ids}
    coalition.collect(vectors, bindings={VICTIM: replace(BINDINGS, **{field: b"x" * 32})})
    coalition.ask_everybody(world.ids)
    assert np.array_equal(coalition.stripped(world.ids), vectors[VICTIM])


@pytest.mark.parametrize("other", [(10, 20, 30, 40), (10, 20, 30, 50), (10, 20, 30)])
def test_a_cohort_of_its_own_isolates_nobody(other: tuple[int, ...]) -> None:
    world = ready(5)
    coalition = Coalition(world, corrupt={20})
    vectors = vectors_for(world)
    coalition.collect(vectors, cohorts={VICTIM: other})
    refused(world.members[VICTIM], ConsistencyError, coalition.unmask(VICTIM, world.ids).to_bytes(), match="cohort")
    refused(world.members[VICTIM], SignatureError, coalition.unmask(VICTIM, other).to_bytes())
    for i in (30, 40, 50):
        coalition.ask(i, {20, 30, 40, 50})
    assert coalition.learnt(vectors) == {frozenset({30, 40, 50})}


def test_two_halves_with_contexts_of_their_own_cannot_both_be_unmasked() -> None:
    # The colluder uploads for both halves; neither reaches the threshold, for 2t > n + c.
    world = ready(5)
    coalition = Coalition(world, corrupt={50})
    vectors = vectors_for(world)
    told = replace(BINDINGS, config=b"x" * 32)
    site = world.members[50]
    before = kept(site)
    second = site.open_and_upload(coalition.opening(50), vectors[50], bindings=told)
    site.keep(*before)
    coalition.collect(vectors, bindings={10: told, 20: told})
    coalition.uploads[50] = Upload.from_bytes(second)
    for i in (10, 20):
        refused(world.members[i], FloorError, coalition.unmask(i, {10, 20, 50}).to_bytes())
    refused(world.members[30], FloorError, coalition.unmask(30, {30, 40}).to_bytes())
    assert coalition.learnt(vectors) == set()


# --- Answers that may be given once ---


def isolating(coalition: Coalition) -> None:
    """Show everybody the victim; then, if they can be asked again, everybody but the victim that it is gone."""
    everybody = set(coalition.cohort)
    fresh = {i: kept(coalition.site(i)) for i in coalition.honest}
    coalition.ask_everybody(everybody)
    for i in coalition.honest:
        if i != VICTIM:
            request = coalition.unmask(i, everybody - {VICTIM})
            refused(coalition.site(i), ReplayError, request.to_bytes(), match="nothing is answered twice")
            # A copy of the whole disk from before the answer: nobody can notice, see the threat model.
            coalition.site(i).keep(*fresh[i])
            coalition.learn(coalition.site(i).unmask(request.to_bytes()))


def test_both_kinds_of_share_for_one_member_are_not_to_be_had() -> None:
    world = ready(5)
    coalition = uploaded(world, corrupt={50})
    answers = [coalition.ask(i, view) for i, view in ((10, world.ids), (20, {20, 30, 40, 50}), (30, world.ids))]
    for answer in answers:
        assert [entry.member for entry in answer.entries] == list(world.ids)
    assert [e.kind for e in answers[0].entries] == [SELF_SHARE] * 5
    assert [e.kind for e in answers[1].entries] == [PAIR_SEED] + [SELF_SHARE] * 4
    assert not coalition.reads(VICTIM, vectors_for(world)[VICTIM])


def test_a_second_answer_would_isolate_a_member_and_only_an_older_disk_gives_it() -> None:
    world = ready(5)
    coalition = uploaded(world)
    isolating(coalition)
    assert coalition.reads(VICTIM, vectors_for(world)[VICTIM])


def test_one_restored_member_is_not_enough_to_isolate_another() -> None:
    world = ready(5)
    coalition = uploaded(world, corrupt={50})
    fresh = kept(world.members[20])
    coalition.ask_everybody(world.ids)
    world.members[20].keep(*fresh)
    coalition.ask(20, {20, 30, 40, 50})
    assert coalition.learnt(vectors_for(world)) == {frozenset({10, 20, 30, 40})}


def test_an_identical_request_is_answered_identically_and_another_order_is_no_second_request() -> None:
    world = ready(5)
    coalition = uploaded(world)
    request = coalition.unmask(VICTIM, world.ids)
    first = world.members[VICTIM].unmask(request.to_bytes())
    assert world.members[VICTIM].unmask(request.to_bytes()) == first
    # The same survivors asked for with one share kept back: a second request all the same.
    refused(world.members[VICTIM], ReplayError, replace(request, shares=request.shares[1:]).to_bytes())


def test_another_attempt_of_a_round_is_no_second_chance() -> None:
    world = ready(5)
    coalition = uploaded(world)
    site = world.members[VICTIM]
    opening = Open.from_bytes(coalition.opening(VICTIM))
    for again in (replace(opening, attempt=1), replace(opening, cohort=world.ids[:4]), replace(opening, lists=())):
        if again != opening:
            with pytest.raises((ConsistencyError, ReplayError)):
                site.open(again.to_bytes())
    coalition.ask_everybody(world.ids)
    for again in (replace(opening, attempt=1), replace(opening, cohort=world.ids[:4])):
        with pytest.raises((ConsistencyError, ReplayError)):
            site.open(again.to_bytes())


def test_a_round_begins_with_its_only_attempt() -> None:
    world = ready(5)
    world.epoch.begin(1)
    opening = Open.from_bytes(world.epoch.opening(VICTIM, 1, world.ids, set_up=True))
    with pytest.raises(ConsistencyError, match="not retried"):
        world.members[VICTIM].open(replace(opening, attempt=1).to_bytes())


def test_a_new_epoch_renews_neither_upload_nor_answer() -> None:
    world = ready(5)
    coalition = uploaded(world)
    request = coalition.unmask(VICTIM, world.ids).to_bytes()
    coalition.ask_everybody(world.ids)
    world.run_setup(epoch=world.new_epoch(first_round=1))
    world.epoch.begin(1)
    site = world.members[VICTIM]
    for cohort in (world.ids, world.ids[:4]):
        with pytest.raises(ReplayError):
            site.open(world.epoch.opening(VICTIM, 1, cohort, set_up=True))
    for epoch in (1, 2):
        refused(site, SecaggError, replace(Unmask.from_bytes(request), epoch=epoch).to_bytes())


def test_a_retry_with_a_smaller_cohort_would_isolate_whom_it_leaves_out() -> None:
    world = ready(6)
    vectors = vectors_for(world)
    rest = [i for i in world.ids if i != VICTIM]
    total, _ = world.run_round(vectors)
    world.run_setup(only=rest, epoch=world.new_epoch(first_round=1))
    with pytest.raises(ReplayError):
        world.run_round(vectors, number=1)
    # Members that forget with an epoch which rounds they used.
    world.run_setup(only=rest, epoch=world.new_epoch(first_round=1))
    for i in rest:
        pins = world.members[i].pins
        record = RunRecord(serial=1, epoch=world.last_epoch)
        world.members[i].pins = replace(pins, runs=dict.fromkeys(pins.runs, record))
    again, _ = world.run_round(vectors, number=1)
    assert np.array_equal(total - again, vectors[VICTIM])


def test_an_upload_that_comes_after_its_sender_was_called_dropped_is_worthless() -> None:
    world = ready(5)
    coalition = uploaded(world, corrupt={50})
    vectors = vectors_for(world)
    for i in (20, 30, 40):
        coalition.ask(i, {20, 30, 40, 50})
    # Now the upload "arrives": the others have answered, and the victim alone cannot give its seed away.
    coalition.ask(VICTIM, world.ids)
    for i in (20, 30, 40):
        refused(world.members[i], ReplayError, coalition.unmask(i, world.ids).to_bytes())
    assert coalition.seed(VICTIM) is None
    assert coalition.learnt(vectors) == {frozenset({20, 30, 40})}


def test_nobody_takes_part_in_a_round_that_left_it_out() -> None:
    world = ready(5)
    coalition = uploaded(world)
    refused(world.members[VICTIM], ConsistencyError, coalition.unmask(VICTIM, world.ids[1:]).to_bytes(), match="my own")
    other = replace(coalition.uploads[VICTIM], h=b"h" * 32).sign(world.keys[VICTIM])
    coalition.uploads[VICTIM] = other
    refused(world.members[VICTIM], ConsistencyError, coalition.unmask(VICTIM, world.ids).to_bytes(), match="my own")


# --- Cohorts and sums that are too small ---


@pytest.mark.parametrize("cohort", [(10,), (10, 20), ()])
def test_a_cohort_of_fewer_than_three_is_refused(cohort: tuple[int, ...]) -> None:
    world = World(5, colluders=0, min_honest=2, floors=WEAK_FLOORS)
    world.run_setup()
    world.epoch.begin(1)
    with pytest.raises(FloorError):
        world.members[VICTIM].open(world.epoch.opening(VICTIM, 1, cohort, set_up=True))


def test_a_cohort_below_a_members_own_floor_is_refused() -> None:
    world = World(6, floors=Floors(min_cohort=5))
    world.run_setup()
    world.epoch.begin(1)
    for cohort in (world.ids[:4], (10, 20, 50, 60)):
        with pytest.raises(FloorError, match="min_cohort"):
            world.members[VICTIM].open(world.epoch.opening(VICTIM, 1, cohort, set_up=True))
    world.members[VICTIM].open(world.epoch.opening(VICTIM, 1, world.ids[:5], set_up=True))


def test_a_cohort_of_one_would_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.upload.threshold", lambda *_: 1)
    monkeypatch.setattr(Floors, "check", lambda *_: None)
    world = ready(5)
    coalition = Coalition(world, cohort=(VICTIM,))
    coalition.collect(vectors_for(world))
    coalition.ask(VICTIM, {VICTIM})
    assert coalition.reads(VICTIM, vectors_for(world)[VICTIM])


@pytest.mark.parametrize("view", [{VICTIM}, {VICTIM, 50}, {VICTIM, 40, 50}])
def test_a_sum_below_the_threshold_is_refused(view: set[int]) -> None:
    world = ready(5)
    coalition = uploaded(world, corrupt={50})
    refused(world.members[VICTIM], FloorError, coalition.unmask(VICTIM, view).to_bytes(), match="below the threshold")


def test_a_sum_of_one_would_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.upload.threshold", lambda *_: 1)
    world = ready(5)
    coalition = uploaded(world)
    coalition.ask(VICTIM, {VICTIM})
    assert coalition.reads(VICTIM, vectors_for(world)[VICTIM])


def test_nothing_in_a_round_can_name_a_threshold_or_a_mode() -> None:
    # The member's own numbers stand, and any byte more is refused.
    world = ready(5)
    world.epoch.begin(1)
    opening = world.epoch.opening(VICTIM, 1, world.ids, set_up=True)
    with pytest.raises(SecaggError):
        world.members[VICTIM].open(opening + primitives.u32(2))
    opened = world.members[VICTIM].open(opening)
    assert (opened.threshold, opened.mode, opened.colluders, opened.min_honest) == (4, "sealed", 1, 2)


def test_fewer_colluders_than_there_are_lower_the_threshold_too_far() -> None:
    # A roster that assumes none, in a cohort of four where one colludes: floors of one's own refuse it.
    with pytest.raises(FloorError, match="min_colluders"):
        World(4, colluders=0, min_honest=2).run_setup()
    world = World(4, colluders=0, min_honest=2, floors=WEAK_FLOORS)
    world.run_setup()
    coalition = uploaded(world, corrupt={40})
    vectors = vectors_for(world)
    coalition.ask(10, {10, 20, 40})
    coalition.ask(20, {20, 30, 40})
    coalition.ask(30, {10, 30, 40})
    assert coalition.reads(VICTIM, vectors[VICTIM])
