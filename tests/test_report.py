"""The audit report as data: every field of the design, from evidence that is whole, damaged or hostile."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ledger_cases import Department, mechanism, write
from report_cases import DAY, department, federation, model, naked, policy_text, row, train, verdict
from scipy.stats import norm

from privacy import groups
from privacy.errors import AccountingError, LedgerError
from privacy.report import build
from privacy.reports import reading
from privacy.reports.evidence import digest, plain, read
from privacy.reports.reading import MissingExtra
from privacy.verify import verify

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def quick_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups have tests of their own and take seconds: here a stand-in that shows what it was asked."""
    monkeypatch.setattr(groups, "group_epsilon", lambda mechanisms, delta, k: 100.0 * k + len(list(mechanisms)))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


def reported(bundle: Path, made: Department, *rows: Json) -> Json:
    """The report's first data set."""
    return dict(build(write(bundle, made), verdict(list(rows)))["datasets"][0])


def test_a_whole_federation(bundle: Path) -> None:
    report = build(bundle, federation(bundle))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["verdict"]["verdict"] == "pass"
    assert report["summary"] | {"person_in_all": None} == {
        "departments": 3,
        "datasets": 3,
        "runs": 3,
        "models": 3,
        "unbounded": [],
        "over_cap": [],
        "person_in_all": None,
    }
    assert report["summary"]["person_in_all"]["epsilon"] == pytest.approx(2 * 3.345818 + 3.297145)
    north, south, west = report["datasets"]
    assert (north["department"], south["department"], west["department"]) == ("north", "south", "west")
    for each, enforced, pld in ((north, 3.345818, 2.775604), (west, 3.297145, 2.726406)):
        # What the case's verdict says is what the entries give.
        assert each["spent"]["recomputed_epsilon"] == pytest.approx(enforced, abs=1e-5)
        assert each["groups"][0] == {"records": 1, "epsilon": pytest.approx(pld, abs=1e-4)}
        assert (each["spent"]["enforced_epsilon"], each["spent"]["pld_epsilon"]) == (enforced, pld)
        assert [run["state"] for run in each["runs"]] == ["settled"] * 3
        for run in each["runs"]:
            assert 1.4 < run["pld_epsilon"] < run["enforced_epsilon"] < 2
        assert each["spent"]["delta"] == 1e-6
    assert [group["epsilon"] for group in north["groups"][1:]] == [202.0, 502.0]  # both compartments
    assert north["budget"]["remaining"] == pytest.approx(8 - 3.345818)
    assert not north["budget"]["cap_raised"]
    assert west["runs"][1]["rounds_charged"] == 18
    assert west["runs"][1]["abandoned"] == {"data-unusable": 2}
    assert south["budget"] | {"caps": len(south["budget"]["caps"])} == north["budget"] | {
        "cap_raised": True,
        "raised_after_results": True,
        "caps": 2,
    }


def test_every_field_of_the_design(bundle: Path) -> None:
    report = build(bundle, federation(bundle), {"verdict": "CONSISTENT", "seconds": math.inf})
    model = report["models"][0]
    assert (model["run"], model["name"], model["model"]) == ("run-1", "model of run-1", "cnn")
    assert model["weights_sha256"] == "9" * 64
    assert model["utility"] == {"accuracy": 0.871, "auroc": 0.93}
    assert model["public_data"]["name"] == "claims"
    assert [part["department"] for part in model["curators"]] == ["north", "south", "west"]
    given = report["guarantee"]
    assert (given["unit"]["name"], given["adjacency"]["name"]) == ("record", "zero-out")
    assert given["mechanism"]["settings"] == [
        {
            "noise_multiplier": 1.5,
            "sampling_rate": 0.02,
            "max_grad_norm": 1.0,
            "steps_per_round": 25,
            "metric_noise": 20.0,
            "runs": 9,
        }
    ]
    assert [each["figure"] for each in given["accountants"]] == ["enforced", "PLD", "attack bounds"]
    assert "dp-accounting 0" in given["accountants"][1]["implementation"]
    assert "riskcal 1" in given["accountants"][2]["implementation"]
    sealing = report["trust_model"]["sealing"][0]
    assert (sealing["mode"], sealing["members"], sealing["threshold"]) == ("sealed", ["north", "south", "west"], 3)
    assert {each["who"] for each in report["trust_model"]["who_sees_what"]} >= {"the department", "the auditor"}
    assert report["trust_model"]["assumed_honest"]
    released = {each["what"]: each for each in report["released"]}
    assert released["noised model updates"]["count"] == 178
    assert released["noised validation metrics"]["count"] == 187
    assert released["status code “data-unusable”"] | {"note": ""} == {
        "what": "status code “data-unusable”",
        "count": 2,
        "protection": "unprotected",
        "note": "",
    }
    assert {each["protection"] for each in report["released"]} == {"accounted", "unprotected"}
    assert report["data_touches"]["runs_short_of_their_reservation"] == [
        {"where": "west / claims", "run": "run-2", "rounds_reserved": 20, "rounds_released": 18}
    ]
    assert report["empirical_audit"] == {"verdict": "CONSISTENT", "seconds": "inf"}
    assert any("confide audit verify" in step["command"] for step in report["verification"])
    assert {at["department"] for each in report["policies"] for at in each["in_force"]} == {"north", "south", "west"}
    assert all("[dataset." in each["text"] for each in report["policies"])
    assert len(report["not_proven"]) == 2
    assert any("anonymous" in each for each in report["limits"])
    assert any("hyper-parameters" in each for each in report["limits"])
    assert any("several departments" in each for each in report["limits"])
    assert {each["standard"].split(",")[0] for each in report["standards"]} == {
        "NIST SP 800-226 (2025)",
        "DP Deployments Registry",
        "ISO/IEC 27559:2022",
    }


