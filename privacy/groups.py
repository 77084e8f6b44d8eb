"""What several records of one person pay together.

Everywhere else a guarantee is for one record. Of ``k`` records of one person each is sampled independently, so
that one step adds between 0 and ``k`` clipped gradients of that person, binomially distributed: a mixture of
Gaussians, whose privacy loss distribution is known up to its grid. Ganesh 2024 (arXiv 2401.10294); Choquette-Choo
et al. 2023 (arXiv 2310.15526, corollary 4.7) for the step from gradients to their lengths.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from dp_accounting.pld import privacy_loss_distribution

from privacy.accountants import PLD_INTERVAL, Mechanism, Merged, merge, pld_epsilon
from privacy.errors import AccountingError
from privacy.plan import MIN_DELTA

# Points of one step's grid. dp-accounting inverts the loss of a mixture point by point, which takes its time; a
# coarser grid only makes the figure larger, by about steps times its square.
FEWEST_POINTS, MOST_POINTS = 4_000, 20_000
ROUNDING = 0.15
TAIL = 10.1  # dp-accounting leaves out what is further than this many standard deviations away: exp(-50) of mass


def group_epsilon(mechanisms: Iterable[Mechanism], delta: float, k: int) -> float:
    """Return epsilon at ``delta`` for ``k`` records being zeroed at once; the PLD figure for ``k`` = 1.

    It is an upper bound, within about 1 % of the truth, and takes seconds where records are sampled. The result is
    cached.

    Args:
        mechanisms: what every single one of the records takes part in, in any fixed order.
        delta: in [1e-10, 1).
        k: from 1.

    Raises:
        AccountingError: no finite epsilon is found, or ``k`` is no such number.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise AccountingError(f"k={k!r}: must be a whole number of records, from 1")
    listed = list(mechanisms)
    merged = merge(listed)
    return _grouped(merged, delta, k) if merged and k > 1 else pld_epsilon(listed, delta)


@lru_cache(maxsize=1024)
def _grouped(merged: Merged, delta: float, k: int) -> float:
    """Epsilon for at least two records."""
    if not MIN_DELTA <= delta < 1:
        raise AccountingError(f"delta={delta!r}: must be in [{MIN_DELTA:g}, 1)")
    # The loss of k records, all sampled, at the far end of the noise.
    reach = max(k * TAIL / sigma + k * k / (2 * sigma * sigma) for _, sigma, _ in merged)
    wanted = ROUNDING / math.sqrt(sum(steps for _, _, steps in merged))
    interval = max(PLD_INTERVAL, reach / MOST_POINTS, min(wanted, reach / FEWEST_POINTS))
    whole = privacy_loss_distribution.identity(value_discretization_interval=interval)
    for q, sigma, steps in merged:
        if q == 1.0:
            one = privacy_loss_distribution.from_gaussian_mechanism(
                sigma / k / math.sqrt(steps), value_discretization_interval=interval
            )
            whole = whole.compose(one)
        else:
            one = privacy_loss_distribution.from_mixture_gaussian_mechanism(
                sigma, range(k + 1), _binomial(k, q), value_discretization_interval=interval
            )
            whole = whole.compose(one.self_compose(steps))
    found = float(whole.get_epsilon_for_delta(delta))
    if not math.isfinite(found):
        raise AccountingError(f"no finite epsilon for {k} records of one person: {merged}")
    return found


def _binomial(k: int, q: float) -> list[float]:
    """How probable it is that 0, 1, ... k of k records are sampled."""
    return [math.comb(k, j) * q**j * (1 - q) ** (k - j) for j in range(k + 1)]
