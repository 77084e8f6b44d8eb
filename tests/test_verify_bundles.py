"""Bundles of Confide's own ledgers: collected, merged, verified, tampered with, and recomputed by somebody else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ledger_home
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from ledger_cases import Department, canonical, honest, mechanism, sealing, write
from ledger_home import KEY, WITNESS, WITNESS_PUBLIC, Clock

from privacy import bundle, notes
from privacy import verify_spending as spending
from privacy.errors import LedgerError
from privacy.ledger import Ledger
from privacy.verify import verify

ROOT = Path(__file__).parents[1]
LEDGER = "ledgers/Cardiology.jsonl"


def settle_down(home: Path, key: Ed25519PrivateKey = KEY) -> Path:
    """A department's own files, its key among them."""
    (home / "client").mkdir(parents=True)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (home / "client/identity.key").write_bytes(pem)
    (home / "client/client.toml").write_text('name = "Cardiology"\n')
    return home


def keep(home: Path, note: str, name: str = "Cardiology") -> None:
    """What a coordinator keeps as a witness."""
    folder = home / "server/witness"
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text("coordinator\n")
    (folder / "key.pub").write_text(f"{WITNESS_PUBLIC.hex()}\n")
    (folder / f"notes/{name}.note").write_text(note, "utf-8")


def cosigned(ledger: Ledger, clock: Clock, previous: str | None = None) -> str:
    return notes.observe(
        previous,
        ledger.checkpoint(),
        ledger.consistency(notes.parse(previous).size) if previous else [],
        origin_key=ledger.key,
        witness_key=WITNESS,
        witness_name="coordinator",
        now=int(clock()),
    )


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A department with two runs, one of them open, and a coordinator with a finished run."""
    folder = tmp_path_factory.mktemp("homes")
    department, coordinator, clock = settle_down(folder / "department"), folder / "coordinator", Clock()
    text = ledger_home.policy('claims\nsigma_min = "1"\nmax_runs = 5\nperiod = { days = 90, epsilon = "6" }')
    ledger = ledger_home.make(department / "client/ledger", text, clock)
    first = ledger_home.reserve(ledger, "run-1")
    for number in range(1, 6):
        clock.now += 60
        ledger_home.release(first, number)
    ledger_home.release(first, 6, train=False)
    first.settle()
    note = cosigned(ledger, clock)
    ledger.witnessed(note, name="coordinator", key=WITNESS_PUBLIC)
    checkpoint = notes.parse(note)
    ranges = {"origin": ledger.origin, "size": checkpoint.size, "root": checkpoint.root.hex(), "rounds": [1, 2, 4]}
    second = ledger_home.reserve(ledger, "run-2")
    second.abandon(1, "data-unusable")
    ledger_home.release(second, 2)
    keep(coordinator, cosigned(ledger, clock, note))
    run = coordinator / "server/runs/run-1"
    (run / "model").mkdir(parents=True)
    (run / "model/manifest.json").write_text(json.dumps({"model": "cnn", "ledgers": {"Cardiology": ranges}}, indent=2))
    documents = sealing("run-1", {"Cardiology": KEY.public_key().public_bytes_raw()}, policy=ledger_home.SPEC)
    (run / "sealing.json").write_text(json.dumps(documents, indent=2))
    (coordinator / "server/runs/run-2").mkdir()
    return department, coordinator


@pytest.fixture
def evidence(homes: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle of both."""
    monkeypatch.setattr(spending, "pld", lambda parts, delta: None)
    bundle.write(tmp_path / "evidence", homes=homes)
    return tmp_path / "evidence"


def test_our_own_ledger_passes(evidence: Path) -> None:
    verdict = verify(evidence, witness_keys={"coordinator": WITNESS_PUBLIC})
    assert verdict.problems == []
    (row,) = verdict.datasets
    assert (row["department"], row["dataset"], row["runs"], row["open_reservations"]) == ("Cardiology", "claims", 2, 1)
    assert verdict.models[0]["departments"][0]["covered"] is True


