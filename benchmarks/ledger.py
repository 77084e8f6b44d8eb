"""What a department's privacy ledger costs: ``python -m benchmarks.ledger [--json FILE] [--entries N]``.

A ledger of N entries is filled (runs of a reservation, 12 releases and a settlement, each witnessed); then an entry is
appended 100 times, durably, the ledger is opened and asked for its status, asked for a consistency proof, checked in
full, and verified by ``privacy.verify`` from a bundle. All by the clock: of appends the median, of the rest the least
of several turns. The folder should be on the disk that a department would use (``--folder``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from privacy import notes
from privacy.canonical import encode, timestamp
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from privacy.verify import verify

APPENDS = 100
BARS = {"append_ms": 10.0, "status_ms": 300.0, "verify_ms": 3000.0}
ROUNDS = 12
POLICY = b"""
version = 1
unit = "record"
adjacency = "zero-out"
[dataset."claims"]
declared_size = 10000
lifetime = { epsilon = "8", delta = "1e-6" }
period = { days = 90, epsilon = "8" }
"""
PLAN = PrivacyPlan(
    sampling_rate=0.001,
    noise_multiplier=20.0,
    max_grad_norm=1.0,
    steps_per_round=1,
    rounds=ROUNDS,
    declared_size=10_000,
    metric_noise=500.0,
    delta=1e-6,
)
DIGEST = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Milliseconds; ``status_ms`` includes opening the ledger."""

    entries: int
    append_ms: float
    open_ms: float
    status_ms: float
    proof_ms: float
    check_ms: float
    verify_ms: float


class Department:
    """A department that has a ledger, and the witness that watches it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.witness = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.ledger = Ledger.create(folder, key=self.key, name="Cardiology")
        self.ledger.register("claims", declared_size=10_000, commitment=bytes(32), split=bytes(32))
        self.ledger.sign_policy(POLICY)
        self.note: str | None = None

    def fill(self, entries: int) -> None:
        """Add runs until there are as many entries; one run of ``ROUNDS`` takes ``ROUNDS`` + 3."""
        number = 0
        while (left := entries - self.ledger.size) > 0:
            number += 1
            run = self.ledger.reserve(PLAN, "claims", f"run-{number}", model="cnn", spec=DIGEST)
            for round_number in range(1, min(ROUNDS, left - 1) + 1):
                run.release(round_number, train=True, evaluate=True, model=DIGEST, update=DIGEST)
            run.settle()
            self.observe()

    def observe(self) -> None:
        """Have the ledger witnessed."""
        proof = [] if self.note is None else self.ledger.consistency(notes.parse(self.note).size)
        self.note = notes.observe(
            self.note,
            self.ledger.checkpoint(),
            proof,
            origin_key=self.ledger.key,
            witness_key=self.witness,
            witness_name="coordinator",
            now=int(time.time()),
        )
        self.ledger.witnessed(self.note, name="coordinator", key=self.witness.public_key().public_bytes_raw())

    def bundle(self, folder: Path) -> None:
        """Write the evidence down (``docs/ledger-spec.md``, "Bundle")."""
        texts = {
            "checkpoints/Cardiology.note": self.ledger.checkpoint(),
            "ledgers/Cardiology.jsonl": "".join(f"{line}\n" for line in self.ledger.lines()),
            "witnesses/coordinator/Cardiology.note": self.note or "",
            "witnesses/coordinator/key": self.witness.public_key().public_bytes_raw().hex() + "\n",
            "bundle.json": encode({"created": timestamp(int(time.time())), "format": "confide/evidence/v1"}).decode(),
        }
        for digest, (text, signature) in self.ledger.policies().items():
            texts |= {f"policies/{digest}.toml": text.decode(), f"policies/{digest}.sig": signature.hex()}
        for name, content in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")


def milliseconds(action: Callable[[], object], turns: int, pick: Callable[[list[float]], float] = min) -> float:
    """What several turns took: the least of them, or another pick."""
    taken = []
    for _ in range(turns):
        start = time.perf_counter()
        action()
        taken.append(1e3 * (time.perf_counter() - start))
    return round(pick(taken), 2)


def measure(folder: Path, entries: int) -> Figures:
    """Fill a ledger in ``folder`` and measure it.

    Raises:
        RuntimeError: what was written is not found to be right.
    """
    department = Department(folder / "ledger")
    department.fill(entries - APPENDS)
    ledger, home = department.ledger, department.folder
    run = ledger.reserve(PLAN, "claims", "last", model="cnn", spec=DIGEST)
    numbers = iter(range(1, APPENDS))
    append_ms = milliseconds(lambda: run.abandon(next(numbers), "disk_full"), APPENDS - 1, statistics.median)
    department.observe()
    evidence = folder / "bundle"
    department.bundle(evidence)
    verdict = verify(evidence).to_dict()
    if verdict["verdict"] != "pass":
        raise RuntimeError(f"the bundle is not found to be right: {verdict['problems'][:3]}")
    return Figures(
        entries=ledger.size,
        append_ms=append_ms,
        open_ms=milliseconds(lambda: Ledger.open(home, key=department.key), 5),
        status_ms=milliseconds(lambda: Ledger.open(home).statuses(), 5),
        proof_ms=milliseconds(lambda: ledger.consistency(ledger.size // 2), 5),
        check_ms=milliseconds(ledger.check_all, 2),
        verify_ms=milliseconds(lambda: verify(evidence), 2),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--entries", type=int, default=10_000, metavar="N", help="size of the ledger (default: 10,000)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to put it for a while")
    options = parser.parse_args(arguments)
    if options.entries < 2 * APPENDS:
        parser.error(f"--entries={options.entries}: at least {2 * APPENDS}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = asdict(measure(Path(folder), options.entries))
    console = Console()
    for name, value in figures.items():
        bar = BARS.get(name)
        told = "" if bar is None else f"  (at most {bar:,.0f}{'' if value <= bar else ': MISSED'})"
        console.print(f"{name:>10} {value:>10,}{told}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
