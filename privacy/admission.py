"""May this run start? Every condition of ``docs/ledger-spec.md``, "Spending", on a reservation.

Nothing here writes; the ledger asks inside the transaction that writes the reservation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NoReturn

from privacy import filter as renyi_filter
from privacy.book import Book, Registration, Run
from privacy.costs import Cost, Mechanism
from privacy.errors import AccountingError, BudgetExceeded, PolicyRefusal
from privacy.fits import what_fits
from privacy.policy import DatasetPolicy, Policy

DAY_SECONDS = 86_400
MOST_ROUNDS = 10_000
# PLD accounting of as many steps takes seconds, of ten times as many it can take minutes.
MOST_PLD_STEPS = 1_000_000
# Those at which a verifier bounds a run by itself, so that what is admitted by its bound here is so there.
BOUND_ORDERS = (*range(2, 64), *range(64, 129, 4))


@dataclass(frozen=True)
class Spend:
    """What training and validation records have paid: Renyi divergence at each of the policy's orders."""

    training: tuple[float, ...]
    validation: tuple[float, ...]

    def plus(self, cost: Cost) -> Spend:
        """The spend with one more run."""
        return Spend(
            tuple(a + b for a, b in zip(self.training, cost.training, strict=True)),
            tuple(a + b for a, b in zip(self.validation, cost.validation, strict=True)),
        )


