"""What the verifier's tests share: bundles to tamper with, and what is expected of a verdict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger_cases import POLICY, Department, honest, manifest, public, sealing, write

from privacy import verify_spending as spending
from privacy.verify import Verdict, verify

LEDGER = "ledgers/north.jsonl"


def without_pld(monkeypatch: Any) -> None:
    """PLD figures take a second a mechanism, and few tests look at them."""
    monkeypatch.setattr(spending, "pld", lambda parts, delta: None)


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
