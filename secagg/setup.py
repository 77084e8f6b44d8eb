"""A member's side of the set-up: from an invite to keys shared with every other member of an epoch."""

from __future__ import annotations

from dataclasses import replace

from secagg import primitives, transcript
from secagg.errors import ConsistencyError, PermitError, ReplayError, RosterError, StateError
from secagg.member import Me
from secagg.messages import Advertise, Directory, Encapsulate, Invite, Open
from secagg.primitives import PrivateKeys
from secagg.records import Pins
from secagg.roster import Permit, Roster, open_permit, open_roster
from secagg.state import EpochState, Kept, Terms, check_current, fingerprint
from secagg.thresholds import threshold


def advertise(
    me: Me, pins: Pins, invite: bytes, *, run: str, policy: bytes, now: int, state: EpochState | None
) -> tuple[Pins, EpochState, bytes]:
    """Enter an epoch: check roster and permit, make fresh keys, and show the public ones.

    Args:
        me: who I am.
        pins: what I remember.
        invite: the message.
        run: name of the run, as the server gives it.
        policy: ``policy_hash`` of the run's settings as I read them.
        now: Unix seconds.
        state: of this run's current epoch, if any.

    Returns:
        Pins and state to keep durably, then the reply to send.

    Raises:
        SecaggError: the invite is refused; nothing has changed.
    """
    message = Invite.from_bytes(invite)
    run_id = primitives.run_id(run)
    request = fingerprint(invite)
    if state is not None and state.run == run_id and state.advertised and state.advertised.request == request:
        check_current(pins, state)
        return pins, state, state.advertised.reply
    message.require(run=run_id, epoch=message.epoch)
    roster, roster_hash = open_roster(message.roster, me.governance, now)
    permit, permit_hash = open_permit(message.permit, me.governance, now)
    _check_permit(permit, roster, run, policy)
    mine = [member.id for member in roster.members if member.key == me.public]
    if not mine:
        raise RosterError(f"roster version = {roster.version}: this machine's key is not in it; have it admitted")
    members = len(roster.members)
    me.floors.check(members, roster.colluders, roster.min_honest)
    threshold(roster.mode, members, roster.colluders, roster.min_honest)
    if not 1 <= message.first_round <= permit.max_rounds:
        raise ConsistencyError(f"first_round = {message.first_round}: the permit has rounds 1 to {permit.max_rounds}")
    accepted = pins.accept(roster, roster_hash, permit, run_id)
    record = accepted.record(run_id)
    if message.epoch <= record.epoch:
        raise ReplayError(f"epoch = {message.epoch}: epoch {record.epoch} was entered; begin a newer one")

    private = PrivateKeys.generate()
    reply = Advertise(run=run_id, epoch=message.epoch, sender=mine[0], keys=private.public).sign(me.key).to_bytes()
    entered = EpochState(
        run=run_id,
        epoch=message.epoch,
        me=mine[0],
        first_round=message.first_round,
        terms=Terms(
            roster_hash=roster_hash,
            permit_hash=permit_hash,
            policy=permit.policy,
            mode=roster.mode,
            colluders=roster.colluders,
            min_honest=roster.min_honest,
            range_max=roster.range_max,
            max_rounds=permit.max_rounds,
            issued=max(roster.issued, permit.issued),
            expires=min(roster.expires, permit.expires),
        ),
        identities={member.id: member.key for member in roster.members},
        private=private.to_bytes(),
        advertised=Kept(request, reply),
        key_round=message.first_round,
    )
    return accepted.updated(run_id, replace(record, epoch=message.epoch)), entered, reply


