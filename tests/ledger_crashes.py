"""Kills a department in the middle of a run: ``python tests/ledger_crashes.py crash FOLDER``.

The process imports once and forks a child for every moment of :data:`MOMENTS`; a child works in ``FOLDER/NUMBER`` and
kills itself. With ``race``, children compete for a cap instead.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from ledger_home import KEY, MODEL, UPDATE, make, plan, policy, reserve

from privacy import filter as renyi_filter
from privacy import ledger_store
from privacy.costs import Cost, Mechanism
from privacy.errors import BudgetExceeded
from privacy.ledger import Ledger
from privacy.renyi import FILTER_ORDERS

STEPS = ("reserve", "release", "settle")
MOMENTS = [
    *((step, *at) for step in STEPS for at in (
        ("BEGIN IMMEDIATE", "before"),
        ("BEGIN IMMEDIATE", "after"),
        ("INSERT", "before"),
        ("INSERT", "after"),
        ("COMMIT", "inside"),
        ("COMMIT", "after"),
    )),
    *((step, "", when) for step in ("train", "cache", "send") for when in ("before", "after")),
    ("end", "", "before"),
]  # fmt: skip
RACERS, TRIES, ADMITTED = 8, 2, 5


class Moment:
    """Where this child dies, and where it is now."""

    def __init__(self, step: str, statement: str, when: str) -> None:
        self.target = (step, statement, when)
        self.step = ""

    def reached(self, statement: str, when: str) -> None:
        step, wanted, then = self.target
        if (self.step, when) == (step, then) and statement.startswith(wanted) and bool(statement) == bool(wanted):
            os.kill(os.getpid(), signal.SIGKILL)

    def inside(self, statement: str) -> None:
        """Have the system kill this process when it writes past the database's first page."""
        step, wanted, then = self.target
        if (self.step, "inside") == (step, then) and statement == wanted:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def mark(folder: Path, name: str, text: str = "") -> None:
    """Something that others can see has happened, durably."""
    with (folder / name).open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def work(folder: Path, moment: Moment) -> None:
    """A department's run of one round, as the product does it."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            moment.reached(sql, "before")
            moment.inside(sql)
            done = super().execute(sql, *arguments)
            moment.reached(sql, "after")
            return done

    ledger = Ledger.open(folder / "ledger", key=KEY)
    connect = sqlite3.connect
    ledger_store.sqlite3.connect = lambda *a, **k: connect(*a, factory=Connection, **k)

    def step(name: str, action: Any) -> Any:
        moment.step = name
        moment.reached("", "before")
        done = action()
        moment.reached("", "after")
        return done

    run = step("reserve", lambda: reserve(ledger))
    step("train", lambda: mark(folder, "trained"))
    step("cache", lambda: mark(folder, "cache", UPDATE))
    step("release", lambda: run.release(1, train=True, evaluate=True, model=MODEL, update=UPDATE))
    step("send", lambda: mark(folder, "sent", UPDATE))
    step("settle", run.settle)
    step("end", lambda: None)


def crash(root: Path) -> None:
    """Fork a child a moment, one after another, and say how each ended."""
    endings = []
    for number, (step, statement, when) in enumerate(MOMENTS):
        folder = root / str(number)
        make(folder / "ledger")
        child = os.fork()
        if child == 0:
            work(folder, Moment(step, statement, when))
            os._exit(0)
        endings.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.write(json.dumps(endings))


def race(root: Path) -> None:
    """Fork children that all want to reserve, and say how often each was admitted."""
    lines = f'lifetime = {{ epsilon = "{cap_of(ADMITTED)!r}", delta = "1e-6" }}'
    make(root, policy(f"claims\n{lines}"))
    start = time.time() + 0.1
    children = []
    for racer in range(RACERS):
        child = os.fork()
        if child == 0:
            ledger, admitted = Ledger.open(root, key=KEY), 0
            time.sleep(max(0.0, start - time.time()))
            for attempt in range(TRIES):
                try:
                    reserve(ledger, f"run-{racer}-{attempt}")
                    admitted += 1
                except BudgetExceeded:
                    pass
            os._exit(admitted)
        children.append(child)
    sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))


def cap_of(runs: int) -> float:
    """The least lifetime cap that admits as many runs."""
    cost = Cost.of(Mechanism.from_plan(plan()), FILTER_ORDERS)
    training, validation = ([runs * value for value in part] for part in (cost.training, cost.validation))
    return renyi_filter.enforced(training, validation, FILTER_ORDERS, 1e-6) * (1 + 1e-9)


if __name__ == "__main__":
    {"crash": crash, "race": race}[sys.argv[1]](Path(sys.argv[2]))
