"""What server and departments compute identically from the public part of a run.

The server resolves a run once (calibrated noise, known classes) and sends the *spec*: canonical
JSON of the public settings. Each side derives model, task, privacy plan and the layout of the
one vector from it; the spec's SHA-256 digest names the agreement.
"""

from __future__ import annotations

import hashlib
import json
import re

from torch import nn

from models.signature import Signature
from models.task import Task, task_for
from models.vector import size
from models.zoo import build, default_loss
from privacy.accounting import calibrate, epsilon
from privacy.plan import PrivacyPlan
from privacy.renyi import FILTER_ORDERS
from strategies.errors import MessageError, SettingsError
from strategies.jsonfile import canonical
from strategies.lanes import Layout
from strategies.runfile import parse
from strategies.settings import PrivacySettings, RunSettings
from strategies.wire import VERSION

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# No part of the noise or of its cost: a declared size only divides the noised sum.
ANY_SIZE = 1_000_000


def resolve(settings: RunSettings, *, enforced: bool = False) -> RunSettings:
    """Fix the noise: multipliers such that the largest printed epsilon meets the target.

    With ``enforced`` so does the figure that departments' ledgers enforce, by the default orders of a policy: it is
    larger than the printed ones, and where a policy applies it is what a run costs.

    Raises :class:`privacy.errors.PrivacyError` where no noise can meet it.
    """
    privacy, training = settings.privacy, settings.training
    if not privacy.on:
        return settings
    noise: dict[str, float | None] = {
        "noise_multiplier": privacy.noise_multiplier,
        "metric_noise": privacy.metric_noise,
    }
    wants_metric_noise = privacy.metrics == "dp" and privacy.metric_noise is None
    if privacy.noise_multiplier is None or wants_metric_noise:
        if privacy.epsilon is None:
            raise SettingsError(
                'privacy.metric_noise: missing; with metrics = "dp" give it, or epsilon, '
                'beside noise_multiplier, or set metrics = "off"'
            )
        plan = calibrate(
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            sampling_rate=training.sampling_rate,
            steps_per_round=training.local_steps,
            rounds=training.rounds,
            max_grad_norm=privacy.max_grad_norm,
            declared_size=ANY_SIZE,
            metrics=privacy.metrics == "dp",
            orders=FILTER_ORDERS if enforced else None,
        )
        noise["noise_multiplier"] = privacy.noise_multiplier or plan.noise_multiplier
        if wants_metric_noise:
            noise["metric_noise"] = plan.metric_noise
    resolved = settings.model_copy(update={"privacy": privacy.model_copy(update=noise)})
    if privacy.epsilon is not None and (privacy.noise_multiplier or privacy.metric_noise):
        _refuse_broken_promise(resolved, privacy.epsilon)
    return resolved


def _refuse_broken_promise(settings: RunSettings, target: float) -> None:
    """Refuse noise that was given beside an epsilon it does not meet."""
    plan = plan_for(settings, declared_size=ANY_SIZE)
    if plan is not None and (cost := epsilon(plan).largest) > target:
        raise SettingsError(
            f"privacy.epsilon = {target:g}: the noise given beside it costs {cost:.3f}; "
            "remove noise_multiplier and metric_noise, or epsilon"
        )


def metric_mode(privacy: PrivacySettings) -> str:
    """How validation metrics leave: "dp", "plain" or "off"; plain where nothing is private anyway."""
    return "plain" if not privacy.on and privacy.metrics != "off" else privacy.metrics


def plan_for(settings: RunSettings, *, declared_size: int) -> PrivacyPlan | None:
    """The privacy plan of a department with ``declared_size`` records, or None without privacy."""
    privacy, training = settings.privacy, settings.training
    if not privacy.on:
        return None
    if privacy.noise_multiplier is None:
        raise SettingsError("privacy.noise_multiplier: missing; resolve the run before planning it")
    if privacy.metrics == "dp" and privacy.metric_noise is None:
        # Without this a spec could ask for noised metrics and name no noise: exact metrics at no cost.
        raise SettingsError('privacy.metric_noise: missing; metrics = "dp" need it, resolve the run before planning it')
    return PrivacyPlan(
        unit=privacy.unit,
        sampling_rate=training.sampling_rate,
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.max_grad_norm,
        steps_per_round=training.local_steps,
        rounds=training.rounds,
        declared_size=declared_size,
        metric_noise=privacy.metric_noise if privacy.metrics == "dp" else None,
        delta=privacy.delta,
        adjacency="zero-out",
        sampler="poisson",
    )


def signature_of(settings: RunSettings) -> Signature:
    """Input and output signature of the run's data."""
    return settings.data.signature()


def task_of(settings: RunSettings) -> Task:
    """The run's task: loss, metric lanes and metrics."""
    return task_for(
        settings.model.name,
        signature_of(settings),
        target_bounds=settings.data.target_bounds,
        loss=settings.training.loss or default_loss(settings.model.name, signature_of(settings)),
    )


def model_of(settings: RunSettings, *, seed: int | None = None) -> nn.Module:
    """A freshly initialised model of the run."""
    return build(settings.model.name, signature_of(settings), settings.model.hyperparameters, seed=seed)


def layout_of(settings: RunSettings, model: nn.Module, task: Task) -> Layout:
    """Layout of the one vector that leaves a department."""
    lanes = () if metric_mode(settings.privacy) == "off" else task.lane_names
    return Layout(parameters=size(model), control=settings.strategy.name == "scaffold", metrics=lanes)


def write_spec(settings: RunSettings, *, run: str) -> str:
    """Canonical JSON of everything a department needs to know of a run."""
    return canonical({"version": VERSION, "run": run, "settings": settings.public()})


def read_spec(spec: str) -> tuple[str, RunSettings]:
    """Run name and settings of a spec; raises :class:`MessageError` where it is not one."""
    try:
        document = json.loads(spec)
        version, run, public = document["version"], document["run"], document["settings"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MessageError("spec: not the JSON object with version, run and settings that was agreed") from None
    if version != VERSION:
        raise MessageError(f"spec.version = {version}: this installation speaks {VERSION}; upgrade the older side")
    if not isinstance(run, str) or not RUN_NAME.fullmatch(run) or not isinstance(public, dict):
        raise MessageError("spec: run must be a name of letters, digits, '.', '_' and '-', and settings an object")
    return run, parse(public, where="spec")


def digest(spec: str) -> str:
    """SHA-256 of a spec, hexadecimal: the name of the agreement."""
    return hashlib.sha256(spec.encode()).hexdigest()