def test_the_verifier_says_the_same(bundle: Path) -> None:
    judged = federation(bundle) | verify(bundle).to_dict()
    assert [problem["what"] for problem in judged["problems"]] == []
    report = build(bundle, judged)
    assert report["verdict"]["verdict"] == "pass"
    for each in report["datasets"]:
        spent = each["spent"]
        assert spent["enforced_epsilon"] == pytest.approx(spent["recomputed_epsilon"], rel=1e-6)
        assert spent["pld_epsilon"] == pytest.approx(each["groups"][0]["epsilon"], abs=2e-3)
    assert [each["budget"]["cap_raised"] for each in report["datasets"]] == [False, True, False]
    assert [each["witnessed"] for each in report["ledgers"]] == [each["entries"] for each in report["ledgers"]]
    assert len(report["not_proven"]) > 5


def test_the_curve_follows_every_entry(bundle: Path) -> None:
    made = department("claims")
    train(made, "one", rounds=10, failed=4)
    made.policy(policy_text("claims", cap="2"))
    train(made, "two", rounds=10, settle=False)
    each = reported(bundle, made)
    history = each["history"]
    assert [point["event"] for point in history] == ["dataset", "reserve", "settle", "policy", "reserve"]
    assert [point["cap"] for point in history] == [8, 8, 8, 2, 2]
    start, full, settled, same, both = (point["epsilon"] for point in history)
    assert start == 0 < settled == same < full < both
    assert both == each["spent"]["enforced_epsilon"]
    assert each["spent"]["open_reservations"] == 1
    assert each["budget"]["highest_cap"] == 8
    assert not each["budget"]["cap_raised"]
    assert [run["state"] for run in each["runs"]] == ["settled", "open"]


def test_more_was_spent_than_the_cap(bundle: Path) -> None:
    made = department("claims", cap="1")
    train(made, "one")
    each = reported(bundle, made, row(made, "claims", 1.95, 1.6, cap=1.0))
    assert each["state"] == "over"
    assert each["budget"]["remaining"] == 0


def test_an_override_leaves_no_bound(bundle: Path) -> None:
    made = department("claims")
    train(made, "one")
    naked(made, "naked")
    # Whatever the verdict says: the entries are there.
    report = build(write(bundle, made, models={"one": model("one")}), verdict([row(made, "claims", 1.0, 1.0)]))
    each = report["datasets"][0]
    assert each["state"] == "unbounded"
    assert each["reading"] is None
    assert [group["epsilon"] for group in each["groups"]] == [None] * 3
    assert (each["spent"]["enforced_epsilon"], each["spent"]["pld_epsilon"]) == (None, None)
    assert each["history"][-1]["epsilon"] is None
    assert each["runs"][1]["pld_epsilon"] is None
    assert report["summary"]["unbounded"] == ["north / claims"]
    assert report["summary"]["person_in_all"]["epsilon"] is None
    released = {each["what"]: each for each in report["released"]}
    assert released["model updates and metrics WITHOUT noise"]["count"] == 1
    assert released["published models"]["protection"] == "unprotected"
    assert report["data_touches"]["overrides"][0]["run"] == "naked"


