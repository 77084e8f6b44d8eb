"""One data set's table of a policy: its values, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from privacy.errors import AccountingError, PolicyError
from privacy.plan import MAX_DECLARED_SIZE, MAX_NOISE_MULTIPLIER, MAX_STEPS, MIN_DELTA
from privacy.toml_table import MAX_NAME, Table

Mode = Literal["renyi-filter", "pinned"]
Metrics = Literal["dp", "off"]

PINNED = ("max_steps", "metric_sigma_min", "max_evaluations")
KEYS = (
    *("declared_size", "lifetime", "per_run", "period", "sigma_min", "sampling_rate_max", "max_runs", "models"),
    *("min_cohort", "metrics", "group", "allow_without_privacy", *PINNED),
)
# Data sets of one group are one budget, so these must be the same for all of them.
SHARED = ("lifetime", "period", "sigma_min", "sampling_rate_max", *PINNED)
MAX_DAYS = 36_500
MIN_COHORT = 3


@dataclass(frozen=True, kw_only=True)
class Cap:
    """An (epsilon, delta) that must never be exceeded; the texts are as the policy writes them."""

    epsilon: float
    delta: float
    epsilon_text: str
    delta_text: str


@dataclass(frozen=True, kw_only=True)
class Period:
    """At most ``epsilon``, at the lifetime's delta, by runs that are open or were settled in the last ``days``."""

    days: int
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class DatasetPolicy:
    """One data set's table, a field a key; None for a key that is not there and has no default."""

    name: str
    declared_size: int
    lifetime: Cap
    per_run: float | None = None
    period: Period | None = None
    sigma_min: float | None = None
    sampling_rate_max: float | None = None
    max_runs: int | None = None
    models: tuple[str, ...] | None = None
    min_cohort: int | None = None
    metrics: Metrics = "dp"
    group: str | None = None
    allow_without_privacy: bool = False
    max_steps: int | None = None
    metric_sigma_min: float | None = None
    max_evaluations: int | None = None

    def pinned_epsilon(self, *, add: bool = False) -> float:
        """Return the PLD epsilon, at the lifetime's delta, of the most that mode ``pinned`` ever admits.

        Args:
            add: a record may have been in both compartments, so that the two are composed; otherwise a record
                pays the larger of the two.

        Raises:
            AccountingError: no finite epsilon is found.
            PolicyError: the table lacks what mode ``pinned`` needs.
        """
        # dp-accounting takes seconds to import, and mode renyi-filter never needs it.
        from privacy.accountants import Mechanism, pld_epsilon  # noqa: PLC0415 - as above

        if self.sigma_min is None or self.sampling_rate_max is None or self.max_steps is None:
            raise PolicyError(f"data set {self.name}: its table is not one of mode pinned")
        parts = [Mechanism(sampling_rate=self.sampling_rate_max, noise_multiplier=self.sigma_min, steps=self.max_steps)]
        if self.metric_sigma_min is not None and self.max_evaluations is not None:
            parts.append(
                Mechanism(sampling_rate=1.0, noise_multiplier=self.metric_sigma_min, steps=self.max_evaluations)
            )
        if add:
            return pld_epsilon(parts, self.lifetime.delta)
        return max(pld_epsilon([part], self.lifetime.delta) for part in parts)


def read(tables: Table, name: str, mode: Mode) -> DatasetPolicy:
    """Return the table ``[dataset."name"]``.

    Raises:
        PolicyError: it is malformed, or contradicts itself.
    """
    if not 1 <= len(name) <= MAX_NAME:
        raise tables.error(name, f"a data set's name has 1 to {MAX_NAME} characters")
    table = tables.table(name, KEYS)
    table.required("declared_size", "12000")
    table.required("lifetime", '{ epsilon = "8", delta = "1e-6" }')
    lifetime = table.table("lifetime", ("epsilon", "delta"))
    period = table.table("period", ("days", "epsilon")) if "period" in table else None
    found = DatasetPolicy(
        name=name,
        declared_size=table.integer("declared_size", least=1, most=MAX_DECLARED_SIZE, example=12000) or 0,
        lifetime=Cap(
            epsilon=_epsilon(lifetime, "8"),
            delta=_delta(lifetime),
            epsilon_text=lifetime.text("epsilon"),
            delta_text=lifetime.text("delta"),
        ),
        per_run=_epsilon(table.table("per_run", ("epsilon",)), "2") if "per_run" in table else None,
        period=Period(days=_days(period), epsilon=_epsilon(period, "4")) if period else None,
        sigma_min=table.real("sigma_min", most=MAX_NOISE_MULTIPLIER, example="0.8"),
        sampling_rate_max=table.real("sampling_rate_max", most=1.0, example="0.1"),
        max_runs=table.integer("max_runs", least=1, example=12),
        models=table.names("models", "cnn"),
        min_cohort=table.integer("min_cohort", least=MIN_COHORT, example=5),
        metrics=cast("Metrics", table.choice("metrics", get_args(Metrics)) or "dp"),
        group=table.name("group", "claims"),
        allow_without_privacy=table.flag("allow_without_privacy") or False,
        max_steps=table.integer("max_steps", least=1, most=MAX_STEPS, example=2000),
        metric_sigma_min=table.real("metric_sigma_min", most=MAX_NOISE_MULTIPLIER, example="10"),
        max_evaluations=table.integer("max_evaluations", least=1, most=MAX_STEPS, example=50),
    )
    _caps_nest(table, found)
    if mode == "pinned":
        _pinned(table, found)
    else:
        for key in PINNED:
            if key in table:
                raise table.error(key, 'only mode = "pinned" has this key; remove it, or set the mode')
    return found


