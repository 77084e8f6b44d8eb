"""A department's part in sealed sums: the protocol of :mod:`secagg`, on this machine's state.

Every step reads the state, checks, makes the new state durable and only then answers, under one lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.errors import RefusalError
from client.vault import Vault
from secagg import client as member
from secagg.client import EpochState, Me, Opened
from secagg.errors import (
    ClockError,
    FloorError,
    FormatError,
    PermitError,
    RosterError,
    SecaggError,
    StateError,
)
from secagg.messages import Directory, Invite, Survivors, Unmask
from secagg.primitives import policy_hash, run_id
from secagg.records import Pins
from secagg.wire import MAGIC
from strategies.binding import bindings_of
from strategies.lanes import largest_bound
from strategies.settings import RunSettings
from strategies.status import Status
from strategies.wire import Instruction, SealedStep

STATUS: dict[type[SecaggError], Status] = {
    StateError: Status.NEEDS_SETUP,
    ClockError: Status.CLOCK_WRONG,
    FloorError: Status.BELOW_FLOORS,
    RosterError: Status.ROSTER_REFUSED,
    PermitError: Status.ROSTER_REFUSED,
    FormatError: Status.BAD_MESSAGE,
}


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """This machine's identity and state for sealed sums. ``now`` gives unix seconds."""

    me: Me
    vault: Vault
    now: Callable[[], int] = lambda: int(time.time())

    def step(self, step: SealedStep) -> bytes:
        """Answer set-up, confirmation or unmasking; raises :class:`RefusalError`."""
        with refusals(), self.vault.locked():
            run = run_id(step.run)
            pins, state = self.vault.load(run)
            pins, state, reply = self._answer(step, pins, state)
            self.vault.keep(run, pins, state)
        return reply

    def check_set_up(self, run: str, spec: str) -> None:
        """Refuse a run that was not set up here, or with other settings than its permit's."""
        with refusals(), self.vault.locked():
            _, state = self.vault.load(run_id(run))
            if state is None:
                raise StateError("no set-up of this run is known here; a new one is needed")
            check_permitted(state, spec)

    def _answer(self, step: SealedStep, pins: Pins, state: EpochState | None) -> tuple[Pins, EpochState, bytes]:
        """The protocol's answer to one message."""
        kind = step.message[len(MAGIC)] if step.message[: len(MAGIC)] == MAGIC and step.message[len(MAGIC) :] else None
        if kind == Invite.TYPE:
            return member.advertise(
                self.me,
                pins,
                step.message,
                run=step.run,
                policy=policy_hash(step.spec.encode()),
                now=self.now(),
                state=state,
            )
        if state is None:
            raise StateError("no set-up of this run is known here; a new one is needed")
        check_permitted(state, step.spec)
        if kind == Directory.TYPE:
            state, reply = member.encapsulate(self.me, state, step.message)
            return pins, state, reply
        if kind == Survivors.TYPE:
            return member.confirm(self.me, pins, state, step.message)
        if kind == Unmask.TYPE:
            return member.unmask(self.me, pins, state, step.message)
        raise FormatError(f"message type {kind}: not one that a member answers by itself")

    @contextmanager
    def opened(self, instruction: Instruction, settings: RunSettings) -> Iterator[OpenRound]:
        """Check that a round may be answered, and hold the state until its vector is sealed.

        Raises :class:`RefusalError`, before any record is read.
        """
        if instruction.opening is None:
            raise RefusalError(Status.SEALING_REFUSED, "the run asks for a vector in clear; nothing leaves")
        with self.vault.locked():
            with refusals():
                run = run_id(instruction.run)
                pins, state = self.vault.load(run, upload=True)
                if state is None:
                    raise StateError("no set-up of this run is known here; a new one is needed")
                check_permitted(state, instruction.spec)
                state, opened = member.open_round(self.me, pins, state, instruction.opening, now=self.now())
                self._check(instruction, settings, opened)
                if opened.reply is None:
                    self.vault.keep(run, pins, state)  # the set-up's private keys are gone from now on
            yield OpenRound(sealing=self, run=run, pins=pins, state=state, opened=opened)

    def _check(self, instruction: Instruction, settings: RunSettings, opened: Opened) -> None:
        """Refuse a round that contradicts its instruction, or a run that the roster does not allow."""
        if opened.round != instruction.round:
            raise FormatError(f"round {instruction.round} was opened as round {opened.round}")
        if settings.secagg.mode == "strict" and opened.mode != "strict":
            raise RosterError(f'secagg.mode = "strict": the roster says "{opened.mode}"')
        widest = largest_bound(settings)
        if widest > opened.range_max:
            raise RosterError(f"secagg.update_range: bounds up to {widest:g}; the roster allows {opened.range_max:g}")


@dataclass(frozen=True, kw_only=True)
class OpenRound:
    """A round that may be answered once."""

    sealing: Sealing
    run: bytes
    pins: Pins
    state: EpochState
    opened: Opened

    def check_same(self, instruction: Instruction, layout: bytes) -> None:
        """Refuse to answer again where anything but the opening differs from what was answered.

        The bytes would be the same, but the ledger would write down another model beside them, or that they are of
        no training at all.
        """
        state, opened = self.state, self.opened
        context = bindings_of(instruction, layout).context(
            run=state.run,
            epoch=state.epoch,
            number=opened.round,
            mode=state.terms.mode,
            threshold=opened.threshold,
            roster_hash=state.terms.roster_hash,
            permit_hash=state.terms.permit_hash,
            setup_hash=state.setup_hash,
            cohort=opened.cohort,
        )
        if state.round is None or state.round.context != context:
            raise RefusalError(
                Status.ROUND_ALREADY_ANSWERED,
                f"round {opened.round}: was answered already, and is asked again otherwise; nothing leaves",
            )

    def seal(self, instruction: Instruction, layout: bytes, vector: npt.NDArray[np.uint32]) -> bytes:
        """Mask the encoded vector and make that durable; the message that may leave. ``vector`` is used up."""
        with refusals():
            pins, state, reply = member.upload(
                self.sealing.me, self.pins, self.state, self.opened, bindings_of(instruction, layout), vector
            )
            self.sealing.vault.keep(self.run, pins, state)
        return reply


def check_permitted(state: EpochState, spec: str) -> None:
    """Refuse settings other than those that the permit of the set-up is for: before anything is done by them."""
    if policy_hash(spec.encode()) != state.terms.policy:
        raise PermitError("spec: other settings than the permit's; have these settings permitted")


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a refusal of the protocol into one whose status may leave."""
    try:
        yield
    except SecaggError as error:
        status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), Status.SEALING_REFUSED)
        raise RefusalError(status, f"{type(error).__name__}: {error}") from None
