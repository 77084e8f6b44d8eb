"""One message leg: send to a cohort, gather what comes back until it is enough or too late.

Flower's own ``send_and_receive`` polls every three seconds; this polls as fast as is useful
and replaces a hundred time-outs by one deadline and one quorum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from strategies.errors import MessageError, RunStoppedError

Answer = TypeVar("Answer")

POLL_SECONDS = 0.15
# How often to ask which departments are still connected: only needed while waiting.
PRESENCE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Gathered(Generic[Answer]):
    """What a leg brought: an answer per department (node id), or the reason it was left out."""

    answers: Mapping[int, Answer]
    failures: Mapping[int, str]
    seconds: float


@dataclass(kw_only=True)
class _Leg(Generic[Answer]):
    """State of a leg while replies come in."""

    read: Callable[[int, Message], Answer]
    waiting: dict[str, int]
    answers: dict[int, Answer] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def take(self, replies: Iterable[Message]) -> None:
        """Sort replies into answers and failures; a reply to nothing asked is ignored."""
        for reply in replies:
            node = self.waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is None:
                continue
            try:
                self.answers[node] = self.read(node, reply)
            except MessageError as error:
                self.failures[node] = str(error)

    def give_up_on(self, nodes: Iterable[int], reason: str) -> None:
        """Stop waiting for ``nodes``."""
        gone = set(nodes)
        for message, node in list(self.waiting.items()):
            if node in gone:
                del self.waiting[message]
                self.failures[node] = reason


def exchange(
    grid: Grid,
    contents: Mapping[int, RecordDict],
    *,
    read: Callable[[int, Message], Answer],
    deadline: float,
    quorum: int,
    stopped: Callable[[], bool],
    enough: Callable[[], bool] = lambda: False,
) -> Gathered[Answer]:
    """Send ``contents`` (node id -> record) and gather the answers.

    ``read`` makes an answer of a node's reply or raises :class:`MessageError` with the reason to
    leave it out. Returns when every department answered, when ``enough()``, when ``deadline``
    seconds have passed, or when ``quorum`` answered and all the others are no longer connected.
    Raises :class:`RunStoppedError` as soon as ``stopped()`` says so.
    """
    begin = time.monotonic()
    messages = [
        Message(content, dst_node_id=node, message_type=MessageType.TRAIN, ttl=deadline + 60)
        for node, content in contents.items()
    ]
    identifiers = list(grid.push_messages(messages))
    leg: _Leg[Answer] = _Leg(read=read, waiting={})
    for node, identifier in zip(contents, identifiers, strict=False):
        if identifier:
            leg.waiting[identifier] = node
    sent = set(leg.waiting.values())
    leg.failures.update({node: "could not be sent" for node in contents if node not in sent})

    next_presence = begin + PRESENCE_SECONDS
    while leg.waiting:
        if stopped():
            raise RunStoppedError("the run was asked to stop")
        leg.take(grid.pull_messages(list(leg.waiting)))
        if not leg.waiting or enough():
            break
        now = time.monotonic()
        if now - begin > deadline:
            leg.give_up_on(leg.waiting.values(), f"no answer within {deadline:g} s")
        elif now > next_presence and len(leg.answers) >= quorum:
            connected = set(grid.get_node_ids())
            leg.give_up_on(set(leg.waiting.values()) - connected, "went away")
            next_presence = now + PRESENCE_SECONDS
        else:
            time.sleep(POLL_SECONDS)
    # In node order, so that a floating-point sum does not depend on who was faster.
    answers = {node: leg.answers[node] for node in sorted(leg.answers)}
    return Gathered(answers=answers, failures=leg.failures, seconds=time.monotonic() - begin)
