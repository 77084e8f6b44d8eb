"""Thresholds: the figures of the specification, the inequalities behind them, and floors."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secagg.errors import FloorError
from secagg.thresholds import Floors, Mode, check_size, confirmations, defaults, threshold


@pytest.mark.parametrize(
    ("n", "c", "m", "sealed", "strict"),
    [
        (3, 0, 3, 3, 3),
        (4, 1, 2, 4, 3),
        (5, 1, 2, 4, 4),
        (6, 1, 3, 5, 4),
        (10, 1, 3, 7, 6),
        (50, 5, 10, 33, 28),
        (200, 20, 40, 130, 111),
    ],
)
def test_defaults_and_thresholds(n: int, c: int, m: int, sealed: int, strict: int) -> None:
    assert defaults(n) == (c, m)
    assert threshold("sealed", n, c, m) == sealed
    assert threshold("strict", n, c, m) == strict


@pytest.mark.parametrize("mode", ["sealed", "strict"])
@given(n=st.integers(3, 100_000))
def test_the_defaults_are_possible_and_pass_the_default_floors(mode: Mode, n: int) -> None:
    c, m = defaults(n)
    assert threshold(mode, n, c, m) <= n
    Floors().check(n, c, m)


@given(n=st.integers(3, 300), c=st.integers(0, 300), m=st.integers(2, 300))
def test_sealed_views_that_differ_reveal_enough_honest_members(n: int, c: int, m: int) -> None:
    assume(n - c >= m)
    t = threshold("sealed", n, c, m)
    assert 2 * t - n - c >= m > 2 * (t - 1) - n - c  # and no higher than it must be
    assert n >= t >= c + m


@given(n=st.integers(3, 300), c=st.integers(0, 300), m=st.integers(2, 300))
def test_strict_survivors_cannot_both_be_confirmed(n: int, c: int, m: int) -> None:
    assume(n - c >= m)
    t = threshold("strict", n, c, m)
    # Two sets of confirmations share an honest member, who confirms once.
    assert 2 * confirmations(n, c) - n > c
    assert n >= t >= confirmations(n, c)
    assert t - c >= m


@pytest.mark.parametrize(
    ("n", "c", "m", "message"),
    [
        (2, 0, 2, "at least 3 members"),
        (5, -1, 2, "colluders = -1"),
        (5, 0, 1, "min_honest = 1"),
        (5, 3, 3, "only 2 members"),
        (3, 3, 2, "only 0 members"),
    ],
)
@pytest.mark.parametrize("mode", ["sealed", "strict"])
def test_what_protects_nobody_is_refused(mode: Mode, n: int, c: int, m: int, message: str) -> None:
    with pytest.raises(FloorError, match=message):
        threshold(mode, n, c, m)


@given(n=st.integers(3, 60), c=st.integers(0, 20), m=st.integers(2, 20), weaker=st.sampled_from(["c", "m"]))
def test_whoever_assumes_less_needs_fewer(n: int, c: int, m: int, weaker: str) -> None:
    """Why both need a floor: a server that could lower either would lower the threshold."""
    assume(n - c >= m)
    lower = (max(0, c - 2), m) if weaker == "c" else (c, max(2, m - 2))
    assert threshold("sealed", n, *lower) <= threshold("sealed", n, c, m)


@pytest.mark.parametrize(
    ("floors", "n", "c", "m", "field"),
    [
        (Floors(), 50, 4, 10, "min_colluders = 5"),
        (Floors(), 50, 5, 9, "min_honest = 10"),
        (Floors(min_cohort=6), 5, 1, 2, "min_cohort = 6"),
        (Floors(min_honest=4), 10, 1, 3, "min_honest = 4"),
        (Floors(min_colluders=2), 10, 1, 3, "min_colluders = 2"),
        (Floors(), 2, 0, 3, "cohort = 2"),
    ],
)
def test_floors_hold(floors: Floors, n: int, c: int, m: int, field: str) -> None:
    with pytest.raises(FloorError, match=field):
        floors.check(n, c, m)


def test_an_operator_may_set_floors_below_the_defaults() -> None:
    Floors(min_honest=2, min_colluders=0).check(50, 0, 2)


@pytest.mark.parametrize("wrong", [{"min_cohort": 2}, {"min_honest": 1}, {"min_colluders": -1}])
def test_floors_that_protect_nobody_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(FloorError, match=next(iter(wrong))):
        Floors(**wrong)


def test_a_cohort_has_a_largest_size() -> None:
    check_size(1000, 10**7)
    with pytest.raises(FloorError, match="at most 999 members"):
        check_size(1000, 10**7 + 10**4)
    with pytest.raises(FloorError, match="at least 3"):
        defaults(2)
