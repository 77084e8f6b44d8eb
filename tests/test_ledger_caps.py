"""What the policy admits: every key of it refuses something, and every cap ends somewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ledger_home import DAY, Clock, make, plan, policy, release, reserve

from privacy import filter as renyi_filter
from privacy.costs import Cost, Mechanism
from privacy.errors import BadPlan, BudgetExceeded, PolicyRefusal
from privacy.ledger import Ledger
from privacy.renyi import FILTER_ORDERS


def ledger_with(tmp_path: Path, lines: str, **settings: Any) -> Ledger:
    """A ledger whose policy says this of data set ``claims``."""
    return make(tmp_path, policy(f"claims\n{lines}"), **settings)


def enforced(*plans: Any, add: bool = False) -> float:
    """The filter's epsilon of whole runs."""
    costs = [Cost.of(Mechanism.from_plan(each), FILTER_ORDERS) for each in plans]
    training = renyi_filter.spent((cost.training for cost in costs), FILTER_ORDERS)
    validation = renyi_filter.spent((cost.validation for cost in costs), FILTER_ORDERS)
    return renyi_filter.enforced(training, validation, FILTER_ORDERS, 1e-6, add=add)


def lifetime(epsilon: float) -> str:
    return f'lifetime = {{ epsilon = "{epsilon!r}", delta = "1e-6" }}'


def test_an_unregistered_data_set(tmp_path: Path) -> None:
    ledger = make(tmp_path, names=())
    with pytest.raises(PolicyRefusal, match="not registered"):
        reserve(ledger)
    assert ledger.rounds_left("claims", Mechanism.from_plan(plan())) == 0


def test_a_data_set_that_the_policy_does_not_name(tmp_path: Path) -> None:
    ledger = make(tmp_path, names=("claims", "other"))
    with pytest.raises(PolicyRefusal, match=r'no table for it.*\[dataset."other"\]'):
        reserve(ledger, dataset="other")
    status = {one.dataset: one for one in ledger.statuses()}["other"]
    assert (status.cap, status.remaining, status.rounds_left) == (None, 0, None)
    assert ledger.rounds_left("other", Mechanism.from_plan(plan())) == 0


@pytest.mark.parametrize(
    ("lines", "changes", "refused"),
    [
        ('sigma_min = "2.5"', {}, "noise_multiplier=2.0 is below sigma_min=2.5"),
        ('sampling_rate_max = "0.01"', {}, "sampling_rate=0.05 is above sampling_rate_max=0.01"),
        ('models = ["rnn", "mlp"]', {}, "model 'cnn' is none of models = rnn, mlp"),
        ('metrics = "off"', {}, 'the policy has metrics = "off"'),
        ("", {"declared_size": 999}, "declared_size=999 in the plan, but 1000 is registered"),
    ],
)
def test_what_the_policy_refuses(tmp_path: Path, lines: str, changes: dict, refused: str) -> None:
    ledger = ledger_with(tmp_path, lines)
    size = ledger.size
    with pytest.raises(PolicyRefusal, match=refused):
        ledger.check(plan(**changes), "claims", run="run", model="cnn")
    with pytest.raises(PolicyRefusal, match=refused):
        reserve(ledger, **changes)
    assert ledger.size == size


@pytest.mark.parametrize(
    ("lines", "changes"),
    [
        ('sigma_min = "2.0"', {}),
        ('sampling_rate_max = "0.05"', {}),
        ('models = ["rnn", "cnn"]', {}),
        ('metrics = "off"', {"metric_noise": None}),
        ("max_runs = 1", {}),
        (lifetime(enforced(plan())), {}),
    ],
)
def test_what_is_just_allowed(tmp_path: Path, lines: str, changes: dict) -> None:
    ledger = ledger_with(tmp_path, lines)
    ledger.check(plan(**changes), "claims", run="run", model="cnn")
    assert reserve(ledger, **changes).open


def test_max_runs_counts_those_that_released_something(tmp_path: Path) -> None:
    ledger = ledger_with(tmp_path, "max_runs = 2")
    reserve(ledger, "one").settle()
    second = reserve(ledger, "two")
    reserve(ledger, "three")
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "four")
    assert (refused.value.cap, refused.value.allowed, refused.value.would_be) == ("max_runs", 2, 3)
    assert ledger.rounds_left("claims", Mechanism.from_plan(plan())) == 0
    second.settle()
    reserve(ledger, "four")


def test_the_lifetime_cap(tmp_path: Path) -> None:
    cap = enforced(plan(), plan())
    ledger = ledger_with(tmp_path, lifetime(cap))
    reserve(ledger, "one")
    second = reserve(ledger, "two")
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "three", rounds=1)
    error = refused.value
    assert (error.dataset, error.cap, error.allowed) == ("claims", "lifetime", cap)
    assert error.would_be == pytest.approx(enforced(plan(), plan(), plan(rounds=1)))
    status = ledger.statuses()[0]
    assert (status.enforced, status.remaining, status.rounds_left) == (pytest.approx(cap), pytest.approx(0), 0)
    release(second, 1)
    second.settle()
    reserve(ledger, "three", rounds=1)
    ledger.check_all()


