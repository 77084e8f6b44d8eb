"""The one privacy object: a mechanism and what it costs, so the two cannot drift apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal, cast, get_args

from privacy.errors import BadPlan

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Unit = Literal["record", "client"]
Adjacency = Literal["zero-out"]
Sampler = Literal["poisson"]

MIN_DELTA = 1e-10
MAX_NOISE_MULTIPLIER = 1e6
MAX_STEPS = 10_000_000
MAX_DECLARED_SIZE = 10_000_000_000


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What one department runs DP-SGD with, for a whole run; every field is public by definition.

    DP-SGD after Abadi et al. 2016 (arXiv 1607.00133, algorithm 1) with Poisson sampling and a public
    normaliser. Two data sets are neighbours when one record of either is replaced by a record whose every
    contribution is zero (*zero-out*, Ponomareva et al. 2023, section 2.1). The training and the validation
    split are disjoint, so the two compartments compose in parallel: a record pays the larger of the two.

    Attributes:
        unit: what is protected; only ``"record"`` is implemented.
        sampling_rate: probability ``q`` in (0, 1] that a record takes part in a step.
        noise_multiplier: standard deviation of the noise in units of ``max_grad_norm``.
        max_grad_norm: L2 bound of one record's gradient.
        steps_per_round: local steps a round.
        rounds: rounds of the run.
        declared_size: public size of the department's training set; never derived from private data.
        metric_noise: noise multiplier of each release of validation metrics, or None for no release.
        delta: the delta every epsilon of this plan is stated at, in [1e-10, 1).
        adjacency: the neighbouring relation.
        sampler: how batches are drawn.

    Raises:
        BadPlan: a field has the wrong type or is out of range.
    """

    unit: Unit = "record"
    sampling_rate: float
    noise_multiplier: float
    max_grad_norm: float
    steps_per_round: int
    rounds: int
    declared_size: int
    metric_noise: float | None = None
    delta: float
    adjacency: Adjacency = "zero-out"
    sampler: Sampler = "poisson"

    def __post_init__(self) -> None:
        if self.unit == "client":
            raise BadPlan(
                "unit='client': clipping whole updates is not implemented; use unit='record' "
                "(one record per person makes it protect people)"
            )
        _choice("unit", self.unit, get_args(Unit))
        _choice("adjacency", self.adjacency, get_args(Adjacency))
        _choice("sampler", self.sampler, get_args(Sampler))
        _real("sampling_rate", self.sampling_rate, most=1.0, hint="it is a probability, e.g. 0.01")
        _real(
            "noise_multiplier",
            self.noise_multiplier,
            most=MAX_NOISE_MULTIPLIER,
            hint="take it from calibrate()",
        )
        _real("max_grad_norm", self.max_grad_norm, hint="1.0 is a common start")
        if self.metric_noise is not None:
            _real(
                "metric_noise",
                self.metric_noise,
                most=MAX_NOISE_MULTIPLIER,
                hint="use None to release no metric",
            )
        _real("delta", self.delta, least=MIN_DELTA, hint="keep it below 1/declared_size, e.g. 1e-6")
        if self.delta >= 1:
            raise BadPlan(f"delta={self.delta!r}: must be below 1; keep it below 1/declared_size, e.g. 1e-6")
        _count("steps_per_round", self.steps_per_round, MAX_STEPS)
        _count("rounds", self.rounds, MAX_STEPS)
        _count("declared_size", self.declared_size, MAX_DECLARED_SIZE)
        if self.steps > MAX_STEPS:
            raise BadPlan(
                f"steps_per_round={self.steps_per_round} x rounds={self.rounds}: {self.steps} steps in all; "
                f"keep the product at or below {MAX_STEPS}"
            )

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_round * self.rounds

    @property
    def expected_batch_size(self) -> float:
        """The public normaliser ``sampling_rate * declared_size``; not rounded."""
        return self.sampling_rate * self.declared_size

    @property
    def metric_releases(self) -> int:
        """Releases of validation metrics in the run: one before each round and one at the end, or none."""
        return self.rounds + 1 if self.metric_noise is not None else 0

    def events(self, rounds: int | None = None) -> tuple[DpEvent, ...]:
        """Return what a training record pays in ``rounds`` rounds (default: all); empty for 0 rounds."""
        # Slow to import, and most of what plans are made for does not ask for events.
        from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent  # noqa: PLC0415 - as above

        steps = self.steps_per_round * (self.rounds if rounds is None else rounds)
        if steps == 0:
            return ()
        step = PoissonSampledDpEvent(self.sampling_rate, GaussianDpEvent(self.noise_multiplier))
        return (SelfComposedDpEvent(step, steps),)

    def metric_events(self, releases: int | None = None) -> tuple[DpEvent, ...]:
        """Return what a validation record pays in ``releases`` releases (default: all); empty for none.

        It composes in parallel with :meth:`events`: take the larger cost, not the sum.
        """
        from dp_accounting import GaussianDpEvent, SelfComposedDpEvent  # noqa: PLC0415 - slow to import

        count = self.metric_releases if releases is None else releases
        if self.metric_noise is None or count == 0:
            return ()
        return (SelfComposedDpEvent(GaussianDpEvent(self.metric_noise), count),)

    def warnings(self) -> list[str]:
        """Return what is allowed but unwise, one sentence each."""
        found = []
        if self.delta >= 1 / self.declared_size:
            found.append(
                f"delta={self.delta:g} is not below 1/declared_size={1 / self.declared_size:.3g}: "
                "publishing one "
                "record outright would satisfy it"
            )
        if self.expected_batch_size < 1:
            found.append(
                f"sampling_rate x declared_size = {self.expected_batch_size:.3g}: most batches are empty and "
                "their noise is divided by less than one record; raise sampling_rate"
            )
        if self.noise_multiplier < 0.5:
            found.append(
                f"noise_multiplier={self.noise_multiplier:g} is below 0.5: epsilon grows very fast there; "
                "take fewer steps or a smaller sampling_rate and more noise"
            )
        if self.metric_noise is not None and self.metric_noise < 1:
            found.append(f"metric_noise={self.metric_noise:g} is below 1: each metric release is nearly exact")
        return found

    def to_dict(self) -> dict[str, object]:
        """Return the plan as JSON-ready values, one key per field."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> PrivacyPlan:
        """Return the plan of :meth:`to_dict`; every field must be there and nothing else.

        Raises:
            BadPlan: a key is missing or unknown, or a value is refused.
        """
        names = {field.name for field in fields(cls)}
        if missing := sorted(names - set(data)):
            raise BadPlan(f"plan lacks {', '.join(missing)}: write every field out")
        if unknown := sorted(str(key) for key in set(data) - names):
            raise BadPlan(f"plan has unknown fields {', '.join(unknown)}: remove them")
        return cls(**cast("dict[str, object]", dict(data)))  # type: ignore[arg-type]  # __post_init__ checks each


def refuse_shared_noise(noise_share: float, steps_per_round: int) -> None:
    """Refuse noise that is only complete once several departments' updates are added up.

    With several local steps a department's later gradients are taken at a point that depends on its own
    earlier, under-noised ones; the noise that others add to the sum at the end cannot undo that. The
    guarantee of the composed Gaussian then fails outright (``tests/test_privacy_plan.py`` distinguishes two
    neighbouring data sets at a rate the claimed bound forbids).

    Args:
        noise_share: fraction of the noise variance this department adds itself, in (0, 1].
        steps_per_round: local steps between two aggregations.

    Raises:
        BadPlan: the share is out of range, or below 1 with more than one local step.
    """
    _real("noise_share", noise_share, most=1.0, hint="1.0 means every department adds all of it")
    _count("steps_per_round", steps_per_round, MAX_STEPS)
    if noise_share < 1.0 and steps_per_round > 1:
        raise BadPlan(
            f"noise_share={noise_share!r} with steps_per_round={steps_per_round}: sharing noise across "
            "several "
            "local steps is not differentially private; use steps_per_round=1 or noise_share=1.0"
        )


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value outside a fixed list."""
    if not isinstance(value, str) or value not in allowed:
        raise BadPlan(f"{name}={value!r}: must be one of {', '.join(map(repr, allowed))}")


def _real(name: str, value: object, *, least: float = 0.0, most: float = math.inf, hint: str) -> None:
    """Refuse anything but a finite positive number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadPlan(f"{name}={value!r}: must be a number; {hint}")
    if not math.isfinite(value) or value <= 0 or value < least or value > most:
        interval = f"[{least:g}, " if least else "(0, "
        interval += f"{most:g}]" if math.isfinite(most) else "inf)"
        raise BadPlan(f"{name}={value!r}: must be finite and in {interval}; {hint}")


def _count(name: str, value: object, most: int) -> None:
    """Refuse anything but an integer in [1, most]."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise BadPlan(f"{name}={value!r}: must be an integer in [1, {most}]")
