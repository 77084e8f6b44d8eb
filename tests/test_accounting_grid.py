"""Three implementations of the accounting, compared over a grid; group privacy; calibration for a filter."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from privacy.accountants import Mechanism, compose, pld_epsilon
from privacy.accounting import calibrate, epsilon
from privacy.errors import AccountingError, CannotCalibrate
from privacy.filter import enforced
from privacy.groups import group_epsilon
from privacy.renyi import FILTER_ORDERS, conversion, curve

RATES = (0.001, 0.01, 0.1, 0.5, 1.0)
NOISES = (0.4, 0.8, 1.5, 4.0, 30.0)


def mechanism(q: float, sigma: float, steps: int) -> Mechanism:
    return Mechanism(sampling_rate=q, noise_multiplier=sigma, steps=steps)


def test_three_renyi_implementations_agree() -> None:
    for q, sigma in product(RATES, NOISES):
        ours = curve(sampling_rate=q, noise_multiplier=sigma, steps=10, orders=FILTER_ORDERS)
        opacus = compute_rdp(q=q, noise_multiplier=sigma, steps=10, orders=list(FILTER_ORDERS))
        google = RdpAccountant(FILTER_ORDERS, NeighboringRelation.REPLACE_SPECIAL)
        google.compose(SelfComposedDpEvent(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), 10))
        for one, two, three in zip(ours, opacus, google.rdp, strict=True):
            # Theirs take ln of a sum near 1, so that below 1e-12 they hold rounding alone; ours does not.
            assert two == pytest.approx(one, rel=1e-9, abs=1e-12), (q, sigma)
            assert three == pytest.approx(one, rel=1e-9, abs=1e-12), (q, sigma)


def test_tiny_and_huge_divergences_are_exact() -> None:
    # ln(1 + q^2 (e^(1/s^2) - 1)) at order 2, where q^2 / s^2 is far below a double's precision beside 1
    (found,) = curve(sampling_rate=1e-6, noise_multiplier=1e4, steps=1, orders=(2,))
    assert found == pytest.approx(1e-12 * math.expm1(1e-8), rel=1e-12)
    # at high order and low noise everything is the last term: (a ln q + a (a-1) / (2 s^2)) / (a - 1)
    (found,) = curve(sampling_rate=0.5, noise_multiplier=0.05, steps=1, orders=(256,))
    assert found == pytest.approx((256 * math.log(0.5) + 256 * 255 / 0.005) / 255, rel=1e-12)
    assert curve(sampling_rate=0.5, noise_multiplier=1e-200, steps=1, orders=(2,)) == (math.inf,)
    assert curve(sampling_rate=1.0, noise_multiplier=1e-200, steps=1, orders=(2,)) == (math.inf,)
    assert curve(sampling_rate=0.5, noise_multiplier=1e200, steps=1, orders=(2, 64)) == (0.0, 0.0)
    assert curve(sampling_rate=0.5, noise_multiplier=1.0, steps=0, orders=(2, 64)) == (0.0, 0.0)


def test_the_curve_and_its_conversion_bound_the_gaussian() -> None:
    """One Gaussian's delta is known exactly (Balle & Wang 2018, theorem 8): no order may promise less."""
    sigma, delta = 3.0, 1e-6

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    for order, value in zip(
        FILTER_ORDERS,
        curve(sampling_rate=1.0, noise_multiplier=sigma, steps=1, orders=FILTER_ORDERS),
        strict=True,
    ):
        bound = value + conversion(order, delta)
        above = normal(0.5 / sigma - bound * sigma) - math.exp(bound) * normal(-0.5 / sigma - bound * sigma)
        assert above <= delta, order


def test_prv_and_pld_agree_over_a_grid() -> None:
    for q, sigma, steps in ((0.02, 2.0, 100), (0.2, 5.0, 60), (1.0, 9.0, 4)):
        found = compose([mechanism(q, sigma, steps)], 1e-6)
        assert found.opacus_rdp <= 20
        assert found.opacus_prv is not None
        assert abs(found.opacus_prv - found.pld) <= 0.02, (q, sigma, steps)
        assert found.opacus_rdp >= found.pld - 1e-3
        assert pld_epsilon([mechanism(q, sigma, steps)], 1e-6) == found.pld
    assert pld_epsilon([], 1e-6) == 0.0
    with pytest.raises(AccountingError, match="above 10000"):
        pld_epsilon([mechanism(1.0, 0.001, 100)], 1e-6)


