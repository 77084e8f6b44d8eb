"""Accounting against a second implementation, and calibration against what is printed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant

from privacy.accounting import ORDERS, Epsilon, Mechanism, calibrate, compose, epsilon, rdp
from privacy.errors import AccountingError, BadPlan, CannotCalibrate
from privacy.plan import PrivacyPlan

GRID = [
    (0.01, 1.0, 1000, 1e-5),
    (0.14, 2.0, 293, 1e-5),
    (0.05, 0.8, 100, 1e-6),
    (1.0, 5.0, 21, 1e-5),
    (0.001, 0.7, 5000, 1e-6),
    (0.01, 30.0, 100, 1e-5),
]


def independent_rdp(q: float, sigma: float, order: int) -> float:
    """Renyi divergence of one step: Mironov et al. 2019, equation 30, by plain log-sum-exp over binomials."""
    if q == 1.0:
        return order / (2 * sigma**2)
    terms = [
        math.lgamma(order + 1)
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    top = max(terms)
    return (top + math.log(math.fsum(math.exp(term - top) for term in terms))) / (order - 1)


def mechanism(q: float, sigma: float, steps: int) -> Mechanism:
    return Mechanism(sampling_rate=q, noise_multiplier=sigma, steps=steps)


def plan(**changes: float | int | None) -> PrivacyPlan:
    fields: dict[str, object] = {
        "sampling_rate": 0.02,
        "noise_multiplier": 1.2,
        "max_grad_norm": 1.0,
        "steps_per_round": 10,
        "rounds": 20,
        "declared_size": 5000,
        "metric_noise": None,
        "delta": 1e-5,
    }
    return replace(PrivacyPlan(**fields), **changes)  # type: ignore[arg-type]  # the plan checks its fields


@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), GRID)
def test_renyi_curve_agrees_with_an_independent_formula(q: float, sigma: float, steps: int, delta: float) -> None:
    orders = tuple(order for order in ORDERS if float(order).is_integer() and order <= 256)
    for order, found in zip(orders, rdp(mechanism(q, sigma, 1), orders), strict=True):
        expected = independent_rdp(q, sigma, int(order))
        # Both sum terms near 1 and take a logarithm: below 1e-12 rounding is all there is.
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), order


@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), GRID)
def test_prv_and_pld_agree_and_renyi_is_above(q: float, sigma: float, steps: int, delta: float) -> None:
    found = compose([mechanism(q, sigma, steps)], delta)
    assert found.opacus_prv is not None
    assert abs(found.opacus_prv - found.pld) <= 0.02
    assert found.opacus_rdp >= found.pld - 1e-3
    assert found.largest == max(found.opacus_rdp, found.opacus_prv, found.pld)


def test_one_gaussian_is_known_exactly() -> None:
    """Balle & Wang 2018, theorem 8: the hockey-stick divergence of N(0, s) and N(1, s)."""
    from scipy.stats import norm

    sigma = 4.0
    found = compose([mechanism(1.0, sigma, 1)], 1e-5).pld
    delta = norm.cdf(0.5 / sigma - found * sigma) - math.exp(found) * norm.cdf(-0.5 / sigma - found * sigma)
    assert delta == pytest.approx(1e-5, rel=1e-2)
    # n releases at sigma are one at sigma / sqrt(n)
    assert compose([mechanism(1.0, sigma * 3, 9)], 1e-5).pld == pytest.approx(found, abs=1e-3)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    q=st.sampled_from([0.003, 0.05, 1.0]),
    sigma=st.floats(1.0, 8.0),
    steps=st.integers(1, 300),
    more=st.floats(1.05, 3.0),
)
def test_more_noise_costs_less_and_more_of_anything_costs_more(q: float, sigma: float, steps: int, more: float) -> None:
    def curve(q: float, sigma: float, steps: int) -> tuple[float, ...]:
        return rdp(mechanism(q, sigma, steps), (2, 4, 8, 32))

    base = curve(q, sigma, steps)
    assert all(a < b for a, b in zip(curve(q, sigma * more, steps), base, strict=True))
    assert all(a > b for a, b in zip(curve(q, sigma, steps + 1), base, strict=True))
    if q < 1:
        assert all(a > b for a, b in zip(curve(min(1.0, q * more), sigma, steps), base, strict=True))


def test_every_figure_is_monotone_in_noise_steps_and_delta() -> None:
    def figures(found: Epsilon) -> tuple[float, ...]:
        assert found.opacus_prv is not None
        return (found.opacus_rdp, found.opacus_prv, found.pld)

    base = figures(compose([mechanism(0.05, 1.5, 100)], 1e-5))
    for cheaper in (
        compose([mechanism(0.05, 1.6, 100)], 1e-5),
        compose([mechanism(0.05, 1.5, 90)], 1e-5),
        compose([mechanism(0.04, 1.5, 100)], 1e-5),
        compose([mechanism(0.05, 1.5, 100)], 1e-4),
    ):
        assert all(a < b for a, b in zip(figures(cheaper), base, strict=True))


def test_equal_mechanisms_are_merged_and_mixtures_compose() -> None:
    merged = compose([mechanism(0.02, 1.0, 300)], 1e-5)
    assert compose([mechanism(0.02, 1.0, 1)] * 300, 1e-5) is merged
    one = compose([mechanism(0.02, 1.0, 100)], 1e-5)
    mixed = compose([mechanism(0.02, 1.0, 100), mechanism(0.05, 2.0, 50), mechanism(1.0, 20.0, 5)], 1e-5)
    assert mixed.opacus_prv is not None
    assert abs(mixed.opacus_prv - mixed.pld) <= 0.02
    apart = one.pld + compose([mechanism(0.05, 2.0, 50)], 1e-5).pld + compose([mechanism(1.0, 20.0, 5)], 1e-5).pld
    assert one.pld < mixed.pld < apart


def test_a_run_pays_the_larger_compartment() -> None:
    training = epsilon(plan())
    metrics = compose([mechanism(1.0, 5.0, 21)], 1e-5)
    both = epsilon(plan(metric_noise=5.0))
    assert both.pld == max(training.pld, metrics.pld) == metrics.pld
    assert both.opacus_rdp == metrics.opacus_rdp
    assert epsilon(plan(metric_noise=500.0)) == training
    assert epsilon(plan(metric_noise=5.0), metric_releases=0) == training


def test_parts_of_a_run() -> None:
    whole = plan(metric_noise=50.0)
    nothing = epsilon(whole, rounds=0)
    assert (nothing.opacus_rdp, nothing.opacus_prv, nothing.pld, nothing.largest) == (0, 0, 0, 0)
    assert epsilon(whole, rounds=0, metric_releases=1).pld > 0
    assert epsilon(whole, rounds=5).pld < epsilon(whole).pld
    assert epsilon(whole, rounds=20) == epsilon(whole)
    for bad in (-1, 21, 1.0, True):
        with pytest.raises(BadPlan, match=r"rounds=.*the plan's own count"):
            epsilon(whole, rounds=bad)  # type: ignore[arg-type]  # refused at run time too
    with pytest.raises(BadPlan, match="metric_releases=1"):
        epsilon(plan(), metric_releases=1)


def test_prv_is_left_out_where_it_would_not_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> float:
        raise AssertionError("PRV accounting above its limit")

    monkeypatch.setattr(PRVAccountant, "get_epsilon", never)
    found = compose([mechanism(0.05, 0.5, 201)], 1e-5)
    assert found.opacus_rdp > 20
    assert found.opacus_prv is None
    assert found.largest == found.opacus_rdp > found.pld > 20


def test_opacus_counts_settings_not_steps() -> None:
    """Why mechanisms carry their own step counts: ``len(accountant)`` does not."""
    accountant = PRVAccountant()
    for _ in range(5):
        accountant.step(noise_multiplier=1.0, sample_rate=0.1)
    assert len(accountant) == 1


def test_no_finite_epsilon_is_an_error() -> None:
    with pytest.raises(AccountingError, match="delta"):
        compose([mechanism(0.1, 1.0, 1)], 1e-11)


@pytest.mark.parametrize(
    ("cap", "q", "steps", "rounds", "delta", "metrics"),
    [
        (3.0, 0.14, 10, 29, 1e-5, True),
        (1.0, 0.01, 20, 50, 1e-6, False),
        (0.1, 0.01, 10, 30, 1e-6, True),  # PRV, 0.01 above the truth, is the largest here
        (25.0, 1.0, 1, 10, 1e-5, False),  # beyond PRV's range
        (2.0, 1.0, 1, 40, 1e-5, True),
    ],
)
def test_calibration_meets_the_largest_figure_with_the_least_noise(
    cap: float, q: float, steps: int, rounds: int, delta: float, metrics: bool
) -> None:
    found = calibrate(
        epsilon=cap,
        delta=delta,
        sampling_rate=q,
        steps_per_round=steps,
        rounds=rounds,
        max_grad_norm=1.0,
        declared_size=10_000,
        metrics=metrics,
    )
    assert epsilon(found).largest <= cap
    assert (found.metric_noise is not None) is metrics
    less = replace(found, noise_multiplier=found.noise_multiplier * 0.998, metric_noise=None)
    assert epsilon(less).largest > cap
    if metrics:
        assert found.metric_noise is not None
        releases = mechanism(1.0, found.metric_noise * 0.998, rounds + 1)
        assert compose([releases], delta).largest > cap


@pytest.mark.parametrize(("cap", "reason"), [(1e-9, "epsilon"), (0.0, "above 0"), (math.nan, "finite")])
def test_what_cannot_be_calibrated_says_why(cap: float, reason: str) -> None:
    with pytest.raises(CannotCalibrate, match=reason):
        calibrate(
            epsilon=cap,
            delta=1e-6,
            sampling_rate=0.5,
            steps_per_round=100,
            rounds=1000,
            max_grad_norm=1.0,
            declared_size=100,
            metrics=False,
        )


def test_a_cost_beyond_all_meaning_is_an_error_not_an_overflow() -> None:
    plan = PrivacyPlan(
        sampling_rate=0.9,
        noise_multiplier=0.05,
        max_grad_norm=1.0,
        steps_per_round=1000,
        rounds=1000,
        declared_size=100,
        delta=1e-5,
    )
    with pytest.raises(AccountingError, match="use more noise or fewer steps"):
        epsilon(plan)
