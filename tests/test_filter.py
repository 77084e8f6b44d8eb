"""The Renyi filter: what it enforces, and that no sequence of runs gets past it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accountants import Mechanism, merge, pld_epsilon, renyi_epsilon
from privacy.filter import enforced, floor, holds, spent, usable
from privacy.fits import most_rounds, what_fits
from privacy.plan import PrivacyPlan
from privacy.renyi import FILTER_ORDERS, conversion, curve

NOTHING = (0.0,) * len(FILTER_ORDERS)
PLAN = PrivacyPlan(
    sampling_rate=0.02,
    noise_multiplier=1.21,
    max_grad_norm=1.0,
    steps_per_round=50,
    rounds=15,
    declared_size=5000,
    metric_noise=20.0,
    delta=1e-6,
)


def cost(q: float, sigma: float, steps: int, orders: tuple[int, ...] = FILTER_ORDERS) -> tuple[float, ...]:
    return curve(sampling_rate=q, noise_multiplier=sigma, steps=steps, orders=orders)


def training(plan: PrivacyPlan) -> tuple[float, ...]:
    return cost(plan.sampling_rate, plan.noise_multiplier, plan.steps)


def validation(plan: PrivacyPlan) -> tuple[float, ...]:
    return NOTHING if plan.metric_noise is None else cost(1.0, plan.metric_noise, plan.metric_releases)


def test_one_order_by_hand() -> None:
    # 10 releases of multiplier 5 at order 4: 10 * 4 / 50, and the conversion spelt out
    expected = 0.8 + (math.log(1e6) - math.log(4)) / 3 + math.log(0.75)
    assert enforced(cost(1.0, 5.0, 10, (4,)), (0.0,), (4,), 1e-6) == pytest.approx(expected, rel=1e-12)
    # a second order halves the delta of each
    both = enforced(cost(1.0, 5.0, 10, (2, 4)), (0.0, 0.0), (2, 4), 1e-6)
    assert both == pytest.approx(expected + math.log(2) / 3, rel=1e-12)


def test_compartments_in_parallel_and_added() -> None:
    much, little = cost(0.02, 1.2, 500), cost(1.0, 30.0, 11)
    parallel = enforced(much, little, FILTER_ORDERS, 1e-6)
    assert parallel == enforced(little, much, FILTER_ORDERS, 1e-6) == enforced(much, NOTHING, FILTER_ORDERS, 1e-6)
    added = enforced(much, little, FILTER_ORDERS, 1e-6, add=True)
    assert parallel < added == enforced(spent([much, little], FILTER_ORDERS), NOTHING, FILTER_ORDERS, 1e-6)
    # each compartment has the order that suits it best
    assert min(a + b for a, b in zip(much, little, strict=True)) >= 0
    assert holds(much, little, FILTER_ORDERS, 1e-6, parallel)
    assert not holds(much, little, FILTER_ORDERS, 1e-6, parallel * (1 - 1e-9))
    assert not holds(much, little, FILTER_ORDERS, 1e-6, parallel, add=True)


def test_nothing_spent_costs_nothing_and_next_to_nothing_costs_the_floor() -> None:
    assert enforced(NOTHING, NOTHING, FILTER_ORDERS, 1e-6) == 0.0
    assert enforced((math.nan, 0.1), (0.0, 0.0), (2, 4), 1e-6) == math.inf
    assert enforced(spent([], FILTER_ORDERS), NOTHING, FILTER_ORDERS, 1e-6, add=True) == 0.0
    least = floor(FILTER_ORDERS, 1e-6)
    assert least == conversion(64, 1e-6 / 11) == pytest.approx(0.175, abs=1e-3)
    assert enforced(cost(0.001, 1e5, 1), NOTHING, FILTER_ORDERS, 1e-6) == pytest.approx(least, rel=1e-6)
    assert usable(least, FILTER_ORDERS, 1e-6) == 0.0


@pytest.mark.parametrize("cap", [0.3, 0.5, 1.0, 3.0, 8.0])
def test_usable_is_what_pld_says_of_the_largest_run(cap: float) -> None:
    order = max(FILTER_ORDERS, key=lambda one: (cap - conversion(one, 1e-6 / 11)) / one)
    sigma = math.sqrt(order / 2 / (cap - conversion(order, 1e-6 / 11))) * (1 + 1e-12)
    assert holds(cost(1.0, sigma, 1), NOTHING, FILTER_ORDERS, 1e-6, cap)
    assert not holds(cost(1.0, sigma * 0.9999, 1), NOTHING, FILTER_ORDERS, 1e-6, cap)
    exact = pld_epsilon([Mechanism(sampling_rate=1.0, noise_multiplier=sigma, steps=1)], 1e-6)
    found = usable(cap, FILTER_ORDERS, 1e-6)
    assert found == pytest.approx(exact, abs=2e-3)
    assert 0.75 * cap < found < cap


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    q=st.floats(1e-5, 1.0),
    sigma=st.floats(0.3, 50.0),
    steps=st.integers(1, 10_000),
    more=st.floats(1.0, 4.0),
)
def test_monotone_in_noise_sampling_and_steps(q: float, sigma: float, steps: int, more: float) -> None:
    def figure(q: float, sigma: float, steps: int) -> float:
        return enforced(cost(q, sigma, steps), NOTHING, FILTER_ORDERS, 1e-6)

    base = figure(q, sigma, steps)
    slack = 1 + 1e-12
    assert figure(q, sigma * more, steps) <= base * slack
    assert figure(q / more, sigma, steps) <= base * slack
    assert figure(q, sigma, steps + 1) * slack >= base
    values = cost(q, sigma, steps)
    assert all(low <= high * slack for low, high in pairwise(values)), "a divergence rises with its order"


class Adversary:
    """Chooses every run after looking at what is left, and at what came out."""

    def __init__(self, seed: int, cap: float, delta: float) -> None:
        self.dice = random.Random(seed)
        self.cap, self.delta = cap, delta
        self.admitted: list[PrivacyPlan] = []
        self.train, self.valid = [NOTHING], [NOTHING]

    def offer(self, plan: PrivacyPlan) -> bool:
        train, valid = [*self.train, training(plan)], [*self.valid, validation(plan)]
        totals = spent(train, FILTER_ORDERS), spent(valid, FILTER_ORDERS)
        if not holds(*totals, FILTER_ORDERS, self.delta, self.cap):
            return False
        self.admitted.append(plan)
        self.train, self.valid = train, valid
        return True

    def any_run(self) -> PrivacyPlan:
        return replace(
            PLAN,
            sampling_rate=10 ** self.dice.uniform(-3, 0),
            noise_multiplier=10 ** self.dice.uniform(-0.2, 1.3),
            steps_per_round=self.dice.randint(1, 40),
            rounds=self.dice.randint(1, 30),
            metric_noise=self.dice.choice([None, 10 ** self.dice.uniform(0.5, 2)]),
        )

    def attack(self) -> None:
        """Random runs that get smaller as they are refused, and each one that fits as large as it can be."""
        for _ in range(25):
            plan = self.any_run()
            if self.dice.random() < 0.5:  # greedy: the most rounds that still fit
                rounds = most_rounds(self.would_fit, plan, 2000)
                if rounds:
                    self.offer(replace(plan, rounds=rounds))
            else:
                self.offer(plan)

    def would_fit(self, plan: PrivacyPlan) -> bool:
        totals = (
            spent([*self.train, training(plan)], FILTER_ORDERS),
            spent([*self.valid, validation(plan)], FILTER_ORDERS),
        )
        return holds(*totals, FILTER_ORDERS, self.delta, self.cap)


@pytest.mark.parametrize("cap", [0.5, 2.0, 8.0])
def test_adaptively_chosen_runs_never_pass_the_cap(cap: float) -> None:
    nearest = 0.0
    for seed in range(6):
        adversary = Adversary(seed, cap, 1e-6)
        adversary.attack()
        runs = adversary.admitted
        assert runs
        # recomputed from the plans, merged
        steps: dict[tuple[float, float], int] = {}
        for run in runs:
            steps[run.sampling_rate, run.noise_multiplier] = (
                steps.get((run.sampling_rate, run.noise_multiplier), 0) + run.steps
            )
        train = spent([cost(q, sigma, n) for (q, sigma), n in steps.items()], FILTER_ORDERS)
        valid = spent([validation(run) for run in runs], FILTER_ORDERS)
        figure = enforced(train, valid, FILTER_ORDERS, 1e-6)
        assert figure <= cap * (1 + 1e-9)
        nearest = max(nearest, figure / cap)
        if seed == 0:  # and by Opacus' Renyi accounting and PLD, with all of delta
            mechanisms = [
                Mechanism(sampling_rate=q, noise_multiplier=sigma, steps=n) for (q, sigma), n in steps.items()
            ]
            assert renyi_epsilon(merge(mechanisms), 1e-6) <= cap
            assert pld_epsilon(mechanisms, 1e-6) <= cap
    assert nearest > 0.99, "the adversary never came near the cap, so that the test shows nothing"


def test_what_fits_instead() -> None:
    def admits(plan: PrivacyPlan) -> bool:
        return holds(training(plan), validation(plan), FILTER_ORDERS, 1e-6, 2.6)

    assert not admits(PLAN)
    assert what_fits(admits, PLAN) == "7 rounds instead of 15 would fit, or noise_multiplier 1.41 instead of 1.21"
    assert admits(replace(PLAN, rounds=7))
    assert not admits(replace(PLAN, rounds=8))
    assert admits(replace(PLAN, noise_multiplier=1.41))
    assert not admits(replace(PLAN, noise_multiplier=1.40))
    assert most_rounds(admits, PLAN, 10_000) == 7
    assert most_rounds(admits, PLAN, 5) == 5
    assert most_rounds(admits, PLAN, 0) == 0


def test_what_fits_where_metrics_cost_too_much() -> None:
    def admits(plan: PrivacyPlan) -> bool:
        return holds(training(plan), validation(plan), FILTER_ORDERS, 1e-6, 3.0)

    loud = replace(PLAN, metric_noise=2.0, rounds=8)
    assert what_fits(admits, loud) == "metric_noise 5.43 instead of 2 would fit"
    assert not admits(replace(loud, metric_noise=5.41))
    both = replace(loud, noise_multiplier=0.9)
    assert (
        what_fits(admits, both) == "noise_multiplier 1.11 instead of 0.9 with metric_noise 5.43 instead of 2 would fit"
    )
    assert admits(replace(both, noise_multiplier=1.11, metric_noise=5.43))


def test_what_fits_where_nothing_does() -> None:
    assert what_fits(lambda _: False, PLAN) == ""
    only = replace(PLAN, rounds=1)
    assert (
        what_fits(lambda plan: plan.noise_multiplier >= 1.999, only) == "noise_multiplier 2 instead of 1.21 would fit"
    )
    assert what_fits(lambda plan: plan.rounds <= 1, replace(PLAN, rounds=3)) == "1 round instead of 3 would fit"
