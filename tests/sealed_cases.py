"""Whole sealed runs on the in-process engine, with a tap on the wire by which a test listens and interferes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from federation_cases import department, settings_of
from flwr.app import Message

from client.data import DepartmentData
from client.train import Site
from server.conduct import conduct
from server.planning import create
from server.runs import RunDirectory
from simulations.departments import sites as machines_of
from simulations.engine import LocalGrid
from simulations.sealing import decide, seal
from strategies import exchange as leg
from strategies import sealed as sealed_sums
from strategies.settings import RunSettings

NAMES = ("north", "south", "east", "west", "centre")


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll in milliseconds: some departments here never answer."""
    monkeypatch.setattr(leg, "POLL_SECONDS", 0.002)
    monkeypatch.setattr(leg, "PRESENCE_SECONDS", 0.01)
    monkeypatch.setattr(sealed_sums, "SETUP_SECONDS", 0.2)
    monkeypatch.setattr(sealed_sums, "FIRST_PAUSE_SECONDS", 0.01)


def toy(departments: int = 5, **tables: Any) -> tuple[RunSettings, dict[str, DepartmentData]]:
    """A toy run and its departments, of different sizes."""
    data = {name: department(name, count=40 + 8 * k, seed=k) for k, name in enumerate(NAMES[:departments])}
    tables = {"strategy": {"min_departments": 3, "quorum": 0.5, "deadline": 0.5}} | tables
    settings = settings_of(**tables).model_copy(update={"seed": 5})
    return decide(settings, {name: own.declared_size for name, own in data.items()}), data


Tap = Callable[[str, Message, Callable[[], Message]], "Message | None"]


class TappedGrid(LocalGrid):
    """A grid on whose wire a test listens, and may suppress or replace a department's reply."""

    def __init__(self, sites: Mapping[str, Site], tap: Tap) -> None:
        super().__init__(sites)
        self.tap = tap
        self.replies: list[tuple[str, Message]] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        name, _ = self._sites[message.metadata.dst_node_id]
        box: dict[str, str] = {}

        def deliver() -> Message:
            (box["id"],) = super(TappedGrid, self).push_messages([message])
            return self._replies.pop(box["id"])

        reply = self.tap(name, message, deliver)
        identifier = box.get("id") or f"lost-{next(self._identifiers)}"
        if reply is not None:
            self.replies.append((name, reply))
            self._replies[identifier] = reply
        return identifier


def go(
    folder: Path,
    settings: RunSettings,
    data: Mapping[str, DepartmentData],
    tap: Tap = lambda _name, _message, deliver: deliver(),
    change: Callable[[str, Site], Site] = lambda _name, site: site,
) -> tuple[RunDirectory, TappedGrid]:
    """Conduct a run; returns its directory and the grid."""
    directory = create(settings, folder, engine="simulation")
    own = None
    if not settings.secagg.clear:
        own = seal(settings, list(data), run=directory.name, spec=directory.document()["spec"])
    machines = machines_of(settings, data, {} if own is None else own.departments)
    grid = TappedGrid({name: change(name, site) for name, site in machines.items()}, tap)
    conduct(
        grid,
        directory,
        test=None,
        repeatable=True,
        watch=lambda _row: None,
        envelopes=None if own is None else own.envelopes,
        pictures=False,
    )
    return directory, grid


def kind_of(message: Message) -> str:
    """Which step of the protocol a message to a department asks for."""
    records = message.content.config_records
    if "instruction" in records:
        return "train"
    sealed = records["sealed-step"]["message"]
    assert isinstance(sealed, bytes)
    return {1: "invite", 3: "directory", 7: "survivors", 9: "unmask"}[sealed[4]]


def silent_at(victims: Mapping[str, str]) -> Tap:
    """Departments that vanish once, at a step of the protocol; what they were asked before, they did."""
    gone: set[str] = set()

    def tap(name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        if victims.get(name) == kind_of(message) and name not in gone:
            gone.add(name)
            return None
        return deliver()

    return tap