class Account:
    """What a data set has spent, and what it may spend, under the policy in force at ``time`` (Unix seconds).

    Raises:
        PolicyRefusal: the policy has no table for the data set.
    """

    def __init__(self, book: Book, policy: Policy, dataset: str, time: int) -> None:
        table = policy.dataset(dataset)
        if table is None:
            raise PolicyRefusal(
                f"data set {dataset}: the policy has no table for it, so every run on it is denied; "
                f'add [dataset."{dataset}"] to the policy and sign it'
            )
        self.book, self.policy, self.table, self.time = book, policy, table, time
        self.members = members(policy, dataset)
        # Data sets that share records hold them out by different keys: one may train on what another validates with.
        self.add = book.adds_compartments(self.members)

    @cached_property
    def whole(self) -> Spend:
        """All that was ever spent, open reservations in full."""
        return self._spend(list(self.book.paying(self.members)))

    @cached_property
    def settled(self) -> Spend:
        """What was spent by runs that are over."""
        return self._spend([run for run in self.book.paying(self.members) if run.settled is not None])

    @cached_property
    def recent(self) -> Spend:
        """What counts towards the period's cap: runs that are open, or were settled within it."""
        days = self.table.period.days if self.table.period else 0
        since = self.time - days * DAY_SECONDS
        return self._spend(
            [run for run in self.book.paying(self.members) if run.settled is None or run.settled > since]
        )

    @property
    def overridden(self) -> bool:
        """Whether a run without privacy has made epsilon unbounded."""
        return any(run.cost is None for name in self.members for run in self.book.runs_of(name))

    def epsilon(self, spend: Spend) -> float:
        """The enforced epsilon of a spend, at the lifetime's delta; infinite where there is no bound."""
        if self.overridden:
            return math.inf
        if self.policy.mode == "pinned":
            return self._pinned if any(self.book.paying(self.members)) else 0.0
        return self._enforced(spend)

    def refuse(self, mechanism: Mechanism, model: str) -> Cost:
        """Return what a run costs, if it may start now; ``model`` is the kind of model.

        Raises:
            PolicyRefusal: the policy does not allow such a run.
            BudgetExceeded: a cap would not hold.
        """
        self.refuse_kind(mechanism, model)
        self._refuse_another()
        found = self._broken(mechanism)
        if found is not None:
            cap, allowed, would_be = found
            self._exceeded(cap, allowed, would_be, self._fits(mechanism))
        return Cost.of(mechanism, self.policy.orders)

    def rounds_left(self, mechanism: Mechanism, most: int) -> int:
        """Rounds, up to ``most``, that one more run of these step settings could have and be within every cap.

        A cap of one run is looked at through its Renyi bound, which is quick and never too low.
        """
        try:
            self.refuse_kind(mechanism, None)
            self._refuse_another()
        except (PolicyRefusal, BudgetExceeded):
            return 0
        low, high = 0, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high) if self._broken(mechanism.of_rounds(middle), quick=True) is None else (low, middle)
            )
        return low

    def refuse_kind(self, mechanism: Mechanism, model: str | None) -> None:
        """Refuse what the data set's table does not allow, whatever was spent; None stands for any model.

        It holds for a run that is open, too: a policy that comes into force meanwhile can stop it.

        Raises:
            PolicyRefusal: the policy does not allow such a run, or the data set is not registered.
        """
        table, registered = self.table, self.book.registration(self.table.name)
        if registered is None:
            raise PolicyRefusal(
                f"data set {table.name}: not registered in the ledger; register it with `confide client dataset add`"
            )
        self._refuse_size(mechanism, registered)
        sigma, q, metric_noise = mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.metric_noise
        if table.sigma_min is not None and sigma < table.sigma_min:
            self._deny(f"noise_multiplier={sigma!r} is below sigma_min={table.sigma_min!r}; add noise")
        if table.sampling_rate_max is not None and q > table.sampling_rate_max:
            self._deny(f"sampling_rate={q!r} is above sampling_rate_max={table.sampling_rate_max!r}; sample less")
        if metric_noise is not None:
            if table.metrics == "off":
                self._deny('validation metrics are released, and the policy has metrics = "off"; release none')
            if self.policy.mode == "pinned" and not _at_least(metric_noise, table.metric_sigma_min):
                self._deny(f"metric_noise={metric_noise!r}: metric_sigma_min is {table.metric_sigma_min!r}; add noise")
        if table.models is not None and model is not None and model not in table.models:
            self._deny(f"model {model!r} is none of models = {', '.join(table.models) or '(none)'}; use one of them")

    def _refuse_another(self) -> None:
        """Refuse one more run, of whatever kind, where there are as many as there may be, or no bound covers them."""
        table = self.table
        if self.policy.mode == "pinned":
            self._refuse_unpinned()
        reserved = sum(run.cost is not None and _counts(run) for run in self.book.runs_of(table.name))
        if table.max_runs is not None and reserved >= table.max_runs:
            self._exceeded("max_runs", table.max_runs, reserved + 1, "")

    def _refuse_size(self, mechanism: Mechanism, registered: Registration) -> None:
        """Refuse another size than was registered: the public normaliser, and the noise, depend on it."""
        size = registered.declared_size
        if self.table.declared_size != size:
            self._deny(
                f"declared_size={self.table.declared_size} in the policy, but {size} is registered; "
                "correct the policy and sign it"
            )
        if mechanism.declared_size != size:
            self._deny(f"declared_size={mechanism.declared_size} in the plan, but {size} is registered; plan with that")

    def _refuse_unpinned(self) -> None:
        """Refuse to go on where runs under an earlier policy were outside what is pinned now: no bound covers them."""
        table = self.table
        for run in self.book.paying(self.members):
            past = run.mechanism
            if past is None or not (
                _at_least(past.noise_multiplier, table.sigma_min)
                and past.sampling_rate <= (table.sampling_rate_max or 0)
                and (not past.evaluations or _at_least(past.metric_noise or 0, table.metric_sigma_min))
            ):
                self._deny(
                    f"run {run.name} was made under an earlier policy with less noise or more sampling than is pinned "
                    'now; use mode = "renyi-filter"'
                )

    def _broken(self, mechanism: Mechanism, *, quick: bool = False) -> tuple[str, float, float] | None:
        """The first cap that would not hold with one more run: its name, it, and what it would come to."""
        table, lifetime = self.table, self.table.lifetime
        if self.policy.mode == "pinned":
            runs = [run.mechanism for run in self.book.paying(self.members) if run.mechanism] + [mechanism]
            steps, evaluations = sum(run.steps for run in runs), sum(run.evaluations for run in runs)
            if steps > (table.max_steps or 0):
                return "max_steps", table.max_steps or 0, steps
            if evaluations > (table.max_evaluations or 0):
                return "max_evaluations", table.max_evaluations or 0, evaluations
            # Parsing the policy has checked the bound, but for compartments that add.
            if self.add and self._pinned > lifetime.epsilon:
                return "lifetime", lifetime.epsilon, self._pinned
        else:
            cost = Cost.of(mechanism, self.policy.orders)
            caps = [("lifetime", lifetime.epsilon, self.whole)]
            if table.period is not None:
                caps.append(("period", table.period.epsilon, self.recent))
            for name, cap, spend in caps:
                would_be = self._enforced(spend.plus(cost))
                # Written so that no comparison with a NaN admits anything.
                if not would_be <= cap:
                    return name, cap, would_be
        if table.per_run is not None:
            alone = _alone(mechanism, lifetime.delta, math.inf if quick else table.per_run)
            if not alone <= table.per_run:
                return "per_run", table.per_run, alone
        return None

    @cached_property
    def _pinned(self) -> float:
        """The epsilon of all that mode pinned ever admits."""
        try:
            return self.table.pinned_epsilon(add=self.add)
        except AccountingError:
            return math.inf

    def _enforced(self, spend: Spend) -> float:
        """The filter's epsilon."""
        return renyi_filter.enforced(
            spend.training, spend.validation, self.policy.orders, self.table.lifetime.delta, add=self.add
        )

    def _spend(self, runs: list[Run]) -> Spend:
        """Sum up runs."""
        orders = self.policy.orders
        costs = [run.cost_at(orders) for run in runs]
        return Spend(
            renyi_filter.spent((cost.training for cost in costs), orders),
            renyi_filter.spent((cost.validation for cost in costs), orders),
        )

    def _fits(self, mechanism: Mechanism) -> str:
        """What would be admitted in place of a run that is not; a cap of one run is looked at as in rounds_left."""
        return what_fits(lambda plan: self._broken(Mechanism.from_plan(plan), quick=True) is None, mechanism.plan())

    def _deny(self, why: str) -> NoReturn:
        """Refuse a run for what it is."""
        raise PolicyRefusal(f"data set {self.table.name}: {why}")

    def _exceeded(self, cap: str, allowed: float, would_be: float, fits: str) -> NoReturn:
        """Refuse a run for what it costs."""
        raise BudgetExceeded(dataset=self.table.name, cap=cap, allowed=allowed, would_be=would_be, fits=fits)


