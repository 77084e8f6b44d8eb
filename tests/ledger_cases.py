"""An independent writer of ledgers and bundles, made from docs/ledger-spec.md alone: it writes whatever it is told to.

Nothing here comes from Confide's own ledger or verifier, so that both can be held against it. A department that is
told to break a rule signs that, too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

START = 1_767_225_600  # 2026-01-01
ORDERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SPEC = "cc" * 32  # the settings of every run
POLICY = """\
version = 1
unit = "record"
adjacency = "zero-out"
[dataset."claims"]
declared_size = 12000
lifetime = { epsilon = "8", delta = "1e-6" }
"""
RELEASED = {"model": "aa" * 32, "update": "bb" * 32}


def key_of(seed: str) -> Ed25519PrivateKey:
    """A key that is always the same."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def stamp(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leaf(raw: bytes) -> bytes:
    return hashlib.sha256(b"\0" + raw).digest()


def root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is defined there."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()


def divergence(q: float, sigma: float, steps: int, order: int) -> float:
    """The formula of the specification, as it stands there."""
    if steps == 0 or q == 1:
        return steps * order / (2 * sigma**2)
    logs = [
        math.log(math.comb(order, k)) + (order - k) * math.log(1 - q) + k * math.log(q) + k * (k - 1) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    top = max(logs)
    return steps / (order - 1) * (top + math.log(sum(math.exp(one - top) for one in logs)))


def mechanism(**changes: Any) -> dict[str, Any]:
    """A run of three rounds with metrics."""
    return {
        "unit": "record",
        "adjacency": "zero-out",
        "sampler": "poisson",
        "sampling_rate": "0.05",
        "noise_multiplier": "1.5",
        "max_grad_norm": "1.0",
        "steps_per_round": "10",
        "rounds": "3",
        "declared_size": "12000",
        "delta": "1e-06",
        "metric_noise": "20.0",
        "evaluations": "4",
    } | changes


def cost(made: dict[str, Any], orders: Iterable[int] = ORDERS) -> dict[str, Any]:
    """What a mechanism costs."""
    q, sigma = float(made["sampling_rate"]), float(made["noise_multiplier"])
    steps = int(made["steps_per_round"]) * int(made["rounds"])
    metric = None if made["metric_noise"] is None else float(made["metric_noise"])
    validation = [0.0 if metric is None else divergence(1, metric, int(made["evaluations"]), a) for a in orders]
    return {
        "orders": [str(order) for order in orders],
        "rdp": {
            "training": [repr(divergence(q, sigma, steps, order)) for order in orders],
            "validation": [repr(value) for value in validation],
        },
    }


def hint(name: str, kind: int, key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Witness:
    """A witness that cosigns whatever it is given."""

    name: str = "auditor"
    seed: str = "witness"

    @property
    def key(self) -> Ed25519PrivateKey:
        return key_of(f"{self.seed} {self.name}")

    def cosignature(self, body: str, time: int) -> str:
        """The base64 of hint, time and signature."""
        signature = self.key.sign(f"cosignature/v1\ntime {time}\n{body}".encode())
        return b64(hint(self.name, 4, public(self.key)) + time.to_bytes(8, "big") + signature)

    def cosigned(self, note: str, time: int) -> str:
        """The note with its line."""
        return f"{note}\u2014 {self.name} {self.cosignature(note.partition(chr(10) * 2)[0] + chr(10), time)}\n"


@dataclass
class Department:
    """A ledger under construction; ``entries`` may be edited freely, and :meth:`resign` makes a chain of them again."""

    name: str = "north"
    step: int = 60
    now: int = START
    entries: list[dict[str, Any]] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    policies: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    policy_digest: str | None = None
    key: Ed25519PrivateKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = key_of(f"department {self.name}")
        slug = re.sub(r"[^A-Za-z0-9._-]", "-", self.name)
        self.origin = f"confide.ledger/{slug}/{sha(self.name.encode())[:16]}"
        self.slug = slug
        self.keys: list[tuple[int, Ed25519PrivateKey]] = [(0, self.key)]

    # --- Entries ---

    def append(self, kind: str, made_id: str, ref: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Sign one more entry; ``fields`` replace whatever it would have."""
        self.now += self.step
        entry = {
            "v": "1",
            "origin": self.origin,
            "seq": str(len(self.entries)),
            "prev": leaf(canonical(self.entries[-1])).hex() if self.entries else "0" * 64,
            "kind": kind,
            "id": made_id,
            "time": stamp(self.now),
            "policy_digest": self.policy_digest,
            "dataset": None,
            "run": None,
            "mechanism": None,
            "cost": None,
            "ref": ref,
        } | fields
        self.entries.append(entry)
        self.signatures.append(self.sign(entry))
        return entry

    def sign(self, entry: dict[str, Any], key: Ed25519PrivateKey | None = None) -> str:
        return (key or self.key).sign(b"confide/ledger-entry/v1\n" + canonical(entry)).hex()

    def resign(self, start: int = 0) -> None:
        """Number, chain and sign everything from ``start`` on again: what a dishonest department does after an edit."""
        del self.signatures[start:]
        for seq, entry in enumerate(self.entries[start:], start):
            entry["seq"] = str(seq)
            entry["prev"] = leaf(canonical(self.entries[seq - 1])).hex() if seq else "0" * 64
            self.signatures.append(self.sign(entry, self.key_at(seq)))

    def key_at(self, seq: int) -> Ed25519PrivateKey:
        """The key that signs entry ``seq``."""
        return next(key for start, key in reversed(self.keys) if start <= seq)

    def genesis(self) -> None:
        self.append("genesis", "genesis", {"name": self.name, "key": public(self.key).hex()})

    def policy(self, text: str = POLICY) -> str:
        """Sign a policy and put it in force."""
        data = text.encode()
        digest, before = sha(data), self.policy_digest
        self.policies[digest] = (data, self.key.sign(b"confide/policy/v1\n" + data).hex())
        self.policy_digest = digest
        self.append("policy", f"policy:{len(self.entries)}", {"digest": digest, "supersedes": before})
        return digest

    def dataset(self, name: str = "claims", *, version: int = 1, size: int = 12_000, **ref: Any) -> None:
        made = {
            "lineage": sha(name.encode())[:32],
            "version": str(version),
            "declared_size": str(size),
            "commitment": sha(f"{name} {version}".encode()),
            "split": sha(f"split {name}".encode()),
        } | ref
        self.append("dataset", f"dataset:{name}:{version}", made, dataset=name)

    def reserve(self, run: str, dataset: str = "claims", *, made: dict[str, Any] | None = None, **fields: Any) -> None:
        made = mechanism() if made is None else made
        ref = {"spec": SPEC, "model": "cnn", "dataset_version": "1"}
        spent = fields if "cost" in fields else {"cost": cost(made)}
        self.append("reserve", f"reserve:{run}", ref, dataset=dataset, run=run, mechanism=made, **spent)

    def release(
        self, run: str, number: int, dataset: str = "claims", *, train: bool = True, evaluate: bool = True
    ) -> None:
        ref = {"round": str(number), "train": train, "evaluate": evaluate, **RELEASED}
        self.append("release", f"release:{run}:{number}", ref, dataset=dataset, run=run)

    def settle(
        self, run: str, dataset: str = "claims", *, seq: int | None = None, made: dict[str, Any] | None = None
    ) -> None:
        """Settle for what was released, or for what is said."""
        mine = [entry for entry in self.entries if entry["run"] == run]
        reserved = next(entry for entry in mine if entry["kind"] == "reserve")
        released = [entry["ref"] for entry in mine if entry["kind"] == "release"]
        rounds, evaluations = (str(sum(ref[what] for ref in released)) for what in ("train", "evaluate"))
        made = reserved["mechanism"] | {"rounds": rounds, "evaluations": evaluations} if made is None else made
        ref = {"reservation": reserved["seq"] if seq is None else str(seq)}
        self.append("settle", f"settle:{run}", ref, dataset=dataset, run=run, mechanism=made, cost=cost(made))

    def abandon(self, run: str, number: int, dataset: str = "claims") -> None:
        ref = {"round": str(number), "reason": "data-unusable"}
        self.append("abandon", f"abandon:{run}:{number}", ref, dataset=dataset, run=run)

    def override(self, run: str, dataset: str = "claims") -> None:
        ref = {"spec": SPEC, "reason": "privacy-off"}
        self.append("override", f"override:{run}", ref, dataset=dataset, run=run)

    def rotate(self, seed: str = "second") -> Ed25519PrivateKey:
        """Go over to another key; returns the one before."""
        old, new = self.key, key_of(f"department {self.name} {seed}")
        proof = new.sign(f"confide/ledger-key/v1\n{self.origin}\n{len(self.entries)}".encode()).hex()
        self.append("key", f"key:{public(new).hex()}", {"key": public(new).hex(), "proof": proof})
        self.key = new
        self.keys.append((len(self.entries), new))
        return old

    def witnessed(self, witness: Witness, *, size: int | None = None, time: int | None = None) -> None:
        """Take a witness's cosignature of the entries so far into the ledger."""
        size = len(self.entries) if size is None else size
        ref = {
            "size": str(size),
            "root": self.root(size).hex(),
            "witness": witness.name,
            "key": public(witness.key).hex(),
            "cosignature": witness.cosignature(self.body(size), self.now if time is None else time),
        }
        self.append("checkpoint", f"checkpoint:{size}:{witness.name}", ref)

    def run(self, name: str, dataset: str = "claims", *, rounds: int = 3, made: dict[str, Any] | None = None) -> None:
        """A whole honest run: metrics before every round, and at the end."""
        self.reserve(name, dataset, made=made)
        for number in range(1, rounds + 1):
            self.release(name, number, dataset)
        self.release(name, rounds + 1, dataset, train=False)
        self.settle(name, dataset)

    # --- Text ---

    def lines(self) -> list[str]:
        pairs = zip(self.entries, self.signatures, strict=True)
        return [canonical({"entry": entry, "signature": signature}).decode() for entry, signature in pairs]

    def root(self, size: int) -> bytes:
        return root([leaf(canonical(entry)) for entry in self.entries[:size]])

    def body(self, size: int) -> str:
        return f"{self.origin}\n{size}\n{b64(self.root(size))}\n"

    def note(self, size: int | None = None) -> str:
        """A checkpoint, signed."""
        size = len(self.entries) if size is None else size
        body, key = self.body(size), self.key_at(size)
        blob = hint(self.origin, 1, public(key)) + key.sign(body.encode())
        return f"{body}\n\u2014 {self.origin} {b64(blob)}\n"


def honest(name: str = "north", *, policy: str = POLICY) -> Department:
    """A department with one finished run, a cosignature of it, and an open one."""
    made = Department(name)
    made.genesis()
    made.policy(policy)
    made.dataset()
    made.run("run-1")
    made.witnessed(Witness())
    made.reserve("run-2")
    made.release("run-2", 1)
    made.abandon("run-2", 2)
    return made


# --- Rosters and bundles ---------------------------------------------------------------------------------------------


def enc(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def sealed(what: str, fields: dict[str, Any], key: Ed25519PrivateKey) -> str:
    """A signed document (docs/secagg-spec.md)."""
    payload = json.dumps({"type": what, **fields})
    message = enc(f"confide/{what}/v1".encode(), bytes(32), bytes(4), b"\xff\xff\xff\xff", payload.encode())
    return json.dumps({"payload": payload, "signature": key.sign(message).hex()})


def sealing(run: str, members: dict[str, bytes], *, seed: str = "governance", **permit: Any) -> dict[str, str]:
    """What ``rosters/RUN.json`` holds: members are names and keys."""
    key = key_of(seed)
    dates = {"issued": START, "expires": START + 10**8}
    federation = hashlib.sha256(enc(b"confide/federation/v1", public(key))).hexdigest()
    roster = {
        "federation": federation,
        "version": 1,
        **dates,
        "mode": "sealed",
        "colluders": 0,
        "min_honest": 3,
        "range_max": 1.0,
        "suite": "x25519-mlkem768-ed25519-aes256ctr-sha256",
        "members": [{"id": i, "name": name, "key": key.hex()} for i, (name, key) in enumerate(members.items())],
    }
    allowed = {"federation": federation, "serial": 1, "run": run, "roster_version": 1, **dates, "max_rounds": 3}
    return {
        "governance": public(key).hex(),
        "permit": sealed("permit", allowed | {"policy": SPEC} | permit, key),
        "roster": sealed("roster", roster, key),
    }


def manifest(made: Department, *, rounds: Iterable[int] = (1, 2, 3), size: int | None = None) -> dict[str, Any]:
    """What a model's manifest says of one department."""
    size = len(made.entries) if size is None else size
    return {"origin": made.origin, "size": size, "root": made.root(size).hex(), "rounds": list(rounds)}


def write(
    folder: Path,
    *departments: Department,
    witness: Witness | None = None,
    rosters: dict[str, Any] | None = None,
    models: dict[str, Any] | None = None,
) -> Path:
    """A whole bundle; by default with the witness's note of all entries."""
    witness = witness or Witness()
    slug = re.sub(r"[^A-Za-z0-9._-]", "-", witness.name)
    files: dict[str, bytes] = {
        "bundle.json": canonical({"created": stamp(START + 10**6), "format": "confide/evidence/v1"}),
        f"witnesses/{slug}/key": public(witness.key).hex().encode() + b"\n",
    }
    for made in departments:
        note = made.note()
        files[f"ledgers/{made.slug}.jsonl"] = "".join(f"{line}\n" for line in made.lines()).encode()
        files[f"checkpoints/{made.slug}.note"] = note.encode()
        files[f"witnesses/{slug}/{made.slug}.note"] = witness.cosigned(note, made.now).encode()
        for digest, (text, signature) in made.policies.items():
            files[f"policies/{digest}.toml"] = text
            files[f"policies/{digest}.sig"] = signature.encode()
    files |= {f"rosters/{run}.json": canonical(made) for run, made in (rosters or {}).items()}
    files |= {f"models/{run}.json": json.dumps(made).encode() for run, made in (models or {}).items()}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