def test_twenty_mixed_runs() -> None:
    dice = random.Random(7)
    settings = [(0.02, 2.5), (0.05, 4.0), (0.1, 6.0), (1.0, 60.0)]
    runs = [mechanism(*settings[index % 4], 60) for index in range(20)]
    whole = compose(runs, 1e-6)
    assert whole.opacus_prv is not None
    assert abs(whole.opacus_prv - whole.pld) <= 0.02
    assert whole.opacus_rdp > whole.pld + 0.1
    assert sum(pld_epsilon([run], 1e-6) for run in runs) > 3 * whole.pld
    # merged or not, one step at a time or not, in any order
    parts = [mechanism(one.sampling_rate, one.noise_multiplier, 1) for one in runs for _ in range(one.steps)]
    dice.shuffle(parts)
    assert compose(parts, 1e-6) == whole
    # our own curves compose to the same, merged or not
    apart = [
        curve(sampling_rate=r.sampling_rate, noise_multiplier=r.noise_multiplier, steps=r.steps, orders=FILTER_ORDERS)
        for r in runs
    ]
    total = [math.fsum(column) for column in zip(*apart, strict=True)]
    zeros = [0.0] * len(total)
    assert enforced(total, zeros, FILTER_ORDERS, 1e-6) > whole.opacus_rdp
    for setting in settings:
        steps = [run.steps for run in runs if (run.sampling_rate, run.noise_multiplier) == setting]
        at_once = curve(sampling_rate=setting[0], noise_multiplier=setting[1], steps=sum(steps), orders=FILTER_ORDERS)
        total = [left - right for left, right in zip(total, at_once, strict=True)]
    assert max(abs(left) for left in total) < 1e-8


def test_groups_of_one_person() -> None:
    plan = [mechanism(0.1, 5.0, 1000), mechanism(1.0, 90.0, 11)]
    one = group_epsilon(plan, 1e-6, 1)
    assert one == pld_epsilon(plan, 1e-6) == pytest.approx(3.0, abs=0.25)
    two, five = group_epsilon(plan, 1e-6, 2), group_epsilon(plan, 1e-6, 5)
    assert two == pytest.approx(6.7, abs=0.5)
    assert five == pytest.approx(21, abs=1.5)
    assert group_epsilon([], 1e-6, 5) == 0.0
    for bad in (0, -1, 1.5, True):
        with pytest.raises(AccountingError, match="whole number of records"):
            group_epsilon(plan, 1e-6, bad)  # type: ignore[arg-type]  # refused at run time too


def test_groups_without_sampling_are_a_gaussian_of_k_times_the_sensitivity() -> None:
    found = group_epsilon([mechanism(1.0, 30.0, 4)], 1e-6, 3)
    assert found == pytest.approx(pld_epsilon([mechanism(1.0, 5.0, 1)], 1e-6), abs=2e-3)


def test_a_group_in_one_step_against_plain_integration() -> None:
    """Two records, each sampled with probability q: N(0), N(1) and N(2) mixed, against N(0)."""
    q, sigma, k, delta = 0.3, 1.5, 2, 1e-5
    found = group_epsilon([mechanism(q, sigma, 1)], delta, k)
    width = 0.01
    above = 0.0
    for step in range(-1500, 2000):
        x = step * width
        without = math.exp(-((x / sigma) ** 2) / 2)
        within = sum(
            math.comb(k, j) * q**j * (1 - q) ** (k - j) * math.exp(-(((x - j) / sigma) ** 2) / 2) for j in range(k + 1)
        )
        above += max(0.0, within - math.exp(found) * without) * width / (sigma * math.sqrt(2 * math.pi))
    assert 0.98 * delta <= above <= 1.001 * delta  # the sum has an error of its own


@pytest.mark.parametrize(
    ("cap", "q", "rounds", "delta", "orders"),
    [
        (0.4, 0.01, 20, 1e-6, FILTER_ORDERS),
        (3.0, 0.05, 30, 1e-5, FILTER_ORDERS),
        (2.0, 1.0, 20, 1e-6, (2, 8, 32)),
        (1.0, 0.02, 10, 1e-6, (24,)),  # all of delta at one order, which is nearly the best one
    ],
)
def test_calibration_for_a_filter(cap: float, q: float, rounds: int, delta: float, orders: tuple[int, ...]) -> None:
    found = calibrate(
        epsilon=cap,
        delta=delta,
        sampling_rate=q,
        steps_per_round=10,
        rounds=rounds,
        max_grad_norm=1.0,
        declared_size=10_000,
        metrics=True,
        orders=orders,
    )
    assert found.metric_noise is not None
    assert epsilon(found).largest <= cap

    def figure(quieter: float) -> tuple[float, float]:
        nothing = [0.0] * len(orders)
        costs = (
            curve(sampling_rate=q, noise_multiplier=found.noise_multiplier * quieter, steps=found.steps, orders=orders),
            curve(
                sampling_rate=1.0,
                noise_multiplier=(found.metric_noise or 0.0) * quieter,
                steps=found.metric_releases,
                orders=orders,
            ),
        )
        return enforced(costs[0], nothing, orders, delta), enforced(costs[1], nothing, orders, delta)

    assert max(figure(1.0)) <= cap
    if len(orders) > 1:  # the filter binds: a thousandth less noise would not do
        assert min(figure(1 - 1e-3)) > cap


def test_calibration_where_the_filter_admits_nothing() -> None:
    with pytest.raises(CannotCalibrate, match=r"a filter over the orders \[2, 3\] admits nothing below epsilon 6"):
        calibrate(
            epsilon=3.0,
            delta=1e-6,
            sampling_rate=0.01,
            steps_per_round=10,
            rounds=10,
            max_grad_norm=1.0,
            declared_size=10_000,
            metrics=False,
            orders=(2, 3),
        )
