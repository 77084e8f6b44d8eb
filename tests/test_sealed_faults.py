"""Sealed runs in which somebody vanishes, forgets, lies or refuses: the round or the run, never the secret, is lost."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message
from sealed_cases import NAMES, go, hurry, kind_of, silent_at, toy

from client.sealing import Sealing
from client.train import Site
from client.vault import MemoryVault
from secagg import thresholds
from secagg.messages import COMPLAINT, Answer, Entry, Unmask
from server.runs import RunDirectory
from strategies import sealed as sealed_sums
from strategies.errors import RunFailedError
from strategies.jsonfile import canonical
from strategies.lanes import MAX_SATURATED
from strategies.status import Status
from strategies.wire import SealedStep, answer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll in milliseconds: some departments here never answer."""
    hurry(monkeypatch)


@pytest.mark.parametrize("step", ["train", "unmask"])
def test_five_departments_tolerate_one_that_vanishes(step: str, tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 2}, secagg={"mode": None})
    directory, _ = go(tmp_path, settings, data, silent_at({"east": step}))
    first, second, _ = directory.metrics()
    assert first["abandoned"] is None
    assert ("east" in first["answered"]) == (step == "unmask")  # its vector is in the sum: four others unmask it
    assert sorted(second["answered"]) == sorted(NAMES)


@pytest.mark.parametrize("step", ["train", "survivors", "unmask"])
def test_strict_mode_tolerates_one_of_five_at_every_step(step: str, tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 2}, secagg={"mode": "strict"})
    directory, _ = go(tmp_path, settings, data, silent_at({"east": step}))
    first, second, _ = directory.metrics()
    assert (first["abandoned"], second["abandoned"]) == (None, None)
    assert sorted(second["answered"]) == sorted(NAMES)


@pytest.mark.parametrize("step", ["train", "unmask"])
def test_of_three_departments_none_may_vanish_but_the_run_goes_on(step: str, tmp_path: Path) -> None:
    settings, data = toy(3, training={"rounds": 2}, secagg={"mode": None})
    directory, _ = go(tmp_path, settings, data, silent_at({"east": step}))
    first, second, _ = directory.metrics()
    assert first["abandoned"]
    assert first["validation"] == {}
    assert second["abandoned"] is None
    assert sorted(second["answered"]) == sorted(NAMES[:3])


def test_one_before_and_one_after_the_upload_abandon_the_round(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 2}, secagg={"mode": None})
    directory, _ = go(tmp_path, settings, data, silent_at({"east": "train", "west": "unmask"}))
    first, second, _ = directory.metrics()
    assert first["abandoned"]
    assert second["abandoned"] is None


@pytest.mark.parametrize("step", ["invite", "directory"])
def test_who_misses_the_set_up_is_no_member_and_gets_a_second_chance(step: str, tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 7}, secagg={"mode": None})
    directory, _ = go(tmp_path, settings, data, silent_at({"east": step}))
    rows = directory.metrics()
    assert "east" not in rows[0]["answered"]
    assert rows[0]["abandoned"] is None
    assert "east" in rows[6]["answered"]


