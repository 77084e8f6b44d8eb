"""No view of who dropped out gives a lying server a sum over too few honest members; ``secagg_views.py`` says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_attack_cases import Coalition
from secagg_cases import World, vectors_for
from secagg_views import Search, Terms, View, allowed, confirming, learnt, smallest, strict_cases, unions

from secagg.errors import FloorError
from secagg.thresholds import Floors, confirmations, threshold

# Every cohort that the thresholds allow; the members' own floors come on top.
FLOORS = Floors(min_cohort=3, min_honest=2, min_colluders=0)


# --- The thresholds hold ---


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_sealed_sums_are_over_enough_honest_members_whatever_is_shown(n: int) -> None:
    for terms in allowed("sealed", [n]):
        smallest_sum = Search(terms).smallest()
        assert smallest_sum >= terms.m, terms
        assert smallest_sum >= 2 * terms.t - terms.n - terms.c, terms
        # Members that are shown the same get their sum; the search is not about a protocol that reveals nothing.
        assert smallest_sum <= terms.honest, terms


def test_the_whole_of_it_was_searched() -> None:
    assert Search(Terms("sealed", 6, 0, 2)).cases()[0] == 17**6
    for terms in allowed("sealed", [3, 4, 5]):
        views = [len(terms.views(i)) + 1 for i in range(terms.honest)]
        assert Search(terms).cases()[0] == np.prod(views), terms


def test_strict_sums_are_over_enough_honest_members_whatever_is_shown() -> None:
    for terms in allowed("strict"):
        cases = list(strict_cases(terms))
        assert min(smallest(views, terms) for views in cases) == terms.t - terms.c >= terms.m, terms
        # Two confirmable sets of survivors are impossible.
        assert all(len(set(views) - {None}) <= 1 for views in cases), terms


# --- The search can find something ---

# With so many honest members asked for, one answer less still leaves sums over enough of them.
SPARE = {(5, 0, 4), (6, 0, 5), (6, 1, 4)}


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_one_below_the_threshold_of_sealed_mode_is_too_low(n: int) -> None:
    for terms in allowed("sealed", [n]):
        found = Search(replace(terms, weaker=1)).smallest()
        assert (found < terms.m) != ((n, terms.c, terms.m) in SPARE), terms


def test_a_majority_is_no_threshold_of_sealed_mode() -> None:
    majority = Terms("sealed", 5, 0, 2, weaker=1)
    assert majority.t == 3
    views, members = Search(majority).first(1) or pytest.fail("nothing found")
    assert sum(1 << i for i in members) in learnt(views, majority)


def test_one_below_the_threshold_of_strict_mode_is_too_low() -> None:
    # Where t = c + m; else the confirmations alone hold it up.
    for terms in allowed("strict", [3, 4, 5]):
        weaker = replace(terms, weaker=1)
        found = min(smallest(views, weaker) for views in strict_cases(weaker))
        assert (found < terms.m) == (terms.t > confirmations(terms.n, terms.c)), terms


@pytest.mark.parametrize(("n", "c", "m"), [(3, 0, 2), (4, 1, 2), (5, 2, 2), (6, 3, 2)])
def test_one_confirmation_less_is_too_few(n: int, c: int, m: int) -> None:
    fewer = Terms("strict", n, c, m, fewer=1)
    assert min(smallest(views, fewer) for views in strict_cases(fewer)) == 1


def test_the_threshold_of_strict_mode_is_too_low_without_confirmations() -> None:
    for n, c, m in ((4, 0, 2), (5, 0, 2), (5, 1, 2), (6, 1, 3)):
        terms = Terms("strict", n, c, m)
        if terms.t < threshold("sealed", n, c, m):
            assert Search(terms).smallest() < m, terms


# --- The search is of the model ---


@pytest.mark.parametrize("weaker", [0, 1])
def test_counting_finds_what_the_model_says(weaker: int) -> None:
    for terms in (replace(terms, weaker=weaker) for terms in allowed("sealed", [3, 4])):
        search = Search(terms)
        targets = [
            members for size in range(1, terms.honest + 1) for members in combinations(range(terms.honest), size)
        ]
        options = [[None, *terms.views(i)] for i in range(terms.honest)]
        for first, cases in search.cases()[1]:
            found = {members: search.learnt_by(cases, members) for members in targets}
            for at, last in zip(np.ndindex(cases.shape), product(*options[len(first) :]), strict=True):
                sums = learnt((*first, *last), terms)
                by_model = {members for members in targets if sum(1 << i for i in members) in unions(sums)}
                assert {members for members in targets if found[members][at]} == by_model


# What unknown masks leave of the uploads, by linear algebra: rows are uploads, columns the masks that are not known.
def free_combinations(views: Sequence[View], terms: Terms) -> int:
    """Dimension of the combinations of uploads that are free of unknown masks."""
    h = terms.honest
    known = [terms.c + sum(u is not None and u >> j & 1 for u in views) >= terms.t for j in range(h)]
    columns = [np.eye(h)[j] for j in range(h) if not known[j]]
    for i, j in combinations(range(h), 2):
        shown = ((views[i], j), (views[j], i))
        if all(view is None or view >> other & 1 for view, other in shown):
            columns.append(np.eye(h)[i] - np.eye(h)[j])
    return h - (int(np.linalg.matrix_rank(np.array(columns))) if columns else 0)


@st.composite
def shown(draw: st.DrawFn) -> tuple[Terms, tuple[View, ...]]:
    """Terms and a case of them."""
    terms = draw(st.sampled_from([terms for weaker in (0, 1) for terms in allowed("sealed", weaker=weaker)]))
    return terms, tuple(draw(st.tuples(*(st.sampled_from([None, *terms.views(i)]) for i in range(terms.honest)))))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(shown())
def test_linear_algebra_agrees_with_the_model(case: tuple[Terms, tuple[View, ...]]) -> None:
    terms, views = case
    assert free_combinations(views, terms) == len(learnt(views, terms))


# --- The model is of the real members ---


class Reality:
    """Real members that have uploaded, to be shown one case after another as if it were the first."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.world = World(terms.n, mode=terms.mode, colluders=terms.c, min_honest=terms.m, floors=FLOORS)
        self.world.run_setup()
        # Not at an end, so that pairs of both signs are between them and the honest.
        self.coalition = Coalition(self.world, corrupt=self.world.ids[1 : 1 + terms.c])
        self.vectors = vectors_for(self.world)
        self.coalition.collect(self.vectors)
        self.answers: dict[tuple[int, frozenset[int]], bytes] = {}
        self.uploaded = {i: (self.world.members[i].pins, self.world.members[i].known) for i in self.world.ids}

    def survivors(self, view: int) -> frozenset[int]:
        honest = self.coalition.honest
        return frozenset(honest[j] for j in range(self.terms.honest) if view >> j & 1) | self.coalition.corrupt

    def read(self, views: Sequence[View]) -> set[int]:
        """Show members these views; return the sets of them whose sums the coalition then has, as bits."""
        coalition, honest = self.coalition, self.coalition.honest
        for i, kept in self.uploaded.items():
            self.world.members[i].keep(*kept)
        coalition.shares.clear()
        coalition.seeds.clear()
        for z in coalition.corrupt:
            coalition.betray(z)
        signed: dict[frozenset[int], dict[int, bytes]] = {}
        if self.terms.mode == "strict":
            confirmed = confirming(views, self.terms) or {}
            signed = coalition.confirmed({honest[i]: self.survivors(u) for i, u in confirmed.items()})
        for i, view in enumerate(views):
            if view is not None:
                coalition.learn(self.answer(honest[i], self.survivors(view), signed))
        return {sum(1 << honest.index(i) for i in members) for members in coalition.learnt(self.vectors)}

    def answer(
        self, member: int, survivors: frozenset[int], signed: Mapping[frozenset[int], Mapping[int, bytes]]
    ) -> bytes:
        """What a member answers to this view; it depends on nothing else that happens in a case."""
        if (member, survivors) not in self.answers:
            request = self.coalition.unmask(member, survivors, confirmations=signed.get(survivors))
            self.answers[member, survivors] = self.world.members[member].unmask(request.to_bytes())
        return self.answers[member, survivors]


