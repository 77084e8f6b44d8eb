"""A data set's account: what a run will cost is written into this machine's ledger before a record is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from client.errors import RefusalError
from client.statuses import status_of
from privacy import notes
from privacy.book import Registration
from privacy.costs import Mechanism
from privacy.errors import PolicyRefusal, ReservationError
from privacy.ledger import Ledger
from privacy.reservation import Reservation
from strategies.accounts import agreed
from strategies.agreement import plan_for
from strategies.settings import RunSettings
from strategies.status import Status
from strategies.wire import Instruction, LedgerStep, Statement, to_bytes


@dataclass(frozen=True, kw_only=True)
class Account:
    """The ledger and the data set that pays. Whatever it refuses is a :class:`privacy.errors.PrivacyError`."""

    ledger: Ledger
    dataset: str

    def check(self, settings: RunSettings, run: str) -> None:
        """Refuse a run that :meth:`reserve` would refuse; nothing is written."""
        table = self.ledger.policy().dataset(self.dataset)
        if table is None:
            raise PolicyRefusal(
                f"data set {self.dataset}: the policy in force has no table for it, so nothing is allowed; add one and "
                'sign it with "confide privacy policy sign"'
            )
        if not settings.privacy.on:
            if not table.allow_without_privacy:
                raise RefusalError(
                    Status.REFUSED_BY_POLICY,
                    'the run asks for privacy = "off"; to permit it, set allow_without_privacy = true for data set '
                    f"{self.dataset} in the policy and sign it",
                )
            return
        plan = plan_for(settings, declared_size=self._declared_size())
        if plan is not None:
            self.ledger.check(plan, self.dataset, run=run, model=settings.model.name)

    def reserve(self, settings: RunSettings, run: str, spec: str) -> Reservation:
        """Write the whole run's cost down, durably, or find it written down; the ledger judges it as it does so."""
        plan = plan_for(settings, declared_size=self._declared_size())
        if plan is None:
            return self.ledger.override(self.dataset, run, spec=agreed(spec))
        return self.ledger.reserve(plan, self.dataset, run, model=settings.model.name, spec=agreed(spec))

    def state(self, step: LedgerStep, settings: RunSettings) -> Statement:
        """Reserve or settle as the coordinator asks, take its cosignature, and prove what was written.

        Raises :class:`privacy.errors.LedgerBehind` where the coordinator has seen more of this ledger than there is.
        """
        ledger, known = self.ledger, 0
        if step.note:
            ledger.witnessed(step.note, name=step.witness, key=step.key)
            known = notes.parse(step.note).size
        reservation = ledger.reservation(step.run)
        if not step.closing:
            reservation = self.reserve(settings, step.run, step.spec)
        seq = ledger.reserve_seq(step.run) if reservation is None else reservation.seq
        if seq is None:
            raise ReservationError(f"run {step.run}: nothing was reserved for it here, so there is nothing to settle")
        if step.closing and reservation is not None:
            reservation.settle()
        checkpoint = ledger.checkpoint()
        size = notes.parse(checkpoint).size  # whatever another process appends now is not in it
        return Statement(
            checkpoint=checkpoint,
            key=ledger.key,
            proof=tuple(ledger.consistency(known, size)) if step.note else (),
            entry=ledger.entry(seq),
            seq=seq,
            inclusion=tuple(ledger.inclusion(seq, size)),
            rounds_left=self._rounds_left(settings),
        )

    def min_cohort(self) -> int:
        """How many departments a sealed round must have at least, by the policy."""
        table = self.ledger.policy().dataset(self.dataset)
        return 0 if table is None or table.min_cohort is None else table.min_cohort

    def _rounds_left(self, settings: RunSettings) -> int:
        """How many more rounds of such a run would be admitted."""
        plan = plan_for(settings, declared_size=self._declared_size())
        return 0 if plan is None else self.ledger.rounds_left(self.dataset, Mechanism.from_plan(plan))

    def _declared_size(self) -> int:
        """The public size that the data set was registered with."""
        return registered(self.ledger, self.dataset).declared_size


def registered(ledger: Ledger, dataset: str) -> Registration:
    """A data set as the ledger knows it; raises :class:`PolicyRefusal` where it does not."""
    known = ledger.registration(dataset)
    if known is None:
        raise PolicyRefusal(
            f'data set {dataset}: not registered in the ledger; "confide privacy dataset update {dataset}" does it'
        )
    return known


def model_digest(instruction: Instruction) -> str:
    """SHA-256 of what a department was sent to train from, hexadecimal."""
    received = hashlib.sha256(to_bytes(instruction.model))
    if instruction.control is not None:
        received.update(to_bytes(instruction.control))
    return received.hexdigest()


@contextmanager
def abandoning(reservation: Reservation | None, number: int) -> Iterator[None]:
    """Write down that a round failed, and with which word: a status may depend on data, and no noise covers it."""
    try:
        yield
    except Exception as error:
        status = status_of(error)
        # That a round was answered before is no fact about data, and a release is on record itself.
        if (
            reservation is not None
            and status is not Status.ROUND_ALREADY_ANSWERED
            and reservation.released(number) is None
        ):
            reservation.abandon(number, str(status))
        raise
