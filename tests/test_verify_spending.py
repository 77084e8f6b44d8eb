"""The verifier against departments that break rules and sign it: caps, costs, settlements, keys, clocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_cases import (
    ORDERS,
    POLICY,
    Department,
    Witness,
    cost,
    divergence,
    honest,
    key_of,
    mechanism,
    public,
    sealing,
    sha,
    write,
)

from privacy import verify_spending as spending
from privacy.verify import Verdict, verify

LEDGER = "ledgers/north.jsonl"
DAY = 86_400


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PLD takes a second a mechanism, and only tests that ask for it, by the fixture ``pld``, look at it."""
    if "pld" not in request.fixturenames:
        monkeypatch.setattr(spending, "pld", lambda parts, delta: None)


@pytest.fixture
def pld() -> None:
    """Real PLD figures."""


def policy(*lines: str, epsilon: str = "8", top: str = "") -> str:
    """A policy with more lines in the data set's table, another cap, and more at its top."""
    return top + POLICY.replace('"8"', f'"{epsilon}"') + "".join(f"{line}\n" for line in lines)


def begun(text: str = POLICY, *, datasets: tuple[str, ...] = ("claims",)) -> Department:
    """A department that has done nothing yet."""
    made = Department()
    made.genesis()
    made.policy(text)
    for name in datasets:
        made.dataset(name)
    return made


def judged(folder: Path, made: Department, **others: Any) -> Verdict:
    return verify(write(folder, made, **others))


def violates(folder: Path, made: Department, fragment: str, *, seq: int | None = None, **others: Any) -> None:
    """There is such a violation, at that entry."""
    verdict = judged(folder, made, **others)
    said = [f"{p.file} {p.seq}: {p.what}" for p in verdict.problems]
    assert any(fragment in p.what and (seq is None or p.seq == seq) for p in verdict.problems), said
    assert verdict.exit_code == 1, said


def passes(folder: Path, made: Department, **others: Any) -> dict[str, Any]:
    """It passes; returns the first data set's row."""
    verdict = judged(folder, made, **others)
    assert verdict.exit_code == 0, verdict.problems
    return verdict.datasets[0]


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
        ([], {"delta": "1e-11"}, "is not in [1e-10, 1)"),
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


@pytest.mark.parametrize(
    ("edit", "fragment"),
    [
        (lambda made: made.reserve("a", "other"), "the data set is not registered"),
        (lambda made: (made.dataset("other"), made.reserve("a", "other")), "the policy has no table for this data set"),
        (lambda made: (made.dataset(version=2), made.reserve("a")), "not of the data set's newest version"),
        (lambda made: made.dataset(version=3), "versions of the data set are not in order"),
        (lambda made: made.dataset(version=2, lineage="0" * 32), "the lineage is not the data set's own"),
        (lambda made: made.dataset("b", lineage=sha(b"claims")[:32]), "the lineage is not the data set's own"),
        (lambda made: made.release("a", 1), "a release without a reservation of this run"),
        (lambda made: made.abandon("a", 1), "a abandon without a reservation"),
        (lambda made: (made.reserve("a"), made.release("a", 1, "other")), "a release without a reservation"),
        (lambda made: (made.run("a"), made.release("a", 5, train=False)), "a release after the run was settled"),
        (lambda made: (made.run("a"), made.abandon("a", 5)), "a abandon after the run was settled"),
        (lambda made: (made.run("a"), made.reserve("a")), "id 'reserve:a' is there twice"),
        (lambda made: made.run("a", rounds=4), "more rounds were released than were reserved"),
        (
            lambda made: (made.reserve("a"), made.release("a", 1), made.release("a", 1)),
            "id 'release:a:1' is there twice",
        ),
        (lambda made: (made.reserve("a"), made.settle("a", seq=2)), "it settles another reservation"),
    ],
)
def test_order_of_events(tmp_path: Path, edit: Callable[[Department], object], fragment: str) -> None:
    made = begun()
    edit(made)
    violates(tmp_path, made, fragment)


