"""From a run file to a run: what will happen, what to be warned of, and the run's directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.inputs.bundled import PREFIX
from models.inputs.resolve import resolve as resolve_data
from models.vector import size
from privacy.accounting import Epsilon, epsilon
from privacy.plan import PrivacyPlan
from server.runs import RunDirectory, new_name
from strategies.agreement import ANY_SIZE, layout_of, model_of, plan_for, resolve, task_of, write_spec
from strategies.errors import SettingsError
from strategies.rounds import quorum
from strategies.settings import RunSettings

REAL = "local differential privacy: every department clips and noises its own steps, with a cryptographic generator"
SIMULATED = "differential privacy simulated in one process, with a cryptographic generator"
SEEDED = "not private: seeded"
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
    warnings: tuple[str, ...]


def forecast(settings: RunSettings, *, declared_size: int | None = None) -> Forecast:
    """Forecast a resolved run; ``declared_size`` of the smallest department, where known."""
    model = model_of(settings, seed=0)
    layout = layout_of(settings, model, task_of(settings))
    plan = plan_for(settings, declared_size=declared_size or ANY_SIZE)
    return Forecast(
        parameters=size(model),
        bytes_down=4 * layout.parameters * (2 if layout.control else 1),
        bytes_up=4 * layout.size,
        rounds=settings.training.rounds,
        steps=settings.training.rounds * settings.training.local_steps,
        epsilon=None if plan is None else epsilon(plan),
        plan=plan,
        warnings=tuple(_warnings(settings, plan, declared_size)),
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
    return resolve(settings.model_copy(update={"data": resolve_data(data)}))


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
    if settings.seed is not None and plan is not None:
        warnings.append(f"seed = {settings.seed}: noise is predictable; the result is {SEEDED}")
    if settings.privacy.metrics == "plain" and plan is not None:
        warnings.append('privacy.metrics = "plain": validation metrics leave without noise; simulations only')
    if quorum(settings.strategy, settings.strategy.min_departments) < 2:
        warnings.append("strategy: a quorum of one department makes the new model that department's own")
    return warnings
