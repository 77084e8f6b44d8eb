"""What a department remembers: a round is answered once, and never without a durable record."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from federation_cases import ask, department, settings_of, site

from client.app import respond
from client.errors import RefusalError
from client.plain import PlainTrainer
from client.state import DiskJournal
from models.vector import to_vector
from strategies.agreement import model_of, write_spec
from strategies.status import Status
from strategies.wire import Instruction


def refusal(journal: DiskJournal, run: str, digest: str, number: int) -> Status:
    with pytest.raises(RefusalError) as caught:
        journal.begin(run, digest, number)
    return caught.value.status


def test_rounds_only_go_up(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path / "runs")
    journal.begin("run-1", "d", 1)
    journal.begin("run-1", "d", 3)  # a round it was not asked in is no matter
    for number in (3, 2, 1):
        assert refusal(journal, "run-1", "d", number) is Status.ROUND_ALREADY_ANSWERED
    assert refusal(DiskJournal(tmp_path / "runs"), "run-1", "d", 3) is Status.ROUND_ALREADY_ANSWERED
    journal.begin("run-2", "d", 1)  # another run has its own count
    journal.begin("run-1", "d", 4)


def test_another_agreement_under_the_same_name_is_refused(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.begin("run-1", "one", 1)
    assert refusal(journal, "run-1", "two", 2) is Status.REFUSED_BY_POLICY
    journal.begin("run-1", "one", 2)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../run", "a/b", "/etc/x", ".hidden", "a\\b", "a\0b", "a b", "a\nb", "x" * 129]
)
def test_a_run_s_name_cannot_choose_the_folder(tmp_path: Path, name: str) -> None:
    journal = DiskJournal(tmp_path / "runs")
    assert refusal(journal, name, "d", 1) is Status.BAD_MESSAGE
    for call in (lambda: journal.control(name, 3), lambda: journal.keep_control(name, np.zeros(3, np.float32))):
        with pytest.raises(RefusalError):
            call()
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'"text"', b"{}", b'{"digest": "d"}', b'{"digest": "d", "last_round": null}', b"\xff"],
)
def test_a_damaged_record_is_a_refusal_not_a_fresh_start(tmp_path: Path, content: bytes) -> None:
    journal = DiskJournal(tmp_path)
    (tmp_path / "run-1.json").write_bytes(content)
    with pytest.raises(RefusalError) as caught:
        journal.begin("run-1", "d", 1)
    assert caught.value.status in {Status.STATE_NOT_DURABLE, Status.REFUSED_BY_POLICY}
    assert (tmp_path / "run-1.json").read_bytes() == content


def test_control_variates_are_kept_exactly(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    assert journal.control("run-1", 3).tolist() == [0, 0, 0]
    kept = np.array([1e-38, -2.5, 3e38], np.float32)
    journal.keep_control("run-1", kept)
    assert DiskJournal(tmp_path).control("run-1", 3).tobytes() == kept.tobytes()
    with pytest.raises(RefusalError) as caught:
        journal.control("run-1", 4)
    assert caught.value.status is Status.STATE_NOT_DURABLE
    (tmp_path / "run-1.safetensors").write_bytes(b"damaged")
    with pytest.raises(RefusalError) as caught:
        journal.control("run-1", 3)
    assert caught.value.status is Status.STATE_NOT_DURABLE


def test_the_state_is_the_owner_s_alone(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path / "runs")
    journal.begin("run-1", "d", 1)
    journal.keep_control("run-1", np.zeros(3, np.float32))
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o700
    files = list((tmp_path / "runs").iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert {file.name for file in files} == {"run-1.json", "run-1.safetensors", "lock"}


def instruction(number: int = 1, **strategy: str) -> Instruction:
    settings = settings_of(strategy=strategy)
    model = to_vector(model_of(settings, seed=0))
    return Instruction(
        run="run-1",
        round=number,
        spec=write_spec(settings, run="run-1"),
        train=True,
        evaluate=True,
        model=model,
        control=np.zeros_like(model) if strategy else None,
    )


def code(number: int, journal: DiskJournal, **strategy: str) -> tuple[str, bool]:
    own = site(department("north"), journal=journal)
    reply = respond(ask(instruction(number, **strategy)), lambda _: own)
    answer = reply.content.config_records["answer"]
    return str(answer["code"]), "vector" in answer


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_nothing_is_sent_when_the_round_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    journal = DiskJournal(tmp_path)
    assert code(1, journal) == ("ok", True)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        assert code(2, journal) == ("state-not-durable", False)
    assert code(3, journal) == ("ok", True)


def test_the_record_is_durable_before_training_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = DiskJournal(tmp_path)
    seen: list[int] = []

    def crash(*_: object, **__: object) -> int:
        seen.append(json.loads((tmp_path / "run-1.json").read_text())["last_round"])
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(PlainTrainer, "train", crash)
        assert code(2, journal) == ("training-failed", False)
    assert seen == [2]
    assert code(2, journal) == ("round-already-answered", False)
    assert code(3, journal) == ("ok", True)


def test_scaffold_s_variate_stays_when_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = DiskJournal(tmp_path)
    assert code(1, journal, name="scaffold") == ("ok", True)
    size = len(instruction().model)
    kept = journal.control("run-1", size)
    assert kept.any()
    with monkeypatch.context() as patch:  # training that diverges
        patch.setattr("client.train.to_vector", lambda _model: np.full(size, np.nan, np.float32))
        assert code(2, journal, name="scaffold") == ("training-failed", False)
    assert journal.control("run-1", size).tobytes() == kept.tobytes()
