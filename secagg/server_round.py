"""The server's side of a round: sum masked vectors as they come, then remove the masks that do not cancel."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secagg import transcript
from secagg.errors import AbandonedError, ConsistencyError, ReplayError
from secagg.masks import add_masks
from secagg.member import Bindings
from secagg.messages import Answer, Confirm, DealtShare, Survivors, Unmask, Upload, Uploaded
from secagg.server_answers import Answers, Faults
from secagg.server_epoch import Epoch
from secagg.thresholds import check_size, confirmations, threshold
from secagg.wire import strictly_increasing


class SealedRound:
    """One round, as the server sees it.

    Uploads are taken until survivors are first asked for, answers until :meth:`finish`. Whatever a member sends is
    checked before it counts; what is refused raises a :class:`SecaggError` and changes nothing but ``faults``.

    Args:
        epoch: with its set-up done.
        round: above every earlier round of the run.
        cohort: members of the epoch, strictly increasing.
        size: length of one member's vector.
        bindings: hashes of what this round trains, as its members will compute them.

    Attributes:
        number, cohort, mode, threshold: of the round.
        faults: who did not follow the protocol, so far.

    Raises:
        FloorError: the cohort is too small or too large.
        ConsistencyError: not members of the epoch.
        ReplayError: the round is not a new one.
    """

    def __init__(self, epoch: Epoch, round: int, cohort: tuple[int, ...], *, size: int, bindings: Bindings) -> None:
        roster = epoch.roster
        if not strictly_increasing(cohort) or not set(cohort) <= set(epoch.members):
            raise ConsistencyError(f"cohort = {cohort}: must be members of the epoch, strictly increasing")
        self.number, self.cohort, self.mode = round, cohort, roster.mode
        self.threshold = threshold(roster.mode, len(cohort), roster.colluders, roster.min_honest)
        check_size(len(cohort), size)
        epoch.begin(round)
        self.faults = Faults()
        self._epoch = epoch
        self._context = bindings.context(
            run=epoch.run,
            epoch=epoch.number,
            number=round,
            mode=roster.mode,
            threshold=self.threshold,
            roster_hash=epoch.roster_hash,
            permit_hash=epoch.permit_hash,
            setup_hash=epoch.setup_hash,
            cohort=cohort,
        )
        self._total = np.zeros(size, np.uint32)
        self._finished = False
        self._uploads: dict[int, Upload] = {}
        self._dealt: dict[int, dict[int, DealtShare]] = {}
        self._survivors: tuple[Uploaded, ...] = ()
        self._confirmed: dict[int, Confirm] = {}
        self._confirmations: tuple[tuple[int, bytes], ...] = ()
        self._answers: Answers | None = None
        # Fixed for the whole round: an opening that is sent again must be the one that was answered.
        self._set_up = {member: member not in epoch.complete for member in cohort}

    @property
    def n(self) -> int:
        """Size of the cohort."""
        return len(self.cohort)

    @property
    def uploaded(self) -> int:
        """How many uploads were taken."""
        return len(self._uploads)

    def opening(self, member: int) -> bytes:
        """Return the message that opens the round for a member of the cohort; the same whenever it is asked for."""
        self._require_in(member, self.cohort, "cohort")
        return self._epoch.opening(member, self.number, self.cohort, set_up=self._set_up[member])

    def add_upload(self, sender: int, reply: bytes) -> None:
        """Check a member's upload and add its vector to the sum; of ``reply`` nothing large is kept.

        Raises:
            SecaggError: it does not hold; the member is left out.
        """
        message = Upload.from_bytes(reply)
        self._require(message, sender, self.cohort)
        if tuple(j for j, _ in message.commitments) != self.cohort:
            raise ConsistencyError(f"upload: member {sender} deals to another cohort")
        vector = message.vector()
        if vector.size != self._total.size:
            raise ConsistencyError(f"upload: member {sender} sends {vector.size} elements, not {self._total.size}")
        if message.parts_hash() != message.h:
            raise ConsistencyError(f"upload: member {sender} signed another hash than that of what it sent")
        known = self._uploads.get(sender)
        if known is not None and known.h == message.h:
            return
        if known is not None or self._survivors:
            raise ReplayError(f"upload: member {sender} is late, or has sent another before")
        np.add(self._total, vector, out=self._total)
        self._uploads[sender] = replace(message, y=b"")
        commitments = dict(message.commitments)
        receivers = [j for j in self.cohort if j != sender]
        for j, ciphertext in zip(receivers, message.shares, strict=True):
            self._dealt.setdefault(j, {})[sender] = DealtShare(sender, commitments[j], ciphertext)
        self._epoch.complete.add(sender)

    def survivors(self) -> tuple[int, ...]:
        """Return who has uploaded; from now on uploads are late.

        Raises:
            AbandonedError: fewer than the threshold.
        """
        self._unmasking()
        return self._asked()

    def confirm_request(self, member: int) -> bytes:
        """Return the message that asks a survivor to confirm the survivors (strict mode).

        Raises:
            AbandonedError: fewer uploads than the threshold.
        """
        self._require_in(member, self.survivors(), "survivors")
        return Survivors(
            run=self._epoch.run, epoch=self._epoch.number, context=self._context, uploads=self._survivors
        ).to_bytes()

    def add_confirm(self, sender: int, reply: bytes) -> None:
        """Check a confirmation.

        Raises:
            SecaggError: it does not hold.
        """
        message = Confirm.from_bytes(reply)
        self._require(message, sender, self._asked())
        uploads = {i: h for i, h, _ in self._survivors}
        if message.survivors_hash != transcript.survivors_hash(self._context, uploads):
            raise ConsistencyError(f"confirm: member {sender} confirms other survivors")
        if self._confirmed.get(sender) == message:
            return
        if self._confirmations or sender in self._confirmed:
            raise ReplayError(f"confirm: member {sender} is late")
        self._confirmed[sender] = message

    def unmask_request(self, member: int) -> bytes:
        """Return the message that asks a survivor to let masks be removed; the same whenever it is asked for.

        Raises:
            AbandonedError: too few uploads or, in strict mode, too few confirmations.
            ConsistencyError: no survivor or, in strict mode, one who has not confirmed: it would refuse.
        """
        self._require_in(member, self.survivors(), "survivors")
        if self.mode == "strict":
            self._fix_confirmations()
            self._require_in(member, self._confirmed, "confirmations")
        dealt = self._dealt.get(member, {})
        return Unmask(
            run=self._epoch.run,
            epoch=self._epoch.number,
            context=self._context,
            uploads=self._survivors,
            confirmations=self._confirmations,
            shares=tuple(dealt[i] for i in sorted(dealt)),
        ).to_bytes()

    def add_answer(self, sender: int, reply: bytes) -> None:
        """Check an answer: what it says of every member, and its shares against their commitments.

        Raises:
            SecaggError: it does not hold; a wrong share convicts the member.
        """
        message = Answer.from_bytes(reply)
        self._require(message, sender, self._asked())
        answers = self._unmasking()
        if self._finished and message not in answers:
            raise ReplayError(f"answer: member {sender} is late")
        answers.add(message)

    def can_finish(self) -> bool:
        """Tell whether enough has been answered to remove the masks."""
        return self._answers is not None and not self._answers.missing()

    def finish(self) -> tuple[NDArray[np.uint32], tuple[int, ...]]:
        """Remove the masks: return the sum, uint32 (size,), and whose vectors are in it.

        Raises:
            AbandonedError: too few uploads or answers, or a dealer's shares determine no seed of a mask (which
                convicts it).
        """
        answers = self._unmasking()
        if not self._finished:
            add_masks(self._total, answers.masks())
            self._finished = True
        return self._total, self.survivors()

    def _asked(self) -> tuple[int, ...]:
        """The survivors, once fixed: what a member sends must not fix them."""
        return tuple(i for i, _, _ in self._survivors)

    def _unmasking(self) -> Answers:
        """Fix the survivors, if they are not yet; return what they have answered."""
        if self._answers is None:
            if len(self._uploads) < self.threshold:
                raise AbandonedError(
                    f"round {self.number}: {len(self._uploads)} of {self.n} members uploaded, {self.threshold} needed"
                )
            uploads = dict(sorted(self._uploads.items()))
            self._survivors = tuple(Uploaded(i, message.h, message.signature) for i, message in uploads.items())
            self._answers = Answers(
                self._context,
                self.cohort,
                uploads,
                threshold=self.threshold,
                colluders=self._epoch.roster.colluders,
                faults=self.faults,
            )
        return self._answers

    def _fix_confirmations(self) -> None:
        """Choose the confirmations that everybody is shown."""
        if not self._confirmations:
            needed = confirmations(self.n, self._epoch.roster.colluders)
            if len(self._confirmed) < needed:
                raise AbandonedError(
                    f"round {self.number}: {len(self._confirmed)} survivors confirmed, {needed} needed"
                )
            self._confirmations = tuple((i, self._confirmed[i].signature) for i in sorted(self._confirmed))

    def _require(self, message: Upload | Confirm | Answer, sender: int, among: tuple[int, ...]) -> None:
        """Refuse a message of another run, epoch, round or sender, or without its sender's signature."""
        self._require_in(sender, among, "cohort or survivors")
        message.require(run=self._epoch.run, epoch=self._epoch.number, sender=sender)
        if message.context != self._context:
            raise ConsistencyError(f"{message.NAME}: member {sender} speaks of another round, or sees it otherwise")
        message.verify(self._epoch.identity(sender))

    def _require_in(self, member: int, among: Container[int], what: str) -> None:
        """Refuse a member that has no part in this."""
        if member not in among:
            raise ConsistencyError(f"round {self.number}: member {member} is not among its {what}")
