"""The verifier against rosters and manifests that contradict the ledgers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ledger_cases import (
    Department,
    enc,
    honest,
    key_of,
    manifest,
    public,
    sealed,
    sealing,
    sha,
)
from verify_cases import bundle, found, without_pld

from privacy.verify import Verdict, verify


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pld(monkeypatch)


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
        (
            sealing("run-1", {"north": public(key_of("department north"))}, policy="ee" * 32),
            "permits other settings than 'north' has reserved this run for",
        ),
        (sealing("run-1", {"north": public(key_of("department north"))}, federation="00" * 32), "another federation"),
        ({**sealing("run-1", {}), "governance": public(key_of("not it")).hex()}, "not signed by the governance key"),
        ({**sealing("run-1", {}), "more": ""}, "field 'more' is unknown"),
        ({**sealing("run-1", {}), "permit": sealing("run-1", {})["roster"]}, "not signed by the governance key"),
    ],
)
def test_rosters(tmp_path: Path, roster: dict[str, str], fragment: str) -> None:
    bundle(tmp_path, rosters={"run-1": roster})
    found(verify(tmp_path), "violation", fragment, file="rosters/run-1.json")


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"type": "permit"}, "type: 'permit' is not roster"),
        ({"members": [{"id": i, "name": "north", "key": f"{i}0" * 32} for i in (1, 2)]}, "two members of one name"),
        ({"members": [{"id": 1, "name": "north"}]}, "field 'key' is missing"),
        ({"version": True}, "is not an integer"),
        ({"suite": ["whatever"]}, ""),
    ],
)
def test_rosters_that_the_governance_should_not_have_signed(
    tmp_path: Path, changes: dict[str, Any], fragment: str
) -> None:
    good = sealing("run-1", {"north": public(key_of("department north"))})
    payload = json.loads(json.loads(good["roster"])["payload"]) | changes
    bundle(tmp_path, rosters={"run-1": good | {"roster": sealed("roster", payload, key_of("governance"))}})
    if fragment:
        found(verify(tmp_path), "violation", fragment, file="rosters/run-1.json")
    else:  # what the roster says of sums is no business of ours
        assert verify(tmp_path).exit_code == 0


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
