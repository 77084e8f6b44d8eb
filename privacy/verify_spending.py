"""Verifier, part 2 of 7: what mechanisms cost, what a policy allows, and whether a reservation was admissible.

``docs/ledger-spec.md``, "Cost", "Spending" and "Policy". PLD figures need ``dp_accounting``; all else does without.
"""

from __future__ import annotations

import importlib.util
import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from privacy import verify_values as read
from privacy.verify_values import Json, Refused, shown

Steps = Counter[tuple[float, float]]  # releases by (sampling rate, noise multiplier)
PER_MILLION = 1 + 1e-6  # recomputed figures agree to this

# --- Figures ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 16)
def _step(q: float, sigma: float, order: int) -> float:
    """Renyi divergence of one release (Mironov, Talwar & Zhang 2019, section 3.3); infinite where it overflows."""
    if q == 1.0:
        return order / 2 / sigma / sigma
    logs = [-math.inf]
    for k in range(2, order + 1):
        power = k * (k - 1) / 2 / sigma / sigma
        # The weights add up to 1, so exp(power) - 1 in place of exp(power) gives the sum less 1: exact however small.
        if power > 0:
            weight = math.log(math.comb(order, k)) + (order - k) * math.log1p(-q) + k * math.log(q)
            logs.append(weight + power + math.log(-math.expm1(-power)))
    top = max(logs)
    if math.isinf(top):
        return max(top, 0.0)
    less_1 = top + math.log(math.fsum(math.exp(one - top) for one in logs))
    return (less_1 if less_1 > 500 else math.log1p(math.exp(less_1))) / (order - 1)


def rdp(part: Steps, order: int) -> float:
    """Return the Renyi divergence of a compartment's releases."""
    return sum(n * _step(q, sigma, order) for (q, sigma), n in part.items() if n > 0)


def _epsilon(parts: Sequence[Steps], orders: Sequence[int], share: float) -> float:
    """The larger compartment's epsilon, each at its best order."""

    def at(part: Steps, order: int) -> float:
        return rdp(part, order) + (-math.log(share) - math.log(order)) / (order - 1) + math.log1p(-1 / order)

    return max(max(0.0, min(at(part, order) for order in orders)) if +part else 0.0 for part in parts)


def enforced(parts: Sequence[Steps], orders: Sequence[int], delta: float) -> float:
    """Return the filter's epsilon: every order has its share of delta, since which one lasts depends on results."""
    return _epsilon(parts, orders, delta / len(orders))


def renyi(parts: Sequence[Steps], delta: float) -> float:
    """Return Renyi's epsilon of what was fixed beforehand, so that the best order may be picked; a bound on PLD's."""
    return _epsilon(parts, range(2, 129), delta)


def pld(parts: Sequence[Steps], delta: float) -> float | None:
    """Return PLD's epsilon: infinite where it is too large to mean anything, None without ``dp_accounting``."""
    if importlib.util.find_spec("dp_accounting") is None:
        return None
    return max(_pld(tuple(sorted((+part).items())), delta, renyi([part], delta)) for part in parts)


@lru_cache(maxsize=1024)
def _pld(merged: tuple[tuple[tuple[float, float], int], ...], delta: float, bound: float) -> float:
    """PLD's epsilon of one compartment; hostile figures would take hours, or all memory."""
    if not merged:
        return 0.0
    if not bound <= 1e4 or len(merged) > 100 or any(n > 10**7 or sigma > 1e6 for (_, sigma), n in merged):
        return math.inf
    import dp_accounting as dp  # noqa: PLC0415 - it takes seconds, and the verdict can do without
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415 - as above

    zero_out = dp.NeighboringRelation.REPLACE_SPECIAL
    accountant = PLDAccountant(zero_out, value_discretization_interval=1e-4 * max(1.0, bound / 20))
    try:
        for (q, sigma), n in merged:
            gaussian = dp.GaussianDpEvent(sigma)
            one = gaussian if q == 1.0 else dp.PoissonSampledDpEvent(q, gaussian)
            accountant.compose(dp.SelfComposedDpEvent(one, n))
        return float(accountant.get_epsilon(delta))
    except (ArithmeticError, MemoryError, RuntimeError, ValueError):
        return math.inf


def within(parts: Sequence[Steps], delta: float, cap: float) -> bool | None:
    """Return whether what was fixed beforehand stays within a cap by PLD; None if that takes ``dp_accounting``."""
    if renyi(parts, delta) <= cap:
        return True
    figure = pld(parts, delta)
    return None if figure is None else figure <= cap * PER_MILLION


# --- Policies --------------------------------------------------------------------------------------------------------