def test_rounds_left_are_just_admitted(tmp_path: Path) -> None:
    ledger = ledger_with(tmp_path, 'lifetime = { epsilon = "2", delta = "1e-6" }')
    reserve(ledger, "one")
    left = ledger.rounds_left("claims", Mechanism.from_plan(plan()))
    assert left == ledger.statuses()[0].rounds_left > 5
    ledger.check(plan(rounds=left), "claims", run="two", model="cnn")
    with pytest.raises(BudgetExceeded):
        ledger.check(plan(rounds=left + 1), "claims", run="two", model="cnn")


def test_a_refusal_says_what_would_fit(tmp_path: Path) -> None:
    ledger = ledger_with(tmp_path, 'lifetime = { epsilon = "2", delta = "1e-6" }')
    left = ledger.rounds_left("claims", Mechanism.from_plan(plan()))
    with pytest.raises(BudgetExceeded, match=rf"\b{left} rounds") as refused:
        reserve(ledger, rounds=2 * left)
    assert "noise_multiplier" in refused.value.fits


def test_a_period_passes_and_a_lifetime_does_not(tmp_path: Path) -> None:
    clock, one = Clock(), enforced(plan())
    lines = f'{lifetime(enforced(*[plan()] * 3))}\nperiod = {{ days = 90, epsilon = "{one!r}" }}'
    ledger = ledger_with(tmp_path, lines, clock=clock)
    first = reserve(ledger, "one")
    clock.now += 400 * DAY  # an open run counts, however old it is
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "two")
    assert refused.value.cap == "period"
    for number in range(1, 6):
        release(first, number)
    release(first, 6, train=False)
    first.settle()
    clock.now += 90 * DAY - 1
    with pytest.raises(BudgetExceeded, match="bring period to"):
        reserve(ledger, "two")
    assert ledger.statuses()[0].period_spent == pytest.approx(one)
    clock.now += 1
    assert ledger.statuses()[0].period_spent == 0
    for name in ("two", "three"):
        run = reserve(ledger, name)
        for number in range(1, 6):
            release(run, number)
        release(run, 6, train=False)
        run.settle()
        clock.now += 90 * DAY
    assert ledger.statuses()[0].enforced == pytest.approx(enforced(*[plan()] * 3))
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "four")
    assert refused.value.cap == "lifetime"


def test_a_group_is_one_budget(tmp_path: Path) -> None:
    cap = lifetime(enforced(plan(), plan()))
    text = policy(f'claims\n{cap}\ngroup = "g"', f'visits\n{cap}\ngroup = "g"', f"alone\n{cap}")
    ledger = make(tmp_path, text, names=("claims", "visits", "alone"))
    reserve(ledger, "one")
    reserve(ledger, "two", dataset="visits")
    for dataset in ("claims", "visits"):
        with pytest.raises(BudgetExceeded):
            reserve(ledger, "three", dataset=dataset, rounds=1)
    reserve(ledger, "three", dataset="alone")
    found = {status.dataset: status.enforced for status in ledger.statuses()}
    assert found == {
        "claims": pytest.approx(enforced(plan(), plan())),
        "visits": found["claims"],
        "alone": pytest.approx(enforced(plan())),
    }


def test_another_split_makes_compartments_add(tmp_path: Path) -> None:
    dear = plan(metric_noise=6.0)
    ledger = ledger_with(tmp_path, lifetime(enforced(dear)))
    first = reserve(ledger, "one", metric_noise=6.0)
    before = ledger.statuses()[0].enforced
    first.settle()
    ledger.register("claims", declared_size=1000, commitment=b"c" * 32, split=b"s" * 32)
    ledger.check(dear, "claims", run="two", model="cnn")  # other content, held out alike
    ledger.register("claims", declared_size=1000, commitment=b"c" * 32, split=b"t" * 32)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "two", metric_noise=6.0)
    assert refused.value.would_be == pytest.approx(enforced(dear, add=True))
    assert enforced(dear, add=True) > before


def test_compartments_add_in_a_group_that_holds_out_differently(tmp_path: Path) -> None:
    ledger = make(tmp_path, policy("claims\ngroup = 'g'", "visits\ngroup = 'g'"))
    ledger.register("visits", declared_size=1000, commitment=bytes(32), split=b"t" * 32)
    reserve(ledger, metric_noise=6.0)
    assert [status.enforced for status in ledger.statuses()] == [
        pytest.approx(enforced(plan(metric_noise=6.0), add=True))
    ] * 2