def encapsulate(me: Me, state: EpochState, directory: bytes) -> tuple[EpochState, bytes]:
    """Check everybody's fresh keys, and make a ciphertext for every member after me.

    Returns:
        The state to keep durably, then the reply to send.

    Raises:
        SecaggError: the directory is refused; nothing has changed.
    """
    request = fingerprint(directory)
    if state.encapsulated is not None and state.encapsulated.request == request:
        return state, state.encapsulated.reply
    if state.encapsulated is not None or state.advertised is None:
        raise ReplayError(f"directory: epoch {state.epoch} has one; begin a newer epoch")
    message = Directory.from_bytes(directory)
    message.require(run=state.run, epoch=state.epoch)
    for entry in message.entries:
        entry.require(run=state.run, epoch=state.epoch, sender=entry.sender)
        entry.verify(_identity(state, entry.sender))
        primitives.check_public(entry.keys)
    if state.advertised.reply not in [entry.to_bytes() for entry in message.entries if entry.sender == state.me]:
        raise ConsistencyError("directory: my own message is not in it as I sent it")

    private = PrivateKeys.from_bytes(state.private)
    setup_hash = transcript.setup_hash(
        roster_hash=state.terms.roster_hash,
        permit_hash=state.terms.permit_hash,
        run=state.run,
        epoch=state.epoch,
        first_round=state.first_round,
        advertisements=message.advertisements(),
    )
    others = [entry for entry in message.entries if entry.sender != state.me]
    exchanged = {entry.sender: private.exchange(entry.x25519) for entry in others}
    pair_keys, hashes, ciphertexts = {}, [], []
    for entry in others:
        j = entry.sender
        if j > state.me:
            secret, ciphertext = primitives.encapsulate(entry.mlkem)
            h_ct = transcript.ciphertext_hash(ciphertext)
            pair_keys[j] = primitives.pair_key(exchanged[j], secret, setup_hash, state.me, j, h_ct)
            hashes.append((j, h_ct))
            ciphertexts.append(ciphertext)
    reply = (
        Encapsulate(
            run=state.run,
            epoch=state.epoch,
            sender=state.me,
            setup_hash=setup_hash,
            hashes=tuple(hashes),
            ciphertexts=tuple(ciphertexts),
        )
        .sign(me.key)
        .to_bytes()
    )
    after = replace(
        state,
        identities={entry.sender: state.identities[entry.sender] for entry in message.entries},
        encapsulated=Kept(request, reply),
        setup_hash=setup_hash,
        exchanged={j: secret for j, secret in exchanged.items() if j < state.me},
        pair_keys=pair_keys,
    )
    return after, reply


def complete(state: EpochState, opening: Open) -> EpochState:
    """Return the state after the set-up part of an opening: members and pair keys known, private keys erased.

    Raises:
        SecaggError: the opening is refused.
    """
    if state.members:
        if (opening.lists or opening.ciphertexts) and fingerprint(opening.setup_part()) != state.setup_part:
            raise ConsistencyError("open: other members or ciphertexts than those of this epoch")
        return state
    if state.encapsulated is None:
        raise StateError(f"open: epoch {state.epoch} has no directory yet; send it first")
    own = Encapsulate.from_bytes(state.encapsulated.reply).signed_part()
    expected = {}
    for message in opening.lists:
        i = message.sender
        message.require(run=state.run, epoch=state.epoch, sender=i)
        message.verify(_identity(state, i))
        if message.setup_hash != state.setup_hash:
            raise ConsistencyError(f"open: member {i} has another set-up than I have")
        if [j for j, _ in message.hashes] != [j for j in sorted(state.identities) if j > i]:
            raise ConsistencyError(f"open: member {i} lists other members than those after it in the directory")
        if i == state.me and message.signed_part() != own:
            raise ConsistencyError("open: my own list is not as I sent it")
        expected[i] = dict(message.hashes)
    if state.me not in expected:
        raise ConsistencyError("open: my own list is missing")
    if [i for i, _ in opening.ciphertexts] != [i for i in expected if i < state.me]:
        raise ConsistencyError("open: one ciphertext is needed from every member before me")
    for i, ciphertext in opening.ciphertexts:
        if transcript.ciphertext_hash(ciphertext) != expected[i][state.me]:
            raise ConsistencyError(f"open: the ciphertext from member {i} is not the one it signed")

    private = PrivateKeys.from_bytes(state.private)
    pair_keys = {j: state.pair_keys[j] for j in expected if j > state.me}
    for i, ciphertext in opening.ciphertexts:
        secret, h_ct = private.decapsulate(ciphertext), expected[i][state.me]
        pair_keys[i] = primitives.pair_key(state.exchanged[i], secret, state.setup_hash, i, state.me, h_ct)
    return replace(
        state,
        identities={i: state.identities[i] for i in expected},
        private=b"",
        exchanged={},
        members=tuple(expected),
        setup_part=fingerprint(opening.setup_part()),
        pair_keys=pair_keys,
    )


def _check_permit(permit: Permit, roster: Roster, run: str, policy: bytes) -> None:
    """Refuse a permit for another run, other settings or another roster."""
    if permit.run != run:
        raise PermitError(f"permit serial = {permit.serial}: for another run; have one signed for this run")
    if permit.policy != policy:
        raise PermitError(f"permit serial = {permit.serial}: for other settings; have these settings permitted")
    if permit.roster_version != roster.version:
        raise PermitError(
            f"permit serial = {permit.serial}: goes with roster version {permit.roster_version}, not {roster.version}; "
            "have a new permit signed"
        )


def _identity(state: EpochState, member: int) -> bytes:
    """A member's identity key; whoever has none has no say."""
    if member not in state.identities:
        raise ConsistencyError(f"member {member}: not in this roster or directory; leave it out")
    return state.identities[member]
