"""Every way in which a server can lie about who dropped out, searched in full for cohorts of up to six.

What a coalition of the server and ``c`` members learns follows from what honest members reveal. Shown survivors U, a
member v answers once, with its share of b_j for every j in U and with s_vj for every j outside; so

- b_j is known if at least t of its shares are: one from every answering v whose U has j in it (v = j too), and those
  that were dealt to the c colluders;
- s_ij of two honest members is known if i answered with j outside its U, or j with i outside its own;
- y_i = x_i + PRG(b_i) +- PRG(s_ij)..., so a linear combination of uploads is free of unknown masks if and only if
  unknown b_i do not enter it and both ends of every unknown s_ij have the same coefficient. Hence what is learnt is
  spanned by the sums over those components of the graph of unknown pair seeds in which every b_i is known.

A *view* is therefore the set of honest members in U, or nothing (asked nothing, or silent), and a case is one view for
every honest member. Four kinds of lie are left out, each because it reveals no more than one that is searched:

- U without some colluder: what a member reveals of a colluder the coalition knew, and U is only shorter for it;
- a share withheld or spoilt, or one of two uploads that a colluder signed: the member then reveals nothing more;
- an honest member that never uploads: as one that uploads and is asked nothing, but y is missing too;
- members told different contexts: t of them must have uploaded in the same one, see ``test_secagg_attacks.py``.

Nothing else is left out, and no symmetry is used: sealed mode is counted through with numpy (24,137,569 cases at
n = 6, c = 0, m = 2). In strict mode an answer to U needs enough confirmations of U, and an honest member confirms
once; there a member's part is *what it confirms* and *whether it answers*, and a partial case is given up only where
the members that are left are fewer than the confirmations that its answers still lack, which none of its cases can
mend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from secagg.thresholds import Mode, confirmations, threshold

# The honest members in what one member is shown, as bits; None where it answers nothing.
View = int | None


@dataclass(frozen=True)
class Terms:
    """Thresholds of a cohort of ``n``, ``c`` of which collude.

    Those of the protocol, or ``weaker`` by so many uploads and with so many confirmations ``fewer``.
    """

    mode: Mode
    n: int
    c: int
    m: int
    weaker: int = 0
    fewer: int = 0

    @property
    def honest(self) -> int:
        return self.n - self.c

    @property
    def t(self) -> int:
        return threshold(self.mode, self.n, self.c, self.m) - self.weaker

    @property
    def confirmed(self) -> int:
        """How many honest members must confirm; colluders confirm everything."""
        return confirmations(self.n, self.c) - self.fewer - self.c

    def views(self, member: int) -> list[int]:
        """All that a member can be shown: itself, and at least t with the colluders."""
        least = self.t - self.c
        return [u for u in range(1 << self.honest) if u >> member & 1 and u.bit_count() >= least]


def allowed(mode: Mode, sizes: Sequence[int] = (3, 4, 5, 6), *, weaker: int = 0) -> Iterator[Terms]:
    """Every cohort, number of colluders and honest minimum that the thresholds allow."""
    for n in sizes:
        for c in range(n):
            for m in range(2, n - c + 1):
                yield Terms(mode, n, c, m, weaker)


def learnt(views: Sequence[View], terms: Terms) -> list[int]:
    """The smallest sets of honest members whose sums are learnt, as bits: the model of this file, word for word."""
    members = range(terms.honest)
    known = [terms.c + sum(u is not None and u >> j & 1 for u in views) >= terms.t for j in members]

    def reveals(i: int, j: int) -> bool:
        view = views[i]
        return view is not None and not view >> j & 1

    components = []
    left = set(members)
    while left:
        component, edge = set[int](), {left.pop()}
        while edge:
            i = edge.pop()
            component.add(i)
            unknown = {j for j in left if not (reveals(i, j) or reveals(j, i))}
            left -= unknown
            edge |= unknown
        components.append(component)
    return [sum(1 << i for i in component) for component in components if all(known[i] for i in component)]


def unions(sums: Sequence[int]) -> set[int]:
    """Whatever can be added up from sums that are known."""
    return {sum(chosen) for size in range(1, len(sums) + 1) for chosen in combinations(sums, size)}


def smallest(views: Sequence[View], terms: Terms) -> int:
    return min((found.bit_count() for found in learnt(views, terms)), default=terms.honest + 1)


# --- Sealed mode: every case at once ---

# A case is one number: for every honest member four bits that reach eight when its b is known, and from there on one
# bit for every ordered pair (i, j), set if i reveals s_ij. What members reveal is then simply added up.
_FIELD, _KNOWN = 4, 8


@dataclass(frozen=True)
class Search:
    terms: Terms

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(self.terms.honest), 2))

    def contribution(self, member: int, view: View) -> int:
        """What one member's answer adds to the case."""
        if view is None:
            return 0
        h, added = self.terms.honest, 0
        for j in range(h):
            if view >> j & 1:
                added += 1 << _FIELD * j
            else:
                pair = self.pairs.index((min(member, j), max(member, j)))
                added += 1 << _FIELD * h + pair + (len(self.pairs) if member > j else 0)
        return added

    def learnt_by(self, cases: NDArray[np.int64], members: tuple[int, ...]) -> NDArray[np.bool_]:
        """In which cases the sum over these members, or over a part of them, is learnt."""
        h = self.terms.honest
        shares = sum(_KNOWN << _FIELD * i for i in members)
        seeds = sum(1 << at for at, (i, j) in enumerate(self.pairs) if (i in members) != (j in members))
        revealed = (cases >> _FIELD * h) | (cases >> _FIELD * h + len(self.pairs))
        result: NDArray[np.bool_] = ((cases & shares) == shares) & ((revealed & seeds) == seeds)
        return result

    def cases(self) -> tuple[int, Iterator[tuple[tuple[View, ...], NDArray[np.int64]]]]:
        """How many cases there are, and all of them: views of the first members with an axis for every other one."""
        terms, h = self.terms, self.terms.honest
        options: list[list[View]] = [[None, *terms.views(i)] for i in range(h)]
        first = max(0, h - 4)
        rest = np.zeros((1,) * (h - first), np.int64)
        for axis, member in enumerate(range(first, h)):
            added = np.array([self.contribution(member, view) for view in options[member]], np.int64)
            rest = rest + added.reshape([-1 if axis == other else 1 for other in range(h - first)])
        # Colluders hold c shares of every b.
        start = sum(_KNOWN - terms.t + terms.c << _FIELD * j for j in range(h))
        outer = list(product(*options[:first]))

        def each() -> Iterator[tuple[tuple[View, ...], NDArray[np.int64]]]:
            for views in outer:
                yield views, rest + (start + sum(self.contribution(i, view) for i, view in enumerate(views)))

        return len(outer) * rest.size, each()

    def first(self, size: int) -> tuple[tuple[View, ...], tuple[int, ...]] | None:
        """Views under which the sum over at most ``size`` members is learnt, and those members, if there are any."""
        h = self.terms.honest
        options: list[list[View]] = [[None, *self.terms.views(i)] for i in range(h)]
        targets = list(combinations(range(h), size))
        for views, cases in self.cases()[1]:
            for members in targets:
                found = self.learnt_by(cases, members)
                if found.any():
                    at = np.unravel_index(int(found.argmax()), found.shape)
                    last = [options[len(views) + axis][choice] for axis, choice in enumerate(at)]
                    return (*views, *last), members
        return None

    def smallest(self) -> int:
        """Size of the smallest set of honest members whose sum is learnt in some case."""
        for size in range(1, self.terms.honest + 1):
            if self.first(size) is not None:
                return size
        return self.terms.honest + 1


