"""What a member keeps of one epoch: fresh keys until the first round, pair keys, and the round under way.

These are secrets: on disk in a file that only the member reads, replaced whole at every step. Whoever reads the
file can unmask the member's vector of the round under way, but of no round that is closed: those keys are erased.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from secagg.errors import FormatError, StateError
from secagg.messages import Upload
from secagg.primitives import digest
from secagg.records import Pins, RunRecord, pack, unpack
from secagg.thresholds import Mode

KIND = "confide-epoch-1"


def fingerprint(request: bytes) -> bytes:
    """Return what identifies a request among those answered."""
    return digest("confide/request/v1", request)


class Kept(NamedTuple):
    """A reply that was given, and the fingerprint of the request it answers."""

    request: bytes
    reply: bytes


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What roster and permit fix for a run, and their hashes; ``issued`` and ``expires`` bound both documents."""

    roster_hash: bytes
    permit_hash: bytes
    policy: bytes
    mode: Mode
    colluders: int
    min_honest: int
    range_max: float
    max_rounds: int
    issued: int
    expires: int


@dataclass(frozen=True, kw_only=True, repr=False)
class RoundState:
    """The round in which a member uploaded last.

    Attributes:
        number: the round.
        opening: fingerprint of the opening that was answered.
        context: ``ctx``.
        cohort: ids, strictly increasing.
        threshold: ``t``.
        h: hash of the own upload.
        own_share: own share of the own seed (33 bytes); empty once the round is closed.
        upload: fingerprint of the upload message up to the masked vector.
        confirmed: the confirmation given, in strict mode.
        answered: the answer given.
    """

    number: int
    opening: bytes
    context: bytes
    cohort: tuple[int, ...]
    threshold: int
    h: bytes
    own_share: bytes
    upload: bytes
    confirmed: Kept | None = None
    answered: Kept | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class EpochState:
    """A member's state of one epoch. Immutable: each step returns the next.

    Attributes:
        run: 32 bytes.
        epoch: counts from 1.
        me: own id.
        first_round: the round that pair keys start from.
        terms: what roster and permit fix.
        identities: Ed25519 public keys by id; of the roster, after the directory of its members.
        private: the epoch's own private keys; empty after the first opening.
        advertised: reply to the invite; dropped, like the next, with the first upload.
        encapsulated: reply to the directory.
        setup_hash: hash of the set-up; empty before the directory.
        exchanged: X25519 secrets with members before me; empty after the first opening.
        members: members of the epoch; empty before the first opening.
        setup_part: fingerprint of the lists and ciphertexts that came with the first opening.
        pair_keys: ``k_ij(key_round)`` by the other's id.
        key_round: which round's keys they are.
        round: the round of the last upload.
        upload_reply: that upload, kept beside the state because it is large.
    """

    run: bytes
    epoch: int
    me: int
    first_round: int
    terms: Terms
    identities: Mapping[int, bytes]
    private: bytes
    advertised: Kept | None
    encapsulated: Kept | None = None
    setup_hash: bytes = b""
    exchanged: Mapping[int, bytes] = field(default_factory=dict)
    members: tuple[int, ...] = ()
    setup_part: bytes = b""
    pair_keys: Mapping[int, bytes] = field(default_factory=dict)
    key_round: int
    round: RoundState | None = None
    upload_reply: bytes = b""

    def to_bytes(self) -> bytes:
        """Return what :meth:`from_bytes` reads: all but ``upload_reply``."""
        document = _plain(self)
        del document["upload_reply"]
        return pack(KIND, document)

    @classmethod
    def from_bytes(cls, data: bytes, *, upload_reply: bytes = b"") -> EpochState:
        """Read a state; without ``upload_reply`` all works but giving the upload a second time.

        Raises:
            StateError: damaged, or the reply is not this state's. A new epoch mends both.
        """
        document = unpack(KIND, data)
        try:
            state = _epoch(document, upload_reply)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise StateError(f"{KIND}: written by another version; wait for a new epoch") from None
        if upload_reply:
            _check_upload(upload_reply, state)
        return state


def check_current(pins: Pins, state: EpochState) -> RunRecord:
    """Return the record of the state's run, if records and state were last written together.

    Raises:
        StateError: one of them was restored from an older copy, or another epoch has begun since.
    """
    record = pins.record(state.run)
    if record.epoch != state.epoch:
        raise StateError(f"epoch = {state.epoch}: epoch {record.epoch} was entered; wait for a new epoch")
    last = state.round
    if last is not None and (
        last.number != record.uploaded_round
        or (last.answered is None) == (record.answered_round == last.number)
        or (last.confirmed is None) == (record.confirmed_round == last.number)
    ):
        raise StateError("state and records disagree: one was restored from an older copy; wait for a new epoch")
    return record


def _check_upload(reply: bytes, state: EpochState) -> None:
    """Refuse an upload message that is not the one of the state's round."""
    try:
        message = Upload.from_bytes(reply)
    except FormatError:
        raise StateError("upload_reply: damaged; wait for a new epoch") from None
    # The signed part of the head has the hash of everything else.
    if state.round is None or fingerprint(message.head()) != state.round.upload or message.parts_hash() != message.h:
        raise StateError("upload_reply: not the upload that this state speaks of; wait for a new epoch")


def _plain(value: Any) -> Any:
    """A value as JSON has it: bytes as hexadecimal digits, keys as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Terms | RoundState | EpochState):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value


def _epoch(document: dict[str, Any], upload_reply: bytes) -> EpochState:
    """An epoch's state from JSON."""
    plain = document.copy()
    for name in ("run", "private", "setup_hash", "setup_part"):
        plain[name] = bytes.fromhex(plain[name])
    for name in ("identities", "exchanged", "pair_keys"):
        plain[name] = {int(key): bytes.fromhex(item) for key, item in plain[name].items()}
    for name in ("advertised", "encapsulated"):
        plain[name] = _kept(plain[name])
    plain["terms"] = _terms(plain["terms"])
    plain["members"] = tuple(plain["members"])
    plain["round"] = None if plain["round"] is None else _round(plain["round"])
    return EpochState(**plain, upload_reply=upload_reply)


def _terms(document: dict[str, Any]) -> Terms:
    """Terms from JSON."""
    hashes = {name: bytes.fromhex(document[name]) for name in ("roster_hash", "permit_hash", "policy")}
    return Terms(**document | hashes)


def _round(document: dict[str, Any]) -> RoundState:
    """A round's state from JSON."""
    plain = document.copy()
    for name in ("opening", "context", "h", "own_share", "upload"):
        plain[name] = bytes.fromhex(plain[name])
    for name in ("confirmed", "answered"):
        plain[name] = _kept(plain[name])
    plain["cohort"] = tuple(plain["cohort"])
    return RoundState(**plain)


def _kept(document: list[str] | None) -> Kept | None:
    """A reply from JSON."""
    if document is None:
        return None
    request, reply = document
    return Kept(bytes.fromhex(request), bytes.fromhex(reply))
