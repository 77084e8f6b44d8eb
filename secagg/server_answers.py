"""The server's side of unmasking: what survivors answered, who did not follow the protocol, which masks are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secagg import primitives, shamir, transcript
from secagg.errors import AbandonedError, ConsistencyError, EncodingError, FormatError, ReplayError
from secagg.messages import COMPLAINT, PAIR_SEED, SELF_SHARE, Answer, Entry, Upload
from secagg.primitives import SHARE_BYTES

_NO_SHARE = bytes(SHARE_BYTES)


@dataclass
class Faults:
    """Who did not follow the protocol.

    Attributes:
        convicted: why, by id; each is proven by messages that the member signed, or more members complained of it
            than may collude.
        complaints: ``(complainer, dealer)``: one of the two is at fault, so they should not share a cohort again.
    """

    convicted: dict[int, str] = field(default_factory=dict)
    complaints: set[tuple[int, int]] = field(default_factory=set)


class Answers:
    """Answers of one round whose survivors are fixed.

    Args:
        context: ``ctx``.
        cohort: ids, strictly increasing.
        uploads: of the survivors.
        threshold: ``t``.
        colluders: ``c``.
        faults: where faults are noted.
    """

    def __init__(
        self,
        context: bytes,
        cohort: tuple[int, ...],
        uploads: Mapping[int, Upload],
        *,
        threshold: int,
        colluders: int,
        faults: Faults,
    ) -> None:
        self._context = context
        self._cohort = cohort
        self._uploads = uploads
        self._threshold = threshold
        self._colluders = colluders
        self._faults = faults
        self._commitments = {i: dict(message.commitments) for i, message in uploads.items()}
        self._given: dict[int, Answer] = {}
        # By dealer, then point.
        self._shares: dict[int, dict[int, bytes]] = {i: {} for i in uploads}
        self._seeds: dict[tuple[int, int], bytes] = {}

    def __contains__(self, message: Answer) -> bool:
        return self._given.get(message.sender) == message

    def add(self, message: Answer) -> None:
        """Take an answer whose signature was checked.

        Raises:
            SecaggError: it does not hold; a wrong share convicts the member.
        """
        sender = message.sender
        if tuple(entry.member for entry in message.entries) != self._cohort:
            raise ConsistencyError(f"answer: member {sender} speaks of another cohort")
        shares, seeds, complaints = self._sorted(sender, message.entries)
        for dealer, share in shares.items():
            committed = self._commitments[dealer][sender]
            if transcript.share_commitment(self._context, dealer, sender, share) != committed:
                self._faults.convicted[sender] = f"its share of member {dealer} is not the one that was dealt"
                raise ConsistencyError(f"answer: member {sender}: {self._faults.convicted[sender]}")
        if message in self:
            return
        if sender in self._given:
            raise ReplayError(f"answer: member {sender} has answered otherwise before")
        self._given[sender] = message
        self._seeds |= {(sender, j): seed for j, seed in seeds.items()}
        for dealer, share in shares.items():
            if int.from_bytes(share, "big") < shamir.PRIME:
                self._shares[dealer][sender + 1] = share
            else:
                self._faults.convicted[dealer] = "it committed to a share beyond the prime"
        self._complain(sender, complaints)

    def missing(self) -> str:
        """Return why masks cannot be removed yet, or nothing."""
        short = sorted(j for j, shares in self._shares.items() if len(shares) < self._threshold)
        if short:
            return f"{len(self._given)} answers; the seeds of members {short} lack {self._threshold} shares"
        # Only the two ends of a pair know its seed, and one of them is gone.
        silent = sorted(self._uploads.keys() - self._given.keys())
        if len(self._uploads) < len(self._cohort) and silent:
            return f"members dropped before uploading, and members {silent}, who share seeds with them, are silent"
        return ""

    def masks(self) -> list[tuple[bytes, int]]:
        """Return the masks that are left in the sum, with the signs that remove them.

        Raises:
            AbandonedError: answers are missing, or a dealer's shares determine no seed of a mask, which convicts it.
        """
        if missing := self.missing():
            raise AbandonedError(missing)
        seeds = {j: self._seed(j) for j in self._shares}
        if wrong := sorted(j for j, seed in seeds.items() if seed is None):
            raise AbandonedError(f"members {wrong} dealt shares of no seed; leave them out of the next round")
        masks = [(primitives.self_key(seed, self._context), -1) for seed in seeds.values() if seed is not None]
        for (i, j), seed in self._seeds.items():
            masks.append((primitives.pair_mask_key(seed, self._context), -1 if j > i else 1))
        return masks

    def _seed(self, dealer: int) -> bytes | None:
        """The seed of a survivor's own mask, or None, and the dealer convicted, if its shares determine none."""
        points = sorted(self._shares[dealer])[: self._threshold]
        try:
            seed = shamir.reconstruct({point: self._shares[dealer][point] for point in points})
            if transcript.self_seed_hash(self._context, seed) == self._uploads[dealer].seed_hash:
                return seed
        except EncodingError:
            pass
        self._faults.convicted[dealer] = "the shares it committed to determine another seed, or none"
        return None

    def _sorted(self, sender: int, entries: tuple[Entry, ...]) -> tuple[dict[int, bytes], dict[int, bytes], list[int]]:
        """Shares, seeds and complaints of an answer; refuses what an answer must not say of a member."""
        shares, seeds, complaints = {}, {}, []
        for j, kind, content in entries:
            if j not in self._uploads and kind == PAIR_SEED and content[0] == 0:
                seeds[j] = content[1:]
            elif j in self._uploads and kind == SELF_SHARE:
                shares[j] = content
            elif j in self._uploads and kind == COMPLAINT and content == _NO_SHARE and j != sender:
                complaints.append(j)
            else:
                raise FormatError(f"answer: member {sender} says of member {j} what it must not")
        return shares, seeds, complaints

    def _complain(self, sender: int, dealers: list[int]) -> None:
        """Note complaints; more of one dealer than may collude cannot all be lies, and one alone proves nothing."""
        self._faults.complaints |= {(sender, dealer) for dealer in dealers}
        for dealer in dealers:
            number = sum(accused == dealer for _, accused in self._faults.complaints)
            if number > max(self._colluders, 1):
                self._faults.convicted[dealer] = f"{number} members complain of its shares"
