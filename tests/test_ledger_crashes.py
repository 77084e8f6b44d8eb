"""Killed at every step of a run, and eight at once: the ledger never knows of less than was sent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ledger_crashes import ADMITTED, MOMENTS, RACERS, cap_of
from ledger_home import KEY, OTHER, UPDATE, Clock, make, plan, policy, release, reserve

from privacy.costs import Cost, Mechanism
from privacy.errors import BudgetExceeded, ReservationError
from privacy.ledger import Ledger
from privacy.renyi import FILTER_ORDERS

ROOT = Path(__file__).parents[1]
STEPS = ("reserve", "train", "cache", "release", "send", "settle", "end")
SENT = Cost.of(Mechanism.from_plan(plan(rounds=1)), FILTER_ORDERS).training


def departments(what: str, folder: Path) -> list[int]:
    """How the children of ``ledger_crashes.py`` ended."""
    done = subprocess.run(
        [sys.executable, "tests/ledger_crashes.py", what, str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    endings = json.loads(done.stdout)
    assert isinstance(endings, list)
    return endings


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    folder = tmp_path_factory.mktemp("crashed")
    return folder, departments("crash", folder)


@pytest.mark.parametrize("number", range(len(MOMENTS)), ids=["-".join(filter(None, moment)) for moment in MOMENTS])
def test_killed(crashed: tuple[Path, list[int]], number: int) -> None:
    root, endings = crashed
    step, statement, when = MOMENTS[number]
    assert endings[number] == -(signal.SIGXFSZ if when == "inside" else signal.SIGKILL)
    folder = root / str(number)
    if when == "inside":
        assert (folder / "ledger" / "ledger.sqlite-journal").exists()  # it died with the transaction half written

    ledger = Ledger.open(folder / "ledger", key=KEY)
    ledger.check_all()
    with ledger._log.reading() as view:
        run = view.book.runs.get("run")
    durable = STEPS.index(step) + (when == "after" and statement in {"", "COMMIT"})
    assert [(folder / name).exists() for name in ("trained", "sent")] == [durable > 1, durable > 4]
    assert (run is not None) == (durable > 0)
    assert (run is not None and 1 in run.releases) == (durable > 3)
    assert (run is not None and run.settled is not None) == (durable > 5)
    if (folder / "sent").exists():
        assert run is not None
        assert run.cost is not None
        assert all(paid >= sent for paid, sent in zip(run.cost.training, SENT, strict=True))
    if run is not None and run.settled is None:
        assert run.cost == Cost.of(Mechanism.from_plan(plan()), FILTER_ORDERS)  # what is open counts in full

    if run is not None and run.settled is not None:
        with pytest.raises(ReservationError, match="was settled"):
            reserve(ledger)
        return
    again = reserve(ledger)
    if again.released(1):
        with pytest.raises(ReservationError, match="with another update"):
            release(again, 1, update=OTHER)
    release(again, 1, update=UPDATE)
    again.settle()
    ledger.check_all()


def test_eight_processes_at_once(tmp_path: Path) -> None:
    admitted = departments("race", tmp_path)
    assert (len(admitted), sum(admitted)) == (RACERS, ADMITTED)
    ledger = Ledger.open(tmp_path, key=KEY)
    ledger.check_all()
    assert ledger.statuses()[0].runs == ADMITTED


def test_threads_at_once(tmp_path: Path) -> None:
    lines = f'lifetime = {{ epsilon = "{cap_of(ADMITTED)!r}", delta = "1e-6" }}'
    ledger = make(tmp_path, policy(f"claims\n{lines}"))
    others = [ledger, ledger, Ledger.open(tmp_path, key=KEY, clock=Clock())]
    admitted, refused = [], []

    def compete(number: int) -> None:
        for attempt in range(3):
            try:
                admitted.append(reserve(others[number], f"run-{number}-{attempt}"))
            except BudgetExceeded as error:
                refused.append(error)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(len(others))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(admitted), len(refused)) == (ADMITTED, 9 - ADMITTED)
    ledger.check_all()