def test_more_metrics_than_were_reserved(tmp_path: Path) -> None:
    made = begun()
    made.reserve("a", made=mechanism(metric_noise=None, evaluations="0"))
    made.release("a", 1, evaluate=False)
    passes(tmp_path, made)
    made.release("a", 2)
    violates(tmp_path, made, "more metrics were released than were reserved", seq=5)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"rounds": "1", "evaluations": "2"}, "settled with rounds = 1, but reserved and released were 2"),
        ({"rounds": "2", "evaluations": "1"}, "settled with evaluations = 1, but reserved and released were 2"),
        ({"rounds": "2", "evaluations": "2", "noise_multiplier": "9.0"}, "settled with noise_multiplier = 9.0"),
        ({"rounds": "2", "evaluations": "2", "delta": "1e-05"}, "settled with delta"),
    ],
)
def test_settling_for_less_than_was_released(tmp_path: Path, changes: dict[str, str], fragment: str) -> None:
    made = begun()
    made.reserve("a")
    made.release("a", 1)
    made.release("a", 2)
    made.settle("a", made=mechanism(**changes))
    violates(tmp_path, made, fragment, seq=6)
    honest_one = begun()
    honest_one.reserve("a")
    honest_one.release("a", 1)
    honest_one.release("a", 2)
    honest_one.settle("a")
    # What counts is what was released, whatever the settlement says.
    expected = passes(tmp_path / "honest", honest_one)["enforced_epsilon"]
    assert judged(tmp_path, made).datasets[0]["enforced_epsilon"] == expected


@pytest.mark.parametrize("part", ["training", "validation"])
def test_a_cost_that_is_understated(tmp_path: Path, part: str) -> None:
    made = begun()
    stated = cost(mechanism())
    stated["rdp"][part][3] = repr(float(stated["rdp"][part][3]) * (1 - 1e-7))
    made.reserve("a", cost=stated)
    passes(tmp_path, made)
    stated["rdp"][part][3] = repr(float(stated["rdp"][part][3]) * (1 - 1e-5))
    made.resign()
    violates(tmp_path, made, f"the {part} cost at order 6 is stated as", seq=3)


@pytest.mark.parametrize(
    "stated",
    [
        {"orders": ["2"], "rdp": {"training": ["0.1", "0.1"], "validation": ["0"]}},
        {"orders": [], "rdp": {"training": [], "validation": []}},
        {"orders": ["999999999999999999"], "rdp": {"training": ["0"], "validation": ["0"]}},
        {"orders": ["2"], "rdp": {"training": ["0.1"]}},
        {"orders": "2", "rdp": []},
        None,
    ],
)
def test_costs_of_another_form(tmp_path: Path, stated: Any) -> None:
    made = begun()
    made.reserve("a", cost=stated)
    violates(tmp_path, made, "cost", seq=3)


# --- Overrides, keys, clocks ---


@pytest.mark.parametrize("allowed", [True, False])
def test_an_override_is_a_violation_even_where_it_is_allowed(tmp_path: Path, allowed: bool) -> None:
    made = begun(policy("allow_without_privacy = true") if allowed else POLICY)
    made.override("a")
    made.release("a", 1, evaluate=False)
    verdict = judged(tmp_path, made)
    assert verdict.exit_code == 1
    assert verdict.datasets[0]["enforced_epsilon"] is verdict.datasets[0]["pld_epsilon"] is None
    assert (verdict.datasets[0]["overrides"], verdict.datasets[0]["open_reservations"]) == (1, 0)
    text = " ".join(p.what for p in verdict.problems)
    assert "trains without differential privacy" in text
    assert ("does not allow runs without privacy" in text) is not allowed


def test_a_run_before_any_policy(tmp_path: Path) -> None:
    made = Department()
    made.genesis()
    made.dataset()
    made.reserve("a")
    violates(tmp_path, made, "no policy is in force", seq=2)


def test_rotated_keys(tmp_path: Path) -> None:
    made = honest()
    old = made.rotate()
    made.run("run-3")
    rosters = {
        "run-1": sealing("run-1", {"north": public(old)}),
        "run-3": sealing("run-3", {"north": public(made.key)}),
    }
    passes(tmp_path, made, rosters=rosters)
    wrong = rosters | {"run-3": sealing("run-3", {"north": public(old)})}
    violates(tmp_path, made, "has another key for 'north' than its ledger", rosters=wrong)
    made.signatures[-1] = made.sign(made.entries[-1], old)
    violates(tmp_path, made, "not by the ledger key then in force", seq=len(made.entries) - 1)


