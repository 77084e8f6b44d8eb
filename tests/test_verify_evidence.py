"""The verifier against what is missing, and what witnesses and policies give away."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from ledger_cases import (
    POLICY,
    Department,
    Witness,
    honest,
    key_of,
    public,
    sha,
    write,
)
from verify_cases import LEDGER, bundle, edit, edit_lines, found, without_pld

from privacy.verify import verify


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pld(monkeypatch)


# --- What only a witness shows ---


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


# --- What is easily overlooked ---


def test_a_checkpoint_with_somebody_elses_signature(tmp_path: Path) -> None:
    made = honest()
    write(tmp_path, made)
    both = Witness("another").cosigned(made.note(), made.now)
    (tmp_path / "checkpoints/north.note").write_text(both, "utf-8")
    found(verify(tmp_path), "violation", "has signatures of others", file="checkpoints/north.note")


def test_a_ledger_that_only_a_witness_shows(tmp_path: Path) -> None:
    """A department that hides its ledger is told by what others have seen of it."""
    one, two = honest(), Department("south")
    two.genesis()
    write(tmp_path, one, two)
    assert verify(tmp_path).exit_code == 0
    (tmp_path / "ledgers/south.jsonl").unlink()
    (tmp_path / "checkpoints/south.note").unlink()
    found(verify(tmp_path), "incomplete", "is missing, and witnesses/auditor/south.note is of it")


def test_a_note_of_another_ledger(tmp_path: Path) -> None:
    one, two = honest(), honest("south")
    write(tmp_path, one)
    (tmp_path / "witnesses/auditor/north.note").write_text(Witness().cosigned(two.note(), two.now), "utf-8")
    found(verify(tmp_path), "violation", f"is of another ledger, {two.origin}")


@pytest.mark.parametrize("data", [b"", b"00" * 32, b"00" * 32 + b"\n\n", b"0g" * 32 + b"\n", b"\xff" * 64 + b"\n"])
def test_the_form_of_a_witness_key(tmp_path: Path, data: bytes) -> None:
    write(tmp_path, honest())
    (tmp_path / "witnesses/auditor/key").write_bytes(data)
    found(verify(tmp_path), "violation", "", file="witnesses/auditor/key")


def test_more_entries_than_anybody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, honest())
    monkeypatch.setattr("privacy.verify_evidence.MOST_ENTRIES", 5)
    found(verify(tmp_path), "violation", "is one of more than 5", file=LEDGER)


def test_more_files_than_anybody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, honest())
    monkeypatch.setattr("privacy.verify_evidence.MOST_FILES", 5)
    found(verify(tmp_path), "violation", "or one too many")


def test_thousands_of_findings_are_told_of_once(tmp_path: Path) -> None:
    made = honest()
    for number in range(60):
        made.release("nothing", number)
    verdict = verify(write(tmp_path, made))
    assert len(verdict.problems) == 51
    assert verdict.problems[-1].what == "more findings are not listed"
