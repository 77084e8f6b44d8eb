"""Does a training step do what its plan says? Four tests on what it did to canaries.

Everything is computed from the noised sums of single steps (:func:`privacy.canaries.observe`) and the directions of
the canaries that were there. Under the plan the part of a sum orthogonal to all directions is the noise and nothing
else, and the part along them is that of the records sampled, each of length one. The distributions below are then
exact, but for the two counts' dispersions (matched in mean and variance) and the noise's shape (asymptotic).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

Verdict: TypeAlias = Literal["FAIL", "CONSISTENT", "INCONCLUSIVE"]

ALPHA = 1e-3
"""The chance of a false alarm in one audit, shared by all its tests."""

LEAST_POWER = 0.95
"""A test that would miss what it is there for more often than this allows is inconclusive when it passes."""

LEAST_COUNT = 20
"""Steps and records below which dispersions are too coarse for the distributions used."""

_PRESENT = 0.5  # where a contribution of 0 or 1 is told apart


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What an auditor sees.

    Attributes:
        sums: float64 ``(T, P)``: each step's noised sum in units of ``max_grad_norm``.
        directions: float64 ``(n, P)``: unit gradients of the records that were there, linearly independent.
        sampling_rate: the plan's.
        noise_multiplier: the plan's.

    Raises:
        ValueError: there is too little to go by, or single contributions cannot be told from noise.
    """

    sums: NDArray[np.float64]
    directions: NDArray[np.float64]
    sampling_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        if min(len(self.sums), len(self.directions)) < LEAST_COUNT:
            raise ValueError(
                f"{len(self.sums)} steps, {len(self.directions)} records: the tests need {LEAST_COUNT} of each; "
                "audit more"
            )
        errors = self.noise_multiplier * np.sqrt(np.diag(self.inverse))
        misread = len(self.sums) * float(stats.norm.sf(_PRESENT / errors).sum())
        if misread > 0.1 * ALPHA:
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier}: too much to tell which records took part in a step; "
                "audit with less, e.g. 0.05"
            )

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """Inverse of the directions' inner products, ``(n, n)``."""
        inner = torch.from_numpy(product(self.directions, self.directions.T))
        return np.asarray(torch.linalg.inv(inner), np.float64)

    @cached_property
    def basis(self) -> NDArray[np.float64]:
        """Orthonormal ``(P, n)``: what the directions span."""
        # With B = L L', the rows of L' D are orthonormal where B is the inverse of D D'.
        return product(self.directions.T, torch.linalg.cholesky(torch.from_numpy(self.inverse)).numpy())

    @cached_property
    def noise(self) -> NDArray[np.float64]:
        """The part of the sums orthogonal to the directions, in units of the plan's noise, ``(T, P)``."""
        return (self.sums - product(product(self.sums, self.basis), self.basis.T)) / self.noise_multiplier

    @property
    def freedom(self) -> int:
        """Degrees of freedom of all the noise."""
        return int(self.sums.size - len(self.sums) * len(self.directions))

    @cached_property
    def free(self) -> NDArray[np.float64]:
        """The share of each coordinate that is free of directions, in [0, 1], ``(P,)``."""
        return np.asarray(1.0 - np.square(self.basis).sum(1), np.float64)

    @cached_property
    def untouched(self) -> NDArray[np.float64]:
        """The noise in coordinates to which no record contributes, ``(T, U)``."""
        return self.noise[:, (self.directions == 0).all(0)]

    @cached_property
    def took_part(self) -> NDArray[np.bool_]:
        """Which record took part in which step, ``(T, n)``."""
        return product(product(self.sums, self.directions.T), self.inverse) > _PRESENT


@dataclass(frozen=True, kw_only=True)
class Part:
    """One statistic of a test, with the value expected of it and the probability of one as far off."""

    name: str
    statistic: float
    expected: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """One test.

    Attributes:
        name: ``"noise"``, ``"clip"``, ``"sampling"`` or ``"reuse"``.
        claim: what is tested.
        statistic: of the part named first, for people to read.
        expected: its value under the plan.
        p_value: of the most telling part, times the number of parts (Bonferroni).
        threshold: of the p-value, fixed beforehand: below it the verdict is FAIL.
        verdict: see ``docs/audit.md``.
        alternative: a fault that the test is there for.
        power: the probability of catching that fault.
        parts: the statistics.
    """

    name: str
    claim: str
    statistic: float
    expected: float
    p_value: float
    threshold: float
    verdict: Verdict
    alternative: str
    power: float
    parts: tuple[Part, ...]


