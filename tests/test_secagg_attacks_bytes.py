"""Attacks by bytes: messages and documents that are malformed, cut short, too long, or of another type."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_attack_cases import VICTIM, Coalition
from secagg_cases import BINDINGS, NOW, POLICY, RUN, SIZE, Site, World, plain_sum, random_vector, ready, vectors_for

import secagg
from secagg import client, messages, primitives
from secagg.client import EpochState, Pins
from secagg.errors import FormatError, SecaggError, SignatureError
from secagg.messages import Confirm, Signed
from secagg.roster import open_permit, open_roster

ROOM = sorted(Path(secagg.__path__[0]).rglob("*.py"))
fuzzed = settings(max_examples=150, deadline=None, derandomize=True)


# --- A conversation to disturb ---


@dataclass(frozen=True)
class Step:
    """One request to a member, its state before, and what reads it."""

    name: str
    request: bytes
    pins: Pins
    state: EpochState | None
    reply: bytes

    def take(self, site: Site, request: bytes) -> object:
        """Give a member another request in this step's place."""
        pins, state = self.pins, self.state
        if self.name == "advertise":
            return client.advertise(site.me, pins, request, run=RUN, policy=POLICY, now=NOW, state=state)
        assert state is not None
        if self.name == "encapsulate":
            return client.encapsulate(site.me, state, request)
        if self.name == "open":
            state, opened = client.open_round(site.me, pins, state, request, now=NOW)
            return client.upload(site.me, pins, state, opened, BINDINGS, random_vector(SIZE, 1))
        return (client.confirm if self.name == "confirm" else client.unmask)(site.me, pins, state, request)

    def kept(self) -> tuple[bytes, bytes]:
        return self.pins.to_bytes(), b"" if self.state is None else self.state.to_bytes()


class Talk:
    """A round in strict mode, every step of the victim kept, and the server as it was before each reply."""

    def __init__(self) -> None:
        self.world = world = World(4, mode="strict")
        self.steps: list[Step] = []
        self.site = site = world.members[VICTIM]
        epoch = world._epoch = world.new_epoch()
        replies = {i: self._said(i, "advertise", epoch.invite()) for i in world.ids}
        for i, reply in replies.items():
            epoch.add_advertise(i, reply)
        for i in world.ids:
            epoch.add_encapsulate(i, self._said(i, "encapsulate", epoch.directory()))
        sealed = self.sealed = world.new_round(SIZE)
        for i in world.ids:
            sealed.add_upload(i, self._said(i, "open", sealed.opening(i)))
        for i in world.ids:
            sealed.add_confirm(i, self._said(i, "confirm", sealed.confirm_request(i)))
        self.answers = {i: self._said(i, "unmask", sealed.unmask_request(i)) for i in world.ids}
        assert site.state is not None

    def _said(self, member: int, name: str, request: bytes) -> bytes:
        site = self.world.members[member]
        pins, state = site.pins, site.state
        if name == "open":
            reply = site.open_and_upload(request, random_vector(SIZE, member))
        else:
            reply = getattr(site, name)(request)
        if member == VICTIM:
            self.steps.append(Step(name, request, pins, state, reply))
        return bytes(reply)


TALK = Talk()


@st.composite
def disturbed(draw: st.DrawFn, message: bytes) -> bytes:
    """A message with a few bytes changed, cut out, put in, or repeated; mostly near its front, where the counts are."""
    data = bytearray(message)
    for _ in range(draw(st.integers(1, 3))):
        top = draw(st.sampled_from([60, 200, len(data)]))
        at = draw(st.integers(0, min(top, len(data))))
        kind = draw(st.sampled_from(["set", "u32", "cut", "in", "end", "twice"]))
        if kind == "set" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "u32":
            data[at : at + 4] = draw(st.sampled_from([0, 1, 2, 5, 2**31, 2**32 - 2, 2**32 - 1])).to_bytes(4, "big")
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 100))]
        elif kind == "in":
            data[at:at] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "end":
            del data[at:]
        else:
            data[at:at] = data[at : at + draw(st.sampled_from([4, 36, 68, 100, 1325]))]
    return bytes(data)


@pytest.mark.parametrize("step", TALK.steps, ids=lambda step: step.name)
@fuzzed
@given(data=st.data())
def test_members_refuse_disturbed_requests_with_their_own_errors_and_change_nothing(
    step: Step, data: st.DataObject
) -> None:
    request = data.draw(disturbed(step.request))
    before = step.kept()
    if request != step.request:
        try:
            step.take(TALK.site, request)
        except SecaggError as error:
            assert error.code != "secagg"
        else:
            # Only what is not signed may differ: how many rounds there were before, or fewer shares to answer for.
            assert step.name in {"advertise", "open", "unmask"}
    assert step.kept() == before


@pytest.mark.parametrize("step", TALK.steps, ids=lambda step: step.name)
@fuzzed
@given(data=st.data())
def test_the_server_refuses_disturbed_replies_with_its_own_errors(step: Step, data: st.DataObject) -> None:
    reply = data.draw(disturbed(step.reply))
    sealed, epoch = TALK.sealed, TALK.world.epoch
    takes: dict[str, Callable[[int, bytes], None]] = {
        "advertise": epoch.add_advertise,
        "encapsulate": epoch.add_encapsulate,
        "open": sealed.add_upload,
        "confirm": sealed.add_confirm,
        "unmask": sealed.add_answer,
    }
    if reply != step.reply:
        with pytest.raises(SecaggError):
            takes[step.name](VICTIM, reply)
    assert not sealed.faults.convicted
    assert not sealed.faults.complaints


