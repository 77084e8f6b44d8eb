"""The verifier against bytes that were tampered with, and against evidence that is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_cases import (
    POLICY,
    Department,
    Witness,
    canonical,
    enc,
    honest,
    key_of,
    leaf,
    manifest,
    public,
    sealing,
    sha,
    stamp,
    write,
)

from privacy import verify_spending as spending
from privacy.verify import Verdict, verify

ROOT = Path(__file__).parents[1]
LEDGER = "ledgers/north.jsonl"


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PLD takes a second a mechanism, and only tests that ask for it, by the fixture ``pld``, look at it."""
    if "pld" not in request.fixturenames:
        monkeypatch.setattr(spending, "pld", lambda parts, delta: None)


@pytest.fixture
def pld() -> None:
    """Real PLD figures."""


def bundle(folder: Path, made: Department | None = None, **others: Any) -> Path:
    """A bundle with a roster and a model, of an honest department if not told otherwise."""
    made = made or honest()
    rosters = {"run-1": sealing("run-1", {made.name: public(made.keys[0][1])})}
    models = {"run-1": {"model": "cnn", "ledgers": {made.name: manifest(made)}}}
    given: dict[str, Any] = {"rosters": rosters, "models": models} | others
    return write(folder, made, **given)


def found(verdict: Verdict, severity: str, fragment: str, *, file: str = "", seq: int | None = None) -> None:
    """There is such a finding, and the verdict is its severity."""
    said = [f"{p.severity} {p.file} {p.seq}: {p.what}" for p in verdict.problems]
    hits = [p for p in verdict.problems if p.severity == severity and fragment in p.what and p.file.startswith(file)]
    assert [p for p in hits if seq in (None, p.seq)], said
    assert verdict.to_dict()["verdict"] == severity, said
    assert verdict.exit_code == {"violation": 1, "incomplete": 2}[severity]


