"""The audit's statistics on simulated mechanisms: false alarms, power, and the bound on epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from privacy.conformance import ALPHA, Check, Observed, conformance, worst
from privacy.onerun import expected_bound, judge, likelihood_ratios, lower_bound, p_value, right_guesses

torch.set_num_threads(1)

STEPS, RECORDS, COORDINATES, RATE, NOISE = 40, 60, 300, 0.1, 0.05


def simulated(
    seed: int, *, noise: float = 1.0, length: float = 1.0, steps: int = STEPS, coordinates: int = COORDINATES
) -> Observed:
    """The mechanism itself, in directions that are not orthogonal."""
    coins = np.random.default_rng(seed)
    directions = np.zeros((RECORDS, coordinates))
    directions[:, :80] = np.eye(RECORDS, 80) + 0.05 * coins.standard_normal((RECORDS, 80))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    took_part = coins.random((steps, RECORDS)) < RATE
    return Observed(
        sums=length * (took_part @ directions) + noise * NOISE * coins.standard_normal((steps, coordinates)),
        directions=directions,
        sampling_rate=RATE,
        noise_multiplier=NOISE,
    )


def verdicts_of(seen: Observed, threshold: float = ALPHA / 4) -> dict[str, Check]:
    return {check.name: check for check in conformance(seen, threshold=threshold)}


def test_false_alarms_are_as_rare_as_promised() -> None:
    """At a threshold of 5 % each test may fail 5 % of the time, and sometimes does."""
    p_values = np.array([[check.p_value for check in verdicts_of(simulated(seed)).values()] for seed in range(40)])
    assert ((p_values < 0.05).mean(0) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 40)).all()
    assert ((p_values < 0.05).mean(0) > 0.0).all()


@pytest.mark.parametrize(
    ("name", "fault"), [("noise", {"noise": 0.9}), ("noise", {"noise": 1.1}), ("clip", {"length": 1.1})]
)
def test_power_is_as_stated(name: str, fault: dict[str, float]) -> None:
    found = [verdicts_of(simulated(seed, **fault))[name] for seed in range(5)]  # type: ignore[arg-type]  # floats only
    assert min(check.power for check in found) > 0.99
    assert {check.verdict for check in found} == {"FAIL"}


def test_with_little_to_go_by_a_test_is_inconclusive_and_says_how_likely_it_was_to_notice() -> None:
    """As many coordinates as records leave hardly any noise to look at."""
    few = {"steps": 20, "coordinates": 82}
    assert verdicts_of(simulated(0, **few))["noise"].verdict == "INCONCLUSIVE"
    caught = [verdicts_of(simulated(seed, noise=0.9, **few), 0.02)["noise"] for seed in range(30)]
    assert 0.5 < caught[0].power < 0.99
    assert np.mean([check.p_value < 0.02 for check in caught]) == pytest.approx(caught[0].power, abs=0.2)


def test_too_much_noise_to_read_is_refused() -> None:
    seen = simulated(0)
    with pytest.raises(ValueError, match=r"noise_multiplier=0\.3: too much"):
        Observed(sums=seen.sums, directions=seen.directions, sampling_rate=RATE, noise_multiplier=0.3)
    with pytest.raises(ValueError, match="3 steps, 60 records: the tests need 20"):
        simulated(0, steps=3)


def test_nobody_ever_taking_part_is_a_failure_and_not_a_crash() -> None:
    found = verdicts_of(simulated(0, length=0.0))
    assert found["sampling"].verdict == "FAIL"
    assert found["clip"].verdict == "INCONCLUSIVE"


def test_the_worst_verdict_counts() -> None:
    assert worst(["CONSISTENT", "INCONCLUSIVE", "FAIL"]) == "FAIL"
    assert worst(["CONSISTENT", "INCONCLUSIVE"]) == "INCONCLUSIVE"
    assert worst(["CONSISTENT"]) == "CONSISTENT"
    assert worst([]) == "INCONCLUSIVE"


def written_out(epsilon: float, m: int, r: int, v: int, delta: float) -> float:
    """Theorem 5.2, term by term."""
    q = 1 / (1 + math.exp(-epsilon))
    at_least = [sum(math.comb(r, j) * q**j * (1 - q) ** (r - j) for j in range(max(k, 0), r + 1)) for k in range(v + 1)]
    alpha = max(((at_least[v - i] - at_least[v]) / i for i in range(1, v + 1)), default=0.0)
    return min(1.0, at_least[v] + 2 * m * delta * alpha)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 5), st.integers(1, 30), st.integers(0, 30), st.integers(0, 100), st.sampled_from([0.0, 1e-6, 1e-3]))
def test_p_values_are_the_theorems(epsilon: float, guesses: int, correct: int, more: int, delta: float) -> None:
    correct = min(correct, guesses)
    found = p_value(epsilon, canaries=guesses + more, guesses=guesses, correct=correct, delta=delta)
    assert found == pytest.approx(written_out(epsilon, guesses + more, guesses, correct, delta), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(0, 199), st.sampled_from([0.0, 1e-6, 1e-5]))
def test_bounds_grow_with_right_guesses_and_shrink_with_delta(guesses: int, correct: int, delta: float) -> None:
    correct = min(correct, guesses - 1)
    bound = lower_bound(canaries=400, guesses=guesses, correct=correct, delta=delta)
    assert bound <= lower_bound(canaries=400, guesses=guesses, correct=correct + 1, delta=delta)
    assert bound >= lower_bound(canaries=400, guesses=guesses, correct=correct, delta=10 * delta)
    if bound > 0:
        at = p_value(bound, canaries=400, guesses=guesses, correct=correct, delta=delta)
        assert at == pytest.approx(0.05, abs=1e-4)


def test_bounds_hold_for_a_mechanism_that_leaks_as_much_as_it_may() -> None:
    """Randomised response is epsilon-DP and no less: the bound may exceed it in one run of twenty, and comes near."""
    correct = np.random.default_rng(0).binomial(400, expit(1.5), 400)
    counts, where = np.unique(correct, return_inverse=True)
    bounds = np.array([lower_bound(canaries=400, guesses=400, correct=int(v), delta=0.0) for v in counts])[where]
    assert (bounds > 1.5).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert np.median(bounds) > 1.2


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="correct=5, guesses=4"):
        lower_bound(canaries=10, guesses=4, correct=5, delta=0.0)


def test_the_score_is_the_likelihood_ratio() -> None:
    scores: NDArray[np.float64] = np.array([[0.3, -1.0], [2.0, 0.1]])
    expected = np.zeros(2)
    for row in scores:
        present = 0.25 * stats.norm.pdf(row, 1, 2.0) + 0.75 * stats.norm.pdf(row, 0, 2.0)
        expected += np.log(present / stats.norm.pdf(row, 0, 2.0))
    assert likelihood_ratios(scores, sampling_rate=0.25, noise_multiplier=2.0) == pytest.approx(expected)
    whole = likelihood_ratios(scores, sampling_rate=1.0, noise_multiplier=2.0)
    assert whole == pytest.approx(((2 * scores - 1) / 8).sum(0))


def test_guesses_and_verdicts() -> None:
    present = np.arange(100) >= 50
    scores = np.arange(100.0)
    assert right_guesses(scores, present, 20) == 40
    assert right_guesses(-scores, present, 20) == 0

    def verdict(scores: NDArray[np.float64], claimed: float) -> str:
        return judge(scores, present, each_side=20, claimed=claimed, delta=1e-6, expected=0.0).verdict

    assert verdict(scores, 1.0) == "FAIL"
    assert verdict(-scores, 1.0) == "CONSISTENT"
    assert verdict(-scores, 50.0) == "INCONCLUSIVE"  # even if all guesses were right, 50 could not be refuted


def test_more_noise_is_expected_to_show_less() -> None:
    def expected(noise: float) -> float:
        return expected_bound(
            canaries=200,
            each_side=40,
            steps=8,
            sampling_rate=0.5,
            noise_multiplier=noise,
            delta=1e-5,
            simulations=9,
        )

    assert expected(0.5) > expected(1.0) > expected(3.0) >= 0