def one_budget_a_group(tables: Table, datasets: Mapping[str, DatasetPolicy]) -> None:
    """Raise PolicyError where data sets share a budget and give it different caps."""
    first: dict[str, DatasetPolicy] = {}
    for one in datasets.values():
        if one.group is None:
            continue
        other = first.setdefault(one.group, one)
        for key in SHARED:
            if getattr(one, key) != getattr(other, key):
                raise PolicyError(
                    f"{tables.path(one.name)}.{key}: not that of {tables.path(other.name)}, though both are of group "
                    f'"{one.group}", which is one budget; write the same in both tables'
                )


def _epsilon(table: Table, example: str) -> float:
    """The epsilon that a cap must have."""
    table.required("epsilon", f'"{example}"')
    return table.real("epsilon", example=example) or 0.0


def _delta(table: Table) -> float:
    """The delta of the lifetime cap."""
    table.required("delta", '"1e-6"')
    delta = table.real("delta", least=MIN_DELTA, example="1e-6") or 0.0
    if delta >= 1:
        raise table.error("delta", 'must be below 1; keep it below 1/declared_size, for example delta = "1e-6"')
    return delta


def _days(table: Table) -> int:
    """The length of a period."""
    table.required("days", "90")
    return table.integer("days", least=1, most=MAX_DAYS, example=90) or 0


def _caps_nest(table: Table, found: DatasetPolicy) -> None:
    """A smaller cap that is not smaller would never be looked at."""
    whole = found.lifetime
    for key, epsilon in (("per_run", found.per_run), ("period", found.period.epsilon if found.period else None)):
        if epsilon is not None and epsilon > whole.epsilon:
            raise table.error(
                key,
                f"epsilon {epsilon:g} is above the lifetime's {whole.epsilon_text}, which would always be reached "
                f"first; lower it to at most {whole.epsilon_text}, or remove {key}",
            )


def _pinned(table: Table, found: DatasetPolicy) -> None:
    """What mode ``pinned`` needs is there, and its worst case is within the lifetime cap."""
    for key, example in (("sigma_min", '"1.0"'), ("sampling_rate_max", '"0.01"'), ("max_steps", "2000")):
        if key not in table:
            raise table.error(key, f'mode = "pinned" needs it; add {key} = {example}')
    for key, other in (("metric_sigma_min", "max_evaluations"), ("max_evaluations", "metric_sigma_min")):
        if key in table and other not in table:
            raise table.error(key, f"it needs {other} beside it; add that, or remove {key}")
        if key in table and found.metrics == "off":
            raise table.error(key, 'there are no metrics to release with metrics = "off"; remove one of the two')
    if "period" in table:
        raise table.error("period", 'mode = "pinned" counts steps, not time; remove it')
    cap = found.lifetime
    try:
        worst = found.pinned_epsilon()
    except AccountingError:
        worst = None
    if worst is None or worst > cap.epsilon:
        comes = "no finite epsilon" if worst is None else f"epsilon {worst:.4g}"
        raise table.error(
            "max_steps",
            f"at sigma_min = {table.text('sigma_min')} and sampling_rate_max = {table.text('sampling_rate_max')}, with "
            f"the evaluations, that comes to {comes} at delta {cap.delta_text}, above the lifetime's "
            f"{cap.epsilon_text}; raise sigma_min or metric_sigma_min, or lower max_steps or max_evaluations",
        )
