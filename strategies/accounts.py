"""Nobody trains who did not write down first what it costs: the coordinator's side of departments' ledgers.

Once before its first round of a run, a department is asked to *reserve*: the reply holds the entry of its ledger
that pays for the run, a proof that a checkpoint covers it, and a proof that the checkpoint continues the last one.
The coordinator cosigns the checkpoint as a witness and keeps it, so that neither a forgotten entry nor a ledger that
was put back goes unnoticed. After the last round departments settle, and that is witnessed, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from privacy import canonical, notes
from privacy.costs import Mechanism
from privacy.entries import Entry
from privacy.errors import PrivacyError
from privacy.merkle import leaf, verify_inclusion
from privacy.notes import Note
from privacy.plan import PrivacyPlan
from secagg.primitives import policy_hash
from strategies.errors import MessageError, RunFailedError
from strategies.exchange import exchange
from strategies.wire import LedgerStep, Statement, read_statement

logger = logging.getLogger("confide.strategies")

# Writing an entry down takes milliseconds; whoever still trains for another run answers when it is done.
SECONDS = 120.0
PAUSE_SECONDS = 5.0
ATTEMPTS = 3
# A department that takes part in two runs at once proves the one what the other has changed meanwhile: ask it again.
OVERTAKEN = "another run asked it at the same time"
CLOSING_EXCHANGES = 6


class Witness(Protocol):
    """Who cosigns departments' checkpoints and keeps the newest of each."""

    @property
    def name(self) -> str:
        """Its name in cosignatures."""

    @property
    def key(self) -> bytes:
        """Its Ed25519 public key, 32 bytes."""

    def newest(self, department: str) -> str:
        """The newest checkpoint it cosigned, as a note; empty if there is none."""

    def observe(self, department: str, statement: Statement, *, run: str) -> None:
        """Check that the checkpoint continues the newest one, cosign it and keep it durably.

        Raises :class:`privacy.errors.LedgerError` where it does not.
        """


class Accounts(Protocol):
    """Which departments have paid for a run."""

    def secure(self, ready: Mapping[int, str], needed: int) -> Mapping[int, str]:
        """Those of ``ready`` (node id -> name) that have reserved the run's cost, asking those that were not asked yet.

        Raises :class:`RunFailedError` where so many refuse for good that waiting for ``needed`` would not help.
        """

    def close(self, present: Mapping[int, str]) -> None:
        """Have departments settle; whoever is away settles at its next contact."""


class NoAccounts:
    """Simulations, and a stock SuperLink's public data: nothing is spent that a ledger would hold."""

    def secure(self, ready: Mapping[int, str], needed: int) -> Mapping[int, str]:
        """Everybody."""
        return ready

    def close(self, present: Mapping[int, str]) -> None:
        """Nothing to settle."""