def test_who_lost_its_keys_is_set_up_anew(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 3}, secagg={"mode": None})
    vaults: dict[str, MemoryVault] = {}

    def remember(name: str, site: Site) -> Site:
        assert site.sealing is not None
        assert isinstance(site.sealing.vault, MemoryVault)
        vaults[name] = site.sealing.vault
        return site

    def tap(name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        if name == "east" and kind_of(message) == "train" and len(vaults[name].states) and not lost:
            lost.append(True)
            vaults[name].states.clear()
        return deliver()

    lost: list[bool] = []
    directory, _ = go(tmp_path, settings, data, tap, remember)
    rows = directory.metrics()
    assert rows[0]["left_out"] == {"east": Status.NEEDS_SETUP}
    assert rows[0]["abandoned"] is None
    assert sorted(rows[1]["answered"]) == sorted(NAMES)
    assert directory.load_checkpoint()[0].epoch == 2


def test_a_department_that_is_told_otherwise_spoils_only_its_own_part(tmp_path: Path) -> None:
    """The server changes one department's model: its masks no longer cancel, and its vector is left out unread."""
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None})

    def tap(name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        if name == "east" and kind_of(message) == "train":
            instruction = message.content.config_records["instruction"]
            model = np.frombuffer(instruction["model"], "<f4").copy()  # type: ignore[arg-type]  # bytes, as sent
            model[0] += 1
            instruction["model"] = model.tobytes()
        return deliver()

    directory, _ = go(tmp_path, settings, data, tap)
    first = directory.metrics()[0]
    assert "east" in first["left_out"]
    assert first["abandoned"] is None


@pytest.mark.parametrize("reply", [None, Error(1, "gone"), Status.TRAINING_FAILED, b"", b"CFS1", b"x" * 500])
def test_a_reply_that_is_none_is_named_and_left_out(reply: Any, tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None})

    def tap(name: str, message: Message, deliver: Callable[[], Message]) -> Message | None:
        if name != "west" or kind_of(message) != "train":
            return deliver()
        if reply is None:
            return None
        if isinstance(reply, Error):
            return Message(reply, reply_to=message)
        record = answer(reply) if isinstance(reply, Status) else answer(Status.OK, sealed=reply)
        return Message(record, reply_to=message) if message.metadata.message_id else _answer_to(deliver(), record)

    directory, _ = go(tmp_path, settings, data, tap)
    first = directory.metrics()[0]
    assert set(first["left_out"]) == {"west"}
    assert first["abandoned"] is None


def _answer_to(reply: Message, record: Any) -> Message:
    """A real reply with other contents."""
    reply.content = record
    return reply


def test_departments_that_refuse_the_roster_end_the_run_with_their_reasons(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None})

    def demanding(_name: str, site: Site) -> Site:
        assert site.sealing is not None
        floors = thresholds.Floors(min_cohort=9)
        me = dataclasses.replace(site.sealing.me, floors=floors)
        return dataclasses.replace(site, sealing=dataclasses.replace(site.sealing, me=me))

    with pytest.raises(RunFailedError, match=r"north: below-floors"):
        go(tmp_path, settings, data, change=demanding)


def test_a_wrong_clock_is_named(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None})

    def slow(_name: str, site: Site) -> Site:
        assert site.sealing is not None
        return dataclasses.replace(site, sealing=dataclasses.replace(site.sealing, now=lambda: 1_000_000))

    with pytest.raises(RunFailedError, match=r"north: clock-wrong"):
        go(tmp_path, settings, data, change=slow)


def test_a_department_larger_than_agreed_refuses_before_anybody_trains(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None, "max_size": 50})
    with pytest.raises(RunFailedError, match=r"east: refused-by-policy; west: refused-by-policy"):
        go(tmp_path, settings, data)


def lying(liar: str, accused: Callable[[int], set[str]]) -> Callable[[str, Site], Site]:
    """A department that complains, in its n-th answer, of the shares of those whom ``accused(n)`` names."""
    calls = itertools.count(1)

    def change(name: str, site: Site) -> Site:
        if name != liar:
            return site
        assert site.sealing is not None
        own = {each.name: getattr(site.sealing, each.name) for each in dataclasses.fields(Sealing)}
        return dataclasses.replace(site, sealing=Liar(**own))

    class Liar(Sealing):
        def step(self, step: SealedStep) -> bytes:
            reply = super().step(step)
            if step.message[4] != Unmask.TYPE:
                return reply
            answered = Answer.from_bytes(reply)
            names = dict(enumerate(NAMES, start=1))
            victims = accused(next(calls))
            entries = tuple(
                Entry(e.member, COMPLAINT, bytes(33)) if names[e.member] in victims else e for e in answered.entries
            )
            return dataclasses.replace(answered, entries=entries).sign(self.me.key).to_bytes()

    return change


