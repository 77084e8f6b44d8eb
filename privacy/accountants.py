"""From mechanisms to epsilon: pure functions, three accountants, two independent implementations.

Renyi accounting (Mironov et al. 2019, arXiv 1908.10530) and PRV accounting (Gopi et al. 2021, arXiv
2106.02848) come from Opacus, privacy loss distributions (Doroshenko et al. 2022) from dp-accounting. Every
figure is an upper bound, so any one of them may be quoted; what is promised to people is the largest.
Opacus' GDP accountant is an approximation from below and is never used.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

from privacy.errors import AccountingError
from privacy.plan import MIN_DELTA

# Opacus' own orders stop at 63, which is loose for epsilon below about 0.5.
ORDERS: tuple[float, ...] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *range(11, 65),
    *(72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024),
)
PLD_INTERVAL = 1e-4
# Above this Renyi epsilon the PRV accountant may run for minutes or ask for tens of gigabytes.
PRV_LIMIT = 20.0
LARGEST = 1e4  # beyond it the figures promise nothing, and the accountants run out of range
# Opacus' PRV figure is an upper bound this much above its estimate.
PRV_RESOLUTION = 0.01

Merged = tuple[tuple[float, float, int], ...]  # (sampling_rate, noise_multiplier, steps)


@dataclass(frozen=True, kw_only=True, order=True)
class Mechanism:
    """``steps`` releases of a Gaussian of sensitivity one on a Poisson sample of the records.

    Attributes:
        sampling_rate: probability of a record's being in the sample; 1 for no sampling.
        noise_multiplier: standard deviation over sensitivity.
        steps: number of releases; 0 costs nothing.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """The same guarantee as three accountants state it, all at ``delta``.

    Attributes:
        opacus_rdp: Renyi accounting.
        opacus_prv: privacy random variables; None where ``opacus_rdp`` exceeds 20.
        pld: privacy loss distributions.
        delta: the delta of all three.
    """

    opacus_rdp: float
    opacus_prv: float | None
    pld: float
    delta: float

    @property
    def largest(self) -> float:
        """The largest of the figures: the one to promise."""
        return max(self.opacus_rdp, self.pld, self.opacus_prv or 0.0)


def compose(mechanisms: Iterable[Mechanism], delta: float) -> Epsilon:
    """Return the epsilon of running all ``mechanisms`` on the same records, in any fixed order.

    Mechanisms of equal ``(sampling_rate, noise_multiplier)`` are merged first; the result is cached.

    Raises:
        AccountingError: an accountant finds no finite epsilon.
    """
    return _compose(merge(mechanisms), delta)