def product(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``a @ b``, by torch: its threads can be limited, numpy's take every core for matrices like these."""
    return np.asarray(torch.from_numpy(a) @ torch.from_numpy(b), np.float64)


def conformance(seen: Observed, *, threshold: float) -> tuple[Check, ...]:
    """Run the four tests, each failing with probability ``threshold`` if the plan was followed."""
    return (_noise(seen, threshold), _clip(seen, threshold), _sampling(seen, threshold), _reuse(seen, threshold))


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on the whole: one FAIL fails it, one INCONCLUSIVE leaves it open."""
    order: tuple[Verdict, ...] = ("FAIL", "INCONCLUSIVE", "CONSISTENT")
    return next((verdict for verdict in order if verdict in verdicts), "INCONCLUSIVE")


def _noise(seen: Observed, threshold: float) -> Check:
    """Gaussian noise of the plan's scale on every coordinate of every step."""
    steps = len(seen.noise)
    squares = np.square(seen.noise)
    total = float(squares.sum())
    judged = seen.free > 0.5  # of the others too little is noise alone
    coordinates = squares[:, judged].sum(0) / seen.free[judged]
    parts = [
        Part(
            name="standard deviation over the plan's",
            statistic=float(np.sqrt(total / seen.freedom)),
            expected=1.0,
            p_value=_two_sided(stats.chi2, total, seen.freedom),
        ),
        _extreme("standard deviation of the oddest step", squares.sum(1), seen.freedom // steps),
        _extreme("standard deviation of the oddest coordinate", coordinates, steps),
        Part(
            name="largest distance from the Gaussian distribution",
            statistic=float((shape := stats.kstest(seen.untouched.ravel(), "norm", method="asymp")).statistic),
            expected=0.0,
            p_value=float(shape.pvalue),
        ),
    ]
    tail = threshold / len(parts) / 2
    least, most = stats.chi2.ppf(tail, seen.freedom), stats.chi2.isf(tail, seen.freedom)
    return _check(
        "noise",
        "noise of noise_multiplier x max_grad_norm joins every coordinate of every step",
        parts,
        threshold,
        "noise 0.9 times the plan's",
        float(stats.chi2.cdf(least / 0.81, seen.freedom) + stats.chi2.sf(most / 0.81, seen.freedom)),
    )


def _clip(seen: Observed, threshold: float) -> Check:
    """Each record's contribution has length one: regression of the sums on who took part."""
    expected = product(seen.took_part.astype(np.float64), seen.directions)
    weight = max(float(np.square(expected).sum()), 1e-9)  # nobody may have taken part
    slope = float((seen.sums * expected).sum()) / weight
    # Against the noise as it is, so that noise of another scale is the noise's test's to notice.
    variance = max(float(np.square(seen.noise).sum()) / seen.freedom, 1e-12) * seen.noise_multiplier**2
    error = float(np.sqrt(variance / weight))
    count = seen.took_part.size
    misfit = float(np.square(product(seen.sums - expected, seen.basis)).sum()) / count / variance
    parts = [
        Part(
            name="contribution over max_grad_norm",
            statistic=slope,
            expected=1.0,
            p_value=float(2 * stats.norm.sf(abs(slope - 1.0) / error)),
        ),
        Part(
            name="spread of contributions over what noise explains",
            statistic=float(np.sqrt(misfit)),
            expected=1.0,
            p_value=_two_sided(stats.f, misfit, count, seen.freedom),
        ),
    ]
    return _check(
        "clip",
        "a record's contribution to a step it takes part in has length max_grad_norm",
        parts,
        threshold,
        "contributions 1.1 times too long",
        float(stats.norm.sf(stats.norm.isf(threshold / len(parts) / 2) - 0.1 / error)),
    )


def _sampling(seen: Observed, threshold: float) -> Check:
    """Records take part in steps independently, each with the plan's probability."""
    steps, count = seen.took_part.shape
    rate = seen.sampling_rate
    drawn = int(seen.took_part.sum())
    parts = [
        _dispersion("dispersion of how often records took part", seen.took_part.sum(0), steps, rate),
        _dispersion("dispersion of how many records took part", seen.took_part.sum(1), count, rate),
        Part(
            name="sampling rate over the plan's",
            statistic=drawn / (steps * count * rate),
            expected=1.0,
            p_value=float(stats.binomtest(drawn, steps * count, rate).pvalue),
        ),
    ]
    _, freedom = _matched(count, steps, rate)
    quarter = float(stats.chi2.cdf(4 * stats.chi2.ppf(threshold / len(parts) / 2, freedom), freedom))
    return _check(
        "sampling",
        "every record joins every step with probability sampling_rate, independently (Poisson sampling)",
        parts,
        threshold,
        "records taken in turns, so that their counts are a quarter as dispersed",
        quarter,
    )


def _reuse(seen: Observed, threshold: float) -> Check:
    """No two steps, of whichever rounds, and no two coordinates share noise."""
    steps = len(seen.noise)
    freedom = seen.freedom // steps
    parts = [
        _correlation("largest correlation of two steps' noise", seen.noise, freedom),
        _correlation("largest correlation of two coordinates' noise", seen.untouched.T, steps),
    ]
    least = stats.norm.isf(threshold / len(parts) / (steps * (steps - 1)))
    return _check(
        "reuse",
        "the noise of every step, in every round, is drawn afresh",
        parts,
        threshold,
        "half of one step's noise again in another step",
        float(stats.norm.sf(least - np.arctanh(0.5) * np.sqrt(max(freedom - 3, 0)))),
    )


def _check(name: str, claim: str, parts: Sequence[Part], threshold: float, alternative: str, power: float) -> Check:
    """Judge a test by its most telling part."""
    p_value = min(1.0, len(parts) * min(part.p_value for part in parts))
    passed: Verdict = "CONSISTENT" if power >= LEAST_POWER else "INCONCLUSIVE"
    return Check(
        name=name,
        claim=claim,
        statistic=parts[0].statistic,
        expected=parts[0].expected,
        p_value=p_value,
        threshold=threshold,
        verdict="FAIL" if p_value < threshold else passed,
        alternative=alternative,
        power=power,
        parts=tuple(parts),
    )


def _two_sided(distribution: stats.rv_continuous, value: float, *shape: float) -> float:
    """Twice the smaller tail."""
    return float(min(1.0, 2 * min(distribution.cdf(value, *shape), distribution.sf(value, *shape))))


def _extreme(name: str, sums: NDArray[np.float64], freedom: int) -> Part:
    """The least likely of several chi-square variables, as a standard deviation."""
    p_values = 2 * np.minimum(stats.chi2.cdf(sums, freedom), stats.chi2.sf(sums, freedom))
    oddest = int(p_values.argmin())
    return Part(
        name=name,
        statistic=float(np.sqrt(sums[oddest] / freedom)),
        expected=1.0,
        p_value=float(min(1.0, len(sums) * p_values[oddest])),
    )


def _matched(count: int, trials: int, rate: float) -> tuple[float, float]:
    """Scale and degrees of freedom of a chi-square with the moments of ``count`` squared standardised binomials."""
    variance = 2.0 + (1.0 - 6.0 * rate * (1.0 - rate)) / (trials * rate * (1.0 - rate))
    return variance / 2.0, 2.0 * count / variance


def _dispersion(name: str, counts: NDArray[np.int64], trials: int, rate: float) -> Part:
    """Mean squared deviation of binomial counts over the one that independent draws give."""
    squares = np.square(counts - trials * rate) / (trials * rate * (1.0 - rate))
    scale, freedom = _matched(len(counts), trials, rate)
    return Part(
        name=name,
        statistic=float(squares.mean()),
        expected=1.0,
        p_value=_two_sided(stats.chi2, float(squares.sum()) / scale, freedom),
    )


def _correlation(name: str, rows: NDArray[np.float64], freedom: int) -> Part:
    """The largest cosine between two rows of independent Gaussians in ``freedom`` dimensions."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.maximum(lengths, 1e-12)
    cosines = product(unit, unit.T)
    np.fill_diagonal(cosines, 0.0)
    largest = min(1.0, float(max(cosines.max(), -cosines.min())))
    pairs = len(rows) * (len(rows) - 1) / 2
    half = (freedom - 1) / 2
    # (1 + cosine) / 2 is Beta distributed with both parameters so; the tail beyond -largest is as heavy.
    return Part(
        name=name,
        statistic=largest,
        expected=0.0,
        p_value=min(1.0, pairs * 2 * float(stats.beta.sf((1 + largest) / 2, half, half))),
    )