def edit(folder: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of a file."""
    before = (folder / file).read_bytes()
    after = change(before)
    assert after != before
    (folder / file).write_bytes(after)


def edit_lines(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    edit(folder, LEDGER, lambda data: b"".join(change(data.splitlines(keepends=True))))


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
        (lambda lines: [*lines, b'{"signature":"' + b"0" * 128 + b'"}\n'], "is not an entry and its signature"),
    ],
)
def test_lines_that_were_moved(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], fragment: str) -> None:
    edit_lines(bundle(tmp_path), change)
    found(verify(tmp_path), "violation", fragment, file=LEDGER)


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"2.5"', "is not by the ledger key"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"NaN"', "noise_multiplier: 'NaN' is not a real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"-1.5"', "noise_multiplier: '-1.5' is not a real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"1e400"', "noise_multiplier: '1e400' is not a finite real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"0"', "noise_multiplier: '0' is not above 0"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"Infinity"', "is not a real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"1e-999"', "is not above 0"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":"01.5"', "is not a real"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":1.5', "where no number may stand"),
        (b'"noise_multiplier":"1.5"', b'"noise_multiplier":NaN', "where no number may stand"),
        (b'"sampling_rate":"0.05"', b'"sampling_rate":"1.05"', "is not in (0, 1]"),
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


# --- What only a witness, or a roster, or a model shows ---


def test_a_tail_that_was_cut_off(tmp_path: Path) -> None:
    made = honest()
    bundle(tmp_path, made)
    edit_lines(tmp_path, lambda lines: lines[:-2])
    (tmp_path / "checkpoints/north.note").write_text(made.note(len(made.entries) - 2), "utf-8")
    found(verify(tmp_path), "violation", "its end was cut off", file="witnesses/auditor/north.note")
    # Nobody else can tell, and so the verdict without a witness is not that all is well.
    (tmp_path / "witnesses/auditor/north.note").unlink()
    (tmp_path / "models/run-1.json").unlink()
    found(verify(tmp_path), "incomplete", "no witness has seen this ledger")


def test_a_fork(tmp_path: Path) -> None:
    made = honest()
    seen = Witness().cosigned(made.note(), made.now)
    del made.entries[-2:], made.signatures[-2:]
    made.release("run-2", 1, train=False)
    made.abandon("run-2", 7)
    bundle(tmp_path, made)
    assert verify(tmp_path).exit_code == 0
    (tmp_path / "witnesses/auditor/north.note").write_text(seen, "utf-8")
    found(verify(tmp_path), "violation", "it was forked or rewritten", file="witnesses/auditor/north.note")
    (tmp_path / "witnesses/auditor/north.note").unlink()
    found(verify(tmp_path), "incomplete", "all of it forked")


def test_an_old_checkpoint_again(tmp_path: Path) -> None:
    made = honest()
    bundle(tmp_path, made)
    (tmp_path / "checkpoints/north.note").write_text(made.note(7), "utf-8")
    found(verify(tmp_path), "violation", "is old: it covers 7 of 13 entries", file="checkpoints/north.note")


def test_an_old_note_of_the_witness(tmp_path: Path) -> None:
    made = honest()
    bundle(tmp_path, made)
    old = Witness().cosigned(made.note(7), made.now)
    (tmp_path / "witnesses/auditor/north.note").write_text(old, "utf-8")
    found(verify(tmp_path), "incomplete", "cosignature of 9 entries; collect it again")


def test_entries_dated_after_their_cosignature(tmp_path: Path) -> None:
    made = honest()
    bundle(tmp_path, made)
    early = Witness().cosigned(made.note(), made.now - 601)
    (tmp_path / "witnesses/auditor/north.note").write_text(early, "utf-8")
    found(verify(tmp_path), "violation", "more than ten minutes after the cosignature")
    (tmp_path / "witnesses/auditor/north.note").write_text(Witness().cosigned(made.note(), made.now - 600), "utf-8")
    assert verify(tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ("\n13\n", "\n013\n", "is not an integer"),
        ("\n13\n", "\n12\n", "is of another ledger|forked or rewritten"),
        ("confide.ledger/", "confide.Ledger/", "is not the name of a ledger"),
        ("\n\n", "\n", "is not three lines"),
        ("\u2014 auditor ", "\u2014 somebody ", "is not cosigned by this witness"),
        ("\u2014 auditor ", "- auditor ", "is not three lines"),
    ],
)
def test_a_note_that_was_edited(tmp_path: Path, old: str, new: str, fragment: str) -> None:
    bundle(tmp_path)
    file = "witnesses/auditor/north.note"
    edit(tmp_path, file, lambda data: data.decode().replace(old, new, 1).encode())
    verdict = verify(tmp_path)
    assert verdict.exit_code == 1
    assert any(p.file == file and re.search(fragment, p.what) for p in verdict.problems), verdict.problems


def test_the_keys_of_witnesses(tmp_path: Path) -> None:
    """A department that makes itself a witness passes, unless the auditor has the real one's key."""
    made = Department()
    made.genesis()
    write(tmp_path, made)
    key = public(Witness().key)
    assert verify(tmp_path, witness_keys={"auditor": key}).exit_code == 0
    wrong = verify(tmp_path, witness_keys={"auditor": public(key_of("the real one"))})
    found(wrong, "violation", "is not the key that was given", file="witnesses/auditor/key")
    missing = verify(tmp_path, witness_keys={"auditor": key, "second": key})
    found(missing, "incomplete", "there is none of witness 'second'")


def test_a_witness_whose_name_is_no_file_name(tmp_path: Path) -> None:
    witness = Witness("confide.witness/0011223344556677")
    write(tmp_path, honest(), witness=witness)
    assert (tmp_path / "witnesses/confide.witness-0011223344556677/key").exists()
    verdict = verify(tmp_path, witness_keys={witness.name: public(witness.key)})
    assert verdict.exit_code == 0, verdict.problems


def test_two_keys_for_one_witness(tmp_path: Path) -> None:
    made = honest()
    made.entries[9]["ref"]["key"] = public(key_of("another")).hex()
    made.resign()
    write(tmp_path, made)
    found(verify(tmp_path), "violation", "is by another key than the ledger's checkpoint entries")


def governance_told(how: str) -> bytes | str:
    key = public(key_of("governance"))
    grouped = sha(enc(b"confide/governance-fingerprint/v1", key))[:32].upper()
    told: dict[str, bytes | str] = {"bytes": key, "hex": key.hex(), "fingerprint": f"{grouped[:8]} {grouped[8:]}"}
    return told[how]


@pytest.mark.parametrize("how", ["bytes", "hex", "fingerprint"])
def test_the_governance_key(tmp_path: Path, how: str) -> None:
    bundle(tmp_path)
    assert verify(tmp_path, governance=governance_told(how)).exit_code == 0
    wrong = verify(tmp_path, governance="ab" * 32)
    found(wrong, "violation", "is not of the governance key that was given", file="rosters/run-1.json")
    (tmp_path / "rosters/run-1.json").unlink()
    found(verify(tmp_path, governance=governance_told(how)), "incomplete", "no roster of the governance given")


@pytest.mark.parametrize(
    ("roster", "fragment"),
    [
        (sealing("run-1", {"north": public(key_of("a stranger"))}), "has another key for 'north'"),
        (sealing("run-1", {"south": public(key_of("department north"))}), "does not name 'north'"),
        (sealing("run-2", {"north": public(key_of("department north"))}), "permit of another run"),
        (sealing("run-1", {"north": public(key_of("department north"))}, roster_version=2), "for another roster"),
        (sealing("run-1", {"north": public(key_of("department north"))}, federation="00" * 32), "another federation"),
        ({**sealing("run-1", {}), "governance": public(key_of("not it")).hex()}, "not signed by the governance key"),
        ({**sealing("run-1", {}), "more": ""}, "field 'more' is unknown"),
        ({**sealing("run-1", {}), "permit": sealing("run-1", {})["roster"]}, "not signed by the governance key"),
    ],
)
def test_rosters(tmp_path: Path, roster: dict[str, str], fragment: str) -> None:
    bundle(tmp_path, rosters={"run-1": roster})
    found(verify(tmp_path), "violation", fragment, file="rosters/run-1.json")


def with_manifest(folder: Path, made: Department | None = None, **changes: Any) -> Verdict:
    made = made or honest()
    return verify(bundle(folder, made, models={"run-1": {"ledgers": {"north": manifest(made) | changes}}}))


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"rounds": [1, 2, 3, 4]}, "has round 4 of 'north', which the ledger had not released"),
        ({"rounds": [1, 1]}, "in order, each once"),
        ({"rounds": [3, 2]}, "in order, each once"),
        ({"rounds": [True]}, "is not an integer"),
        ({"rounds": [1.0]}, "is not an integer"),
        ({"root": "00" * 32}, "that are not those of its ledger"),
        ({"size": 14}, "that are not those of its ledger"),
        ({"size": 12}, "that are not those of its ledger"),
        ({"size": 0}, "is not an integer from 1"),
        ({"more": 1}, "field 'more' is unknown"),
    ],
)
def test_manifests(tmp_path: Path, changes: dict[str, Any], fragment: str) -> None:
    found(with_manifest(tmp_path, **changes), "violation", fragment, file="models/run-1.json")


