"""What a run does to records, and what that costs, as the ledger holds it (``docs/ledger-spec.md``, "Mechanism")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from privacy.canonical import CanonicalError, integer, real, write_integer, write_real
from privacy.plan import MIN_DELTA, PrivacyPlan
from privacy.renyi import curve

_FIXED = {"unit": "record", "adjacency": "zero-out", "sampler": "poisson"}
_REALS = ("sampling_rate", "noise_multiplier", "max_grad_norm", "delta")
_INTEGERS = ("steps_per_round", "rounds", "declared_size", "evaluations")
_FIELDS = frozenset({*_FIXED, *_REALS, *_INTEGERS, "metric_noise"})


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What a run does to records; ``rounds`` and ``evaluations`` are all planned, or, in a settlement, all released.

    Attributes are those of :class:`privacy.plan.PrivacyPlan`; ``evaluations`` is the number of releases of metrics.
    """

    sampling_rate: float
    noise_multiplier: float
    max_grad_norm: float
    steps_per_round: int
    rounds: int
    declared_size: int
    delta: float
    metric_noise: float | None
    evaluations: int

    @property
    def steps(self) -> int:
        """Training steps in all."""
        return self.steps_per_round * self.rounds

    @classmethod
    def from_plan(cls, plan: PrivacyPlan) -> Mechanism:
        """Return the whole run of a plan, worst case."""
        return cls(
            sampling_rate=float(plan.sampling_rate),
            noise_multiplier=float(plan.noise_multiplier),
            max_grad_norm=float(plan.max_grad_norm),
            steps_per_round=plan.steps_per_round,
            rounds=plan.rounds,
            declared_size=plan.declared_size,
            delta=float(plan.delta),
            metric_noise=None if plan.metric_noise is None else float(plan.metric_noise),
            evaluations=plan.metric_releases,
        )

    def plan(self) -> PrivacyPlan:
        """Return the plan of a whole run, as :meth:`from_plan` took it."""
        return PrivacyPlan(
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            steps_per_round=self.steps_per_round,
            rounds=self.rounds,
            declared_size=self.declared_size,
            metric_noise=self.metric_noise,
            delta=self.delta,
        )

    def of_rounds(self, rounds: int) -> Mechanism:
        """Return a whole run of as many rounds and otherwise the same settings."""
        return replace(self, rounds=rounds, evaluations=0 if self.metric_noise is None else rounds + 1)

    def to_json(self) -> dict[str, str | None]:
        """The mechanism as a JSON object."""
        found: dict[str, str | None] = dict(_FIXED)
        found.update({name: write_real(getattr(self, name)) for name in _REALS})
        found.update({name: write_integer(getattr(self, name)) for name in _INTEGERS})
        found["metric_noise"] = None if self.metric_noise is None else write_real(self.metric_noise)
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Mechanism:
        """Read :meth:`to_json`.

        Raises:
            CanonicalError: a field is missing, unknown or out of range.
        """
        if not isinstance(found, dict) or found.keys() != _FIELDS:
            raise CanonicalError("mechanism has not exactly its twelve fields")
        for name, only in _FIXED.items():
            if found[name] != only:
                raise CanonicalError(f"mechanism.{name} is {found[name]!r}; only {only!r} is known")
        values: dict[str, Any] = {name: real(found[name]) for name in _REALS}
        values |= {name: integer(found[name]) for name in _INTEGERS}
        noise = found["metric_noise"]
        mechanism = cls(**values, metric_noise=None if noise is None else real(noise))
        mechanism._refuse_out_of_range()
        return mechanism

    @classmethod
    def trusted(cls, found: Mapping[str, Any]) -> Mechanism:
        """Read :meth:`to_json` from a ledger whose signature holds: what was signed was checked before."""
        noise = found["metric_noise"]
        values: dict[str, Any] = {name: float(found[name]) for name in _REALS}
        values |= {name: int(found[name]) for name in _INTEGERS}
        return cls(**values, metric_noise=None if noise is None else float(noise))

    def _refuse_out_of_range(self) -> None:
        """Refuse numbers that have the right form and make no sense."""
        noise = self.metric_noise
        allowed = {
            "sampling_rate": 0 < self.sampling_rate <= 1,
            "noise_multiplier": self.noise_multiplier > 0,
            "max_grad_norm": self.max_grad_norm > 0,
            "steps_per_round": self.steps_per_round >= 1,
            "declared_size": self.declared_size >= 1,
            "delta": MIN_DELTA <= self.delta < 1,
            "metric_noise": noise is None or noise > 0,
            "evaluations": noise is not None or self.evaluations == 0,
        }
        for name, fine in allowed.items():
            if not fine:
                raise CanonicalError(f"mechanism.{name} is out of range: {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Renyi divergence at each of ``orders`` (nats): what ``training`` records pay, and what ``validation`` records."""

    orders: tuple[int, ...]
    training: tuple[float, ...]
    validation: tuple[float, ...]

    @classmethod
    def of(cls, mechanism: Mechanism, orders: tuple[int, ...]) -> Cost:
        """Return what a mechanism costs; infinite where it exceeds the range of a double."""
        training = curve(
            sampling_rate=mechanism.sampling_rate,
            noise_multiplier=mechanism.noise_multiplier,
            steps=mechanism.steps,
            orders=orders,
        )
        if mechanism.metric_noise is None:
            return cls(orders=orders, training=training, validation=(0.0,) * len(orders))
        validation = curve(
            sampling_rate=1.0,
            noise_multiplier=mechanism.metric_noise,
            steps=mechanism.evaluations,
            orders=orders,
        )
        return cls(orders=orders, training=training, validation=validation)

    def to_json(self) -> dict[str, Any]:
        """The cost as a JSON object."""
        return {
            "orders": [write_integer(order) for order in self.orders],
            "rdp": {
                "training": [write_real(value) for value in self.training],
                "validation": [write_real(value) for value in self.validation],
            },
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Cost:
        """Read :meth:`to_json`.

        Raises:
            CanonicalError: it is not one; whether the figures are right is another question.
        """
        try:
            if found.keys() != {"orders", "rdp"} or found["rdp"].keys() != {"training", "validation"}:
                raise CanonicalError("cost has not exactly its fields")
            cost = cls(
                orders=tuple(map(integer, found["orders"])),
                training=tuple(map(real, found["rdp"]["training"])),
                validation=tuple(map(real, found["rdp"]["validation"])),
            )
        except (AttributeError, TypeError):
            raise CanonicalError("cost is not an object of lists") from None
        if not len(cost.orders) == len(cost.training) == len(cost.validation) >= 1:
            raise CanonicalError("cost has not one figure an order")
        return cost

    @classmethod
    def trusted(cls, found: Mapping[str, Any]) -> Cost:
        """Read :meth:`to_json` from a ledger whose signature holds: what was signed was checked before."""
        rdp = found["rdp"]
        return cls(
            orders=tuple(map(int, found["orders"])),
            training=tuple(map(float, rdp["training"])),
            validation=tuple(map(float, rdp["validation"])),
        )
