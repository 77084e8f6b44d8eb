"""The verifier against departments that spend more than they may, and sign it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ledger_cases import (
    ORDERS,
    POLICY,
    cost,
    divergence,
    mechanism,
    sha,
)
from verify_cases import begun, judged, passes, policy, violates, without_pld

DAY = 86_400


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pld" not in request.fixturenames:
        without_pld(monkeypatch)


@pytest.fixture
def pld() -> None:
    """PLD figures are computed in a test that asks for this."""


def enforced(training: list[float], *, delta: float = 1e-6, orders: tuple[int, ...] = ORDERS) -> float:
    """The specification's formula, once more."""
    share = delta / len(orders)
    return min(
        rho + (math.log(1 / share) - math.log(a)) / (a - 1) + math.log(1 - 1 / a)
        for rho, a in zip(training, orders, strict=True)
    )


# --- Caps ---


def test_figures_are_those_of_the_specification(tmp_path: Path) -> None:
    made = begun()
    made.run("a")
    made.reserve("b", made=mechanism(noise_multiplier="2.0", metric_noise=None, evaluations="0"))
    row = passes(tmp_path, made)
    training = [divergence(0.05, 1.5, 30, order) + divergence(0.05, 2.0, 30, order) for order in ORDERS]
    validation = [divergence(1, 20.0, 4, order) for order in ORDERS]
    assert row["enforced_epsilon"] == pytest.approx(max(enforced(training), enforced(validation)), rel=1e-9)


def test_the_lifetime_cap(tmp_path: Path) -> None:
    made = begun(policy(epsilon="2.1"))
    made.run("a")
    made.run("b")
    passes(tmp_path, made)
    made.run("c")
    violates(tmp_path, made, "the lifetime cap does not hold", seq=15)
    violates(tmp_path, made, "is above 2.1, the largest cap ever signed")


def test_a_reservation_counts_in_full_until_it_is_settled(tmp_path: Path) -> None:
    made = begun(policy(epsilon="2.1"))
    for run in ("a", "b"):
        made.reserve(run)
    passes(tmp_path, made)
    made.settle("a")
    made.reserve("c")
    assert passes(tmp_path, made)["open_reservations"] == 2
    made.reserve("d")
    violates(tmp_path, made, "the lifetime cap does not hold", seq=7)


def test_the_period_cap(tmp_path: Path) -> None:
    made = begun(policy('period = { days = 30, epsilon = "2" }'))
    made.run("a")
    settled = made.now
    made.step = 0
    made.now = settled + 30 * DAY
    made.run("b")  # the first was settled 30 days before: no longer counted
    row = passes(tmp_path, made)
    assert row["enforced_epsilon"] == pytest.approx(2.032, abs=1e-3)  # but it is never given back
    made.now += 30 * DAY - 1
    made.run("c")
    violates(tmp_path, made, "the period cap does not hold", seq=15)


def test_the_cap_of_one_run(tmp_path: Path, pld: None) -> None:
    made = begun(policy('per_run = { epsilon = "1.2" }'))  # 1.18 by PLD, 1.38 by Renyi
    made.run("a")
    passes(tmp_path, made)
    made.run("b", made=mechanism(noise_multiplier="1.4"))
    violates(tmp_path, made, "the per_run cap does not hold", seq=9)


def test_validation_has_a_cap_of_its_own(tmp_path: Path) -> None:
    made = begun(policy(epsilon="2.1"))
    made.reserve("a", made=mechanism(metric_noise="3.0"))
    violates(tmp_path, made, "the lifetime cap does not hold", seq=3)


def test_compartments_add_once_the_split_has_changed(tmp_path: Path) -> None:
    made = begun()
    made.run("a", made=mechanism(metric_noise="5.0"))
    before = passes(tmp_path, made)["enforced_epsilon"]
    made.dataset(version=2, split=sha(b"another key"))
    assert passes(tmp_path, made)["enforced_epsilon"] > 1.2 * before


def test_data_sets_of_a_group_pay_together(tmp_path: Path) -> None:
    text = policy('group = "patients"', epsilon="2.2")
    text += text[text.index("[") :].replace("claims", "visits")
    made = begun(text, datasets=("claims", "visits"))
    made.run("a")
    made.run("b", "visits")
    # Their splits differ, so what one trains on the other may validate with.
    rows = judged(tmp_path, made).datasets
    assert rows[0]["enforced_epsilon"] == rows[1]["enforced_epsilon"] == pytest.approx(2.152, abs=1e-3)
    made.run("c", "visits")
    violates(tmp_path, made, "the lifetime cap does not hold", seq=16)
    alone = begun(text.replace('"patients"\n[', '"others"\n['), datasets=("claims", "visits"))
    for run, dataset in (("a", "claims"), ("b", "visits"), ("c", "visits")):
        alone.run(run, dataset)
    passes(tmp_path / "alone", alone)


def test_a_cap_that_was_raised_passes_and_is_said(tmp_path: Path) -> None:
    made = begun(policy(epsilon="2.1"))
    made.run("a")
    made.run("b")
    assert passes(tmp_path, made)["cap_raised"] is False
    made.policy(policy(epsilon="3"))
    made.run("c")
    made.policy(policy(epsilon="2.5"))
    verdict = judged(tmp_path, made)
    assert verdict.exit_code == 0, verdict.problems
    assert verdict.datasets[0]["cap"] == 3.0
    assert verdict.datasets[0]["cap_raised"] is True
    assert "was raised later" in " ".join(verdict.not_proven)


