"""What an epsilon means: how well the best possible attacker can tell whether one record was used.

A privacy loss distribution bounds every attack at once: for each share of false alarms, the largest share of
right accusations (Dong, Roth & Su 2022, arXiv 1905.02383). ``riskcal`` reads both off it (Kulynych & Gomez et
al. 2024, arXiv 2407.02191); it comes with the extra ``audit``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from privacy.errors import PrivacyError
from privacy.filter import enforced, spent
from privacy.renyi import FILTER_ORDERS, curve

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

Steps = tuple[float, float, int]  # sampling rate, noise multiplier, steps

# Coarser than the accountants' grid, ten times as fast, and still an upper bound: 0.002 above it at most.
INTERVAL: Final = 1e-3
# Beyond it the accountants run out of range, and nothing is promised anyway.
LARGEST: Final = 1e4
FALSE_POSITIVES: Final = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, *(step / 40 for step in range(2, 41)))
NEEDED: Final = "riskcal is missing: a report's reading of epsilon needs it; install confide[audit]"


class MissingExtra(PrivacyError, ImportError):
    """A package is missing that an extra of Confide brings; the message names both."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Bounds on every attack that tells whether one record took part.

    Attributes:
        advantage: largest true positive rate less false positive rate.
        tpr_at_1pct_fpr: largest true positive rate where one accusation in a hundred is false.
        curve: (false positive rate, largest true positive rate), increasing, at :data:`FALSE_POSITIVES`.
    """

    advantage: float
    tpr_at_1pct_fpr: float
    curve: tuple[tuple[float, float], ...]


def epsilon(mechanisms: Sequence[Steps], delta: float) -> float | None:
    """Return the PLD epsilon at ``delta`` of all ``mechanisms`` together; 0 for none; None where it passes 10,000."""
    return _epsilon(tuple(mechanisms), delta)


def read(compartments: Sequence[Sequence[Steps]]) -> Reading | None:
    """Return what attacks on a record can achieve that is in any one of the compartments.

    Args:
        compartments: the mechanisms of each, as (sampling rate, noise multiplier, steps).

    Returns:
        the bounds, or None where there are none: the noise is next to nothing.

    Raises:
        MissingExtra: riskcal is not installed.
    """
    try:
        from riskcal.analysis import get_advantage_from_pld, get_beta_from_pld  # noqa: PLC0415 - an extra, and slow
    except ImportError as error:
        raise MissingExtra(NEEDED) from error
    import numpy as np  # noqa: PLC0415 - only here

    advantage, best = 0.0, [max(rate, 0.0) for rate in FALSE_POSITIVES]
    for mechanisms in compartments:
        if not any(steps for _, _, steps in mechanisms):
            continue
        pld = _pld(tuple(mechanisms))
        if pld is None:
            return None
        advantage = max(advantage, float(get_advantage_from_pld(pld)))
        missed = get_beta_from_pld(pld, alpha=np.array(FALSE_POSITIVES))
        best = [max(old, min(1.0, 1.0 - float(beta))) for old, beta in zip(best, missed, strict=True)]
    points = tuple(zip(FALSE_POSITIVES, best, strict=True))
    return Reading(advantage=min(1.0, advantage), tpr_at_1pct_fpr=dict(points)[0.01], curve=points)


def in_words(reading: Reading) -> str:
    """Return the reading for people who do not know what a rate is."""
    hits, chance = math.ceil(1000 * reading.tpr_at_1pct_fpr) / 10, math.ceil(100 * (50 + 50 * reading.advantage)) / 100
    return (
        "Suppose an attacker knows every other record, saw everything that left the machine, and asks of one record "
        f"whether it was used. If only 1 in 100 of its accusations may be false, it recognises at most {hits:g}% "
        "of the records that were used (by guessing it would be 1%). Asked to choose between two equally likely "
        f"answers, it is right at most {chance:.4g}% of the time (guessing: 50%)."
    )


@lru_cache(maxsize=4096)
def _epsilon(mechanisms: tuple[Steps, ...], delta: float) -> float | None:
    """The PLD epsilon; many runs have the same mechanism."""
    if not any(steps for _, _, steps in mechanisms):
        return 0.0
    pld = _pld(mechanisms)
    found = float(pld.get_epsilon_for_delta(delta)) if pld is not None else math.inf
    return found if found <= LARGEST else None


@lru_cache(maxsize=256)
def _pld(mechanisms: tuple[Steps, ...]) -> PrivacyLossDistribution | None:
    """The composed privacy loss; None for no mechanism, or where no useful bound exists."""
    live = [mechanism for mechanism in mechanisms if mechanism[2] > 0]
    rough = _rough(live)
    if not live or not rough <= LARGEST:
        return None
    # Beyond the useful range a grid relative to epsilon keeps the cost bounded; powers of two, to be found again.
    interval = INTERVAL * 2 ** max(0, math.ceil(math.log2(rough / 20)))
    composed = _repeated(*live[0], interval)
    for mechanism in live[1:]:
        composed = composed.compose(_repeated(*mechanism, interval))
    return composed


def _rough(mechanisms: Sequence[Steps]) -> float:
    """A bound on epsilon at 1e-6 that costs microseconds; infinite where noise is next to nothing."""
    curves = [
        curve(sampling_rate=q, noise_multiplier=sigma, steps=steps, orders=FILTER_ORDERS)
        for q, sigma, steps in mechanisms
    ]
    return max(1e-9, enforced(spent(curves, FILTER_ORDERS), (0.0,) * len(FILTER_ORDERS), FILTER_ORDERS, 1e-6))


@lru_cache(maxsize=256)
def _repeated(q: float, sigma: float, steps: int, interval: float) -> PrivacyLossDistribution:
    """The privacy loss of one mechanism, run several times."""
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415 - slow to import

    once = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=q, value_discretization_interval=interval
    )
    return once.self_compose(steps)
