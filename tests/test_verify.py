"""The verifier against entries whose bytes were tampered with, and on its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_cases import (
    POLICY,
    Department,
    Witness,
    canonical,
    honest,
    key_of,
    leaf,
    public,
    stamp,
    write,
)
from verify_cases import LEDGER, bundle, edit_lines, found, without_pld

from privacy.verify import verify

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pld" not in request.fixturenames:
        without_pld(monkeypatch)


@pytest.fixture
def pld() -> None:
    """PLD figures are computed in a test that asks for this."""


def test_an_honest_bundle_passes(tmp_path: Path, pld: None) -> None:
    verdict = verify(bundle(tmp_path))
    assert verdict.problems == []
    said = verdict.to_dict()
    assert json.loads(json.dumps(said)) == said
    assert (said["verdict"], said["exit_code"]) == ("pass", 0)
    (row,) = said["datasets"]
    assert row["department"] == "north"
    assert row["enforced_epsilon"] == pytest.approx(2.03237, abs=1e-5)
    assert 0 < row["pld_epsilon"] < row["enforced_epsilon"] < row["cap"] == 8.0
    assert (row["delta"], row["cap_raised"], row["open_reservations"]) == (1e-6, False, 1)
    assert (row["overrides"], row["runs"], row["entries"]) == (0, 2, 10)
    (ledger,) = said["ledgers"]
    assert (ledger["file"], ledger["entries"], ledger["size_witnessed"]) == ("north.jsonl", 13, 13)
    assert said["models"][0]["departments"][0]["covered"] is True


def test_what_is_not_proven_is_said(tmp_path: Path) -> None:
    made = honest()
    text = " ".join(verify(bundle(tmp_path, made)).not_proven)
    for fragment in (
        *("noise was really added", "colludes with all of its witnesses", "before its reservation", "own clocks"),
        *("another name", "several data sets or departments", "hyper-parameters", "keys are the bundle's"),
        *("governance key is from the bundle", "nobody signs bundle.json", "manifest", "who has k records"),
    ):
        assert fragment in text
    given = verify(tmp_path, witness_keys={"auditor": public(Witness().key)}, governance=public(key_of("governance")))
    assert given.exit_code == 0, given.problems
    assert "bundle's" not in " ".join(given.not_proven)


# --- Entries: not even re-signed ---


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda lines: lines[:5] + lines[6:], "does not continue the entry before"),
        (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], "does not continue the entry before"),
        (lambda lines: [*lines[:6], lines[5], *lines[6:]], "is there twice"),
        (lambda lines: [*lines, lines[-1]], "does not continue the entry before"),
        (lambda lines: lines[1:], "is not the genesis of a ledger"),
        (lambda lines: [], "holds no ledger of this name"),
        (lambda lines: [lines[0], *lines], "a second genesis"),
        (
            lambda lines: [lines[0].replace(b'"name":"north"', b'"name":"south"'), *lines[1:]],
            "is not by the ledger key",
        ),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], "does not end in a line feed"),
        (lambda lines: [*lines[:-1], lines[-1][:-40]], "does not end in a line feed"),
        (lambda lines: [*lines, b"\n"], "is not JSON"),
        (lambda lines: [*lines, b"x" * 70_000 + b"\n"], "does not end in a line feed"),
        (lambda lines: [*lines, b"[" * 30_000 + b"]" * 30_000 + b"\n"], "is not JSON"),
        (lambda lines: [*lines, b'{"entry":{},"signature":1}\n'], "where no number may stand"),
        (lambda lines: [*lines, b'{"signature":"' + b"0" * 128 + b'"}\n'], "field 'entry' is missing"),
    ],
)
def test_lines_that_were_moved(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], fragment: str) -> None:
    edit_lines(bundle(tmp_path), change)
    found(verify(tmp_path), "violation", fragment, file=LEDGER)


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"2.5"', "is not by the ledger key"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"NaN"', "noise_multiplier: 'NaN' is not a finite real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"-1.5"', "noise_multiplier: '-1.5' is not a finite real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"1e400"', "noise_multiplier: '1e400' is not a finite real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"0"', "noise_multiplier: '0' is not a finite real above 0"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"Infinity"', "is not a finite real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"1e-999"', "is not a finite real above 0"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"01.5"', "is not a finite real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":1.5', "where no number may stand"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":NaN', "where no number may stand"),
        (b'"sampling_rate":"0.05"', b'"sampling_rate":"1.05"', "is not a finite real in (0, 1]"),
        (b'"rounds":"3"', b'"rounds":"03"', "is not an integer"),
        (b'"rounds":"3"', '"rounds":"\N{ARABIC-INDIC DIGIT THREE}"'.encode(), "is not an integer"),
        (b'"dataset":"claims"', b'"dataset": "claims"', "is not canonical"),
        (b'"dataset":"claims"', b'"dataset":"clai\\u006ds"', "is not canonical"),
        (b'"dataset":"claims"', b'"dataset":"\\ud800"', "is not JSON"),
        (b'"dataset":"claims"', b'"dataset":"claims","dataset":"claims"', "is not canonical"),
        (b'"dataset":"claims"', b'"dataset":"\xff"', "is not JSON"),
        (b'"kind":"reserve"', b'"kind":"refund"', "is no kind of entry"),
        (b'"kind":"reserve"', b'"kind":["reserve"]', "is no kind of entry"),
        (b'"run":"run-1"', b'"run":"run-1","rung":"1"', "field 'rung' is unknown"),
        (b'"v":"1"', b'"v":"2"', "v: '2' is not 1"),
        (b'"time":"2026-01-01T', b'"time":"2026-02-30T', "is not a time"),
        (b'"time":"2026-01-01T', b'"time":"2026-01-01 ', "is not a time"),
    ],
)
def test_a_reservation_that_was_edited(tmp_path: Path, old: bytes, new: bytes, fragment: str) -> None:
    bundle(tmp_path)
    edit_lines(tmp_path, lambda lines: [*lines[:3], lines[3].replace(old, new, 1), *lines[4:]])
    found(verify(tmp_path), "violation", fragment, file=LEDGER, seq=3)


def test_keys_in_another_order(tmp_path: Path) -> None:
    bundle(tmp_path)

    def reordered(lines: list[bytes]) -> list[bytes]:
        outer = json.loads(lines[2])
        outer["entry"] = dict(reversed(outer["entry"].items()))
        return [*lines[:2], json.dumps(outer, separators=(",", ":")).encode() + b"\n", *lines[3:]]

    edit_lines(tmp_path, reordered)
    found(verify(tmp_path), "violation", "is not canonical", seq=2)


def test_figures_of_a_ledger_that_cannot_be_read_are_not_given(tmp_path: Path) -> None:
    bundle(tmp_path)
    edit_lines(tmp_path, lambda lines: [*lines[:5], b"{}\n", *lines[6:]])
    (row,) = verify(tmp_path).datasets
    assert row["enforced_epsilon"] is None
    assert row["pld_epsilon"] is None


# --- As a program, on its own ---


def test_it_runs_without_the_rest_of_confide(tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "privacy"
    alone.mkdir(parents=True)
    for part in (ROOT / "privacy").glob("verify*.py"):
        (alone / part.name).write_bytes(part.read_bytes())
    made = Department()
    made.genesis()
    made.policy()
    write(tmp_path / "bundle", made)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(alone / "verify.py"), str(tmp_path / "bundle"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    done = run("--json", "--witness", f"auditor={public(Witness().key).hex()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verdict"] == "pass"
    edit_lines(tmp_path / "bundle", lambda lines: lines[:-1])
    done = run()
    assert (done.returncode, done.stderr) == (1, "")
    assert "its end was cut off" in done.stdout
    assert done.stdout.endswith("verdict: violation\n")


def test_its_parts_import_nothing_else_of_ours() -> None:
    known = {"privacy", "cryptography", "dp_accounting", "__future__"} | sys.stdlib_module_names
    for part in (ROOT / "privacy").glob("verify*.py"):
        text = part.read_text("utf-8")
        imported = re.findall(r"^\s*(?:from|import) (\S+)(?: import (\w+))?", text, re.M)
        assert {name.partition(".")[0] for name, _ in imported} <= known, part
        for name, what in imported:
            assert not name.startswith("privacy.") or name.startswith("privacy.verify_"), part
            assert name != "privacy" or what.startswith("verify_"), part


def test_without_dp_accounting(tmp_path: Path, pld: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what only PLD can tell is left open."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = f"{POLICY}per_run = {{ epsilon = '1.2' }}\n"
    verdict = verify(write(tmp_path, honest(policy=text)))
    found(verdict, "incomplete", "cannot be checked without dp_accounting: the per_run cap", seq=3)
    assert verdict.datasets[0]["pld_epsilon"] is None
    assert verdict.datasets[0]["enforced_epsilon"] == pytest.approx(2.03237, abs=1e-5)
    assert "takes dp_accounting" in " ".join(verdict.not_proven)


def test_the_cases_are_what_the_specification_says() -> None:
    """A guard of the tests' own writer: the first entry's bytes, by hand."""
    made = Department()
    made.genesis()
    raw = canonical(made.entries[0])
    assert raw.startswith(b'{"cost":null,"dataset":null,"id":"genesis","kind":"genesis","mechanism":null,"origin":"')
    assert made.entries[0]["time"] == stamp(made.now) == "2026-01-01T00:01:00Z"
    assert made.root(1) == leaf(raw)
    assert isinstance(made.key, Ed25519PrivateKey)