def pld_epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Return the figure ``pld`` of :func:`compose` alone, in a fraction of the time.

    Raises:
        AccountingError: no finite epsilon is found.
    """
    return _pld_alone(merge(mechanisms), delta)


def rdp(mechanism: Mechanism, orders: tuple[float, ...] = ORDERS) -> tuple[float, ...]:
    """Return the Renyi divergence bound of a mechanism at each order (infinite where it overflows)."""
    curve = _curve(mechanism.sampling_rate, mechanism.noise_multiplier, orders)
    return tuple(mechanism.steps * value if mechanism.steps else 0.0 for value in curve)


def merge(mechanisms: Iterable[Mechanism]) -> Merged:
    """Return mechanisms as sorted (sampling_rate, noise_multiplier, steps), those that differ in steps as one."""
    counted: Counter[tuple[float, float]] = Counter()
    for mechanism in mechanisms:
        counted[mechanism.sampling_rate, mechanism.noise_multiplier] += mechanism.steps
    return tuple(sorted((q, sigma, n) for (q, sigma), n in counted.items() if n > 0))


@lru_cache(maxsize=4096)
def _compose(merged: Merged, delta: float) -> Epsilon:
    """Run all three accountants."""
    renyi = _within_reach(merged, delta)
    if not merged:
        return Epsilon(opacus_rdp=0.0, opacus_prv=0.0, pld=0.0, delta=delta)
    return Epsilon(
        opacus_rdp=renyi,
        opacus_prv=_prv(merged, delta) if renyi <= PRV_LIMIT else None,
        pld=_pld_alone(merged, delta),
        delta=delta,
    )


@lru_cache(maxsize=4096)
def _pld_alone(merged: Merged, delta: float) -> float:
    """Run the PLD accountant, on a grid that a Renyi bound chooses."""
    renyi = _within_reach(merged, delta)
    return _pld(merged, delta, renyi) if merged else 0.0


def _within_reach(merged: Merged, delta: float) -> float:
    """The Renyi epsilon, if the other accountants may be asked as well."""
    if not MIN_DELTA <= delta < 1:
        raise AccountingError(f"delta={delta!r}: must be in [{MIN_DELTA:g}, 1)")
    renyi = renyi_epsilon(merged, delta) if merged else 0.0
    if not renyi <= LARGEST:
        raise AccountingError(f"{merged}: epsilon is above {LARGEST:g}; use more noise or fewer steps")
    return renyi


def renyi_epsilon(merged: Merged, delta: float) -> float:
    """Epsilon by Renyi accounting."""
    total = [0.0] * len(ORDERS)
    for q, sigma, steps in merged:
        for index, value in enumerate(_curve(q, sigma, ORDERS)):
            total[index] += steps * value
    usable = [(order, value) for order, value in zip(ORDERS, total, strict=True) if math.isfinite(value)]
    if not usable:
        return math.inf
    with warnings.catch_warnings():
        # A fixed set of orders is part of the definition of the figure: an optimum at its end is still a
        # bound.
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        found, _ = get_privacy_spent(orders=[o for o, _ in usable], rdp=[v for _, v in usable], delta=delta)
    return max(0.0, float(found))


@lru_cache(maxsize=4096)
def _curve(q: float, sigma: float, orders: tuple[float, ...]) -> tuple[float, ...]:
    """Renyi divergence of one step at each order; infinite where Opacus' series breaks down."""
    values = []
    for order in orders:
        try:
            value = float(compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=float(order)))
        except (ValueError, OverflowError):  # its log-subtraction fails at a few fractional orders
            value = math.inf
        values.append(value if value >= 0 else math.inf)
    return tuple(values)


def _prv(merged: Merged, delta: float) -> float:
    """Epsilon by privacy random variables (an upper bound, 0.01 above the estimate)."""
    accountant = PRVAccountant()
    # len(accountant) counts settings and step() takes one step at a time: its history is set as a whole.
    accountant.history = [(sigma, q, steps) for q, sigma, steps in merged]
    with warnings.catch_warnings():
        # Without sampling it takes log(1 - q) = -inf, which is the limit meant.
        warnings.filterwarnings("ignore", message="divide by zero encountered in log", category=RuntimeWarning)
        # It brackets its grid by Renyi bounds over Opacus' own orders.
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        try:
            found = float(accountant.get_epsilon(delta))
        except (ValueError, RuntimeError, MemoryError) as error:
            raise AccountingError(f"the PRV accountant failed on {merged}: {error}") from error
    if not math.isfinite(found):
        raise AccountingError(f"the PRV accountant found no finite epsilon for {merged}")
    return found


def _pld(merged: Merged, delta: float, upper: float) -> float:
    """Epsilon by privacy loss distributions."""
    # Beyond the useful range a grid relative to epsilon keeps the cost bounded; the bound stays pessimistic.
    accountant = PLDAccountant(
        NeighboringRelation.REPLACE_SPECIAL,
        value_discretization_interval=PLD_INTERVAL * max(1.0, upper / PRV_LIMIT),
    )
    for q, sigma, steps in merged:
        event = GaussianDpEvent(sigma) if q == 1.0 else PoissonSampledDpEvent(q, GaussianDpEvent(sigma))
        accountant.compose(SelfComposedDpEvent(event, steps))
    found = float(accountant.get_epsilon(delta))
    if not math.isfinite(found):
        raise AccountingError(f"privacy loss distributions give no finite epsilon for {merged}")
    return found
