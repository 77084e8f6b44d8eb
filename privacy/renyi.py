"""Renyi divergence of Gaussian releases at integer orders: what the ledger's costs are, by our own formula.

Nothing here imports Opacus or dp-accounting, so that a ledger opens at once; a test compares all three.
"""

from __future__ import annotations

import math
from functools import lru_cache

FILTER_ORDERS: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def curve(*, sampling_rate: float, noise_multiplier: float, steps: int, orders: tuple[int, ...]) -> tuple[float, ...]:
    """Return the Renyi divergence of ``steps`` Gaussian releases, at each order, in nats.

    Each release has sensitivity one and takes a Poisson sample of the records; neighbours are zero-out.
    Mironov, Talwar & Zhang 2019 (arXiv 1908.10530), section 3.3.

    Args:
        sampling_rate: probability of a record's being in a sample, in (0, 1]; 1 for no sampling.
        noise_multiplier: standard deviation over sensitivity, above 0.
        steps: number of releases; 0 costs nothing.
        orders: integers from 2.

    Returns:
        one bound an order; infinite where it exceeds the range of a double.
    """
    if steps == 0:
        return (0.0,) * len(orders)
    return tuple(steps * value for value in _step(sampling_rate, noise_multiplier, orders))


def conversion(order: int, delta: float) -> float:
    """Return what an order adds to a Renyi divergence to make it an epsilon at ``delta``.

    Canonne, Kamath & Steinke 2020 (arXiv 2004.00010), proposition 12; it is negative where delta is large.
    """
    return (math.log(1 / delta) - math.log(order)) / (order - 1) + math.log1p(-1 / order)


@lru_cache(maxsize=16384)
def _step(q: float, sigma: float, orders: tuple[int, ...]) -> tuple[float, ...]:
    """Divergence of one release at each order."""
    if q == 1.0:
        return tuple(order / 2 / sigma / sigma for order in orders)
    return tuple(_sampled(q, sigma, order) for order in orders)


def _sampled(q: float, sigma: float, order: int) -> float:
    """Divergence of one sampled release at one order."""
    # The binomial weights sum to 1, so 1 can be taken from every exponential before summing: all terms stay
    # positive, and a divergence of 1e-15 is as exact as one of 1e15.
    terms = []
    for k in range(2, order + 1):
        exponent = k * (k - 1) / 2 / sigma / sigma
        if exponent > 0:  # else the noise is so great that it underflows
            excess = exponent + math.log(-math.expm1(-exponent))  # ln(exp(exponent) - 1)
            weight = math.log(math.comb(order, k)) + (order - k) * math.log1p(-q) + k * math.log(q)
            terms.append(weight + excess)
    top = max(terms, default=-math.inf)
    if math.isinf(top):
        return math.inf if top > 0 else 0.0
    moment = top + math.log(math.fsum(math.exp(term - top) for term in terms))  # ln(sum - 1)
    total = moment + math.log1p(math.exp(-moment)) if moment > 0 else math.log1p(math.exp(moment))
    return total / (order - 1)