_count = read.at_least(1, read.number)
_TABLE = {
    "declared_size": _count,
    "per_run": read.fields({"epsilon": read.above_0}),
    "period": read.fields({"days": _count, "epsilon": read.above_0}),
    "sigma_min": read.above_0,
    "sampling_rate_max": read.rate,
    "max_runs": _count,
    "models": read.each(read.name),
    "min_cohort": read.at_least(3, read.number),
    "metrics": read.one_of("dp", "off"),
    "group": read.name,
    "allow_without_privacy": read.flag,
}
_PINNED = {"max_steps": _count, "metric_sigma_min": read.above_0, "max_evaluations": _count}
_lifetime = read.fields({"epsilon": read.above_0, "delta": read.delta})
_top = read.fields(
    {
        "version": read.that(read.number, lambda n: n == 1, "1"),
        "unit": read.one_of("record"),
        "adjacency": read.one_of("zero-out"),
    },
    {
        "mode": read.one_of("renyi-filter", "pinned"),
        "orders": read.each(read.that(read.number, lambda n: 2 <= n <= 256, "an order from 2 to 256")),
        "dataset": read.typed(dict, "a table"),
    },
)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy that could be read; ``tables`` are by data set."""

    pinned: bool
    orders: tuple[int, ...]
    tables: Mapping[str, Json]

    @staticmethod
    def parse(data: bytes) -> Policy:
        """Read a policy's bytes."""
        try:
            top = _top(tomllib.loads(data.decode()))
        except (ValueError, RecursionError) as error:
            raise Refused(f"is not TOML in UTF-8 ({type(error).__name__})") from None
        pinned = top.get("mode") == "pinned"
        orders = tuple(top.get("orders", (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)))
        if not 1 <= len(orders) <= 32 or any(one >= two for one, two in pairwise(orders)):
            raise Refused("orders: must be 1 to 32, strictly increasing")
        table = read.fields({"lifetime": _lifetime}, _TABLE | (_PINNED if pinned else {}))
        tables = {}
        for name, value in top.get("dataset", {}).items():
            try:
                tables[read.name(name)] = found = table(value)
            except Refused as error:
                raise Refused(f"dataset {shown(name)}: {error}") from None
            if pinned and not {"sigma_min", "sampling_rate_max", "max_steps"} <= found.keys():
                raise Refused(f"dataset {shown(name)}: mode pinned needs sigma_min, sampling_rate_max and max_steps")
            if ("metric_sigma_min" in found) != ("max_evaluations" in found):
                raise Refused(f"dataset {shown(name)}: metric_sigma_min and max_evaluations go together")
        return Policy(pinned=pinned, orders=orders, tables=tables)

    def group(self, dataset: str) -> list[str]:
        """Return the data sets that share this one's budget, itself first."""
        mine = self.tables.get(dataset, {}).get("group")
        others = [one for one, table in self.tables.items() if mine and table.get("group") == mine and one != dataset]
        return [dataset, *others]


def compartments(training: Steps, validation: Steps, *, add: bool) -> list[Steps]:
    """Return what is bounded by the whole cap each; ``add``: a record may have been in both, so that there is one."""
    return [training + validation] if add else [training, validation]


def positive(part: Steps) -> bool:
    """Return whether anything was released at all."""
    return bool(+part)


def worst_case(table: Json, *, add: bool) -> list[Steps]:
    """Return the most that mode pinned ever admits."""
    training = Steps({(table["sampling_rate_max"], table["sigma_min"]): table["max_steps"]})
    validation = Steps(
        {(1.0, table["metric_sigma_min"]): table["max_evaluations"]} if "max_evaluations" in table else {}
    )
    return compartments(training, validation, add=add)


def outside_pin(table: Json, training: Steps, validation: Steps) -> bool:
    """Return whether something was released with less noise, or more sampling, than is pinned."""
    metric = table.get("metric_sigma_min", math.inf)
    return any(s < table["sigma_min"] or q > table["sampling_rate_max"] for q, s in +training) or any(
        s < metric for _, s in +validation
    )


# --- Admissible? -----------------------------------------------------------------------------------------------------


def objections(table: Json, mechanism: Json, model: str, registered: int) -> Iterator[str]:
    """Yield what a data set's table has against a run, whatever was spent (admissible, number 2)."""
    for key, broken in {
        "declared_size": mechanism["declared_size"] != registered
        or table.get("declared_size", registered) != registered,
        "sigma_min": mechanism["noise_multiplier"] < table.get("sigma_min", 0),
        "sampling_rate_max": mechanism["sampling_rate"] > table.get("sampling_rate_max", 1),
        "metrics": table.get("metrics") == "off" and mechanism["metric_noise"] is not None,
        "models": model not in table.get("models", [model]),
    }.items():
        if broken:
            yield f"the policy's {key} does not allow this run"


def caps_broken(
    policy: Policy, table: Json, whole: tuple[Steps, Steps], recent: tuple[Steps, Steps], *, add: bool
) -> Iterator[tuple[str, bool | None]]:
    """Yield which caps over several runs do not hold (admissible, number 3); None: only ``dp_accounting`` could tell.

    ``whole`` and ``recent`` are what training and validation records have paid, ever and within the period.
    """
    lifetime = table["lifetime"]
    if policy.pinned:
        training, validation = (sum(part.values()) for part in whole)
        if training > table["max_steps"] or validation > table.get("max_evaluations", 0):
            yield f"{training} steps and {validation} evaluations in all are more than is pinned", False
        if outside_pin(table, *whole):
            yield "there are runs with less noise, or more sampling, than is pinned", False
        if not (held := within(worst_case(table, add=add), lifetime["delta"], lifetime["epsilon"])):
            yield "the lifetime cap is below the epsilon of all that is pinned", held
        return
    for name, cap, spent in (("lifetime", lifetime, whole), ("period", table.get("period"), recent)):
        if cap is not None:
            figure = enforced(compartments(*spent, add=add), policy.orders, lifetime["delta"])
            if not figure <= cap["epsilon"] * PER_MILLION:
                yield f"the {name} cap does not hold: epsilon {figure:.6g} is above {cap['epsilon']:g}", False
