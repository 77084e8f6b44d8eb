"""Departments with a ledger of their own: what a real machine has, without its processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client import config, datasets, policies
from client import site as sites
from client.account import Account
from client.train import Site
from models.files import write_atomic
from privacy.ledger import Ledger

GENEROUS = 'lifetime = { epsilon = "200", delta = "1e-5" }\nallow_without_privacy = true'


def policy_text(table: str = GENEROUS, *, dataset: str = "toy", declared_size: int = 40) -> bytes:
    """A policy for one data set; ``table`` are the lines of its table beside the size."""
    head = 'version = 1\nunit = "record"\nadjacency = "zero-out"\n'
    return f'{head}[dataset."{dataset}"]\ndeclared_size = {declared_size}\n{table}\n'.encode()


def account(
    folder: Path,
    table: str | None = GENEROUS,
    *,
    key: Ed25519PrivateKey | None = None,
    name: str = "north",
    dataset: str = "toy",
    declared_size: int = 40,
) -> Account:
    """A new ledger in ``folder`` with one data set and, unless ``table`` is None, a policy in force."""
    ledger = Ledger.create(folder, key=key or Ed25519PrivateKey.generate(), name=name)
    ledger.register(dataset, declared_size=declared_size, commitment=bytes(32), split=bytes(32))
    if table is not None:
        ledger.sign_policy(policy_text(table, dataset=dataset, declared_size=declared_size))
    return Account(ledger=ledger, dataset=dataset)


def real(own: Site, paid_by: Account) -> Site:
    """A simulated site as a real machine has it: nothing is permitted but what its policy permits."""
    return replace(own, simulated=False, allow_clear=True, account=paid_by)


def identity(folder: Path) -> None:
    """Give a machine its signing key."""
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomic(folder / "identity.key", key, secret=True)


def enrolled_machine(data: Path, *, declared_size: int, table: str = GENEROUS) -> Path:
    """Make this ``CONFIDE_HOME`` a machine with data set "toy", registered and allowed; returns its client folder."""
    folder = config.directory()
    identity(folder)
    (folder / config.FILE).write_text('name = "north"\nserver = "localhost:9092"\n[sealing]\nallow_clear = true\n')
    datasets.add("toy", str(data), declared_size=declared_size, labels_path=None, person=None, run=None)
    config.policy_file().write_bytes(policy_text(table, declared_size=declared_size))
    policies.sign(config.load_settings(), config.policy_file())
    sites._load.cache_clear()
    return folder


def kinds(ledger: Ledger) -> list[str]:
    """The kinds of all entries, in order."""
    return [json.loads(line)["entry"]["kind"] for line in ledger.lines()]
