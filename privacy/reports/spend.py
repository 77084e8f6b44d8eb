"""What each data set of a ledger has paid, entry by entry, and for what.

Costs are computed anew from the mechanisms; the costs that the entries state are the verifier's to judge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from privacy.canonical import unix
from privacy.filter import enforced
from privacy.policy import DatasetPolicy, Policy
from privacy.renyi import FILTER_ORDERS, curve
from privacy.reports import reading
from privacy.reports.evidence import LedgerText, Line, PolicyText, Terms

FALLBACK_DELTA: Final = 1e-5
Steps = Counter[tuple[float, float]]


@dataclass(kw_only=True)
class Run:
    """One run on one data set; ``sent`` counts vectors that left, ``trained`` and ``evaluated`` what was in them."""

    name: str
    seq: int
    time: str
    model: str = ""
    reserved: Terms | None = None
    settled: Terms | None = None
    settled_time: str = ""
    trained: int = 0
    evaluated: int = 0
    sent: int = 0
    abandoned: Counter[str] = field(default_factory=Counter)
    unprotected: bool = False

    @property
    def terms(self) -> Terms | None:
        """What the run is charged for: what it settled at, else all that it reserved."""
        return self.settled or self.reserved

    @property
    def state(self) -> str:
        """Unprotected, settled or open."""
        return "unprotected" if self.unprotected else "settled" if self.settled else "open"


@dataclass(frozen=True, kw_only=True)
class Point:
    """The enforced epsilon right after an entry; None: unbounded. ``cap`` is the lifetime cap then in force."""

    seq: int
    time: str
    event: str
    run: str
    epsilon: float | None
    cap: float | None


@dataclass(frozen=True, kw_only=True)
class CapSigned:
    """A data set's table in a policy, from the entry that put it in force."""

    seq: int
    time: str
    digest: str
    table: DatasetPolicy
    after_releases: bool


@dataclass(kw_only=True)
class Account:
    """A data set's books; ``overrides`` are its runs without differential privacy.

    ``history`` has a point for every entry that may change what was spent or allowed.
    """

    name: str
    versions: list[Line] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    overrides: list[Run] = field(default_factory=list)
    caps: list[CapSigned] = field(default_factory=list)
    history: list[Point] = field(default_factory=list)
    training: Steps = field(default_factory=Counter)
    validation: Steps = field(default_factory=Counter)

    def charge(self, terms: Terms | None, sign: int) -> None:
        """Add a mechanism to what was spent, or take it off again."""
        if terms is not None:
            for steps, (q, sigma, count) in ((self.training, terms.training), (self.validation, terms.validation)):
                steps[q, sigma] += sign * count


