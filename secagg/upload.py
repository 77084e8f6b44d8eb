"""A member's side of a round, first half: may I train for it, and the masked vector."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secagg import primitives, shamir, transcript
from secagg.errors import ClockError, ConsistencyError, EncodingError, PermitError, ReplayError, StateError
from secagg.masks import add_masks
from secagg.member import Bindings, Me, Opened
from secagg.messages import Open, Upload
from secagg.primitives import HASH_BYTES, ratchet_to
from secagg.records import Pins, RunRecord
from secagg.roster import MAX_SKEW
from secagg.setup import complete
from secagg.state import EpochState, RoundState, Terms, check_current, fingerprint
from secagg.thresholds import check_size, threshold


def open_round(me: Me, pins: Pins, state: EpochState, opening: bytes, *, now: int) -> tuple[EpochState, Opened]:
    """Check everything about a round that can be checked before training for it.

    The layout of the vector depends on the cohort, so opening comes first. It marks nothing: a round counts as
    used with :func:`upload`. The first opening of an epoch completes its set-up.

    Args:
        me: who I am.
        pins: what I remember.
        state: of the current epoch.
        opening: the message.
        now: Unix seconds.

    Returns:
        State and what was opened; ``opened.reply`` is set if this very opening was answered before.

    Raises:
        SecaggError: the opening is refused; nothing has changed.
    """
    record = check_current(pins, state)
    request = fingerprint(opening)
    message = Open.from_bytes(opening)
    message.require(run=state.run, epoch=state.epoch)
    terms, n = state.terms, len(message.cohort)
    if state.round is not None and state.round.opening == request:
        if not state.upload_reply:
            raise StateError(f"round = {message.round}: its upload is lost; wait for the next round")
        return state, _opened(state, message, state.round.threshold, request, state.upload_reply)
    _check_clock(terms, now)
    if message.attempt != 0:
        raise ConsistencyError(f"attempt = {message.attempt}: rounds are not retried; begin a newer round")
    _check_number(message.round, state, record)
    t = threshold(terms.mode, n, terms.colluders, terms.min_honest)
    me.floors.check(n, terms.colluders, terms.min_honest)
    state = complete(state, message)
    if state.me not in message.cohort:
        raise ConsistencyError(f"cohort: member {state.me}, which is me, is not in it")
    if strangers := set(message.cohort).difference(state.members):
        raise ConsistencyError(f"cohort: member {min(strangers)} is no member of epoch {state.epoch}")
    return state, _opened(state, message, t, request, None)


def upload(
    me: Me, pins: Pins, state: EpochState, opened: Opened, bindings: Bindings, x: NDArray[np.uint32]
) -> tuple[Pins, EpochState, bytes]:
    """Mask a vector and share the seed of its mask: the round is used, older rounds are closed.

    Args:
        me: who I am.
        pins: what I remember.
        state: as :func:`open_round` returned it.
        opened: what it returned beside.
        bindings: hashes of what was trained.
        x: encoded vector, uint32 (d,), contiguous; it is masked in place.

    Returns:
        Pins and state to keep durably, then the reply to send.

    Raises:
        SecaggError: refused; nothing has changed, ``x`` neither.
    """
    record = check_current(pins, state)
    if (opened.run, opened.epoch) != (state.run, state.epoch) or not state.members:
        raise ConsistencyError(f"round = {opened.round}: was not opened with this state; open it first")
    if opened.reply is not None:
        return pins, state, opened.reply
    _check_number(opened.round, state, record)
    if bindings.policy != state.terms.policy:
        raise PermitError("policy: other settings than the permit's; have these settings permitted")
    if x.dtype != np.uint32 or x.ndim != 1 or not x.size or not x.flags.c_contiguous or not x.flags.writeable:
        raise EncodingError(f"x: {x.dtype} of shape {x.shape}; must be a contiguous, writeable uint32 vector")
    check_size(opened.n, x.size)

    number, i, cohort = opened.round, state.me, opened.cohort
    pairs = {j: ratchet_to(key, state.key_round, number) for j, key in state.pair_keys.items()}
    context = bindings.context(
        run=state.run,
        epoch=state.epoch,
        number=number,
        mode=state.terms.mode,
        threshold=opened.threshold,
        roster_hash=state.terms.roster_hash,
        permit_hash=state.terms.permit_hash,
        setup_hash=state.setup_hash,
        cohort=cohort,
    )
    b = secrets.token_bytes(HASH_BYTES)
    dealt = shamir.split(b, opened.threshold, [j + 1 for j in cohort])
    commitments = {j: transcript.share_commitment(context, i, j, dealt[j + 1]) for j in cohort}
    sealed = {j: primitives.seal_share(pairs[j], context, i, j, commitments[j], dealt[j + 1]) for j in cohort if j != i}
    _mask(x, b, i, {j: pairs[j] for j in sealed}, context)
    message = Upload(
        run=state.run,
        epoch=state.epoch,
        sender=i,
        context=context,
        h=b"",
        seed_hash=transcript.self_seed_hash(context, b),
        commitments=tuple(commitments.items()),
        shares=tuple(sealed.values()),
        y=x.astype("<u4", copy=False).data.cast("B"),
    )
    message = replace(message, h=message.parts_hash()).sign(me.key)
    reply = message.to_bytes()
    closed = replace(
        state,
        advertised=None,
        encapsulated=None,
        pair_keys=pairs,
        key_round=number,
        round=RoundState(
            number=number,
            opening=opened.request,
            context=context,
            cohort=cohort,
            threshold=opened.threshold,
            h=message.h,
            own_share=dealt[i + 1],
            upload=fingerprint(message.head()),
        ),
        upload_reply=reply,
    )
    return pins.updated(state.run, replace(record, uploaded_round=number)), closed, reply


def _mask(x: NDArray[np.uint32], b: bytes, i: int, pairs: Mapping[int, bytes], context: bytes) -> None:
    """Add the own mask and one mask for every other member, in place; the two ends of a pair have opposite signs."""
    masks = [(primitives.self_key(b, context), 1)]
    for j, pair in pairs.items():
        seed = primitives.mask_seed(pair, context)
        masks.append((primitives.pair_mask_key(seed, context), 1 if j > i else -1))
    add_masks(x, masks)


def _check_clock(terms: Terms, now: int) -> None:
    """Refuse to begin a round outside the dates of roster and permit."""
    if now >= terms.expires:
        raise ClockError(f"roster or permit: expired {now - terms.expires} s ago; begin an epoch with new ones")
    if terms.issued > now + MAX_SKEW:
        raise ClockError(f"roster or permit: issued {terms.issued - now} s in the future; set this machine's clock")


def _check_number(number: int, state: EpochState, record: RunRecord) -> None:
    """Refuse a round that was used, whose keys are gone, or that is not permitted."""
    if number <= record.uploaded_round:
        raise ReplayError(f"round = {number}: round {record.uploaded_round} was uploaded; begin a newer round")
    if not state.first_round <= number <= state.terms.max_rounds:
        raise ConsistencyError(
            f"round = {number}: this epoch has rounds {state.first_round} to {state.terms.max_rounds}"
        )


def _opened(state: EpochState, message: Open, t: int, request: bytes, reply: bytes | None) -> Opened:
    """What the driver of a round needs to know of it."""
    return Opened(
        run=state.run,
        epoch=state.epoch,
        round=message.round,
        cohort=message.cohort,
        threshold=t,
        mode=state.terms.mode,
        colluders=state.terms.colluders,
        min_honest=state.terms.min_honest,
        range_max=state.terms.range_max,
        request=request,
        reply=reply,
    )
