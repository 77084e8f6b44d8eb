"""A lying coordinator: questions it must not get answers to, and rounds it must not get twice."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from account_cases import account, enrolled_machine, real
from federation_cases import PRIVATE, clear_vector, department, settings_of, site
from flwr.app import Context, RecordDict

from client import node
from client.data import DatasetEntry, DepartmentData, load
from client.errors import RefusalError
from client.site import site_for
from client.state import DiskJournal
from models.inputs.errors import DataError
from models.vector import to_vector
from privacy import dpsgd
from strategies.agreement import model_of, write_spec
from strategies.errors import SettingsError
from strategies.flower import Wakeups
from strategies.settings import RunSettings
from strategies.status import Status
from strategies.wire import Instruction


def asking(settings: RunSettings, number: int = 1) -> Instruction:
    return Instruction(
        run="run-1",
        round=number,
        spec=write_spec(settings, run="run-1"),
        train=True,
        evaluate=True,
        model=to_vector(model_of(settings, seed=3)),
    )


def test_metrics_without_noise_are_not_to_be_had(tmp_path: Path) -> None:
    """Metrics called "dp" with no noise named: exact counts at no cost, if nobody looked."""
    settings = settings_of(privacy=PRIVATE)
    quiet = settings.model_copy(update={"privacy": settings.privacy.model_copy(update={"metric_noise": None})})
    with pytest.raises((RefusalError, SettingsError), match="metric_noise"):
        clear_vector(asking(quiet), real(site(department("north")), account(tmp_path / "ledger")))


@pytest.fixture
def enrolled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with one data set of 40 records."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path))
    rows = "".join(f"{(i % 9) / 10},{(i % 7) / 10},{i % 2},{'abcd'[i % 4]}\n" for i in range(40))
    (tmp_path / "data.csv").write_text("a,b,y,town\n" + rows)
    enrolled_machine(tmp_path / "data.csv", declared_size=40)
    return tmp_path


def context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def private(**data: Any) -> RunSettings:
    return settings_of(privacy=PRIVATE, data=data)


def unread() -> DepartmentData:
    raise AssertionError("the data were read")


def test_one_description_after_another_is_no_oracle(enrolled: Path) -> None:
    """Each description is a question about the data: only the first is heard, and those that were approved."""
    first = private()
    assert clear_vector(asking(first), site_for(write_spec(first, run="run-1"), context())).size
    probe = private(label="a", classes=["0.1", "0.2"], columns={"b": {"bounds": [0, 1]}})
    machine = site_for(write_spec(probe, run="run-2"), context())
    with pytest.raises(RefusalError, match="described otherwise") as caught:
        clear_vector(
            replace(asking(probe), run="run-2", spec=write_spec(probe, run="run-2")), replace(machine, data=unread)
        )
    assert caught.value.status is Status.REFUSED_BY_POLICY


def test_the_number_of_records_is_no_question(enrolled: Path) -> None:
    """A limit on rows would tell by its refusal how many there are."""
    assert site_for(write_spec(private(max_rows=20), run="run-1"), context()).records().records == 40


def test_a_question_that_the_data_refuse_has_cost_a_round(enrolled: Path) -> None:
    wrong = private(label="town")
    own = site_for(write_spec(wrong, run="run-1"), context())
    with pytest.raises(DataError):
        clear_vector(asking(wrong), own)
    with pytest.raises(RefusalError) as caught:
        clear_vector(asking(wrong), own)
    assert caught.value.status is Status.ROUND_ALREADY_ANSWERED


def test_the_run_does_not_choose_who_is_one_person(enrolled: Path) -> None:
    """Dropping duplicates by a column of the server's choice would let one record let another in."""
    entry = DatasetEntry(path=str(enrolled / "data.csv"), declared_size=40, split_key=bytes(32))
    assert load(private(person="town").data, entry, name="north").records == 40


def _begin(folder: str, barrier: Any, admitted: Any) -> None:
    """One of two processes on one machine's state."""
    journal = DiskJournal(Path(folder))
    for number in range(1, 41):
        barrier.wait(60)
        try:
            journal.begin("run", "digest", number)
        except RefusalError:
            continue
        with admitted.get_lock():
            admitted.value += 1


def test_two_processes_answer_each_round_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, admitted = context.Barrier(2), context.Value("i", 0)
    processes = [context.Process(target=_begin, args=(str(tmp_path), barrier, admitted)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    assert admitted.value == 40


def test_a_second_process_for_one_machine_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path))
    first = node.hold_lock()
    with pytest.raises(SystemExit) as caught:
        node.hold_lock()
    assert caught.value.code == node.ALREADY_RUNNING
    first.release()


class EnoughError(BaseException):
    """Ends a loop that would go on for ever."""


def test_one_bad_message_does_not_silence_a_department(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([ValueError("unknown kind"), KeyError("malformed"), None])
    done: list[str] = []

    def execute(*_: object) -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        done.append("answered")
        raise EnoughError

    monkeypatch.setattr(node, "acquire", lambda *_: "token")
    monkeypatch.setattr(node, "execute_client_task", execute)
    monkeypatch.setattr(node, "SAFETY_SECONDS", 0.0)
    runtime = type("Runtime", (), {"client": lambda _self: None})()
    with pytest.raises(EnoughError):
        node.work(runtime, Wakeups())
    assert done == ["answered"]


def test_the_exactness_check_never_looks_at_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal that depends on which records are there would tell who is."""
    seen: list[torch.Tensor] = []
    check = dpsgd.check_exact
    monkeypatch.setattr(dpsgd, "check_exact", lambda m, x, y: (seen.append(x.clone()), check(m, x, y))[1])
    for seed in (1, 2):
        clear_vector(asking(private()), site(department("north", seed=seed)))
    assert seen
    assert all(torch.equal(seen[0], other) for other in seen)
