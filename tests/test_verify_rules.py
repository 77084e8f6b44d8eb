"""The verifier against departments that break the other rules, and sign it: order of events, costs, keys, clocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_cases import (
    POLICY,
    Department,
    Witness,
    cost,
    honest,
    key_of,
    mechanism,
    public,
    sealing,
    sha,
    write,
)
from verify_cases import begun, judged, passes, policy, violates, without_pld

from privacy.verify import verify


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pld(monkeypatch)


@pytest.mark.parametrize(
    ("edit", "fragment"),
    [
        (lambda made: made.reserve("a", "other"), "the data set is not registered"),
        (lambda made: (made.dataset("other"), made.reserve("a", "other")), "the policy has no table for this data set"),
        (lambda made: (made.dataset(version=2), made.reserve("a")), "not of the data set's newest version"),
        (lambda made: made.dataset(version=3), "versions of the data set are not in order"),
        (lambda made: made.dataset(version=2, lineage="0" * 32), "the lineage is not the data set's own"),
        (lambda made: made.dataset("b", lineage=sha(b"claims")[:32]), "the lineage is not the data set's own"),
        (lambda made: made.release("a", 1), "has no reservation on this data set"),
        (lambda made: made.abandon("a", 1), "has no reservation on this data set"),
        (
            lambda made: (made.reserve("a"), made.release("a", 1, "other")),
            "has no reservation on this data set",
        ),
        (lambda made: (made.run("a"), made.release("a", 5, train=False)), "the run was settled before"),
        (lambda made: (made.run("a"), made.abandon("a", 5)), "the run was settled before"),
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


def test_an_override_where_no_policy_is_in_force(tmp_path: Path) -> None:
    made = Department()
    made.genesis()
    made.dataset()
    made.override("a")
    violates(tmp_path, made, "no policy is in force", seq=2)


def test_an_override_is_neither_reserved_nor_settled(tmp_path: Path) -> None:
    made = begun(policy("allow_without_privacy = true"))
    made.override("a")
    made.reserve("a")
    violates(tmp_path, made, "the run was reserved, or overridden, before", seq=4)
    made.settle("a")
    violates(tmp_path, made, "a run without privacy cannot be settled", seq=5)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"supersedes": None}, "it supersedes another policy than the one in force"),
        ({"supersedes": "00" * 32}, "it supersedes another policy than the one in force"),
        ({"digest": "00" * 32}, "the digest is not the entry's policy_digest"),
    ],
)
def test_policy_entries(tmp_path: Path, change: dict[str, str | None], fragment: str) -> None:
    made = begun()
    made.policy(policy(epsilon="3"))
    made.entries[-1]["ref"] |= change
    made.resign(3)
    violates(tmp_path, made, fragment, seq=3)


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


def test_a_witness_that_changes_its_key(tmp_path: Path) -> None:
    made, other = honest(), Witness("auditor", seed="another")
    made.witnessed(other)
    violates(tmp_path, made, "has another key than in an earlier checkpoint", seq=13)


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
        (policy(top="orders = [1, 2]\n"), "orders: 1 is not an integer from 2 to 256"),
        (policy(top="orders = [2.0]\n"), "is not an integer"),
        (policy(top="extra = 1\n"), "field 'extra' is unknown"),
        (policy("extra = 1"), "field 'extra' is unknown"),
        (policy("max_runs = true"), "is not an integer"),
        (policy("max_runs = 0x" + "f" * 9000), "a value of type int is not an integer"),
        (policy("sigma_min = 0.8"), "is not a finite real"),
        (policy("sigma_min = 'nan'"), "is not a finite real"),
        (policy("sigma_min = '1e400'"), "is not a finite real"),
        (policy("max_steps = 10"), "field 'max_steps' is unknown"),
        (policy("min_cohort = 2"), "an integer from 3"),
        (policy(top='mode = "pinned"\n'), "field 'max_steps' is missing"),
        (
            policy(
                *("sigma_min = '1'", "sampling_rate_max = '1'", "max_steps = 1", "max_evaluations = 1"),
                top='mode = "pinned"\n',
            ),
            "field 'metric_sigma_min' is missing",
        ),
        (policy(epsilon="-8"), "is not a finite real"),
        (policy(epsilon="0"), "is not a finite real above 0"),
        (policy().replace("version = 1", "version = true"), "version: True is not 1"),
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