def test_a_group_shares_its_budget(bundle: Path) -> None:
    made = department("a", "b", extra='group = "people"\n')
    train(made, "one", "a")
    train(made, "two", "b")
    a, b = build(write(bundle, made), verdict([]))["datasets"]
    assert a["budget"]["group"] == "people"
    assert a["spent"]["enforced_epsilon"] == b["spent"]["enforced_epsilon"] > a["runs"][0]["enforced_epsilon"]


def test_a_new_split_adds_the_compartments(bundle: Path) -> None:
    made = department("claims")
    train(made, "one", metric_noise="3.0")
    made.dataset("claims", version=2, split="1" * 64)
    made.dataset("claims", version=3, split="2" * 64)
    each = reported(bundle, made)
    settled, same, added = (point["epsilon"] for point in each["history"][-3:])
    assert settled == same < added
    assert each["registration"]["split_changed"]
    assert each["groups"][0]["epsilon"] > each["runs"][0]["pld_epsilon"]


def test_period_spend_forgets_old_runs(bundle: Path) -> None:
    made = department("claims", extra='period = { days = 30, epsilon = "4" }\n')
    train(made, "old")
    made.now += 30 * DAY
    train(made, "new")
    each = reported(bundle, made)
    assert each["budget"]["period"]["enforced_epsilon"] > each["runs"][1]["enforced_epsilon"]  # at the bundle's date
    (bundle / "bundle.json").write_text("damaged")  # so it is the newest entry's
    later = build(bundle, verdict([]))["datasets"][0]["budget"]["period"]
    assert later == {"days": 30, "cap": 4.0, "enforced_epsilon": each["runs"][1]["enforced_epsilon"]}


def test_pinned_mode_promises_its_worst_case_from_the_first_day(bundle: Path) -> None:
    extra = 'sigma_min = "1.5"\nsampling_rate_max = "0.02"\nmax_steps = 1000\nmetrics = "off"\n'
    each = reported(bundle, department("claims", extra=extra, mode="pinned"))
    assert each["budget"]["mode"] == "pinned"
    assert each["spent"]["enforced_epsilon"] == reading.epsilon([(0.02, 1.5, 1000)], 1e-6)


def test_unreadable_lines_are_counted_and_the_rest_is_reported(bundle: Path) -> None:
    made = department("claims")
    train(made, "one")
    for terms in (
        {"noise_multiplier": "0"},
        {"sampling_rate": "NaN"},
        {"steps_per_round": "9" * 18},
        {"delta": "1e400"},
    ):
        made.append("reserve", "x", {}, dataset="claims", run="bad", mechanism=mechanism(**terms))
    write(bundle, made)
    with (bundle / "ledgers/north.jsonl").open("ab") as ledger:
        for bad in (b"{", b"[]", b'{"entry": null}', b'{"entry": {"kind": "reserve"}}', b"[" * 100_000):
            ledger.write(bad + b"\n")
    report = build(bundle, verdict([], "violation", ("something",)))
    assert report["verdict"]["unreadable_lines"] == {"north.jsonl": 4 + 5}
    assert [run["run"] for run in report["datasets"][0]["runs"]] == ["one"]


def test_documents_that_cannot_be_read_are_left_out(bundle: Path) -> None:
    made = department("claims")
    odd = model("run", made, ledgers=[1], privacy="x", metrics=[], task=3, data=1e400)
    write(bundle, made, models={"run": odd}, rosters={"other": {"roster": "{}", "permit": True}})
    (bundle / "models" / "other.json").write_text("not json")
    (bundle / "policies" / f"{'0' * 64}.toml").write_text("version = 1")
    report = build(bundle, {"verdict": "fine", "datasets": [3, {"dataset": "ghost"}], "problems": "many"})
    assert report["verdict"]["verdict"] == "violation"
    assert [each["dataset"] for each in report["datasets"]] == ["claims", "ghost"]
    json.dumps(report, allow_nan=False)


def test_nothing_is_read_through_a_link(bundle: Path, tmp_path: Path) -> None:
    write(bundle, department("claims"))
    (tmp_path / "secret.toml").write_text("password")
    (bundle / "policies" / "secret.toml").symlink_to(tmp_path / "secret.toml")
    assert "password" not in json.dumps(build(bundle, verdict([])))


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"bundle\.json"):
        build(tmp_path, verdict([]))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="the command that the report prints is not here")