@dataclass(kw_only=True)
class LedgerAccounts:
    """Reservations over a Flower grid.

    ``plan`` is what a department reserves but for its declared size, None without privacy; ``keys`` are the
    departments' ledger keys by name, as the roster lists them, None in a run without one; ``dataset`` is what the run
    trains on.
    """

    grid: Grid
    run: str
    spec: str
    dataset: str
    plan: PrivacyPlan | None
    witness: Witness
    keys: Mapping[str, bytes] | None
    stopped: Callable[[], bool]
    _paid: set[str] = field(default_factory=set)
    _refused: dict[str, str] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _last: float = 0.0

    def secure(self, ready: Mapping[int, str], needed: int) -> Mapping[int, str]:
        """Ask those that have not reserved yet; see :class:`Accounts`."""
        asked = {node: name for node, name in ready.items() if name not in self._paid and self._again(name)}
        if asked and len(ready) >= needed:  # nobody pays for a run that cannot begin
            self._last = time.monotonic()
            for name in asked.values():
                self._attempts[name] = self._attempts.get(name, 0) + 1
            for node, reason in self._ask(asked, closing=False).items():
                self._refused[asked[node]] = reason
                self._attempts[asked[node]] -= reason == OVERTAKEN
                logger.warning("%s has not reserved the run's cost: %s", asked[node], reason)
        paid = {node: name for node, name in ready.items() if name in self._paid}
        final = [n for n in ready.values() if n not in self._paid and self._attempts.get(n, 0) >= ATTEMPTS]
        if final and len(paid) < needed and len(ready) - len(final) < needed:
            raise RunFailedError(
                f"{len(paid)} departments have reserved the run's cost in their ledgers, {needed} are needed: "
                + "; ".join(f"{name}: {self._refused[name]}" for name in sorted(final))
            )
        return paid

    def close(self, present: Mapping[int, str]) -> None:
        """Have those present settle, then show them the cosigned checkpoint, so that they can prove it themselves."""
        left = {node: 2 for node, name in present.items() if name in self._paid}
        for _ in range(CLOSING_EXCHANGES):
            asked = {node: present[node] for node, times in left.items() if times}
            failed = self._ask(asked, closing=True)
            for node, name in asked.items():
                left[node] -= node not in failed
                if node in failed and failed[node] != OVERTAKEN:
                    logger.warning("%s has not settled: %s; it may at its next contact", name, failed[node])
                    left[node] = 0

    def _again(self, name: str) -> bool:
        """Whether to ask: at once the first time, then after pauses, a few times in all."""
        attempts = self._attempts.get(name, 0)
        return attempts == 0 or (attempts < ATTEMPTS and time.monotonic() - self._last > PAUSE_SECONDS)

    def _ask(self, nodes: Mapping[int, str], *, closing: bool) -> Mapping[int, str]:
        """One exchange; why a department failed, by node."""
        if not nodes:
            return {}

        notes_sent = {node: self.witness.newest(name) for node, name in nodes.items()}

        def read(node: int, reply: Message) -> None:
            statement = read_statement(reply)
            if self.witness.newest(nodes[node]) != notes_sent[node]:
                raise MessageError(OVERTAKEN)
            self._check(nodes[node], statement)

        contents = {
            node: LedgerStep(
                run=self.run,
                spec=self.spec,
                witness=self.witness.name,
                key=self.witness.key,
                note=note,
                closing=closing,
            ).to_record()
            for node, note in notes_sent.items()
        }
        return exchange(
            self.grid, contents, read=read, deadline=SECONDS, quorum=len(contents), stopped=self.stopped
        ).failures

    def _check(self, name: str, statement: Statement) -> None:
        """Believe a department's statement only as far as it proves itself; raises :class:`MessageError`."""
        if self.keys is not None and self.keys.get(name) != statement.key:
            raise MessageError("its ledger key is not the one that the roster lists")
        try:
            raw = _raw(statement.entry)
            entry, checkpoint = Entry.parse(raw), notes.parse(statement.checkpoint)
            if entry.seq != statement.seq or not verify_inclusion(
                leaf(raw), statement.seq, checkpoint.size, list(statement.inclusion), checkpoint.root
            ):
                raise MessageError("its checkpoint does not cover the reservation")
            self._check_entry(entry, checkpoint)
            # Last: what is refused is not cosigned.
            self.witness.observe(name, statement, run=self.run)
        except PrivacyError as error:
            raise MessageError(f"{type(error).__name__}: {error}") from None
        self._paid.add(name)

    def _check_entry(self, entry: Entry, checkpoint: Note) -> None:
        """Refuse another run's entry, or one that pays for less."""
        if entry.origin != checkpoint.origin or entry.run != self.run or entry.ref.get("spec") != agreed(self.spec):
            raise MessageError("no reservation: the entry is for another run or ledger")
        if entry.dataset != self.dataset:
            raise MessageError("no reservation: the entry is for another data set")
        if self.plan is None:
            if entry.kind != "override":
                raise MessageError("no reservation: the entry does not say that the run is without privacy")
            return
        if entry.kind != "reserve" or entry.mechanism is None:
            raise MessageError("no reservation: the entry reserves nothing")
        # The declared size is the department's own: it is no part of what the run costs.
        wanted = replace(Mechanism.from_plan(self.plan), declared_size=entry.mechanism.declared_size)
        if entry.mechanism != wanted:
            raise MessageError("no reservation: the entry is for another mechanism")


def agreed(spec: str) -> str:
    """What a ledger's entry calls a run's settings by: the hash that its permit has, hexadecimal."""
    return policy_hash(spec.encode()).hex()


def _raw(line: str) -> bytes:
    """The entry of a bundle's line; its signature is not asked for, since the signed checkpoint covers the entry."""
    try:
        found = canonical.decode(line.encode())
        return canonical.encode(found["entry"] if isinstance(found, dict) else None)
    except (ValueError, KeyError) as error:  # lone surrogates, too
        raise MessageError(f"its entry is not a ledger's: {error}") from None