# --- Strict mode: an answer needs confirmations, and everybody confirms once ---


def confirming(views: Sequence[View], terms: Terms) -> dict[int, int] | None:
    """What members confirm so that every view that was answered has enough confirmations; None: they cannot."""
    lacking = {u: terms.confirmed - views.count(u) for u in set(views) if u is not None}
    silent = [i for i, view in enumerate(views) if view is None]

    def given(lacking: dict[int, int], at: int) -> dict[int, int] | None:
        if not lacking or at == len(silent):
            return None if lacking else {}
        if (rest := given(lacking, at + 1)) is not None:
            return rest
        for u in lacking:
            if u >> silent[at] & 1:
                left = {view: number - (view == u) for view, number in lacking.items() if number > (view == u)}
                if (rest := given(left, at + 1)) is not None:
                    return {**rest, silent[at]: u}
        return None

    confirmed = given({u: number for u, number in lacking.items() if number > 0}, 0)
    return None if confirmed is None else {**confirmed, **{i: u for i, u in enumerate(views) if u is not None}}


def strict_cases(terms: Terms) -> Iterator[tuple[View, ...]]:
    """Everything that can be answered."""
    options: list[list[View]] = [[None, *terms.views(i)] for i in range(terms.honest)]

    def extended(views: tuple[View, ...]) -> Iterator[tuple[View, ...]]:
        free = terms.honest - sum(view is not None for view in views)
        if sum(max(0, terms.confirmed - views.count(u)) for u in set(views) if u is not None) > free:
            return
        if len(views) == terms.honest:
            if confirming(views, terms) is not None:
                yield views
            return
        for view in options[len(views)]:
            yield from extended((*views, view))

    yield from extended(())