def test_orders_that_change_with_the_policy(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    reserve(ledger)
    ledger.sign_policy(policy(top="orders = [3, 5, 9, 17]"))
    cost = Cost.of(Mechanism.from_plan(plan()), (3, 5, 9, 17))
    expected = renyi_filter.enforced(cost.training, cost.validation, (3, 5, 9, 17), 1e-6)
    assert ledger.statuses()[0].enforced == pytest.approx(expected)
    ledger.reservation("run").settle()
    ledger.check_all()


def test_a_lower_cap_admits_nothing_more(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    reserve(ledger)
    ledger.sign_policy(policy('claims\nlifetime = { epsilon = "0.5", delta = "1e-6" }'))
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "two", rounds=1)
    assert ledger.reservation("run").open


def test_a_run_that_costs_more_than_a_double_holds(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, noise_multiplier=1e-200)
    assert refused.value.would_be == math.inf
    assert ledger.size == 3


@pytest.mark.parametrize("field", ["noise_multiplier", "sampling_rate", "max_grad_norm", "metric_noise", "delta"])
@pytest.mark.parametrize("value", [math.nan, -1.0, float("1e400"), 0.0])
def test_nonsense_never_comes_as_far_as_the_ledger(field: str, value: float) -> None:
    with pytest.raises(BadPlan):
        plan(**{field: value})


# --- PLD: slow to import, so all of it is here -----------------------------------------------------------------------


def test_the_cap_of_one_run(tmp_path: Path) -> None:
    ledger = ledger_with(tmp_path, 'per_run = { epsilon = "1" }')
    # Without sampling, PLD accounting takes no time.
    full = {"sampling_rate": 1.0, "noise_multiplier": 60.0}
    left = ledger.rounds_left("claims", Mechanism.from_plan(plan(**full)))
    assert left > 5
    reserve(ledger, "one", **full, rounds=left)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "two", **full, rounds=2 * left)
    assert (refused.value.cap, refused.value.allowed) == ("per_run", 1)
    assert refused.value.would_be > 1
    assert f"{left} rounds instead of {2 * left}" in refused.value.fits
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "two", **full, metric_noise=3.0)
    assert refused.value.cap == "per_run"
    assert "metric_noise" in refused.value.fits


PINNED = """
sigma_min = "2.0"
sampling_rate_max = "0.05"
max_steps = 25
metric_sigma_min = "20"
max_evaluations = 12
"""


def pinned(tmp_path: Path, lines: str = PINNED) -> Ledger:
    return make(tmp_path, policy(f"claims\n{lines}", top='mode = "pinned"'))


def test_pinned_counts_steps_and_evaluations(tmp_path: Path) -> None:
    ledger = pinned(tmp_path)
    assert ledger.statuses()[0].enforced == 0
    first = reserve(ledger, "one")
    status = ledger.statuses()[0]
    assert 0 < status.enforced == status.settled < 8
    reserve(ledger, "two")
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "three", rounds=3)
    assert (refused.value.cap, refused.value.allowed, refused.value.would_be) == ("max_steps", 25, 26)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "three", rounds=1)
    assert (refused.value.cap, refused.value.allowed, refused.value.would_be) == ("max_evaluations", 12, 14)
    release(first, 1)
    first.settle()
    reserve(ledger, "three", rounds=1)
    with pytest.raises(PolicyRefusal, match="metric_sigma_min is 20"):
        reserve(ledger, "four", rounds=1, metric_noise=19.0)
    with pytest.raises(PolicyRefusal, match="below sigma_min"):
        reserve(ledger, "four", rounds=1, noise_multiplier=1.9)


def test_pinned_without_evaluations(tmp_path: Path) -> None:
    ledger = pinned(tmp_path, PINNED.partition("metric")[0])
    with pytest.raises(PolicyRefusal, match="metric_sigma_min is None"):
        reserve(ledger, rounds=1)
    reserve(ledger, rounds=1, metric_noise=None)


def test_pinned_does_not_cover_what_was_not(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    reserve(ledger, "one", noise_multiplier=1.5)
    ledger.sign_policy(policy(f"claims\n{PINNED}", top='mode = "pinned"'))
    with pytest.raises(PolicyRefusal, match="run one was made under an earlier policy"):
        reserve(ledger, "two", rounds=1)


def test_pinned_compartments_add_with_another_split(tmp_path: Path) -> None:
    bound = pinned(tmp_path / "wide").policy().dataset("claims")
    cap = bound.pinned_epsilon() * 1.01
    ledger = pinned(tmp_path / "tight", f"{PINNED}\n{lifetime(cap)}")
    reserve(ledger, "one", rounds=1).settle()
    ledger.register("claims", declared_size=1000, commitment=bytes(32), split=b"t" * 32)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, "two", rounds=1)
    assert refused.value.cap == "lifetime"
    assert refused.value.would_be == pytest.approx(bound.pinned_epsilon(add=True))
