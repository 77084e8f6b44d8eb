"""Verifier, part 2 of 5: what mechanisms cost, what policies say, and what they have against a reservation.

``docs/ledger-spec.md``, "Cost", "Spending" and "Policy". PLD figures need ``dp_accounting``; all else does without.
"""

from __future__ import annotations

import importlib.util
import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from privacy.verify_values import Json, Missing, Refused, above_0, delta, demand, fit, form, name, rate, shown

Steps = Counter[tuple[float, float]]  # releases by (sampling rate, noise multiplier)
Spend = Counter[tuple[str, float, float]]  # the same by compartment ("training" or "validation"), too
PER_MILLION = 1 + 1e-6  # recomputed figures agree to this


def spend(mechanism: Json) -> Spend:
    """Return what a mechanism releases."""
    training = "training", mechanism["sampling_rate"], mechanism["noise_multiplier"]
    spent = Spend({training: mechanism["steps_per_round"] * mechanism["rounds"]})
    if mechanism["metric_noise"] is not None:
        spent["validation", 1.0, mechanism["metric_noise"]] = mechanism["evaluations"]
    return spent


def compartments(spent: Spend, *, add: bool = False) -> list[Steps]:
    """Return what is bounded by the whole cap each: training, validation (``add``: what a record may pay for both)."""
    parts = {"training": Steps(), "validation": Steps()}
    for (part, q, sigma), count in spent.items():
        parts["training" if add else part][q, sigma] += count
    return list(parts.values())


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


def renyi(parts: Sequence[Steps], delta: float, orders: Sequence[int] = range(2, 129)) -> float:
    """Return the larger compartment's epsilon, each at its best order; a bound on PLD's."""
    conversion = {a: (-math.log(delta) - math.log(a)) / (a - 1) + math.log1p(-1 / a) for a in orders}
    return max(max(0.0, min(rdp(part, a) + conversion[a] for a in orders)) if +part else 0.0 for part in parts)


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


def demand_within(parts: Sequence[Steps], delta: float, cap: float, otherwise: str) -> None:
    """Refuse what was fixed beforehand and is above a cap by PLD."""
    if not renyi(parts, delta) <= cap:
        figure = pld(parts, delta)
        if figure is None:
            raise Missing(f"cannot be checked without dp_accounting: {otherwise}")
        demand(figure <= cap * PER_MILLION, otherwise)


_COUNT = range(1, 10**18)
_TOP = {
    "version": 1,
    "unit": "record",
    "adjacency": "zero-out",
    "mode": form("renyi-filter|pinned", "renyi-filter or pinned"),
    "orders": [range(2, 257)],
    "dataset": dict,
}
_TABLE = {
    "lifetime": {"epsilon": above_0, "delta": delta},
    "declared_size": _COUNT,
    "per_run": {"epsilon": above_0},
    "period": {"days": _COUNT, "epsilon": above_0},
    "sigma_min": above_0,
    "sampling_rate_max": rate,
    "max_runs": _COUNT,
    "models": [name],
    "min_cohort": range(3, 10**18),
    "metrics": form("dp|off", "dp or off"),
    "group": name,
    "allow_without_privacy": bool,
}
_PINS = {"sigma_min", "sampling_rate_max", "max_steps"}
_METRICS = {"metric_sigma_min": above_0, "max_evaluations": _COUNT}  # both or none


def _read(schema: Json, needed: set[str], value: Json) -> Json:
    """A table of a policy, in which only some fields are needed."""
    read: Json = fit({one: schema[one] for one in schema if one in value or one in needed}, value)
    return read


def _table(value: Json, pinned: bool) -> Json:
    """What a policy says of a data set."""
    if not pinned:
        return _read(_TABLE, {"lifetime"}, value)
    metrics = _METRICS.keys() if _METRICS.keys() & value.keys() else set()
    return _read(_TABLE | {"max_steps": _COUNT} | _METRICS, {"lifetime", *_PINS, *metrics}, value)


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
            value = tomllib.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise Refused(f"is not TOML in UTF-8 ({type(error).__name__})") from None
        top = _read(_TOP, {"version", "unit", "adjacency"}, value)
        pinned = top.get("mode") == "pinned"
        orders = tuple(top.get("orders", (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)))
        rising = 1 <= len(orders) <= 32 and all(one < two for one, two in pairwise(orders))
        demand(rising, "orders: must be 1 to 32, strictly increasing")
        tables = {}
        for dataset, table in top.get("dataset", {}).items():
            try:
                tables[name(dataset)] = _table(fit(dict, table), pinned)
            except Refused as error:
                raise Refused(f"dataset {shown(dataset)}: {error}") from None
        return Policy(pinned=pinned, orders=orders, tables=tables)

    def group(self, dataset: str) -> list[str]:
        """Return the data sets that share this one's budget, itself first."""
        mine = self.tables.get(dataset, {}).get("group")
        others = [one for one, table in self.tables.items() if mine and table.get("group") == mine and one != dataset]
        return [dataset, *others]

    def enforced(self, spent: Spend, delta: float, *, add: bool) -> float:
        """Return the filter's epsilon: every order has its share of delta, since which one lasts depends on results."""
        return renyi(compartments(spent, add=add), delta / len(self.orders), self.orders)


def pinned(table: Json) -> Spend:
    """Return the most that mode pinned ever admits."""
    most = Spend({("training", table["sampling_rate_max"], table["sigma_min"]): table["max_steps"]})
    if "max_evaluations" in table:
        most["validation", 1.0, table["metric_sigma_min"]] = table["max_evaluations"]
    return most


def bounded(spent: Spend, most: Spend) -> bool:
    """Return whether all was released with no less noise, and no more sampling, than is pinned."""
    limits = {part: (rate, sigma) for part, rate, sigma in most}
    return all(part in limits and q <= limits[part][0] and sigma >= limits[part][1] for part, q, sigma in +spent)