class Books:
    """A ledger's accounts after all its entries.

    Attributes:
        accounts: by data set.
        policies: (entry, digest) of every policy, in order.
        policy: the one in force, or None.
    """

    def __init__(self, ledger: LedgerText, policies: Mapping[str, PolicyText]) -> None:
        self.accounts: dict[str, Account] = {}
        self.policies: list[tuple[Line, str]] = []
        self.policy: Policy | None = None
        self._texts = policies
        for entry in ledger.entries:
            self._apply(entry)

    def group(self, account: Account) -> list[Account]:
        """Return the accounts that share this one's budget, itself among them."""
        table = self.policy.dataset(account.name) if self.policy else None
        if self.policy is None or table is None or table.group is None:
            return [account]
        tables = self.policy.datasets
        return [a for a in self.accounts.values() if (t := tables.get(a.name)) is not None and t.group == table.group]

    def added(self, account: Account) -> bool:
        """Whether a record may have been in both compartments, so that their costs add up."""
        return len({v.ref.get("split") for one in self.group(account) for v in one.versions}) > 1

    def spent(self, account: Account) -> tuple[Steps, Steps]:
        """Return steps by (sampling rate, noise multiplier), of training and validation, of the whole group."""
        group = self.group(account)
        training, validation = Counter[tuple[float, float]](), Counter[tuple[float, float]]()
        for one in group:
            training.update(one.training)
            validation.update(one.validation)
        return training, validation

    def epsilon(self, account: Account) -> float | None:
        """Return the enforced epsilon as it stands; None where it is unbounded."""
        if any(one.overrides for one in self.group(account)):
            return None
        table = self.policy.dataset(account.name) if self.policy else None
        if table is not None and self.policy is not None and self.policy.mode == "pinned":
            return pinned(table, add=self.added(account))
        orders = self.policy.orders if self.policy else FILTER_ORDERS
        training, validation = self.spent(account)
        delta = self.delta(account)
        return finite(
            enforced(_total(training, orders), _total(validation, orders), orders, delta, add=self.added(account))
        )

    def delta(self, account: Account) -> float:
        """Return the largest delta of a lifetime cap so far; where no policy names the data set, its newest run's."""
        signed = [each.table.lifetime.delta for each in account.caps]
        if signed:
            return max(signed)
        used = [run.reserved.delta for run in account.runs.values() if run.reserved]
        return used[-1] if used else FALLBACK_DELTA

    def period(self, account: Account, now: int) -> dict[str, float | None] | None:
        """Return the period cap and what runs that are open, or were settled within it, have spent."""
        table = self.policy.dataset(account.name) if self.policy else None
        if table is None or table.period is None or self.policy is None:
            return None
        recent = Account(name=account.name)
        for run in (run for one in self.group(account) for run in one.runs.values()):
            if run.settled is None or now - unix(run.settled_time) < table.period.days * 86_400:
                recent.charge(run.terms, 1)
        training, validation = (_total(steps, self.policy.orders) for steps in (recent.training, recent.validation))
        spent = enforced(training, validation, self.policy.orders, table.lifetime.delta, add=self.added(account))
        return {"days": table.period.days, "cap": table.period.epsilon, "enforced_epsilon": finite(spent)}

    def _apply(self, entry: Line) -> None:
        """Take one entry into the books."""
        if entry.kind == "policy":
            self._enforce(entry)
        elif entry.dataset:
            account = self.accounts.setdefault(entry.dataset, Account(name=entry.dataset))
            if entry.kind == "dataset":
                account.versions.append(entry)
                self._note_caps(entry)
                self._mark(entry)
            else:
                self._take(account, entry)

    def _enforce(self, entry: Line) -> None:
        """Put a policy in force."""
        digest = str(entry.ref.get("digest", ""))
        self.policies.append((entry, digest))
        text = self._texts.get(digest)
        self.policy = text.policy if text else None
        self._note_caps(entry)
        self._mark(entry)

    def _note_caps(self, entry: Line) -> None:
        """Note what the policy in force says of each registered data set."""
        for account in self.accounts.values():
            table = self.policy.dataset(account.name) if self.policy else None
            if table is not None and (not account.caps or account.caps[-1].table != table):
                digest = self.policies[-1][1]
                late = any(run.sent for run in account.runs.values())
                account.caps.append(
                    CapSigned(seq=entry.seq, time=entry.time, digest=digest, table=table, after_releases=late)
                )

    def _take(self, account: Account, entry: Line) -> None:
        """Take an entry about a run into its data set's account."""
        new = Run(name=entry.run, seq=entry.seq, time=entry.time)
        run = account.runs.setdefault(entry.run, new)
        if entry.kind == "reserve" and run.reserved is None:
            run.reserved, run.model = entry.terms, str(entry.ref.get("model", ""))
            account.charge(run.reserved, 1)
        elif entry.kind == "settle" and run.settled is None:
            account.charge(run.reserved, -1)
            run.settled, run.settled_time = entry.terms, entry.time
            account.charge(run.settled, 1)
        elif entry.kind == "override":
            run.unprotected = True
            account.overrides.append(run)
        elif entry.kind == "abandon":
            run.abandoned[str(entry.ref.get("reason", ""))] += 1
        elif entry.kind == "release":
            train, evaluate = entry.ref.get("train") is True, entry.ref.get("evaluate") is True
            run.trained, run.evaluated = run.trained + train, run.evaluated + evaluate
            run.sent += 1
        if entry.kind in {"reserve", "settle", "override"}:
            self._mark(entry)

    def _mark(self, entry: Line) -> None:
        """Add a point to every history that this entry may have changed."""
        mine = self.accounts.get(entry.dataset)
        for account in self.group(mine) if mine else self.accounts.values():
            if not account.versions and not account.runs:
                continue
            table = self.policy.dataset(account.name) if self.policy else None
            account.history.append(
                Point(
                    seq=entry.seq,
                    time=entry.time,
                    event=entry.kind,
                    run=entry.run,
                    epsilon=self.epsilon(account),
                    cap=table.lifetime.epsilon if table else None,
                )
            )


def alone(terms: Terms, orders: tuple[int, ...], delta: float) -> float | None:
    """Return the enforced epsilon of one run by itself."""
    training, validation = (
        curve(sampling_rate=q, noise_multiplier=sigma, steps=steps, orders=orders)
        for q, sigma, steps in (terms.training, terms.validation)
    )
    return finite(enforced(training, validation, orders, delta))


def pinned(table: DatasetPolicy, *, add: bool = False) -> float | None:
    """Return what a pinned policy promises from its first day: the PLD epsilon of all that it would allow."""
    if table.sigma_min is None or table.sampling_rate_max is None or table.max_steps is None:
        return None
    parts: list[tuple[reading.Steps, ...]] = [((table.sampling_rate_max, table.sigma_min, table.max_steps),)]
    if table.metric_sigma_min is not None and table.max_evaluations:
        parts.append(((1.0, table.metric_sigma_min, table.max_evaluations),))
    figures = [reading.epsilon(part, table.lifetime.delta) for part in ([sum(parts, ())] if add else parts)]
    return None if None in figures else max(figure for figure in figures if figure is not None)


def mechanisms(steps: Steps) -> tuple[tuple[float, float, int], ...]:
    """Return (sampling rate, noise multiplier, steps) of what was spent, sorted."""
    return tuple(sorted((q, sigma, count) for (q, sigma), count in steps.items() if count > 0))


def finite(value: float) -> float | None:
    """Return a figure, or None where it is no bound."""
    return value if math.isfinite(value) else None


def _total(steps: Steps, orders: tuple[int, ...]) -> list[float]:
    """The Renyi divergence of all steps, order by order."""
    curves = [
        curve(sampling_rate=q, noise_multiplier=sigma, steps=count, orders=orders)
        for (q, sigma), count in steps.items()
        if count > 0
    ]
    return [math.fsum(column) for column in zip(*curves, strict=True)] if curves else [0.0] * len(orders)