SMALL = [
    *allowed("sealed", [3, 4]),
    *allowed("strict", [3, 4]),
    Terms("sealed", 5, 1, 2),
    Terms("strict", 5, 1, 3),
]


@pytest.mark.parametrize("terms", SMALL, ids=lambda terms: f"{terms.mode}-{terms.n}-{terms.c}-{terms.m}")
def test_a_coalition_reads_of_real_members_what_the_model_says_in_every_case(terms: Terms) -> None:
    real = Reality(terms)
    for views in every_case(terms):
        assert real.read(views) == unions(learnt(views, terms)), views


@pytest.mark.parametrize("terms", list(allowed("sealed", [3], weaker=1)), ids=str)
def test_and_so_it_does_below_the_threshold(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.upload.threshold", lambda *asked: threshold(*asked) - 1)
    real = Reality(terms)
    found = set()
    for views in every_case(terms):
        read = real.read(views)
        assert read == unions(learnt(views, terms)), views
        found |= read
    assert min(map(int.bit_count, found)) < terms.m


def every_case(terms: Terms) -> Iterator[tuple[View, ...]]:
    if terms.mode == "strict":
        return strict_cases(terms)
    return product(*([None, *terms.views(i)] for i in range(terms.honest)))


@pytest.mark.parametrize(("n", "c", "m"), [(3, 1, 2), (4, 0, 2), (5, 0, 2), (5, 1, 2), (6, 0, 2), (6, 2, 2)])
def test_the_worst_that_can_be_shown_to_real_members_reveals_no_less_than_m(n: int, c: int, m: int) -> None:
    terms = Terms("sealed", n, c, m)
    search = Search(terms)
    views, members = search.first(search.smallest()) or pytest.fail("nothing is revealed at all")
    read = Reality(terms).read(views)
    assert read == unions(learnt(views, terms))
    assert sum(1 << i for i in members) in read
    assert min(map(int.bit_count, read)) == search.smallest() >= m


@pytest.mark.parametrize(("n", "c", "m"), [(3, 0, 2), (3, 1, 2), (4, 0, 2), (5, 1, 2), (6, 1, 3)])
def test_a_lower_threshold_gives_real_members_away_and_the_true_one_refuses(
    n: int, c: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weaker = Terms("sealed", n, c, m, weaker=1)
    views, members = Search(weaker).first(1) or pytest.fail("no violation to show")
    with pytest.raises(FloorError, match="below the threshold"):
        Reality(weaker).read(views)
    with monkeypatch.context() as weakened:
        weakened.setattr("secagg.upload.threshold", lambda *terms: threshold(*terms) - 1)
        read = Reality(weaker).read(views)
    assert read == unions(learnt(views, weaker))
    assert sum(1 << i for i in members) in read


def test_one_confirmation_less_gives_real_members_away(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = Terms("strict", 4, 1, 2, fewer=1)
    views = next(views for views in strict_cases(fewer) if smallest(views, fewer) == 1)
    with pytest.raises(FloorError, match="confirmations"):
        Reality(fewer).read(views)
    with monkeypatch.context() as weakened:
        weakened.setattr("secagg.unmask.confirmations", lambda n, c: confirmations(n, c) - 1)
        read = Reality(fewer).read(views)
    assert read == unions(learnt(views, fewer))
    assert min(map(int.bit_count, read)) == 1