def test_a_manifest_of_fewer_entries_than_the_run_took(tmp_path: Path) -> None:
    made = honest()
    verdict = with_manifest(tmp_path, made, **manifest(made, size=6))
    found(verdict, "violation", "has round 3 of 'north', which the ledger had not released by entry 6")


def test_a_manifest_of_another_department(tmp_path: Path) -> None:
    made = honest()
    bundle(tmp_path, made, models={"run-1": {"ledgers": {"south": manifest(made)}}})
    found(verify(tmp_path), "violation", "takes the ledger of 'north' for that of 'south'")


def test_a_ledger_that_a_manifest_names_is_missing(tmp_path: Path) -> None:
    made, other = honest(), honest("south")
    ranges = {"north": manifest(made), "south": manifest(other)}
    bundle(tmp_path, made, models={"run-1": {"ledgers": ranges}})
    found(verify(tmp_path), "incomplete", "of 'south', which is not in the bundle", file="models/run-1.json")


def test_a_ledger_of_a_member_is_missing(tmp_path: Path) -> None:
    members = {"north": public(key_of("department north")), "south": public(key_of("department south"))}
    bundle(tmp_path, rosters={"run-1": sealing("run-1", members)})
    found(verify(tmp_path), "incomplete", "the ledger of its member 'south' is not in the bundle")


def test_a_manifest_without_ledgers(tmp_path: Path) -> None:
    bundle(tmp_path, models={"run-1": {"model": "cnn"}})
    found(verify(tmp_path), "incomplete", "names no ledgers")


# --- Missing and superfluous files ---


@pytest.mark.parametrize(
    "file",
    [
        *("bundle.json", LEDGER, "checkpoints/north.note", "witnesses/auditor/north.note", "witnesses/auditor/key"),
        *(f"policies/{sha(POLICY.encode())}.toml", f"policies/{sha(POLICY.encode())}.sig"),
    ],
)
def test_missing_evidence(tmp_path: Path, file: str) -> None:
    (bundle(tmp_path) / file).unlink()
    verdict = verify(tmp_path)
    assert verdict.exit_code == 2, verdict.problems
    assert {p.severity for p in verdict.problems} == {"incomplete"}


