"""What every data set has spent and what is left of it, as ``confide privacy status`` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from privacy.admission import MOST_ROUNDS, Account
from privacy.ledger_log import View
from privacy.policy import Cap, DatasetPolicy, Period, Policy


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """One data set; epsilons are enforced ones, at the lifetime's delta, and infinite where there is no bound.

    Attributes:
        dataset: its name.
        group: the group it shares its budget with, or None.
        version: newest version.
        lineage: what its budget belongs to.
        cap: the lifetime cap in force; None where the policy denies the data set.
        highest_cap: the largest lifetime cap ever signed for it.
        cap_raised: whether a later policy ever raised the cap or its delta, or took the data set out of its group.
        enforced: spent, with open reservations in full (with the group's, where there is one).
        settled: spent by runs that are over.
        open_runs: names of runs that are reserved and not settled.
        runs: number of runs reserved so far.
        remaining: what the cap leaves, at least 0.
        last_run: the run that was reserved last.
        rounds_left: rounds that one more run like the last could have; None before the first.
        period: the cap of a period, or None.
        period_spent: what counts towards it now.
        overrides: names of runs that trained without privacy.
    """

    dataset: str
    group: str | None
    version: int
    lineage: str
    cap: Cap | None
    highest_cap: Cap | None
    cap_raised: bool
    enforced: float
    settled: float
    open_runs: tuple[str, ...]
    runs: int
    remaining: float
    last_run: str | None
    rounds_left: int | None
    period: Period | None
    period_spent: float | None
    overrides: tuple[str, ...]


def statuses(view: View) -> list[DatasetStatus]:
    """Return the status of every registered data set, by name."""
    book = view.book
    history = [view.log.parsed(view, digest) for digest in book.history]
    # A status is no entry: a clock that was set back must not hide it.
    now = max(view.log.clock_seconds(), book.time)
    return [_status(view, name, history, now) for name in sorted(book.datasets)]


def _status(view: View, name: str, history: list[Policy], now: int) -> DatasetStatus:
    """The status of one data set."""
    book, versions = view.book, view.book.datasets[name]
    tables = [(policy, table) for policy in history if (table := policy.dataset(name)) is not None]
    caps = [table.lifetime for _, table in tables]
    denied = not history or history[-1].dataset(name) is None
    # What was spent under a policy that has no table for it any more is shown by the last that had one.
    account = Account(book, tables[-1][0], name, now) if tables else None
    runs = list(book.runs_of(name))
    paying = [run for run in runs if run.mechanism is not None]
    enforced = account.epsilon(account.whole) if account else 0.0
    rounds_left = None
    if paying:
        last = paying[-1].reserved
        rounds_left = 0 if denied or account is None or last is None else account.rounds_left(last, MOST_ROUNDS)
    return DatasetStatus(
        dataset=name,
        group=account.table.group if account else None,
        version=versions[-1].version,
        lineage=versions[-1].lineage,
        cap=None if denied else caps[-1],
        highest_cap=max(caps, key=lambda cap: cap.epsilon, default=None),
        cap_raised=any(_allows_more(later, earlier) for (_, earlier), (_, later) in pairwise(tables)),
        enforced=enforced,
        settled=account.epsilon(account.settled) if account else 0.0,
        open_runs=tuple(run.name for run in paying if run.settled is None),
        runs=len(paying),
        remaining=0.0 if denied else max(0.0, caps[-1].epsilon - enforced),
        last_run=paying[-1].name if paying else None,
        rounds_left=rounds_left,
        period=account.table.period if account else None,
        period_spent=account.epsilon(account.recent) if account and account.table.period else None,
        overrides=tuple(run.name for run in runs if run.mechanism is None),
    )


def _allows_more(later: DatasetPolicy, earlier: DatasetPolicy) -> bool:
    """Whether a table's lifetime cap promises less than the one before it."""
    new, old = later.lifetime, earlier.lifetime
    left = earlier.group is not None and later.group != earlier.group
    return new.epsilon > old.epsilon or new.delta > old.delta or left
