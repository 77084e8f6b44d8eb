"""A member's side of a round, second half: confirming survivors, and letting their masks be removed."""

from __future__ import annotations

from dataclasses import replace

from secagg import primitives, transcript
from secagg.errors import ConsistencyError, FloorError, ReplayError, SignatureError, StateError
from secagg.member import Me
from secagg.messages import (
    COMPLAINT,
    PAIR_SEED,
    SELF_SHARE,
    Answer,
    Confirm,
    DealtShare,
    Entry,
    Survivors,
    Unmask,
    Upload,
)
from secagg.primitives import SHARE_BYTES, ratchet
from secagg.records import Pins
from secagg.state import EpochState, Kept, RoundState, check_current, fingerprint
from secagg.thresholds import confirmations

_NO_SHARE = bytes(SHARE_BYTES)


def confirm(me: Me, pins: Pins, state: EpochState, request: bytes) -> tuple[Pins, EpochState, bytes]:
    """Sign who survived, once a round (strict mode).

    Returns:
        Pins and state to keep durably, then the reply to send.

    Raises:
        SecaggError: the request is refused; nothing has changed.
    """
    record = check_current(pins, state)
    message = Survivors.from_bytes(request)
    message.require(run=state.run, epoch=state.epoch)
    under_way = _round(state, message.context)
    asked = fingerprint(request)
    if under_way.confirmed is not None and under_way.confirmed.request == asked:
        return pins, state, under_way.confirmed.reply
    if record.confirmed_round >= under_way.number:
        raise ReplayError(f"survivors: round {record.confirmed_round} was confirmed; survivors do not change")
    if state.terms.mode != "strict":
        raise ConsistencyError("survivors: the roster's mode is not strict; send unmask")
    hashed = _check_survivors(state, under_way, message)

    reply = (
        Confirm(run=state.run, epoch=state.epoch, sender=state.me, context=under_way.context, survivors_hash=hashed)
        .sign(me.key)
        .to_bytes()
    )
    pins = pins.updated(state.run, replace(record, confirmed_round=under_way.number, confirmed_hash=hashed))
    return pins, replace(state, round=replace(under_way, confirmed=Kept(asked, reply))), reply


def unmask(me: Me, pins: Pins, state: EpochState, request: bytes) -> tuple[Pins, EpochState, bytes]:
    """Answer, once a round, with one thing about every member of the cohort: a share, a pair's seed or a complaint.

    Returns:
        Pins and state to keep durably, then the reply to send. The round is closed and its keys are erased.

    Raises:
        SecaggError: the request is refused; nothing has changed.
    """
    record = check_current(pins, state)
    message = Unmask.from_bytes(request)
    message.require(run=state.run, epoch=state.epoch)
    under_way = _round(state, message.context)
    asked = fingerprint(request)
    if under_way.answered is not None and under_way.answered.request == asked:
        return pins, state, under_way.answered.reply
    if record.answered_round >= under_way.number:
        raise ReplayError(f"unmask: round {record.answered_round} was answered; nothing is answered twice")
    hashed = _check_survivors(state, under_way, message)
    if state.terms.mode == "strict" and (record.confirmed_round, record.confirmed_hash) != (under_way.number, hashed):
        raise ConsistencyError("unmask: not the survivors that I confirmed")
    _check_confirmations(state, under_way, message, hashed)
    survivors = {uploaded.member for uploaded in message.uploads}
    dealt = {share.dealer: share for share in message.shares}
    if strangers := dealt.keys() - (survivors - {state.me}):
        raise ConsistencyError(f"unmask: a share of member {min(strangers)}, which is no other survivor")

    entries = tuple(_entry(state, under_way, j, j in survivors, dealt.get(j)) for j in under_way.cohort)
    answer = Answer(run=state.run, epoch=state.epoch, sender=state.me, context=under_way.context, entries=entries)
    reply = answer.sign(me.key).to_bytes()
    closed = replace(
        state,
        pair_keys={j: ratchet(key, under_way.number) for j, key in state.pair_keys.items()},
        key_round=under_way.number + 1,
        round=replace(under_way, own_share=b"", answered=Kept(asked, reply)),
    )
    return pins.updated(state.run, replace(record, answered_round=under_way.number)), closed, reply


def _round(state: EpochState, context: bytes) -> RoundState:
    """The round that a request is about: the one uploaded last."""
    if state.round is None:
        raise StateError(f"epoch {state.epoch}: no round was uploaded; wait for the next one")
    if context != state.round.context:
        raise ConsistencyError(f"ctx: of another round, or of another view of round {state.round.number}")
    return state.round


def _check_survivors(state: EpochState, under_way: RoundState, message: Survivors | Unmask) -> bytes:
    """Check who is said to have uploaded; return ``H_U``."""
    uploads = {uploaded.member: uploaded.h for uploaded in message.uploads}
    if strangers := uploads.keys() - set(under_way.cohort):
        raise ConsistencyError(f"survivors: member {min(strangers)} is not in the cohort")
    if uploads.get(state.me) != under_way.h:
        raise ConsistencyError("survivors: my own upload is not among them as I made it")
    if len(uploads) < under_way.threshold:
        raise FloorError(f"survivors = {len(uploads)}: below the threshold of {under_way.threshold}")
    for member, h, signature in message.uploads:
        upload = Upload(
            run=state.run, epoch=state.epoch, sender=member, context=under_way.context, h=h, signature=signature
        )
        upload.verify(state.identities[member])
    return transcript.survivors_hash(under_way.context, uploads)


def _check_confirmations(state: EpochState, under_way: RoundState, message: Unmask, hashed: bytes) -> None:
    """Check that enough survivors signed the same survivors; in sealed mode nobody signs."""
    if state.terms.mode != "strict":
        if message.confirmations:
            raise ConsistencyError("unmask: confirmations, but the roster's mode is not strict")
        return
    needed = confirmations(len(under_way.cohort), state.terms.colluders)
    if len(message.confirmations) < needed:
        raise FloorError(f"confirmations = {len(message.confirmations)}: at least {needed} are needed")
    survivors = {uploaded.member for uploaded in message.uploads}
    for member, signature in message.confirmations:
        if member not in survivors:
            raise ConsistencyError(f"unmask: a confirmation of member {member}, which is no survivor")
        given = Confirm(
            run=state.run,
            epoch=state.epoch,
            sender=member,
            context=under_way.context,
            survivors_hash=hashed,
            signature=signature,
        )
        given.verify(state.identities[member])


def _entry(state: EpochState, under_way: RoundState, j: int, survived: bool, dealt: DealtShare | None) -> Entry:
    """What is revealed about member ``j``: for a survivor never the seed of its pair, whatever became of its share."""
    if not survived:
        return Entry(j, PAIR_SEED, b"\0" + primitives.mask_seed(state.pair_keys[j], under_way.context))
    if j == state.me:
        return Entry(j, SELF_SHARE, under_way.own_share)
    share = None if dealt is None else _opened(state, under_way.context, dealt)
    return Entry(j, COMPLAINT, _NO_SHARE) if share is None else Entry(j, SELF_SHARE, share)


def _opened(state: EpochState, context: bytes, dealt: DealtShare) -> bytes | None:
    """The share that was dealt to me, or None if its ciphertext does not open or its commitment is another's."""
    dealer, commitment, ciphertext = dealt
    try:
        share = primitives.open_share(state.pair_keys[dealer], context, dealer, state.me, commitment, ciphertext)
    except SignatureError:
        return None
    committed = transcript.share_commitment(context, dealer, state.me, share) == commitment
    return share if committed and len(share) == SHARE_BYTES else None
