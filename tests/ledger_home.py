"""A department's ledger for tests: a clock that is turned by hand, a policy, a plan, a witness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy import notes
from privacy.costs import Cost, Mechanism
from privacy.entries import Draft
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan

START = 1_700_000_000
DAY = 86_400
SPEC = "5" * 64
MODEL, UPDATE, OTHER = "a" * 64, "b" * 64, "c" * 64
SIZE = 1000


def key_of(number: int) -> Ed25519PrivateKey:
    """A key that is the same every time."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


KEY, WITNESS = key_of(1), key_of(2)
WITNESS_PUBLIC = WITNESS.public_key().public_bytes_raw()


@dataclass
class Clock:
    """Unix seconds, turned by hand."""

    now: float = START

    def __call__(self) -> float:
        return self.now


def policy(*tables: str, top: str = "") -> bytes:
    """A policy; each table is ``NAME`` followed by lines, those that are needed and missing are added."""
    text = f'version = 1\nunit = "record"\nadjacency = "zero-out"\n{top}\n'
    for table in tables or ("claims",):
        name, _, lines = table.partition("\n")
        if "declared_size" not in lines:
            lines += f"\ndeclared_size = {SIZE}"
        if "lifetime" not in lines:
            lines += '\nlifetime = { epsilon = "8", delta = "1e-6" }'
        text += f'[dataset."{name}"]\n{lines}\n'
    return text.encode()


def plan(**changes: Any) -> PrivacyPlan:
    """A plan that the default policy admits."""
    settings: dict[str, Any] = {
        "sampling_rate": 0.05,
        "noise_multiplier": 2.0,
        "max_grad_norm": 1.0,
        "steps_per_round": 2,
        "rounds": 5,
        "declared_size": SIZE,
        "metric_noise": 20.0,
        "delta": 1e-6,
    }
    return PrivacyPlan(**(settings | changes))


def register(ledger: Ledger, *names: str, size: int = SIZE) -> None:
    """Register data sets that hold records out alike."""
    for name in names:
        ledger.register(name, declared_size=size, commitment=bytes(32), split=b"s" * 32)


def make(
    folder: Path, text: bytes | None = None, clock: Clock | None = None, names: tuple[str, ...] = ("claims",)
) -> Ledger:
    """A ledger with registered data sets and a policy."""
    ledger = Ledger.create(folder, key=KEY, name="Cardiology", clock=clock or Clock())
    register(ledger, *names)
    ledger.sign_policy(policy() if text is None else text)
    return ledger


def reserve(ledger: Ledger, run: str = "run", dataset: str = "claims", model: str = "cnn", **changes: Any) -> Any:
    """Reserve a run."""
    return ledger.reserve(plan(**changes), dataset, run, model=model, spec=SPEC)


def release(reservation: Any, number: int, **changes: Any) -> None:
    """Release a round, with metrics."""
    settings = {"train": True, "evaluate": True, "model": MODEL, "update": UPDATE} | changes
    reservation.release(number, **settings)


def fill(ledger: Ledger, entries: int) -> None:
    """Bring a ledger to a size in one transaction: settled runs of ten rounds, and one that is open."""
    mechanism = Mechanism.from_plan(plan(sampling_rate=0.001, noise_multiplier=20.0, metric_noise=900.0, rounds=10))
    done = replace(mechanism, evaluations=10)
    with ledger._log.writing() as transaction:
        while transaction.book.size < entries:
            seq, orders = transaction.book.size, transaction.policy().orders
            names = {"dataset": "claims", "run": f"run-{seq}"}
            paid = names | {"mechanism": mechanism, "cost": Cost.of(mechanism, orders)}
            ref: dict[str, Any] = {"spec": SPEC, "model": "cnn", "dataset_version": "1"}
            transaction.append(Draft(kind="reserve", ref=ref, **paid))
            for number in range(1, 11):
                ref = {"round": str(number), "train": True, "evaluate": True, "model": MODEL, "update": UPDATE}
                transaction.append(Draft(kind="release", ref=ref, **names))
            if transaction.book.size < entries:
                paid |= {"mechanism": done, "cost": Cost.of(done, orders)}
                transaction.append(Draft(kind="settle", ref={"reservation": str(seq)}, **paid))


def cosigned(ledger: Ledger, previous: str | None = None, now: int = START) -> str:
    """The ledger's checkpoint, as a witness hands it back."""
    proof = ledger.consistency(notes.parse(previous).size) if previous else []
    return notes.observe(
        previous,
        ledger.checkpoint(),
        proof,
        origin_key=ledger.key,
        witness_key=WITNESS,
        witness_name="coordinator",
        now=now,
    )


def witness(ledger: Ledger, previous: str | None = None) -> str:
    """Have the ledger witnessed, and keep the note."""
    note = cosigned(ledger, previous)
    ledger.witnessed(note, name="coordinator", key=WITNESS_PUBLIC)
    return note