def test_a_note_signed_by_a_key_that_was_rotated_out(tmp_path: Path) -> None:
    made = honest()
    made.rotate()
    made.keys, kept = made.keys[:1], made.keys
    note = made.note()
    made.keys = kept
    write(tmp_path, made)
    (tmp_path / "checkpoints/north.note").write_text(note, "utf-8")
    verdict = verify(tmp_path)
    assert [p.what for p in verdict.problems] == ["is not signed by the ledger key then in force"]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"proof": "00" * 64}, "the new key's own signature does not hold"),
        ({"key": public(key_of("department north")).hex()}, "key: |id"),
    ],
)
def test_keys_that_nobody_holds(tmp_path: Path, change: dict[str, str], fragment: str) -> None:
    made = honest()
    made.rotate()
    made.entries[-1]["ref"] |= change
    made.entries[-1]["id"] = f"key:{made.entries[-1]['ref']['key']}"
    made.resign(len(made.entries) - 1)
    verdict = judged(tmp_path, made)
    assert verdict.exit_code == 1
    assert any(part in p.what for p in verdict.problems for part in (*fragment.split("|"), "has been this ledger's"))


def test_an_entry_of_another_ledger(tmp_path: Path) -> None:
    made, other = honest(), honest("south")
    made.entries[5] = dict(other.entries[5])
    made.signatures[5] = other.signatures[5]
    violates(tmp_path, made, "the entry is of another ledger", seq=5)
    violates(tmp_path, made, "not by the ledger key then in force", seq=5)
    made.resign()
    violates(tmp_path, made, "the entry is of another ledger", seq=5)


def test_a_clock_that_was_moved_back(tmp_path: Path) -> None:
    made = honest()
    made.now -= 1000
    made.release("run-2", 3)
    violates(tmp_path, made, "a clock was moved back", seq=13)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"root": "00" * 32}, "the root is not that of the first 9 entries"),
        ({"size": "8"}, "id: 'checkpoint:9:auditor' in place of"),
        ({"witness": "somebody else"}, "is not the name of a witness"),
        ({"cosignature": "AAAA"}, "does not hold under its key"),
        ({"cosignature": "A"}, "is not base64"),
        ({"key": "00" * 32}, "does not hold under its key"),
    ],
)
def test_checkpoint_entries(tmp_path: Path, change: dict[str, str], fragment: str) -> None:
    made = honest()
    made.entries[9]["ref"] |= change
    made.resign(9)
    violates(tmp_path, made, fragment, seq=9)


def test_checkpoints_of_more_entries_or_too_early(tmp_path: Path) -> None:
    made = honest()
    made.witnessed(Witness(), time=made.now - 601)
    violates(tmp_path, made, "more than ten minutes after the cosignature", seq=13)
    made = honest()
    made.entries[9]["ref"]["size"], made.entries[9]["id"] = "10", "checkpoint:10:auditor"
    made.resign(9)
    violates(tmp_path, made, "a checkpoint of more entries than there were", seq=9)


def test_a_name_that_is_not_the_department(tmp_path: Path) -> None:
    made = honest()
    made.entries[0]["ref"]["name"] = "south"
    made.resign()
    violates(tmp_path, made, "the ledger's name is not made from the department's", seq=0)


# --- Policies that are none ---


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (policy(top="orders = [2, 2]\n"), "strictly increasing"),
        (policy(top="orders = []\n"), "strictly increasing"),
        (policy(top="orders = [1, 2]\n"), "an order from 2 to 256"),
        (policy(top="orders = [2.0]\n"), "is not an integer"),
        (policy(top="extra = 1\n"), "field 'extra' is unknown"),
        (policy("extra = 1"), "field 'extra' is unknown"),
        (policy("max_runs = true"), "is not an integer"),
        (policy("max_runs = 0x" + "f" * 9000), "a value of type int is not an integer"),
        (policy("sigma_min = 0.8"), "is not a real"),
        (policy("sigma_min = 'nan'"), "is not a real"),
        (policy("sigma_min = '1e400'"), "is not a finite real"),
        (policy("max_steps = 10"), "field 'max_steps' is unknown"),
        (policy("min_cohort = 2"), "an integer from 3"),
        (policy(top='mode = "pinned"\n'), "mode pinned needs"),
        (policy(epsilon="-8"), "is not a real"),
        (policy(epsilon="0"), "is not above 0"),
        (policy().replace("version = 1", "version = true"), "is not an integer"),
        (policy().replace("version = 1", "version = 2"), "version: 2 is not 1"),
        (policy().replace("lifetime", "lifetimes"), "field 'lifetime"),
        ("version = " + "[" * 20_000, "is not TOML"),
        ("version = " + "9" * 20_000, "is not TOML"),
        ("#" * 65_600, "has more than 65536 bytes"),
        ("version = 1\n\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "is not TOML"),
    ],
)
def test_policies_that_are_none(tmp_path: Path, text: str, fragment: str) -> None:
    made = begun(text)
    made.reserve("a")
    violates(tmp_path, made, fragment)


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
