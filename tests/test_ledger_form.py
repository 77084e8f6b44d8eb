"""One entry of each kind, byte for byte, and checked with nothing but what the specification says."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ledger_home import KEY, SPEC, START, WITNESS, Clock, key_of, make, policy, release, reserve, witness

from privacy import notes
from privacy.entries import Entry
from privacy.ledger import Ledger

VECTORS = json.loads((Path(__file__).parent / "vectors/privacy/ledger.json").read_text(encoding="utf-8"))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The ledger of the vectors: every draw is fixed, and the clock stands still but for a moment."""
    monkeypatch.setattr("privacy.ledger.secrets.token_hex", lambda size: "0f" * size)
    clock = Clock()
    ledger = make(tmp_path, policy("Fälle 2026\nallow_without_privacy = true"), clock, names=("Fälle 2026",))
    clock.now += 1.5
    run = reserve(ledger, "run", "Fälle 2026")
    release(run, 1)
    release(run, 2, train=False)
    run.abandon(3, "data_unusable")
    run.settle()
    note = witness(ledger)
    ledger.rotate(key_of(3))
    ledger.override("Fälle 2026", "open", spec=SPEC)
    witness(ledger, note)
    return ledger


def test_vectors(ledger: Ledger) -> None:
    assert list(ledger.lines()) == VECTORS["lines"]
    assert ledger.checkpoint() == VECTORS["checkpoint"]
    assert ledger.newest_witness() == {"coordinator": VECTORS["witnessed"]}
    ledger.check_all()


def naive(q: float, sigma: float, steps: int, order: int) -> float:
    """The specification's formula, as it stands there."""
    if q == 1:
        return steps * order / (2 * sigma**2)
    terms = (
        math.comb(order, k) * (1 - q) ** (order - k) * q**k * math.exp(k * (k - 1) / (2 * sigma**2))
        for k in range(order + 1)
    )
    return steps / (order - 1) * math.log(math.fsum(terms))


def test_lines_are_what_the_specification_says() -> None:
    key, prev, leaves = KEY.public_key(), "0" * 64, []
    kinds = []
    for seq, line in enumerate(VECTORS["lines"]):
        found = json.loads(line)
        assert line == json.dumps(found, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        entry: dict[str, Any] = found["entry"]
        raw = json.dumps(entry, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        key.verify(bytes.fromhex(found["signature"]), b"confide/ledger-entry/v1\n" + raw)
        assert (entry["seq"], entry["prev"], len(entry)) == (str(seq), prev, 13)
        leaves.append(hashlib.sha256(b"\0" + raw).digest())
        prev = leaves[-1].hex()
        kinds.append(entry["kind"])
        if entry["kind"] == "key":
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(entry["ref"]["key"]))
            message = f"confide/ledger-key/v1\n{entry['origin']}\n{seq}".encode()
            key.verify(bytes.fromhex(entry["ref"]["proof"]), message)
        if entry["cost"]:
            m, orders = entry["mechanism"], [int(order) for order in entry["cost"]["orders"]]
            steps = int(m["steps_per_round"]) * int(m["rounds"])
            training = [naive(float(m["sampling_rate"]), float(m["noise_multiplier"]), steps, a) for a in orders]
            validation = [naive(1, float(m["metric_noise"]), int(m["evaluations"]), a) for a in orders]
            assert [float(x) for x in entry["cost"]["rdp"]["training"]] == pytest.approx(training, rel=1e-6)
            assert [float(x) for x in entry["cost"]["rdp"]["validation"]] == pytest.approx(validation, rel=1e-6)
    every = "genesis key policy dataset reserve release settle abandon override checkpoint"
    assert set(kinds) == set(every.split())
    note = notes.parse(VECTORS["checkpoint"])
    tree = leaves
    while len(tree) > 1:
        # The same root, made level by level: a node without a neighbour moves up as it is.
        pairs = [tree[i : i + 2] for i in range(0, len(tree), 2)]
        tree = [hashlib.sha256(b"\1" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    assert (note.size, note.root) == (len(leaves), tree[0])


@pytest.mark.parametrize("line", VECTORS["lines"], ids=lambda line: json.loads(line)["entry"]["id"])
def test_reading_and_writing_are_inverse(line: str) -> None:
    raw = json.dumps(json.loads(line)["entry"], sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    entry = Entry.parse(raw)
    assert entry.raw() == raw
    assert Entry.replay(raw) == entry


def test_times_do_not_run_ahead_of_their_cosignature() -> None:
    last = json.loads(VECTORS["lines"][-1])["entry"]
    assert last["time"] == "2023-11-14T22:13:21Z"
    note = notes.parse(VECTORS["witnessed"])
    cosignature = note.cosignature("coordinator", WITNESS.public_key().public_bytes_raw())
    assert int.from_bytes(cosignature[4:12], "big") == START