def test_what_a_bundle_holds(homes: tuple[Path, Path], tmp_path: Path) -> None:
    department, coordinator = homes
    names = bundle.write(tmp_path / "north", home=department, now=0)
    assert [name for name in names if not name.startswith("policies/")] == [
        *("bundle.json", "checkpoints/Cardiology.note", LEDGER),
    ]
    assert (tmp_path / "north/bundle.json").read_bytes() == canonical(
        {"created": "1970-01-01T00:00:00Z", "format": "confide/evidence/v1"}
    )
    merged = bundle.write(tmp_path / "both", home=coordinator, include=[tmp_path / "north"])
    assert {*names} < {*merged}
    assert {*merged} - {*names} == {
        *("models/run-1.json", "rosters/run-1.json"),
        *("witnesses/coordinator/Cardiology.note", "witnesses/coordinator/key"),
    }
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    secret = (department / "client/identity.key").read_bytes().splitlines()[1]
    assert not [path for path in (tmp_path / "both").rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_half_of_the_evidence_is_incomplete(
    homes: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "pld", lambda parts, delta: None)
    for number, home in enumerate(homes):
        bundle.write(tmp_path / str(number), home=home)
        assert verify(tmp_path / str(number)).exit_code == 2


def replaced(old: str, new: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [line.replace(old, new) for line in lines]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[:6] + lines[7:],
        lambda lines: [*lines[:6], lines[7], lines[6], *lines[8:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [line for line in lines if '"kind":"settle"' not in line],
        replaced('"noise_multiplier":"2.0"', '"noise_multiplier":"4.0"'),
        replaced('"rounds":"5"', '"rounds":"1"'),
        replaced('"train":true', '"train":false'),
        replaced('"signature":"', '"signature":"0'),
    ],
)
def test_our_own_ledger_tampered_with(evidence: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = (evidence / LEDGER).read_text("utf-8").splitlines()
    changed = change(lines)
    assert changed != lines
    (evidence / LEDGER).write_text("".join(f"{line}\n" for line in changed), "utf-8")
    assert verify(evidence).exit_code == 1


def test_a_ledger_restored_from_a_backup(homes: tuple[Path, Path], tmp_path: Path) -> None:
    """The department goes on from an old copy; the coordinator's note tells."""
    department, coordinator = homes
    old = tmp_path / "old"
    settle_down(old)
    ledger = ledger_home.make(old / "client/ledger")
    with pytest.raises(LedgerError, match="two machines show different"):
        bundle.write(tmp_path / "clash", homes=[department, old])
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    bundle.write(tmp_path / "evidence", homes=[old, coordinator])
    found = [problem.what for problem in verify(tmp_path / "evidence").problems]
    assert any("is of another ledger" in what for what in found)
    assert ledger.size == 3


def test_nothing_is_made_where_something_is_wrong(homes: tuple[Path, Path], tmp_path: Path) -> None:
    def refused(match: str, **given: Any) -> None:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(LedgerError, match=match):
            bundle.write(tmp_path / "evidence", **given)
        assert sorted(tmp_path.iterdir()) == before

    refused("neither a ledger nor a witness nor a run", home=tmp_path)
    refused("neither a ledger", homes=[])
    (tmp_path / "strange").mkdir()
    refused("is no bundle of evidence: has no bundle.json", home=homes[0], include=[tmp_path / "strange"])
    (tmp_path / "strange/bundle.json").symlink_to("/etc/passwd")
    refused("or a link", home=homes[0], include=[tmp_path / "strange"])
    refused("No such file", home=homes[0], include=[tmp_path / "nowhere"])
    home = tmp_path / "home"
    shutil.copytree(homes[0], home)
    (home / "client/identity.key").unlink()
    refused("the signing key that client.toml names cannot be read", home=home)
    (home / "client/identity.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    refused("the signing key that client.toml names cannot be read", home=home)
    run = tmp_path / "other/server/runs/a"
    run.mkdir(parents=True)
    (run / "sealing.json").write_text("[]")
    refused("holds no roster and permit", home=tmp_path / "other")
    (run / "sealing.json").write_text("{")
    refused("damaged; restore it", home=tmp_path / "other")
    (tmp_path / "taken").mkdir()
    with pytest.raises(LedgerError, match="exists already"):
        bundle.write(tmp_path / "taken", home=homes[0])


def test_another_machine_signs_with_its_own_key(homes: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="not the one that signs it now"):
        bundle.write(tmp_path / "evidence", home=homes[0], key=WITNESS)


def test_departments_with_one_policy_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "pld", lambda parts, delta: None)
    for name in ("north", "south"):
        write(tmp_path / name, honest(name))
    bundle.write(tmp_path / "evidence", include=[tmp_path / "north", tmp_path / "south"])
    verdict = verify(tmp_path / "evidence")
    assert verdict.problems == []
    assert [row["department"] for row in verdict.datasets] == ["north", "south"]
    bundle.write(tmp_path / "again", include=[tmp_path / "evidence", tmp_path / "south"])
    for file in (tmp_path / "evidence").rglob("*"):
        if file.is_file() and file.name != "bundle.json":
            assert (tmp_path / "again" / file.relative_to(tmp_path / "evidence")).read_bytes() == file.read_bytes()


def test_somebody_else_computes_the_same(tmp_path: Path) -> None:
    """dp-accounting, over ledgers with two mechanisms, an override, a group and a changed split."""
    names = ("mixed", "grouped-1", "grouped-2", "changed", "open", "unbounded", "unused")
    text = 'version = 1\nunit = "record"\nadjacency = "zero-out"\n'
    made = Department()
    made.genesis()
    for name in names:
        text += f'[dataset."{name}"]\nallow_without_privacy = true\n'
        text += 'group = "both"\n' if name.startswith("grouped") else ""
        text += 'lifetime = { epsilon = "30", delta = "%s" }\n' % ("1e-5" if name == "open" else "1e-6")
    made.policy(text)
    for name in names:
        made.dataset(name)
    # Much noise: the grids are then small, and so are the seconds.
    usual = mechanism(noise_multiplier="6.0", metric_noise="40.0")
    other = mechanism(noise_multiplier="5.0", sampling_rate="0.01", metric_noise="35.0")
    for number, name in enumerate(("mixed", "grouped-1", "grouped-2", "changed", "mixed")):
        made.run(f"run-{number}", name, made=other if number == 4 else usual)
    made.dataset("changed", version=2, split="0" * 64)
    made.reserve("left-open", "open", made=usual)
    made.override("in-the-clear", "unbounded")
    write(tmp_path, made)
    command = [sys.executable, "-W", "ignore", str(ROOT / "docs/recompute.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path)
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    ours = verify(tmp_path).datasets
    assert [row["dataset"] for row in theirs] == [row["dataset"] for row in ours]
    for mine, row in zip(ours, theirs, strict=True):
        assert mine["delta"] == row["delta"]
        if mine["dataset"] == "unbounded":
            assert mine["enforced_epsilon"] is mine["pld_epsilon"] is row["enforced"] is row["pld"] is None
        else:
            assert mine["enforced_epsilon"] == pytest.approx(row["enforced"], abs=1e-6), mine["dataset"]
            assert mine["pld_epsilon"] == pytest.approx(row["pld"], abs=1e-3), mine["dataset"]
