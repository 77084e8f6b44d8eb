"""What a plan costs, and the plan that costs no more than a given epsilon.

The figures are those of ``accountants``; a plan's cost is the larger of its two compartments'.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial

from scipy.optimize import brentq

from privacy.accountants import ORDERS, PRV_RESOLUTION, Epsilon, Mechanism, compose, rdp, renyi_epsilon
from privacy.errors import BadPlan, CannotCalibrate
from privacy.filter import floor, holds
from privacy.plan import MAX_NOISE_MULTIPLIER, PrivacyPlan, Unit
from privacy.renyi import curve

__all__ = ["ORDERS", "Epsilon", "Mechanism", "calibrate", "compose", "epsilon", "rdp"]

MIN_NOISE_MULTIPLIER = 0.05


def epsilon(plan: PrivacyPlan, *, rounds: int | None = None, metric_releases: int | None = None) -> Epsilon:
    """Return what a record pays for (part of) a run: the larger of its two compartments, per accountant.

    Args:
        plan: the run's plan.
        rounds: rounds of training counted; all of them by default; 0 costs nothing.
        metric_releases: metric releases counted; by default the ``rounds + 1`` that go with ``rounds``.

    Raises:
        BadPlan: a count is negative or exceeds the plan.
        AccountingError: an accountant finds no finite epsilon.
    """
    rounds = _within("rounds", rounds, plan.rounds)
    if metric_releases is None:
        metric_releases = min(rounds + 1, plan.metric_releases) if rounds else 0
    metric_releases = _within("metric_releases", metric_releases, plan.metric_releases)
    training = Mechanism(
        sampling_rate=plan.sampling_rate,
        noise_multiplier=plan.noise_multiplier,
        steps=rounds * plan.steps_per_round,
    )
    figures = [compose([training], plan.delta)]
    if plan.metric_noise is not None:
        release = Mechanism(sampling_rate=1.0, noise_multiplier=plan.metric_noise, steps=metric_releases)
        figures.append(compose([release], plan.delta))
    prv = [figure.opacus_prv for figure in figures]
    return Epsilon(
        opacus_rdp=max(figure.opacus_rdp for figure in figures),
        opacus_prv=None if None in prv else max(value for value in prv if value is not None),
        pld=max(figure.pld for figure in figures),
        delta=plan.delta,
    )


def quick_epsilon(plan: PrivacyPlan, *, rounds: int | None = None, metric_releases: int | None = None) -> float:
    """Return the Renyi figure of :func:`epsilon` alone: a valid bound, in microseconds instead of seconds.

    Args:
        plan: the run's plan.
        rounds: rounds of training counted; all of them by default.
        metric_releases: metric releases counted; all of the plan's by default.
    """
    rounds = plan.rounds if rounds is None else rounds
    releases = plan.metric_releases if metric_releases is None else metric_releases
    training = (plan.sampling_rate, plan.noise_multiplier, rounds * plan.steps_per_round)
    release = (1.0, plan.metric_noise or 1.0, releases if plan.metric_noise else 0)
    return max(renyi_epsilon((spent,), plan.delta) if spent[2] else 0.0 for spent in (training, release))


def calibrate(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps_per_round: int,
    rounds: int,
    max_grad_norm: float,
    declared_size: int,
    metrics: bool,
    unit: Unit = "record",
    orders: tuple[int, ...] | None = None,
) -> PrivacyPlan:
    """Return the plan with the least noise whose *largest* printed epsilon stays at or below ``epsilon``.

    The noise of metric releases is chosen likewise, so that the validation compartment meets ``epsilon`` too.
    Multipliers are found to a relative 1e-3 or better and always err towards more noise.

    Args:
        epsilon: the cap, above 0.
        delta: as in :class:`PrivacyPlan`.
        sampling_rate: as in :class:`PrivacyPlan`.
        steps_per_round: as in :class:`PrivacyPlan`.
        rounds: as in :class:`PrivacyPlan`.
        max_grad_norm: as in :class:`PrivacyPlan`.
        declared_size: as in :class:`PrivacyPlan`.
        metrics: whether validation metrics are released.
        unit: as in :class:`PrivacyPlan`.
        orders: orders of a privacy filter (``privacy.filter``): what it enforces for the whole plan at ``delta``
            must stay at or below ``epsilon``, too.

    Raises:
        BadPlan: another argument is refused.
        CannotCalibrate: no noise multiplier in [0.05, 1e6] reaches ``epsilon``.
    """
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
        raise CannotCalibrate(f"epsilon={epsilon!r}: must be a finite number above 0, e.g. 3.0")

    def plan(noise_multiplier: float, metric_noise: float | None) -> PrivacyPlan:
        return PrivacyPlan(
            unit=unit,
            sampling_rate=sampling_rate,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            steps_per_round=steps_per_round,
            rounds=rounds,
            declared_size=declared_size,
            metric_noise=metric_noise,
            delta=delta,
        )

    draft = plan(1.0, 1.0 if metrics else None)
    least = _least_noise if orders is None else partial(_least_filtered, orders)
    noise = least(draft.sampling_rate, draft.steps, delta, float(epsilon))
    metric_noise = least(1.0, draft.metric_releases, delta, float(epsilon)) if metrics else None
    return plan(noise, metric_noise)


def _within(name: str, value: int | None, most: int) -> int:
    """Return a count, ``most`` by default, refused outside [0, most]."""
    if value is None:
        return most
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise BadPlan(f"{name}={value!r}: must be an integer in [0, {most}], the plan's own count")
    return value


@lru_cache(maxsize=1024)
def _least_filtered(orders: tuple[int, ...], q: float, steps: int, delta: float, cap: float) -> float:
    """The least multiplier at which a filter admits the whole plan, and every figure is at most ``cap``."""

    def admitted(sigma: float) -> bool:
        spend = curve(sampling_rate=q, noise_multiplier=sigma, steps=steps, orders=orders)
        return holds(spend, (0.0,) * len(orders), orders, delta, cap)

    low, high = MIN_NOISE_MULTIPLIER, MAX_NOISE_MULTIPLIER
    if not admitted(high):
        raise CannotCalibrate(
            f"epsilon={cap:g} at delta={delta:g}: a filter over the orders {list(orders)} admits nothing below "
            f"epsilon {floor(orders, delta):.3g}; ask for more, take fewer steps, or sign a policy with larger orders"
        )
    while high / low > 1 + 1e-4:
        middle = _rounded_up(math.sqrt(low * high))
        low, high = (low, middle) if admitted(middle) else (middle, high)
    # Renyi accounting over all orders and with all of delta: the other two figures are at most slightly above
    # it, and dear. A filter over several orders is nearly always stricter than the three.
    if renyi_epsilon(((q, high, steps),), delta) <= cap - 2 * PRV_RESOLUTION:
        return high
    return max(high, _least_noise(q, steps, delta, cap))


@lru_cache(maxsize=1024)
def _least_noise(q: float, steps: int, delta: float, cap: float) -> float:
    """The least multiplier whose largest figure is at most ``cap``."""
    if cap <= PRV_RESOLUTION:
        raise CannotCalibrate(
            f"epsilon={cap:g}: the PRV accountant's figure is {PRV_RESOLUTION:g} above the truth, so none "
            "so small can "
            f"be printed; ask for at least {2 * PRV_RESOLUTION:g}"
        )
    if renyi_epsilon(((q, MAX_NOISE_MULTIPLIER, steps),), delta) > cap:
        raise CannotCalibrate(
            f"epsilon={cap:g} at delta={delta:g}: not reached even with "
            f"noise_multiplier={MAX_NOISE_MULTIPLIER:g} "
            f"over {steps} steps at sampling_rate={q:g}; take fewer steps, sample less or raise delta"
        )

    def excess(exponent: float) -> float:
        found = renyi_epsilon(((q, math.exp(exponent), steps),), delta)
        return math.log(max(found, 1e-12) / cap) if math.isfinite(found) else 1e3

    # Renyi figures are nearly always the largest and cost milliseconds: they place the answer ...
    low = high = 1.0
    while low > MIN_NOISE_MULTIPLIER and excess(math.log(low)) <= 0:
        low, high = max(MIN_NOISE_MULTIPLIER, low / 2), low
    while excess(math.log(high)) > 0:
        low, high = high, min(MAX_NOISE_MULTIPLIER, high * 4)
    if excess(math.log(low)) > 0:
        high = math.exp(brentq(excess, math.log(low), math.log(high), xtol=2e-6)) * (1 + 5e-6)
    else:
        high = low

    def meets(sigma: float) -> bool:
        return compose([Mechanism(sampling_rate=q, noise_multiplier=sigma, steps=steps)], delta).largest <= cap

    # ... and the dear accountants confirm it, or move it up.
    high, stride = _rounded_up(high), 1.01
    low = high
    while not meets(high):
        low, high, stride = high, _rounded_up(high * stride), stride**2
        if high > MAX_NOISE_MULTIPLIER:
            raise CannotCalibrate(
                f"epsilon={cap:g} at delta={delta:g}: below what every accountant can certify over "
                f"{steps} steps "
                f"at sampling_rate={q:g}; take fewer steps or raise delta"
            )
    while high / low > 1 + 1e-3:
        middle = _rounded_up(math.sqrt(low * high))
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def _rounded_up(sigma: float) -> float:
    """The next multiplier with six significant digits, so that plans read well and compare equal."""
    unit = 10.0 ** (math.floor(math.log10(sigma)) - 5)
    return float(f"{math.ceil(sigma / unit - 1e-9) * unit:.6g}")