def members(policy: Policy, dataset: str) -> list[str]:
    """Return the data sets that share a budget with one, itself among them; none where the policy denies it."""
    table = policy.dataset(dataset)
    if table is None:
        return []
    return [
        name
        for name, other in policy.datasets.items()
        if name == dataset or (table.group is not None and other.group == table.group)
    ]


def foresee(policy: Policy, dataset: str, mechanism: Mechanism) -> None:
    """Compute, and remember, what of a decision takes seconds, before anybody has to wait for the ledger."""
    table = policy.dataset(dataset)
    if table is not None and table.per_run is not None:
        _alone(mechanism, table.lifetime.delta, table.per_run)


def may_override(policy: Policy, dataset: str) -> bool:
    """Tell whether the policy lets a data set be trained on without privacy."""
    table: DatasetPolicy | None = policy.dataset(dataset)
    return table is not None and table.allow_without_privacy


def _counts(run: Run) -> bool:
    """Whether a reservation counts towards ``max_runs``: one that was settled with no release does not."""
    return run.settled is None or bool(run.releases)


def _at_least(noise: float, least: float | None) -> bool:
    """Whether there is a least noise, and it is reached."""
    return least is not None and noise >= least


def _alone(mechanism: Mechanism, delta: float, enough: float) -> float:
    """The epsilon of a run by itself (the larger of its compartments), exact by PLD, or a bound that is ``enough``.

    For more than ``MOST_PLD_STEPS`` it is the bound, whatever it is.
    """
    cost = Cost.of(mechanism, BOUND_ORDERS)
    # One order's bound holds at all of delta: the run is fixed beforehand, so the best order may be picked.
    bound = max(
        min(
            renyi_filter.enforced(part[i : i + 1], (0.0,), BOUND_ORDERS[i : i + 1], delta)
            for i in range(len(BOUND_ORDERS))
        )
        for part in (cost.training, cost.validation)
    )
    if bound <= enough or max(mechanism.steps, mechanism.evaluations) > MOST_PLD_STEPS:
        return bound
    return _pld(mechanism, delta)


@lru_cache(maxsize=256)
def _pld(mechanism: Mechanism, delta: float) -> float:
    """The PLD epsilon of a run by itself; infinite where there is none."""
    # It needs libraries that take seconds to import, and most policies have no cap of one run.
    from privacy.accountants import Mechanism as Event  # noqa: PLC0415 - as above
    from privacy.accountants import pld_epsilon  # noqa: PLC0415 - as above

    parts = [
        Event(sampling_rate=mechanism.sampling_rate, noise_multiplier=mechanism.noise_multiplier, steps=mechanism.steps)
    ]
    if mechanism.metric_noise is not None:
        parts.append(Event(sampling_rate=1.0, noise_multiplier=mechanism.metric_noise, steps=mechanism.evaluations))
    try:
        return max(pld_epsilon([part], delta) for part in parts)
    except AccountingError:
        return math.inf
