"""May this run start? A Renyi privacy filter over a fixed set of orders.

Whether to run again is decided by looking at what came out before. A composed epsilon that is merely watched,
and stopped at a cap, does not hold then; a filter does (Feldman & Zrnic 2021, arXiv 2008.11193; here once an
order, at delta over the number of orders). The proof is in ``docs/accounting.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from privacy.renyi import conversion


def enforced(
    training: Sequence[float],
    validation: Sequence[float],
    orders: Sequence[int],
    delta: float,
    *,
    add: bool = False,
) -> float:
    """Return the least epsilon that a cap at ``delta`` must have for this spend to be within it.

    Args:
        training: Renyi divergence spent by the training records, one an order.
        validation: the same for the validation records.
        orders: the policy's orders; fixed before anything was spent.
        delta: the cap's delta.
        add: a record may have been in both compartments: what they spent adds up. Otherwise they are disjoint,
            and a record pays the larger of the two.
    """
    if add:
        return _one([a + b for a, b in zip(training, validation, strict=True)], orders, delta)
    return max(_one(training, orders, delta), _one(validation, orders, delta))


def holds(
    training: Sequence[float],
    validation: Sequence[float],
    orders: Sequence[int],
    delta: float,
    epsilon: float,
    *,
    add: bool = False,
) -> bool:
    """Return whether the cap (``epsilon``, ``delta``) holds for this spend; arguments as in :func:`enforced`."""
    return enforced(training, validation, orders, delta, add=add) <= epsilon


def spent(curves: Iterable[Sequence[float]], orders: Sequence[int]) -> tuple[float, ...]:
    """Return the sum of costs of one compartment, order by order; zeros for none."""
    columns = list(zip(*curves, strict=True)) or [()] * len(orders)
    return tuple(math.fsum(column) for column in columns)


def floor(orders: Sequence[int], delta: float) -> float:
    """Return the epsilon that the filter enforces for next to no spend: a cap at or below it admits nothing."""
    return max(0.0, min(conversion(order, delta / len(orders)) for order in orders))


def usable(epsilon: float, orders: Sequence[int], delta: float) -> float:
    """Return how much of a cap can really be spent: the exact epsilon of the most Gaussian noise that it admits.

    A release of multiplier s has the Renyi divergence a / (2 s^2) at every order a, so that the filter's most is
    known in closed form; its epsilon is by Balle & Wang 2018 (arXiv 1805.06530), theorem 8. Sampled runs come to
    nearly the same share.
    """
    share = delta / len(orders)
    most = max((epsilon - conversion(order, share)) * 2 / order for order in orders)
    if most <= 0:
        return 0.0
    mean = math.sqrt(most)
    low, high = 0.0, epsilon
    while high - low > 1e-4 * epsilon:
        middle = (low + high) / 2
        above = _normal(mean / 2 - middle / mean) - math.exp(middle) * _normal(-mean / 2 - middle / mean)
        low, high = (middle, high) if above > delta else (low, middle)
    return high


def _normal(x: float) -> float:
    """The standard normal distribution function."""
    return math.erfc(-x / math.sqrt(2)) / 2


def _one(spend: Sequence[float], orders: Sequence[int], delta: float) -> float:
    """The enforced epsilon of one compartment."""
    if any(math.isnan(value) for value in spend):
        return math.inf  # no comparison with a NaN may admit anything
    if not any(spend):
        return 0.0
    share = delta / len(orders)
    bounds = (value + conversion(order, share) for order, value in zip(orders, spend, strict=True))
    return max(0.0, min(bounds))
