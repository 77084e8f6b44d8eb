"""From a run file to a run: what will happen, what to be warned of, and the run's directory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from models.inputs.bundled import PREFIX
from models.inputs.resolve import resolve as resolve_data
from models.task import Task
from models.vector import size
from privacy.accounting import Epsilon, epsilon
from privacy.plan import PrivacyPlan
from secagg.thresholds import MIN_COHORT, Mode, defaults, threshold
from server.runs import RunDirectory, new_name
from strategies.agreement import ANY_SIZE, layout_of, model_of, plan_for, resolve, task_of, write_spec
from strategies.errors import SettingsError
from strategies.lanes import Layout, sealed_encoding
from strategies.rounds import quorum
from strategies.settings import RunSettings

REAL = "local differential privacy: every department clips and noises its own steps, with a cryptographic generator"
SIMULATED = "differential privacy simulated in one process, with a cryptographic generator"
SEEDED = "not private: seeded"
CLEAR = "IN CLEAR: the coordinator sees every department's own update"
# Fixed parts of an upload and an answer, and their parts per member of the cohort (docs/secagg-spec.md).
UPLOAD_BYTES = 45 + 64 + 64 + 36 + 45 + 36 + 64
UPLOAD_BYTES_PER_MEMBER = 36 + 49 + 38
OFF = "trained WITHOUT differential privacy"


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will cost and do, before it starts. Bytes are one department's, per round."""

    parameters: int
    bytes_down: int
    bytes_up: int
    rounds: int
    steps: int
    epsilon: Epsilon | None
    plan: PrivacyPlan | None
    sealing: str
    warnings: tuple[str, ...]


def forecast(settings: RunSettings, *, declared_size: int | None = None, departments: int | None = None) -> Forecast:
    """Forecast a resolved run; ``declared_size`` of the smallest department and how many there are, where known.

    Raises :class:`SettingsError` where so many departments cannot be summed under seal.
    """
    model, task = model_of(settings, seed=0), task_of(settings)
    layout = layout_of(settings, model, task)
    plan = plan_for(settings, declared_size=declared_size or ANY_SIZE)
    cohort = cohort_size(settings, departments)
    return Forecast(
        parameters=size(model),
        bytes_down=4 * layout.parameters * (2 if layout.control else 1),
        bytes_up=4 * layout.size if settings.secagg.clear else sealed_bytes(settings, layout, task, cohort),
        rounds=settings.training.rounds,
        steps=settings.training.rounds * settings.training.local_steps,
        epsilon=None if plan is None else epsilon(plan),
        plan=plan,
        sealing=sealing_sentence(settings, cohort if departments else None),
        warnings=tuple(_warnings(settings, plan, declared_size)),
    )


def cohort_size(settings: RunSettings, departments: int | None) -> int:
    """How many departments are asked in a round of a sealed run, as far as that is known."""
    strategy = settings.strategy
    share = math.ceil(strategy.fraction * departments) if departments else 0
    return max(share, strategy.min_departments, MIN_COHORT)


def check_sealable(settings: RunSettings, departments: int) -> None:
    """Raise :class:`SettingsError` where a round of so many departments cannot be added up under seal."""
    model, task = model_of(settings, seed=0), task_of(settings)
    sealed_encoding(settings, layout_of(settings, model, task), task, cohort_size(settings, departments))


def sealed_bytes(settings: RunSettings, layout: Layout, task: Task, cohort: int) -> int:
    """Bytes that a department of a cohort sends in a round: its vector, shares for the others, its answer."""
    vector = 4 * sealed_encoding(settings, layout, task, cohort).size
    return vector + UPLOAD_BYTES + cohort * UPLOAD_BYTES_PER_MEMBER


def sealing_sentence(settings: RunSettings, cohort: int | None) -> str:
    """What becomes of departments' vectors, in one sentence."""
    if settings.secagg.clear:
        return CLEAR
    if cohort is None:
        return "sealed: the coordinator sees sums alone; the federation's roster says of how many departments at least"
    mode: Mode = "strict" if settings.secagg.mode == "strict" else "sealed"
    colluders, honest = defaults(cohort)
    needed = threshold(mode, cohort, colluders, honest)
    return (
        f"{mode}: the coordinator sees sums alone, never over fewer than {honest} honest departments "
        f"(colluding with {colluders}); of {cohort} departments {needed} must stay to the end of a round"
    )


def prepare(settings: RunSettings, *, real: bool) -> RunSettings:
    """Resolve classes and noise; refuse what a real run must not have.

    Raises :class:`SettingsError`, :class:`privacy.errors.PrivacyError`, or a DataError for the
    public test set.
    """
    data = settings.data
    if data.name is None and data.path is not None and data.path.startswith(PREFIX):
        data = data.model_copy(update={"name": data.path})
    if real:
        if settings.seed is not None:
            raise SettingsError(
                f"seed = {settings.seed}: predictable noise protects nobody; remove it (for simulations only)"
            )
        if settings.privacy.on and settings.privacy.metrics == "plain":
            raise SettingsError('privacy.metrics = "plain": for simulations alone; use "dp" or "off"')
        if data.name is None:
            raise SettingsError("data.name: missing; name the data set as the departments configured it")
    secagg = settings.secagg
    if real and secagg.mode is None:
        secagg = secagg.model_copy(update={"mode": "sealed"})
    return resolve(settings.model_copy(update={"data": resolve_data(data), "secagg": secagg}), enforced=real)


def create(settings: RunSettings, runs: Path, *, engine: str, name: str | None = None) -> RunDirectory:
    """Make the directory of a prepared run under ``runs``."""
    directory = RunDirectory(runs / (name or new_name(settings.name)))
    directory.create(
        spec=write_spec(settings, run=directory.name),
        settings=settings.model_dump(mode="json"),
        engine=engine,
        private=statement(settings, engine),
    )
    return directory


def statement(settings: RunSettings, engine: str) -> str:
    """One honest sentence on the privacy of a run."""
    if not settings.privacy.on:
        return OFF
    if engine == "federation":
        return REAL
    return SIMULATED if settings.seed is None else SEEDED


def _warnings(settings: RunSettings, plan: PrivacyPlan | None, declared_size: int | None) -> list[str]:
    """Everything worth a second thought before the start."""
    warnings = []
    if plan is None:
        warnings.append('privacy = "off": updates are not differentially private')
    elif declared_size is not None:
        warnings += plan.warnings()
    if settings.secagg.clear:
        warnings.append(f'secagg.mode = "clear": {CLEAR}')
    if settings.seed is not None and plan is not None:
        warnings.append(f"seed = {settings.seed}: noise is predictable; the result is {SEEDED}")
    if settings.privacy.metrics == "plain" and plan is not None:
        warnings.append('privacy.metrics = "plain": validation metrics leave without noise; simulations only')
    if quorum(settings.strategy, settings.strategy.min_departments) < 2:
        warnings.append("strategy: a quorum of one department makes the new model that department's own")
    return warnings