def test_one_that_complains_of_everybody_is_left_out_itself(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 3}, secagg={"mode": None})
    liar = lying("north", lambda _n: set(NAMES) - {"north"})
    directory, _ = go(tmp_path, settings, data, change=liar)
    rows = directory.metrics()
    assert directory.load_checkpoint()[0].convicted == {"north"}
    for row in rows[1:]:
        assert sorted(row["answered"]) == sorted(set(NAMES) - {"north"})


def test_one_that_complains_of_another_each_round_costs_the_run_no_more_than_itself(tmp_path: Path) -> None:
    settings, data = toy(training={"rounds": 5}, secagg={"mode": None})
    order = [name for name in NAMES if name != "north"]
    directory, _ = go(tmp_path, settings, data, change=lying("north", lambda n: {order[(n - 1) % 4]}))
    state = directory.load_checkpoint()[0]
    assert state.convicted <= {"north"}
    assert len(directory.metrics()[-1]["answered"]) >= 4


def test_of_three_departments_nobody_is_convicted_on_one_ones_word(tmp_path: Path) -> None:
    settings, data = toy(3, training={"rounds": 3}, secagg={"mode": None})
    change = lying("north", lambda n: {"south", "east"} if n == 1 else set())
    directory, _ = go(tmp_path, settings, data, change=change)
    first, second, *_ = directory.metrics()
    assert first["abandoned"]
    assert second["abandoned"] is None
    assert directory.load_checkpoint()[0].convicted == set()


def test_a_run_ends_when_its_documents_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of departments, and no epsilon booked, once every one of them would refuse."""
    settings, data = toy(training={"rounds": 5}, secagg={"mode": None})
    rounds = itertools.count()

    def tap(name: str, message: Message, deliver: Callable[[], Message]) -> Message:
        if kind_of(message) == "train" and name == NAMES[0] and next(rounds) == 2:
            monkeypatch.setattr(sealed_sums.time, "time", lambda: 1e11)
        return deliver()

    with pytest.raises(RunFailedError, match="has expired"):
        go(tmp_path, settings, data, tap)
    (directory,) = (RunDirectory(path) for path in tmp_path.iterdir())
    assert directory.document()["status"] == "failed"
    assert directory.load_checkpoint()[0].asked["north"] == 3


def test_settings_that_were_not_permitted_are_refused_before_the_data_are_read(tmp_path: Path) -> None:
    """A coordinator with a permit for one run asks, under its name, for something else."""
    settings, data = toy(training={"rounds": 1}, secagg={"mode": None})
    read: list[str] = []

    def watched(name: str, site: Site) -> Site:
        def records() -> Any:
            read.append(name)
            return data[name]

        return dataclasses.replace(site, data=records)

    def tap(name: str, message: Message, deliver: Callable[[], Message]) -> Message:
        if name == "east" and kind_of(message) == "train":
            instruction = message.content.config_records["instruction"]
            spec = json.loads(str(instruction["spec"]))
            spec["settings"]["training"]["learning_rate"] = 9.0
            instruction["spec"] = canonical(spec)
        return deliver()

    directory, _ = go(tmp_path, settings, data, tap, watched)
    assert directory.metrics()[0]["left_out"] == {"east": Status.ROSTER_REFUSED}
    assert "east" not in read[: len(NAMES)]


def test_a_model_that_overflows_on_one_departments_records_tells_nothing_outside_the_sum(tmp_path: Path) -> None:
    """Without privacy a refusal would be an exact answer to a question that the model asks."""
    settings, data = toy(training={"rounds": 1, "learning_rate": 1e8, "local_steps": 50}, secagg={"mode": None})
    own = data["east"]
    planted = dataclasses.replace(own.train, inputs=own.train.inputs * 1e35)
    data["east"] = dataclasses.replace(own, train=planted)
    directory, grid = go(tmp_path, settings, data)
    assert directory.metrics()[0]["left_out"] == {}
    assert directory.metrics()[0]["saturated"] >= MAX_SATURATED
    assert {reply.content.config_records["answer"]["code"] for _, reply in grid.replies} == {"ok"}
