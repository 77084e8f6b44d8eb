"""What would be admitted instead of a run that is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from privacy.plan import MAX_NOISE_MULTIPLIER, MAX_STEPS, PrivacyPlan

Admits = Callable[[PrivacyPlan], bool]

PRECISION = 1.002  # what is found is at most this factor above the least noise, before it is rounded up


def what_fits(admits: Admits, plan: PrivacyPlan) -> str:
    """Return what of a refused plan would fit, as a clause: fewer rounds, or more noise; empty for nothing.

    ``"9 rounds instead of 15 would fit, or noise_multiplier 1.62 instead of 1.21"``

    Args:
        admits: whether a plan is admitted; it must be monotone in rounds and in noise, as every cap is. It is asked
            some 20 times.
        plan: a plan that is not admitted.
    """
    rounds = most_rounds(admits, plan, plan.rounds - 1)
    found = [f"{rounds} round{'s' * (rounds > 1)} instead of {plan.rounds}"] if rounds else []
    if quieter := _with_more_noise(admits, plan):
        names = [name for name in ("noise_multiplier", "metric_noise") if getattr(quieter, name) != getattr(plan, name)]
        found.append(
            " with ".join(f"{name} {getattr(quieter, name):g} instead of {getattr(plan, name):g}" for name in names)
        )
    return " would fit, or ".join(found) + " would fit" * (len(found) == 1)


def most_rounds(admits: Admits, plan: PrivacyPlan, most: int) -> int:
    """Return the largest number of rounds, at most ``most``, with which a plan is admitted; 0 for none."""
    low, high = 0, min(most, MAX_STEPS // plan.steps_per_round)
    if high < 1 or admits(replace(plan, rounds=high)):
        return max(high, 0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if admits(replace(plan, rounds=middle)) else (low, middle)
    return low


def _with_more_noise(admits: Admits, plan: PrivacyPlan) -> PrivacyPlan | None:
    """The plan with the least noise that is admitted; noise is added where it is missing, and nowhere else."""
    loud = replace(plan, noise_multiplier=MAX_NOISE_MULTIPLIER)
    if admits(loud):
        return _least(admits, plan, "noise_multiplier")
    if plan.metric_noise is None or not admits(replace(loud, metric_noise=MAX_NOISE_MULTIPLIER)):
        return None
    quieter = _least(lambda one: admits(replace(one, noise_multiplier=MAX_NOISE_MULTIPLIER)), plan, "metric_noise")
    return quieter if admits(quieter) else _least(admits, quieter, "noise_multiplier")


def _least(admits: Admits, plan: PrivacyPlan, name: str) -> PrivacyPlan:
    """The plan with the least of one kind of noise that is admitted; the greatest possible noise is."""

    def louder(noise: float) -> PrivacyPlan:
        return replace(plan, **{name: noise})  # type: ignore[arg-type]  # both names are of real fields

    low = high = float(getattr(plan, name))
    while not admits(louder(high)) and high < MAX_NOISE_MULTIPLIER:
        low, high = high, min(high * 2, MAX_NOISE_MULTIPLIER)
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if admits(louder(middle)) else (middle, high)
    return louder(_rounded_up(high))


def _rounded_up(noise: float) -> float:
    """Three significant digits, so that it can be read out, and never less."""
    unit = 10.0 ** (math.floor(math.log10(noise)) - 2)
    return min(MAX_NOISE_MULTIPLIER, float(f"{math.ceil(noise / unit - 1e-9) * unit:.3g}"))
