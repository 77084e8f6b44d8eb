"""The server's side of the set-up: it collects and relays, and checks first what every member would refuse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from secagg import primitives, transcript
from secagg.errors import AbandonedError, ConsistencyError, FormatError, ReplayError
from secagg.messages import Advertise, Directory, Encapsulate, Invite, Open
from secagg.primitives import permit_hash, roster_hash
from secagg.roster import Roster
from secagg.thresholds import MIN_COHORT


class Epoch:
    """One epoch of one run, as the server sees it.

    A member whose messages do not hold is left out; one whose messages never came is no member of the epoch.

    Args:
        roster_envelope: signed roster as published.
        roster: the same, read.
        permit_envelope: signed permit as published.
        run: the run's name.
        epoch: at least 1, above every earlier epoch of the run.
        first_round: at least 1, the first round that may be opened.

    Raises:
        FormatError: an envelope is no envelope, or a number is out of range.
    """

    def __init__(
        self,
        roster_envelope: bytes,
        roster: Roster,
        permit_envelope: bytes,
        run: str,
        epoch: int,
        first_round: int,
    ) -> None:
        if epoch < 1 or first_round < 1:
            raise FormatError(f"epoch = {epoch}, first_round = {first_round}: both count from 1")
        self.roster = roster
        self.run = primitives.run_id(run)
        self.number = epoch
        self.first_round = first_round
        self.roster_hash = roster_hash(_payload("roster", roster_envelope))
        self.permit_hash = permit_hash(_payload("permit", permit_envelope))
        self.setup_hash = b""
        self._invite = Invite(
            run=self.run, epoch=epoch, first_round=first_round, roster=roster_envelope, permit=permit_envelope
        ).to_bytes()
        self._advertised: dict[int, Advertise] = {}
        self._directory = b""
        self._encapsulated: dict[int, Encapsulate] = {}
        self._members: tuple[int, ...] | None = None
        self._lists: tuple[Encapsulate, ...] = ()
        # By receiver: (sender, ciphertext).
        self._ciphertexts: dict[int, tuple[tuple[int, bytes], ...]] = {}
        # Who has uploaded once, and so has all of its set-up.
        self.complete: set[int] = set()
        self._last_round = first_round - 1

    def invite(self) -> bytes:
        """Return the message that begins the epoch, the same for everybody."""
        return self._invite

    def add_advertise(self, sender: int, reply: bytes) -> None:
        """Take a member's fresh keys.

        Raises:
            SecaggError: they cannot serve; the member is left out.
        """
        message = Advertise.from_bytes(reply)
        message.require(run=self.run, epoch=self.number, sender=sender)
        message.verify(self.identity(sender))
        primitives.check_public(message.keys)
        if self._advertised.get(sender) == message:
            return
        if self._directory or sender in self._advertised:
            raise ReplayError(f"advertise: member {sender} is late, or has sent other keys before")
        self._advertised[sender] = message

    def directory(self) -> bytes:
        """Return everybody's fresh keys; from now on nobody else can enter.

        Raises:
            AbandonedError: fewer than three members sent theirs.
        """
        if not self._directory:
            if len(self._advertised) < MIN_COHORT:
                raise AbandonedError(
                    f"epoch {self.number}: {len(self._advertised)} members sent keys, {MIN_COHORT} are needed"
                )
            self._advertised = dict(sorted(self._advertised.items()))
            message = Directory(run=self.run, epoch=self.number, entries=tuple(self._advertised.values()))
            self.setup_hash = transcript.setup_hash(
                roster_hash=self.roster_hash,
                permit_hash=self.permit_hash,
                run=self.run,
                epoch=self.number,
                first_round=self.first_round,
                advertisements=message.advertisements(),
            )
            self._directory = message.to_bytes()
        return self._directory

    def add_encapsulate(self, sender: int, reply: bytes) -> None:
        """Take a member's ciphertexts for the members after it: with them it is a member of the epoch.

        Raises:
            SecaggError: they do not hold; the member is left out.
        """
        message = Encapsulate.from_bytes(reply)
        message.require(run=self.run, epoch=self.number, sender=sender)
        message.verify(self.identity(sender))
        if sender not in self._advertised or not self._directory:
            raise ConsistencyError(f"encapsulate: member {sender} is not in the directory")
        if message.setup_hash != self.setup_hash:
            raise ConsistencyError(f"encapsulate: member {sender} has another set-up")
        if [j for j, _ in message.hashes] != [j for j in self._advertised if j > sender]:
            raise ConsistencyError(f"encapsulate: member {sender} lists other members than those after it")
        for (j, h_ct), ciphertext in zip(message.hashes, message.ciphertexts, strict=True):
            if transcript.ciphertext_hash(ciphertext) != h_ct:
                raise ConsistencyError(f"encapsulate: member {sender}: ciphertext for {j} is not the one it signed")
        if self._encapsulated.get(sender) == message:
            return
        if self._members is not None or sender in self._encapsulated:
            raise ReplayError(f"encapsulate: member {sender} is late, or has sent other ciphertexts before")
        self._encapsulated[sender] = message

    @property
    def members(self) -> tuple[int, ...]:
        """Members of the epoch so far, by id; fixed once a round was begun."""
        return tuple(sorted(self._encapsulated)) if self._members is None else self._members

    def begin(self, number: int) -> None:
        """Begin a round; from the first one on nobody else can enter, for all must see the same members.

        Raises:
            ReplayError: a round as high was begun before, or it lies before the epoch's first.
        """
        if number <= self._last_round:
            raise ReplayError(f"round = {number}: must lie above {self._last_round}")
        self._last_round = number
        if self._members is not None:
            return
        self._members = self.members
        self._lists = tuple(self._encapsulated[i] for i in self._members)
        received: dict[int, list[tuple[int, bytes]]] = {}
        for message in self._lists:
            for (j, _), ciphertext in zip(message.hashes, message.ciphertexts, strict=True):
                received.setdefault(j, []).append((message.sender, ciphertext))
        self._ciphertexts = {j: tuple(sent) for j, sent in received.items()}

    def opening(self, member: int, number: int, cohort: tuple[int, ...], *, set_up: bool) -> bytes:
        """Return the message that opens a round, with or without what completes the member's set-up."""
        message = Open(run=self.run, epoch=self.number, round=number, cohort=cohort)
        if set_up:
            message = replace(message, lists=self._lists, ciphertexts=self._ciphertexts.get(member, ()))
        return message.to_bytes()

    def identity(self, member: int) -> bytes:
        """Return a member's identity key.

        Raises:
            ConsistencyError: nobody in the roster has this id.
        """
        found = self.roster.member(member)
        if found is None:
            raise ConsistencyError(f"member {member}: not in the roster; have it admitted")
        return found.key


def _payload(what: str, envelope: bytes) -> bytes:
    """The signed text of an envelope."""
    try:
        document = json.loads(envelope)
    except (ValueError, RecursionError):
        raise FormatError(f"{what}: not a signed document") from None
    if not isinstance(document, Mapping) or not isinstance(document.get("payload"), str):
        raise FormatError(f"{what}: not a signed document")
    return str(document["payload"]).encode()
