"""Follows the transcripts of tests/vectors with the implementation: members with given draws, and the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import client, primitives
from secagg.client import Bindings, EpochState, Floors, Me, Opened, Pins
from secagg.messages import Invite
from secagg.roster import open_permit, open_roster
from secagg.server import Epoch, SealedRound

Vector = dict[str, Any]
FOLDER = Path(__file__).parent / "vectors"
GOVERNANCE = bytes.fromhex(json.loads((FOLDER / "roster.json").read_text("ascii"))["vectors"][0]["governance"])
NOW = 1_850_000_000
RUN = "digits"
REPLIES = {"invite": "advertise", "directory": "encapsulate", "survivors": "confirm", "unmask": "answer"}


def load(name: str) -> list[Vector]:
    """The vectors of a file."""
    vectors: list[Vector] = json.loads((FOLDER / f"{name}.json").read_text("ascii"))["vectors"]
    return vectors


@cache
def encapsulated() -> dict[bytes, tuple[bytes, bytes]]:
    """Secret and ciphertext that were recorded, by the ML-KEM public key they are for, then the sender's place."""
    own = {v["mlkem_seed"]: bytes.fromhex(v["expected"])[32:] for v in load("kem") if v["op"] == "ephemeral_public"}
    return {
        own[v["mlkem_seed"]] + bytes([v["from"]]): (bytes.fromhex(v["secret"]), bytes.fromhex(v["ciphertext"]))
        for v in load("kem")
        if v["op"] == "encapsulated"
    }


@contextmanager
def drawing(
    sender: int, keys: bytes = b"", b: bytes = b"", coefficients: tuple[str, ...] | list[str] = ()
) -> Iterator[None]:
    """Everything random is given; draws that are not given fail."""
    # The highest power is drawn first.
    drawn = iter([int(c, 16) for c in reversed(coefficients)])
    fresh = primitives.encapsulate

    def recorded(public: bytes) -> tuple[bytes, bytes]:
        # A key that is in no transcript is one to refuse.
        return encapsulated().get(public + bytes([sender])) or fresh(public)

    with ExitStack() as stack:
        stack.enter_context(
            patch.object(primitives.PrivateKeys, "generate", lambda: primitives.PrivateKeys.from_bytes(keys))
        )
        stack.enter_context(patch("secagg.primitives.encapsulate", recorded))
        stack.enter_context(patch("secagg.upload.secrets.token_bytes", lambda size: b[:size]))
        stack.enter_context(patch("secagg.shamir.secrets.randbelow", lambda bound: next(drawn)))
        yield


@dataclass(frozen=True)
class Followed:
    """A member somewhere in a transcript."""

    id: int
    me: Me
    keys: bytes
    policy: bytes
    pins: Pins = field(default_factory=Pins)
    state: EpochState | None = None
    opened: Opened | None = None

    @property
    def known(self) -> EpochState:
        assert self.state is not None
        return self.state

    def asked(self, request: str, message: bytes, now: int = NOW) -> tuple[Followed, bytes]:
        """The member after a request, and its reply; an opening has none yet."""
        if request == "open":
            state, opened = client.open_round(self.me, self.pins, self.known, message, now=now)
            return replace(self, state=state, opened=opened), opened.reply or b""
        pins = self.pins
        with drawing(self.id, self.keys):
            if request == "invite":
                pins, state, reply = client.advertise(
                    self.me, pins, message, run=RUN, policy=self.policy, now=now, state=self.state
                )
            elif request == "directory":
                state, reply = client.encapsulate(self.me, self.known, message)
            else:
                step = {"survivors": client.confirm, "unmask": client.unmask}[request]
                pins, state, reply = step(self.me, pins, self.known, message)
        return replace(self, pins=pins, state=state), reply

    def uploading(self, step: Vector) -> tuple[Followed, bytes]:
        """The member after its upload, with the draws of the transcript."""
        assert self.opened is not None
        hashes = {name: bytes.fromhex(value) for name, value in step["bindings"].items()}
        bindings = Bindings(policy=self.policy, **hashes)
        with drawing(self.id, b=bytes.fromhex(step["b"]), coefficients=step["coefficients"]):
            pins, state, reply = client.upload(
                self.me, self.pins, self.known, self.opened, bindings, np.array(step["x"], np.uint32)
            )
        return replace(self, pins=pins, state=state), reply


