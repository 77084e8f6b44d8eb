"""The coordinator's side of sealed sums: set-up once an epoch, then two or three exchanges a round.

It relays what :mod:`secagg.server` makes and learns sums alone. An epoch is set up with every department that is
present; a new one when somebody new came, or somebody lost its keys.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from models.task import Task
from secagg.errors import FloorError, SecaggError
from secagg.roster import Roster
from secagg.server import Epoch, SealedRound
from secagg.thresholds import MIN_COHORT, threshold
from strategies.binding import bindings_of
from strategies.errors import MessageError, RunFailedError, RunStoppedError
from strategies.exchange import Gathered, exchange
from strategies.lanes import Layout, sealed_encoding, sealed_total
from strategies.settings import RunSettings
from strategies.state import RunState
from strategies.status import Status
from strategies.sums import Summed
from strategies.wire import Instruction, SealedStep, read_sealed

logger = logging.getLogger("confide.strategies")

# Who has not answered a set-up's exchange by then is set up later.
SETUP_SECONDS = 60.0
# A set-up that leaves too few departments is tried again, after pauses that double up to the longest.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# Who failed at a set-up is invited again after this many rounds, or when somebody new comes.
SECOND_CHANCE_ROUNDS = 5
# Failures that may pass by themselves; all others are refusals.
TRANSIENT = ("no answer", "went away", "could not be sent", "flower-error")
OUTSIDE = "not in the roster"


@dataclass(frozen=True, kw_only=True)
class Envelopes:
    """The signed documents a sealed run needs: what members check, and what the coordinator relays.

    ``governance`` is the public key (32 bytes) that both are signed with.
    """

    governance: bytes
    roster: bytes
    permit: bytes


@dataclass(kw_only=True)
class _Keyed:
    """An epoch that was set up: who is in it, and who failed to be."""

    epoch: Epoch
    nodes: dict[int, int]
    failed: dict[int, str]
    since: int
    lost: bool = False


@dataclass(kw_only=True)
class SealedSums:
    """Sums of sealed vectors over a Flower grid.

    ``durable(state)`` is called before an epoch number is used; ``expires`` is when roster or permit end, unix seconds.
    """

    grid: Grid
    settings: RunSettings
    run: str
    spec: str
    task: Task
    layout: Layout
    roster: Roster
    envelopes: Envelopes
    expires: int
    stopped: Callable[[], bool]
    durable: Callable[[RunState], None]
    _keyed: _Keyed | None = None
    _pause: float = 0.0

    @property
    def smallest(self) -> int:
        """The smallest cohort whose members accept it under this roster."""
        roster = self.roster
        for n in range(MIN_COHORT, len(roster.members) + 1):
            with suppress(FloorError):
                threshold(roster.mode, n, roster.colluders, roster.min_honest)
                return n
        raise RunFailedError(
            f"version {roster.version} of the roster has {len(roster.members)} members, too few for sealed sums with "
            f"{roster.colluders} colluders assumed and sums of at least {roster.min_honest} honest departments"
        )

    def ready(self, state: RunState, present: Mapping[int, str], needed: int) -> Mapping[int, str]:
        """Set an epoch up if that is needed; the departments of it that are present and may share a cohort."""
        if time.time() >= self.expires:
            raise RunFailedError(
                "the roster or the permit of this run has expired: every department refuses; "
                'renew the roster ("confide federation renew") or have the run permitted anew, and resume it'
            )
        if not self._needs_setup(state, present, needed):
            return self._usable(state, present)
        self._sleep(self._pause)
        keyed = self._keyed = self._set_up(state, present, needed)
        usable = self._usable(state, present)
        if len(usable) >= needed:
            self._pause = 0.0
            return usable
        hopeless = {n: reason for n, reason in keyed.failed.items() if not reason.startswith(TRANSIENT)}
        hopeless |= {node: "left out for cheating" for node, name in present.items() if name in state.convicted}
        hopeless |= dict.fromkeys(set(keyed.nodes) - set(usable) - set(hopeless), "quarrels with another department")
        if len(present) - len(hopeless) < needed and self._pause > 0:
            # Twice in a row, and not because somebody was slow: waiting would not help.
            hint = (
                "; roster-refused: another run was permitted since, or the roster is old: stop this run and resume it"
                if Status.ROSTER_REFUSED in hopeless.values()
                else ""
            )
            raise RunFailedError(
                f"{len(usable)} departments could be set up for sealed sums, {needed} are needed: "
                + "; ".join(f"{present[node]}: {reason}" for node, reason in hopeless.items())
                + hint
            )
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        return usable

    def gather(self, state: RunState, cohort: Mapping[int, str], instruction: Instruction, quorum: int) -> Summed:
        """Open a round for the cohort, gather sealed vectors, and unmask their sum."""
        if self._keyed is None:
            raise RunFailedError("a round was begun without a set-up")
        return _Round(sums=self, keyed=self._keyed, state=state, cohort=cohort).go(instruction, quorum)

    def step(
        self,
        messages: Mapping[int, bytes],
        read: Callable[[int, bytes], None],
        *,
        quorum: int,
        deadline: float,
        enough: Callable[[], bool] = lambda: False,
    ) -> Gathered[None]:
        """One small exchange; ``read`` takes a node's reply and raises what leaves it out."""
        return exchange(
            self.grid,
            {
                node: SealedStep(run=self.run, spec=self.spec, message=message).to_record()
                for node, message in messages.items()
            },
            read=lambda node, reply: taken(read, node, reply),
            deadline=deadline,
            quorum=quorum,
            stopped=self.stopped,
            enough=enough,
        )

    def _needs_setup(self, state: RunState, present: Mapping[int, str], needed: int) -> bool:
        """Whether there is no epoch, somebody lost its keys, somebody new is here, or too few are left."""
        keyed = self._keyed
        if keyed is None or keyed.lost:
            return True
        newcomers = set(present) - set(keyed.nodes) - set(keyed.failed)
        members = {node for node, reason in keyed.failed.items() if reason != OUTSIDE}
        again = state.round - keyed.since >= SECOND_CHANCE_ROUNDS and set(present) & members
        return bool(newcomers or again) or len(self._usable(state, present)) < needed

    def _set_up(self, state: RunState, present: Mapping[int, str], needed: int) -> _Keyed:
        """Two exchanges with everybody present who is in the roster."""
        nodes, failed = self._members(present)
        state.epoch += 1
        self.durable(state)  # a member refuses an epoch number that it has seen
        epoch = Epoch(
            roster=self.roster,
            roster_envelope=self.envelopes.roster,
            permit_envelope=self.envelopes.permit,
            run=self.run,
            epoch=state.epoch,
            first_round=state.round + 1,
        )
        deadline = self.settings.strategy.deadline
        # Whoever still trains for another run answers when it is done: the second attempt waits for it.
        patience = deadline if self._pause > FIRST_PAUSE_SECONDS else min(deadline, SETUP_SECONDS)
        gathered = self.step(
            dict.fromkeys(nodes, epoch.invite()),
            lambda node, reply: epoch.add_advertise(nodes[node], reply),
            quorum=needed,
            deadline=patience,
        )
        failed |= gathered.failures
        members: dict[int, int] = {}
        if len(gathered.answers) >= MIN_COHORT:
            gathered = self.step(
                dict.fromkeys(gathered.answers, epoch.directory()),
                lambda node, reply: epoch.add_encapsulate(nodes[node], reply),
                quorum=needed,
                deadline=patience,
            )
            failed |= gathered.failures
            members = {node: nodes[node] for node in gathered.answers}
        for node, reason in failed.items():
            logger.warning("epoch %d: %s is not set up: %s", state.epoch, present[node], reason)
        return _Keyed(epoch=epoch, nodes=members, failed=failed, since=state.round)

    def _members(self, present: Mapping[int, str]) -> tuple[dict[int, int], dict[int, str]]:
        """Each present node's id in the roster, or why it has none."""
        nodes: dict[int, int] = {}
        failed = {}
        for node, name in present.items():
            member = self.roster.named(name)
            if member is None:
                failed[node] = OUTSIDE
            elif member.id in nodes.values():
                failed[node] = "connected twice"
            else:
                nodes[node] = member.id
        return nodes, failed

    def _usable(self, state: RunState, present: Mapping[int, str]) -> dict[int, str]:
        """Members of the epoch that are present, without the convicted and without one of each quarrelling pair."""
        if self._keyed is None:
            return {}
        usable = {
            node: present[node]
            for node in self._keyed.nodes
            if node in present and present[node] not in state.convicted
        }
        while quarrels := _quarrels(state, usable.values()):
            # Whoever has most of them, so that one that accuses many does not cost the run all of those.
            worst = max(quarrels, key=lambda name: (quarrels[name], name))
            usable = {node: name for node, name in usable.items() if name != worst}
        return usable

    def _sleep(self, seconds: float) -> None:
        """Wait, unless the run is asked to stop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.stopped():
                raise RunStoppedError("the run was asked to stop")
            time.sleep(0.05)


@dataclass(kw_only=True)
class _Round:
    """One round's exchanges."""

    sums: SealedSums
    keyed: _Keyed
    state: RunState
    cohort: Mapping[int, str]
    failures: dict[int, str] = field(default_factory=dict)
    legs: list[float] = field(default_factory=list)

    def go(self, instruction: Instruction, quorum: int) -> Summed:
        """Training, confirmation where the mode is strict, unmasking."""
        nodes = {node: self.keyed.nodes[node] for node in self.cohort}
        try:
            encoding = sealed_encoding(self.sums.settings, self.sums.layout, self.sums.task, len(nodes))
            sealed = SealedRound(
                self.keyed.epoch,
                instruction.round,
                tuple(sorted(nodes.values())),
                size=encoding.size,
                bindings=bindings_of(instruction, encoding.describe()),
            )
        except SecaggError as error:
            return self._abandoned(str(error))
        try:
            needed = max(quorum, sealed.threshold)
            uploaded = self._train(sealed, nodes, instruction, needed)
            if len(uploaded) < needed:
                return self._abandoned(
                    f"{len(uploaded)} of {len(nodes)} departments answered, the quorum is {quorum} "
                    f"and sealed sums need {sealed.threshold}"
                )
            if self.sums.roster.mode == "strict":
                uploaded = self._small(uploaded, sealed.confirm_request, sealed.add_confirm, sealed.threshold)
            self._small(uploaded, sealed.unmask_request, sealed.add_answer, sealed.threshold, sealed.can_finish)
            total, contributors = sealed.finish()
            summed = sealed_total(self.sums.settings, encoding, total, len(contributors))
        except SecaggError as error:
            return self._abandoned(str(error))
        finally:
            self._judge(sealed)
        answered = tuple(node for node, member in nodes.items() if member in contributors)
        return Summed(answered=answered, failures=self.failures, total=summed, legs=tuple(self.legs))

    def _train(
        self, sealed: SealedRound, nodes: Mapping[int, int], instruction: Instruction, needed: int
    ) -> dict[int, int]:
        """The large exchange; the nodes whose vector is in the sum."""
        contents: dict[int, RecordDict] = {
            node: dataclasses.replace(instruction, opening=sealed.opening(member)).to_record()
            for node, member in nodes.items()
        }
        gathered = exchange(
            self.sums.grid,
            contents,
            read=lambda node, reply: taken(lambda n, message: sealed.add_upload(nodes[n], message), node, reply),
            deadline=self.sums.settings.strategy.deadline,
            quorum=needed,
            stopped=self.sums.stopped,
        )
        self._note(gathered)
        return {node: nodes[node] for node in gathered.answers}

    def _small(
        self,
        nodes: Mapping[int, int],
        request: Callable[[int], bytes],
        add: Callable[[int, bytes], None],
        quorum: int,
        enough: Callable[[], bool] = lambda: False,
    ) -> dict[int, int]:
        """Confirmation or unmasking: who fails here is still in the sum if the others suffice. Returns who did not."""
        gathered = self.sums.step(
            {node: request(member) for node, member in nodes.items()},
            lambda node, message: add(nodes[node], message),
            quorum=quorum,
            # As patient as for training: a department that trains for another run answers when it is done.
            deadline=self.sums.settings.strategy.deadline,
            enough=enough,
        )
        self.legs.append(gathered.seconds)
        for node, reason in gathered.failures.items():
            logger.warning("%s fell silent after its upload: %s", self.cohort[node], reason)
        return {node: nodes[node] for node in gathered.answers}

    def _note(self, gathered: Gathered[None]) -> None:
        """Take over what a large exchange says of itself."""
        self.legs.append(gathered.seconds)
        self.failures |= gathered.failures
        self.keyed.lost |= Status.NEEDS_SETUP in gathered.failures.values()

    def _judge(self, sealed: SealedRound) -> None:
        """Remember who was convicted, and who does not share a cohort again.

        Complaints alone convict nobody in one round: where it is one's word against another's, either may lie. But
        no honest department quarrels with more than the assumed colluders, over the whole run.
        """
        names = {member: self.cohort[node] for node, member in self.keyed.nodes.items() if node in self.cohort}
        state, colluders = self.state, self.sums.roster.colluders
        for member, reason in sealed.faults.convicted.items():
            logger.error("%s is left out from now on: %s", names[member], reason)
            state.convicted.add(names[member])
        for pair in sealed.faults.complaints:
            both = " and ".join(names[member] for member in pair)
            logger.warning("%s: one of them dealt or complained falsely", both)
            if colluders > 0:  # where nobody is assumed to lie, nothing tells the liar from the other
                state.apart.add(frozenset(names[member] for member in pair))
        for name, count in _quarrels(state, names.values()).items():
            if count > colluders:
                logger.error("%s is left out from now on: it quarrels with %d departments", name, count)
                state.convicted.add(name)

    def _abandoned(self, reason: str) -> Summed:
        """A round without a sum."""
        return Summed(
            answered=(), failures=self.failures, total=None, legs=tuple(self.legs) or (0.0,), abandoned=reason
        )


def _quarrels(state: RunState, names: Iterable[str]) -> Counter[str]:
    """With how many of the others each of them does not share a cohort; who has no quarrel is not in it."""
    among = set(names)
    return Counter(name for pair in state.apart if pair <= among for name in pair)


def taken(read: Callable[[int, bytes], None], node: int, reply: Message) -> None:
    """Let ``read`` take a reply's sealed message; its refusal becomes the reason to leave the node out."""
    try:
        read(node, read_sealed(reply))
    except SecaggError as error:
        raise MessageError(f"{type(error).__name__}: {error}") from None
