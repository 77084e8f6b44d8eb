"""An in-process Flower grid: departments answer where they stand, without processes or sockets.

The round loop, the messages and the departments' code are those of a real federation; only the
transport is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from client.app import respond
from client.train import Site
from strategies.flower import assume_identity


class LocalGrid(Grid):
    """A :class:`flwr.serverapp.Grid` over sites in this process; ``sites`` maps department to site."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = dict(enumerate(sites.items(), start=1))
        self._replies: dict[str, Message] = {}
        self._identifiers = (f"local-{number}" for number in itertools.count())
        assume_identity(run=1, node=1)

    def get_nodes(self) -> Iterable[Any]:
        """Every department, always connected."""
        return [SimpleNamespace(node_id=node, name=name) for node, (name, _) in self._sites.items()]

    def get_node_ids(self) -> Iterable[int]:
        """Every department's node id."""
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let each department answer at once; replies wait to be pulled."""
        identifiers = []
        for message in messages:
            identifier = next(self._identifiers)
            message.metadata.__dict__["_message_id"] = identifier
            _, site = self._sites[message.metadata.dst_node_id]
            self._replies[identifier] = respond(message, lambda _spec, site=site: site)  # type: ignore[misc]  # the default binds the loop's value
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to ``message_ids``, each handed out once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull in one."""
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: Any) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> Any:
        """There is no Flower run behind a simulation."""
        return SimpleNamespace(run_id=1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message, as Flower's deprecated factory made it."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)