@cache
def members(name: str) -> tuple[dict[tuple[int, str, int], Followed], dict[tuple[int, str, int], bytes]]:
    """Every member before each message to or from it, and what it replied: by id, message and round (0 for set-up)."""
    before: dict[tuple[int, str, int], Followed] = {}
    replied: dict[tuple[int, str, int], bytes] = {}
    now: dict[int, Followed] = {}
    steps = load(name)
    invite = Invite.from_bytes(bytes.fromhex(next(s["message"] for s in steps if s["op"] == "invite")))
    policy = open_permit(invite.permit, GOVERNANCE, NOW)[0].policy
    for step in steps:
        who, op, message = step.get("member", -1), step["op"], bytes.fromhex(step.get("message", ""))
        if op == "member":
            key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(step["identity_seed"]))
            me = Me(key=key, governance=GOVERNANCE, floors=Floors(**step["floors"]))
            now[step["member"]] = Followed(who, me, bytes.fromhex(step["x25519_seed"] + step["mlkem_seed"]), policy)
        if not message:
            continue
        place = (who, op, step.get("round", 0))
        before[place] = now[who]
        if op in REPLIES:
            now[who], reply = now[who].asked(op, message)
            # The very same request once more: the same bytes, and nothing changes.
            assert now[who].asked(op, message) == (now[who], reply)
            replied[who, REPLIES[op], place[2]] = reply
            before[who, REPLIES[op], place[2]] = now[who]
        elif op == "open":
            now[who], _ = now[who].asked(op, message)
        elif op == "upload":
            now[who], replied[place] = now[who].uploading(step)
            opening = next(s for s in steps if s["op"] == "open" and s["member"] == who and s["round"] == place[2])
            again, reply = now[who].asked("open", bytes.fromhex(opening["message"]))
            assert (again.state, reply) == (now[who].state, replied[place])
    return before, replied


@dataclass
class Served:
    """The server somewhere in a transcript; every request it makes is compared with the transcript's."""

    name: str
    epoch: Epoch | None = None
    round: SealedRound | None = None
    total: list[int] | None = None

    def take(self, step: str, member: int, message: bytes) -> None:
        """A member's message."""
        assert self.epoch is not None
        if step in ("advertise", "encapsulate"):
            {"advertise": self.epoch.add_advertise, "encapsulate": self.epoch.add_encapsulate}[step](member, message)
            return
        assert self.round is not None
        take = {"upload": self.round.add_upload, "confirm": self.round.add_confirm, "answer": self.round.add_answer}
        take[step](member, message)

    def ask(self, request: str, member: int, number: int, message: bytes) -> bytes:
        """The server's own message in the place of the transcript's."""
        if request == "invite":
            return self._begin(message).invite()
        assert self.epoch is not None
        if request == "directory":
            return self.epoch.directory()
        if request == "open" and (self.round is None or self.round.number != number):
            self.round = self._open(number)
        assert self.round is not None
        ask = {"open": self.round.opening, "survivors": self.round.confirm_request, "unmask": self.round.unmask_request}
        return ask[request](member)

    def _begin(self, message: bytes) -> Epoch:
        if self.epoch is None:
            invite = Invite.from_bytes(message)
            roster = open_roster(invite.roster, GOVERNANCE, NOW)[0]
            self.epoch = Epoch(invite.roster, roster, invite.permit, RUN, invite.epoch, invite.first_round)
        return self.epoch

    def _open(self, number: int) -> SealedRound:
        assert self.epoch is not None
        upload = next(s for s in load(self.name) if s["op"] == "upload" and s["round"] == number)
        policy = next(iter(members(self.name)[0].values())).policy
        hashes = {name: bytes.fromhex(value) for name, value in upload["bindings"].items()}
        bindings = Bindings(policy=policy, **hashes)
        return SealedRound(self.epoch, number, self.epoch.members, size=len(upload["x"]), bindings=bindings)