def test_the_largest_delta_ever_signed_is_claimed(tmp_path: Path) -> None:
    made = begun(POLICY.replace("1e-6", "1e-5"))
    made.run("a")
    made.policy()
    row = passes(tmp_path, made)
    assert (row["delta"], row["cap_raised"]) == (1e-5, False)


def test_other_orders_later_are_said(tmp_path: Path) -> None:
    made = begun()
    made.run("a")
    made.policy(policy(top="orders = [4, 8, 16]\n"))
    other = mechanism()
    made.reserve("b", made=other, cost=cost(other, (4, 8, 16)))
    assert "its orders or mode changed" in " ".join(judged(tmp_path, made).not_proven)
    passes(tmp_path, made)
    made.reserve("c")
    violates(tmp_path, made, "the cost is not at the policy's orders", seq=11)


@pytest.mark.parametrize(
    ("lines", "changes", "fragment"),
    [
        (["sigma_min = '1.6'"], {}, "the policy's sigma_min does not allow this run"),
        (["sampling_rate_max = '0.04'"], {}, "the policy's sampling_rate_max does not allow"),
        (["metrics = 'off'"], {}, "the policy's metrics does not allow"),
        (["models = ['logistic']"], {}, "the policy's models does not allow"),
        (["models = []"], {}, "the policy's models does not allow"),
        ([], {"declared_size": "12001"}, "the policy's declared_size does not allow"),
        ([], {"evaluations": "3"}, "evaluations are not rounds + 1"),
        ([], {"metric_noise": None}, "evaluations without metric_noise"),
        ([], {"delta": "1e-11"}, "is not a finite real in [1e-10, 1)"),
        ([], {"unit": "client"}, "unit: 'client' is not record"),
        ([], {"adjacency": "replace"}, "adjacency: 'replace' is not zero-out"),
        ([], {"sampler": "shuffle"}, "sampler: 'shuffle' is not poisson"),
        ([], {"steps_per_round": "0"}, "steps_per_round: '0' is not an integer from 1"),
        ([], {"noise_multiplier": "1e-200"}, "does not hold"),
    ],
)
def test_what_a_policy_does_not_allow(tmp_path: Path, lines: list[str], changes: dict[str, Any], fragment: str) -> None:
    made = begun(policy(*lines))
    made.reserve("a", made=mechanism(**changes), cost=cost(mechanism()))
    violates(tmp_path, made, fragment, seq=3)


def test_the_number_of_runs(tmp_path: Path) -> None:
    made = begun(policy("max_runs = 2"))
    made.reserve("nothing-left-the-machine")
    made.settle("nothing-left-the-machine")
    made.run("a", rounds=1)
    made.run("b", rounds=1)
    passes(tmp_path, made)
    made.reserve("c")
    violates(tmp_path, made, "max_runs: this is reservation number 3", seq=13)


# --- Mode pinned ---


def pinned(*lines: str, epsilon: str = "4") -> str:
    pins = ("sigma_min = '1.4'", "sampling_rate_max = '0.05'", "max_steps = 60")
    return policy(*pins, *lines, epsilon=epsilon, top='mode = "pinned"\n')


METRICS = ("metric_sigma_min = '20'", "max_evaluations = 8")


def test_pinned(tmp_path: Path, pld: None) -> None:
    made = begun(pinned(*METRICS))
    assert passes(tmp_path, made)["enforced_epsilon"] == 0.0
    made.run("a")
    first = passes(tmp_path, made)
    made.run("b")
    second = passes(tmp_path, made)
    assert first["enforced_epsilon"] == second["enforced_epsilon"] > second["pld_epsilon"] > first["pld_epsilon"]
    made.reserve("c", made=mechanism(rounds="1", evaluations="0", metric_noise=None))
    violates(tmp_path, made, "70 steps and 8 evaluations in all are more than is pinned", seq=15)


@pytest.mark.parametrize(
    ("text", "changes", "fragment"),
    [
        (pinned(*METRICS), {"metric_noise": "19.0"}, "with less noise, or more sampling, than is pinned"),
        (pinned(*METRICS), {"noise_multiplier": "1.3"}, "the policy's sigma_min does not allow"),
        (pinned(*METRICS), {"sampling_rate": "0.06"}, "the policy's sampling_rate_max does not allow"),
        (pinned(), {}, "30 steps and 4 evaluations in all are more than is pinned"),
        (pinned(*METRICS, epsilon="1.1"), {}, "the lifetime cap is below the epsilon of all that is pinned"),
    ],
)
def test_what_is_not_pinned(tmp_path: Path, text: str, changes: dict[str, str], fragment: str) -> None:
    made = begun(text)
    made.reserve("a", made=mechanism(**changes))
    violates(tmp_path, made, fragment, seq=3)


def test_pinned_after_a_run_with_less_noise(tmp_path: Path) -> None:
    made = begun()
    made.run("a", made=mechanism(noise_multiplier="1.0"))
    before = passes(tmp_path, made)["enforced_epsilon"]
    made.policy(pinned(*METRICS))
    assert passes(tmp_path, made)["enforced_epsilon"] == before  # what is pinned does not bound it
    made.reserve("b")
    violates(tmp_path, made, "there are runs with less noise, or more sampling, than is pinned", seq=10)