def test_the_printed_command_gives_the_printed_digest(bundle: Path) -> None:
    write(bundle, department("claims"), models={"odd \\ name": {}})
    command = build(bundle, verdict([]))["verification"][0]["command"].replace("BUNDLE", ".")
    done = subprocess.run(["sh", "-c", command], cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == digest(bundle) == read(bundle).digest


def test_the_same_evidence_gives_the_same_report(bundle: Path) -> None:
    made = department("claims")
    train(made, "one")
    write(bundle, made)
    assert json.dumps(build(bundle, verdict([]))) == json.dumps(build(bundle, verdict([])))


def test_groups_without_a_bound(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise AccountingError("no finite epsilon")

    monkeypatch.setattr(groups, "group_epsilon", refuse)
    made = department("claims")
    train(made, "one")
    assert [group["epsilon"] is None for group in reported(bundle, made)["groups"]] == [False, True, True]


def test_plain_values_fit_json() -> None:
    deep: Json = {}
    for _ in range(100):
        deep = {"a": [deep]}
    value = plain({"x": [math.nan, "\ud800", 10**30, None, True, deep, (1, object)]})
    assert json.dumps(value, allow_nan=False).encode()
    assert value["x"][:2] == ["nan", "?"]


MU = 0.4


def test_a_gaussian_is_read_as_theory_has_it() -> None:
    found = reading.read([[(1.0, 10.0, 16)]])  # 16 releases at sigma 10 are one at 2.5
    assert found is not None
    assert found.advantage == pytest.approx(2 * norm.cdf(MU / 2) - 1, abs=1e-4)
    assert found.tpr_at_1pct_fpr == pytest.approx(norm.cdf(norm.ppf(0.01) + MU), abs=1e-4)
    for fpr, tpr in found.curve:
        assert tpr == pytest.approx(norm.cdf(norm.ppf(fpr) + MU), abs=2e-3)
    assert found.curve[-1] == (1.0, 1.0)


def test_the_reading_agrees_with_the_privacy_profile() -> None:
    """delta(epsilon) bounds every attack, too: an implementation beside riskcal's."""
    mechanisms = ((0.05, 0.9, 40), (0.2, 2.0, 10), (1.0, 5.0, 6))
    found, loss = reading.read([mechanisms]), reading._pld(mechanisms)
    assert found is not None
    assert loss is not None
    grid = [step / 100 for step in range(2000)]
    deltas = loss.get_delta_for_epsilon(grid)
    for fpr, tpr in found.curve[1:]:
        most = min(
            min(d + math.exp(e) * fpr, 1 - math.exp(-e) * (1 - d - fpr)) for e, d in zip(grid, deltas, strict=True)
        )
        assert tpr == pytest.approx(min(1.0, most), abs=1e-4)
    assert found.advantage == pytest.approx(max(tpr - fpr for fpr, tpr in found.curve), abs=5e-3)


def test_a_record_is_in_one_compartment_only() -> None:
    loud, soft = (1.0, 1.0, 1), (1.0, 8.0, 1)
    assert reading.read([[loud], [soft]]) == reading.read([[loud]])
    together = reading.read([[loud, soft]])
    assert together is not None
    assert together.advantage > reading.read([[loud]]).advantage  # type: ignore[union-attr]  # the line above would fail


@pytest.mark.parametrize(
    ("mechanisms", "expected"),
    [([], 0.0), ([(0.1, 1.0, 0)], 0.0), ([(1.0, 1e-4, 1)], None), ([(0.5, 1e-9, 10**7)], None)],
)
def test_the_ends_of_the_range(mechanisms: list[reading.Steps], expected: float | None) -> None:
    assert reading.epsilon(mechanisms, 1e-6) == expected


def test_no_noise_has_no_reading_and_no_spend_reveals_nothing() -> None:
    assert reading.read([[(1.0, 1e-4, 1)]]) is None
    nothing = reading.read([[], []])
    assert nothing is not None
    assert nothing.advantage == 0
    assert all(fpr == tpr for fpr, tpr in nothing.curve)


def test_words_round_against_us() -> None:
    words = reading.in_words(reading.Reading(advantage=0.30001, tpr_at_1pct_fpr=0.0701, curve=()))
    assert "at most 7.1% of the records" in words
    assert "at most 65.01% of the time" in words


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "riskcal.analysis", None)
    with pytest.raises(MissingExtra, match=r"confide\[audit\]"):
        reading.read([[(1.0, 1.0, 1)]])
