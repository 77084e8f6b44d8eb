"""Federations of departments that keep ledgers, on the in-process engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from account_cases import account, real
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation_cases import PRIVATE
from flwr.app import Message
from sealed_cases import Tap, TappedGrid, toy

from client.account import Account
from client.train import Site
from server.conduct import conduct
from server.planning import create
from server.runs import RunDirectory
from server.witness import DiskWitness
from simulations.departments import sites as machines_of
from simulations.sealing import seal


class Federation:
    """Departments with ledgers under ``folder``, one coordinator that witnesses them, any number of runs."""

    def __init__(self, folder: Path, *, mode: str = "sealed", policies: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.settings, self.data = toy(privacy=PRIVATE, secagg={"mode": mode})
        self.witness = DiskWitness.at(folder / "witness")
        self.accounts: dict[str, Account] = {}
        self.keys = {who: Ed25519PrivateKey.generate() for who in self.data}
        self.policies = policies or {}
        self.grid: TappedGrid

    def run(self, name: str, tap: Tap = lambda _name, _message, deliver: deliver()) -> RunDirectory:
        """Conduct a run of all departments."""
        directory = create(self.settings, self.folder / "runs", engine="federation", name=name)
        sealed = None
        if not self.settings.secagg.clear:
            sealed = seal(self.settings, list(self.data), run=name, spec=directory.document()["spec"])
        for who in self.data:
            # A simulation's roster lists new keys for every run: the ledger is handed over to them.
            self._open(who, self.keys[who] if sealed is None else sealed.departments[who].me.key)
        machines = machines_of(self.settings, self.data, {} if sealed is None else sealed.departments)
        self.grid = TappedGrid(
            {who: self.change(who, real(own, self.accounts[who])) for who, own in machines.items()}, tap
        )
        conduct(
            self.grid,
            directory,
            test=None,
            repeatable=False,
            watch=lambda _row: None,
            envelopes=None if sealed is None else sealed.envelopes,
            witness=self.witness,
            pictures=False,
        )
        return directory

    def change(self, who: str, site: Site) -> Site:
        """What a test has otherwise about a department's machine."""
        return site

    def _open(self, who: str, key: Ed25519PrivateKey) -> None:
        """Begin a department's ledger, or go on with it under this key."""
        if who in self.accounts:
            self.accounts[who].ledger.rotate(key)
            return
        table = self.policies.get(who, 'lifetime = { epsilon = "200", delta = "1e-5" }')
        size = self.data[who].declared_size
        self.accounts[who] = account(self.folder / who, table, key=key, name=who, declared_size=size)


def is_ledger_step(message: Message) -> bool:
    """Whether a message asks for a reservation or a settlement."""
    return "ledger-step" in message.content.config_records