def test_no_bundle_at_all(tmp_path: Path) -> None:
    found(verify(tmp_path), "incomplete", "there is no ledger")
    found(verify(tmp_path / "nowhere"), "incomplete", "cannot be read")
    (tmp_path / "file").write_text("")
    found(verify(tmp_path / "file"), "incomplete", "cannot be read")


def test_a_violation_goes_before_missing_evidence(tmp_path: Path) -> None:
    (bundle(tmp_path) / "checkpoints/north.note").unlink()
    edit_lines(tmp_path, lambda lines: lines[:5] + lines[6:])
    assert verify(tmp_path).exit_code == 1


@pytest.mark.parametrize(
    "name", ["extra.txt", "ledgers/.hidden", "ledgers/a b.jsonl", "policies/x.toml", "deep/x.json"]
)
def test_files_that_belong_nowhere(tmp_path: Path, name: str) -> None:
    bundle(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    found(verify(tmp_path), "violation", "is no file of a bundle")


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    bundle(secret)
    inside = bundle(tmp_path / "bundle")
    (inside / LEDGER).unlink()
    (inside / LEDGER).symlink_to(secret / LEDGER)
    found(verify(inside), "violation", "is no file of a bundle, or a link")
    (inside / LEDGER).unlink()
    (inside / "ledgers").rmdir()
    (inside / "ledgers").symlink_to(secret / "ledgers")
    verdict = verify(inside)
    found(verdict, "violation", "is no file of a bundle, or a link")
    assert verdict.ledgers == []
    (inside / "ledgers").unlink()
    os.mkfifo(inside / "checkpoints" / "south.note")
    found(verify(inside), "violation", "is no file of a bundle, or a link")


def test_files_that_are_too_large(tmp_path: Path) -> None:
    bundle(tmp_path)
    with (tmp_path / "bundle.json").open("wb") as file:
        file.truncate(1 << 40)
    with (tmp_path / LEDGER).open("ab") as file:
        file.truncate(1 << 40)
    verdict = verify(tmp_path)
    found(verdict, "violation", "bytes", file="bundle.json")
    found(verdict, "violation", "has more than 65536 bytes", file=LEDGER)


# --- Policies ---


def test_a_policy_that_was_swapped(tmp_path: Path) -> None:
    bundle(tmp_path)
    file = f"policies/{sha(POLICY.encode())}.toml"
    edit(tmp_path, file, lambda data: data.replace(b'"8"', b'"9"'))
    found(verify(tmp_path), "violation", "it was changed, or swapped for another", file=file)


def test_a_policy_swapped_without_an_entry(tmp_path: Path) -> None:
    made = honest()
    bundle(tmp_path, made)
    larger = POLICY.replace('"8"', '"80"').encode()
    (tmp_path / f"policies/{sha(larger)}.toml").write_bytes(larger)
    found(verify(tmp_path), "incomplete", "is here, but no ledger that names it", file=f"policies/{sha(larger)}.toml")
    made.policy_digest = sha(larger)
    made.run("run-3")
    write(tmp_path, made)
    found(verify(tmp_path), "violation", "policy_digest is not the policy then in force", file=LEDGER, seq=13)


def test_a_policy_signed_by_another_key(tmp_path: Path) -> None:
    bundle(tmp_path)
    forged = key_of("a stranger").sign(b"confide/policy/v1\n" + POLICY.encode()).hex()
    file = f"policies/{sha(POLICY.encode())}.sig"
    (tmp_path / file).write_text(forged)
    found(verify(tmp_path), "violation", "is not signed by the key of ledger", file=file)


def test_two_departments_with_one_policy(tmp_path: Path) -> None:
    """Then its file of signatures has a line of each."""
    one, two = honest(), honest("south")
    digest = sha(POLICY.encode())
    write(tmp_path, one, two)
    found(verify(tmp_path), "violation", "is not signed by the key of ledger confide.ledger/north")
    signatures = [made.policies[digest][1] for made in (one, two)]
    (tmp_path / f"policies/{digest}.sig").write_text("\n".join(signatures) + "\n")
    verdict = verify(tmp_path)
    assert verdict.exit_code == 0, verdict.problems
    assert [row["department"] for row in verdict.datasets] == ["north", "south"]
    (tmp_path / f"policies/{digest}.sig").write_text("\n".join([*signatures, "00" * 64]))
    found(verify(tmp_path), "incomplete", "has a signature of a ledger that is not here")


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
