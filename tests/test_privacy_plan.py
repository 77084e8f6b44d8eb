"""The privacy plan: what it refuses, and why noise shared across several local steps is among it."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from scipy.stats import norm

from privacy.errors import BadPlan
from privacy.plan import PrivacyPlan, refuse_shared_noise

PLAN = PrivacyPlan(
    sampling_rate=0.02,
    noise_multiplier=1.1,
    max_grad_norm=0.5,
    steps_per_round=20,
    rounds=30,
    declared_size=12_000,
    metric_noise=25.0,
    delta=1e-6,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.0001),
        ("sampling_rate", math.nan),
        ("sampling_rate", "0.1"),
        ("sampling_rate", True),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", 1e400),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", math.inf),
        ("steps_per_round", 0),
        ("steps_per_round", 2.0),
        ("steps_per_round", True),
        ("rounds", -1),
        ("rounds", 10**8),
        ("declared_size", 0),
        ("declared_size", 10**11),
        ("metric_noise", 0.0),
        ("metric_noise", math.nan),
        ("delta", 0.0),
        ("delta", 9e-11),
        ("delta", 1.0),
        ("adjacency", "replace"),
        ("sampler", "shuffle"),
        ("sampler", None),
        ("unit", "person"),
    ],
)
def test_refusals_name_the_field_and_the_value(field: str, value: Any) -> None:
    with pytest.raises(BadPlan, match=rf"{field}=.*: "):
        replace(PLAN, **{field: value})
    with pytest.raises(ValueError, match=field):
        replace(PLAN, **{field: value})


def test_client_unit_is_refused_for_now() -> None:
    with pytest.raises(BadPlan, match=r"unit='client'.*use unit='record'"):
        replace(PLAN, unit="client")


def test_the_product_of_steps_and_rounds_is_bounded() -> None:
    with pytest.raises(BadPlan, match="keep the product"):
        replace(PLAN, steps_per_round=10_000, rounds=10_000)


def test_derived_numbers() -> None:
    assert (PLAN.steps, PLAN.expected_batch_size, PLAN.metric_releases) == (600, 240.0, 31)
    assert replace(PLAN, metric_noise=None).metric_releases == 0
    with pytest.raises(FrozenInstanceError):
        PLAN.rounds = 1  # type: ignore[misc]  # that it is frozen is what is tested


def test_events_are_the_mechanism() -> None:
    step = PoissonSampledDpEvent(0.02, GaussianDpEvent(1.1))
    assert PLAN.events() == (SelfComposedDpEvent(step, 600),)
    assert PLAN.events(2) == (SelfComposedDpEvent(step, 40),)
    assert PLAN.events(0) == ()
    assert PLAN.metric_events() == (SelfComposedDpEvent(GaussianDpEvent(25.0), 31),)
    assert PLAN.metric_events(0) == replace(PLAN, metric_noise=None).metric_events() == ()


def test_dictionary_round_trip_is_strict() -> None:
    data = json.loads(json.dumps(PLAN.to_dict()))
    assert PrivacyPlan.from_dict(data) == PLAN
    with pytest.raises(BadPlan, match="lacks delta, unit"):
        PrivacyPlan.from_dict({k: v for k, v in data.items() if k not in ("delta", "unit")})
    with pytest.raises(BadPlan, match="unknown fields epsilon"):
        PrivacyPlan.from_dict(data | {"epsilon": 3.0})
    with pytest.raises(BadPlan, match="rounds='30'"):
        PrivacyPlan.from_dict(data | {"rounds": "30"})


def test_warnings_are_for_what_is_unwise() -> None:
    assert PLAN.warnings() == []
    assert "below 1/declared_size" in replace(PLAN, delta=1e-4).warnings()[0]
    assert "empty" in replace(PLAN, sampling_rate=1e-5).warnings()[0]
    assert len(replace(PLAN, noise_multiplier=0.4, metric_noise=0.5).warnings()) == 2


def _two_steps(*, member: bool, trials: int, random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What 10 departments' sum shows after two local steps with 1/sqrt(10) of the noise each, sigma = C = 1.

    The target record has gradient C at the first step only. The other 19 records of its department have a
    gradient that depends on which side of C/2 the first, under-noised step ended, and so amplify it.
    """
    departments, batch = 10, 20
    share = 1 / math.sqrt(departments)
    first = float(member) + share * random.standard_normal(trials)
    second = np.where(first > 0.5, 1.0, -1.0) * (batch - 1) + share * random.standard_normal(trials)
    others = math.sqrt(2 * (departments - 1) / departments) * random.standard_normal(trials)
    return np.asarray(first + second + others)


def test_shared_noise_breaks_the_composed_bound_with_two_local_steps() -> None:
    random = np.random.default_rng(1)
    true_rate = float((_two_steps(member=True, trials=200_000, random=random) > 0).mean())
    false_rate = float((_two_steps(member=False, trials=200_000, random=random) > 0).mean())
    claimed = float(norm.cdf(norm.ppf(false_rate) + math.sqrt(2)))  # two Gaussians with sigma = 1
    assert false_rate < 0.1
    assert true_rate > 0.9
    assert true_rate > claimed + 0.3


@pytest.mark.parametrize("share", [0.1, 0.999])
def test_shared_noise_is_refused_with_several_local_steps(share: float) -> None:
    with pytest.raises(BadPlan, match="not differentially private; use steps_per_round=1"):
        refuse_shared_noise(share, 2)
    refuse_shared_noise(share, 1)
    refuse_shared_noise(1.0, 50)


@pytest.mark.parametrize("share", [0.0, 1.5, math.nan])
def test_a_noise_share_is_a_fraction(share: float) -> None:
    with pytest.raises(BadPlan, match="noise_share"):
        refuse_shared_noise(share, 1)
