"""A lower bound on epsilon from a single training run.

After Steinke, Nasr & Jagielski 2023, "Privacy auditing with one (1) training run" (arXiv 2305.08846), theorem 5.2:
many canaries are each in or out by the toss of a coin, the auditor guesses for some of them which, and a mechanism of
a given epsilon allows only so many right guesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom

from privacy.conformance import Verdict

CONFIDENCE = 0.95

_LARGEST = 64.0  # no number of canaries that one can train on shows more


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """What one training run shows of epsilon.

    Attributes:
        epsilon: the lower bound, at :data:`CONFIDENCE`.
        claimed: the plan's epsilon, by privacy loss distributions.
        delta: of both.
        expected: the bound that an ideal attacker gets on the mechanism claimed: the median over simulations.
        highest: the bound if every guess were right; one that is not above ``claimed`` could never fail.
        canaries: how many records could be in or out.
        guesses: how many were guessed, fixed beforehand.
        correct: how many guesses were right.
        verdict: see ``docs/audit.md``.
    """

    epsilon: float
    claimed: float
    delta: float
    expected: float
    highest: float
    canaries: int
    guesses: int
    correct: int
    verdict: Verdict


def judge(
    scores: NDArray[np.float64],
    present: NDArray[np.bool_],
    *,
    each_side: int,
    claimed: float,
    delta: float,
    expected: float,
) -> OneRun:
    """Guess the ``each_side`` highest scores present and as many of the lowest absent, and bound epsilon.

    Args:
        scores: float64 ``(m,)``: how much each canary seems to be there; see :func:`likelihood_ratios`.
        present: bool ``(m,)``: the truth.
        each_side: fixed before anything was seen; the largest bound over several choices would not be valid.
        claimed: the plan's epsilon.
        delta: at which both are stated.
        expected: see :func:`expected_bound`.
    """
    count, guesses = len(scores), 2 * each_side
    correct = right_guesses(scores, present, each_side)
    epsilon = lower_bound(canaries=count, guesses=guesses, correct=correct, delta=delta)
    highest = lower_bound(canaries=count, guesses=guesses, correct=guesses, delta=delta)
    passed: Verdict = "CONSISTENT" if highest > claimed else "INCONCLUSIVE"
    return OneRun(
        epsilon=epsilon,
        claimed=claimed,
        delta=delta,
        expected=expected,
        highest=highest,
        canaries=count,
        guesses=guesses,
        correct=correct,
        verdict="FAIL" if epsilon > claimed else passed,
    )


def likelihood_ratios(
    scores: NDArray[np.float64], *, sampling_rate: float, noise_multiplier: float
) -> NDArray[np.float64]:
    """Return the log-likelihood ratio of present to absent, ``(m,)``, from what each step shows of each canary.

    Args:
        scores: float64 ``(T, m)``: each step's sum along each canary's own direction, in units of the clipping norm.
        sampling_rate: the plan's.
        noise_multiplier: the plan's.
    """
    present = (2.0 * scores - 1.0) / (2.0 * noise_multiplier**2)
    absent = math.log1p(-sampling_rate) if sampling_rate < 1 else -math.inf
    return np.asarray(np.logaddexp(absent, math.log(sampling_rate) + present).sum(0), np.float64)


def right_guesses(scores: NDArray[np.float64], present: NDArray[np.bool_], each_side: int) -> int:
    """Return how many of the guesses are right: highest scores present, lowest absent."""
    order = np.argsort(scores, kind="stable")
    return int(present[order[-each_side:]].sum() + (~present[order[:each_side]]).sum())


def p_value(epsilon: float, *, canaries: int, guesses: int, correct: int, delta: float) -> float:
    """Return a bound on the probability of ``correct`` right guesses under (epsilon, delta)-DP (theorem 5.2)."""
    rate = expit(epsilon)
    beyond = float(binom.sf(correct - 1, guesses, rate))
    if delta == 0 or correct == 0:
        return beyond
    fewer = np.arange(1, correct + 1)
    steepest = float(((binom.sf(correct - fewer - 1, guesses, rate) - beyond) / fewer).max())
    return min(1.0, beyond + 2 * canaries * delta * max(0.0, steepest))


def lower_bound(*, canaries: int, guesses: int, correct: int, delta: float) -> float:
    """Return the largest epsilon that the right guesses refute at :data:`CONFIDENCE`; 0 if none.

    Raises:
        ValueError: more right guesses than guesses, or more guesses than canaries.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"correct={correct}, guesses={guesses}, canaries={canaries}: must be in ascending order")

    def excess(epsilon: float) -> float:
        found = p_value(epsilon, canaries=canaries, guesses=guesses, correct=correct, delta=delta)
        return found - (1.0 - CONFIDENCE)

    if excess(0.0) > 0:
        return 0.0
    if excess(_LARGEST) <= 0:
        return _LARGEST
    return float(brentq(excess, 0.0, _LARGEST, xtol=1e-6))


def expected_bound(
    *,
    canaries: int,
    each_side: int,
    steps: int,
    sampling_rate: float,
    noise_multiplier: float,
    delta: float,
    simulations: int = 25,
) -> float:
    """Return the median bound of an ideal attacker on the Gaussian mechanism itself, simulated with a fixed seed."""
    coins = np.random.default_rng(0)
    bounds = []
    for _ in range(simulations):
        present = coins.random(canaries) < 0.5
        sampled = coins.random((steps, canaries)) < sampling_rate
        seen = (sampled & present) + noise_multiplier * coins.standard_normal((steps, canaries))
        scores = likelihood_ratios(seen, sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
        correct = right_guesses(scores, present, each_side)
        bounds.append(lower_bound(canaries=canaries, guesses=2 * each_side, correct=correct, delta=delta))
    return float(np.median(bounds))