def test_after_all_that_the_sum_is_right() -> None:
    world = TALK.world
    for i, reply in TALK.answers.items():
        TALK.sealed.add_answer(i, reply)
    total, contributors = TALK.sealed.finish()
    assert np.array_equal(total, plain_sum({i: random_vector(SIZE, i) for i in world.ids}, contributors))


@fuzzed
@given(st.binary(max_size=200), st.sampled_from(range(12)), st.sampled_from(range(5)))
def test_noise_under_any_header_is_refused(tail: bytes, kind: int, at: int) -> None:
    header = messages.MAGIC + bytes([kind]) + TALK.world.epoch.run + primitives.u32(1) + primitives.u32(2**32 - 1)
    for noise in (header + tail, tail):
        with pytest.raises(SecaggError):
            TALK.steps[at].take(TALK.site, noise)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.just("0" * 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
MEMBER: dict[str, object] = {"id": 10, "name": "a", "key": "00" * 32}
ROSTER: dict[str, object] = {
    "type": "roster",
    "federation": TALK.world.federation.hex(),
    "version": 1,
    "issued": NOW - 1,
    "expires": NOW + 1,
    "mode": "sealed",
    "colluders": 1,
    "min_honest": 2,
    "range_max": 1.0,
    "suite": "x25519-mlkem768-ed25519-aes256ctr-sha256",
    "members": [MEMBER],
}
PERMIT: dict[str, object] = {
    "type": "permit",
    "federation": TALK.world.federation.hex(),
    "serial": 1,
    "run": RUN,
    "roster_version": 1,
    "issued": NOW - 1,
    "expires": NOW + 1,
    "max_rounds": 5,
    "policy": "00" * 32,
}


NASTY: list[object] = [
    *(None, True, -1, 0, 2**32 - 1, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e-320, "", "0" * 64, "\ud800", "a\0b"),
    *([], {}, [None], [[]], [{}], {"id": 10}),
]
DOCUMENTS = [("roster", ROSTER, open_roster), ("permit", PERMIT, open_permit)]


def read_or_refused(what: str, document: dict[str, object], opens: Callable[..., object]) -> None:
    """The governance key has signed it, whatever it is; escapes let lone surrogates through."""
    payload = json.dumps(document)
    signature = primitives.sign(
        TALK.world.governance, f"confide/{what}/v1", bytes(32), 0, primitives.SERVER, payload.encode()
    )
    envelope = json.dumps({"payload": payload, "signature": signature.hex()}).encode()
    try:
        opens(envelope, TALK.world.governance_public, NOW)
    except SecaggError as error:
        assert error.code not in {"secagg", "signature"}


@pytest.mark.parametrize(("what", "document", "opens"), DOCUMENTS)
def test_signed_documents_with_any_field_gone_wrong_are_read_or_refused(
    what: str, document: dict[str, object], opens: Callable[..., object]
) -> None:
    for field in (*document, "another"):
        for value in NASTY:
            read_or_refused(what, {**document, field: value}, opens)
        read_or_refused(what, {name: value for name, value in document.items() if name != field}, opens)
    for field in ("id", "name", "key", "another"):
        for value in NASTY:
            read_or_refused("roster", {**ROSTER, "members": [{**MEMBER, field: value}]}, open_roster)


@pytest.mark.parametrize(("what", "document", "opens"), DOCUMENTS)
@fuzzed
@given(data=st.data())
def test_signed_documents_of_any_content_are_read_or_refused(
    what: str, document: dict[str, object], opens: Callable[..., object], data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(sorted(document)))
    read_or_refused(what, {**document, field: data.draw(JSON)}, opens)


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "1" * 5000, "\\", '"\\ud800"', '{"payload":NaN}', "\udcff"])
def test_envelopes_of_anything_are_refused(text: str) -> None:
    for envelope in (text.encode("utf-8", "surrogatepass"), b'{"payload":' + text.encode("utf-8", "replace") + b"}"):
        with pytest.raises(FormatError):
            open_roster(envelope, TALK.world.governance_public, NOW)


def test_a_payload_that_is_no_utf_8_is_refused() -> None:
    envelope = json.dumps({"payload": "\ud800", "signature": "00" * 64}).encode()
    with pytest.raises(FormatError, match="payload must be text"):
        open_roster(envelope, TALK.world.governance_public, NOW)


# --- Types ---


def test_every_step_answers_its_own_type_of_message_only() -> None:
    said = [step.request for step in TALK.steps] + [step.reply for step in TALK.steps]
    for step in TALK.steps:
        for message in said:
            if message != step.request:
                with pytest.raises(FormatError):
                    step.take(TALK.site, message)
            retyped = message[:4] + step.request[4:5] + message[5:]
            if retyped != step.request:
                with pytest.raises(SecaggError):
                    step.take(TALK.site, retyped)


def lent() -> tuple[World, Coalition]:
    """A round in which the victim has confirmed, and the server passes its confirmation off as an upload."""
    world = ready(4, mode="strict")
    coalition = Coalition(world)
    coalition.collect(vectors_for(world))
    everybody = frozenset(world.ids)
    confirm = Confirm.from_bytes(world.members[VICTIM].confirm(coalition.survivors(VICTIM, everybody).to_bytes()))
    coalition.uploads[VICTIM] = replace(
        coalition.uploads[VICTIM], h=confirm.survivors_hash, signature=confirm.signature
    )
    return world, coalition


def test_a_signature_is_of_one_type_of_message(monkeypatch: pytest.MonkeyPatch) -> None:
    world, coalition = lent()
    with pytest.raises(SignatureError):
        world.members[20].confirm(coalition.survivors(20, world.ids).to_bytes())
    # With one label for all, the body of a confirmation reads as that of an upload.
    monkeypatch.setattr(Signed, "_label", "confide/any/v1")
    world, coalition = lent()
    world.members[20].confirm(coalition.survivors(20, world.ids).to_bytes())
