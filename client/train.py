"""Carrying out an instruction: measure the received model, train it privately, pack one vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import nn

from client.data import DepartmentData, Split
from client.errors import RefusalError
from client.plain import PlainTrainer
from client.state import Journal
from models.measure import summed_lanes
from models.task import Task
from models.vector import load_vector, to_vector
from privacy.accounting import epsilon, quick_epsilon
from privacy.dpsgd import PrivateTrainer
from privacy.metrics import metric_release
from privacy.noise import SecureRandom
from privacy.plan import PrivacyPlan
from strategies import rules
from strategies.agreement import digest, layout_of, metric_mode, model_of, plan_for, read_spec, task_of
from strategies.errors import MessageError
from strategies.settings import RunSettings
from strategies.status import Status
from strategies.wire import FloatVector, Instruction, Layout

Randomness = Callable[[str], SecureRandom]
# Renyi accounting is seldom coarser than this; beyond it the slow accountants are not asked.
WORTH_A_CLOSER_LOOK = 2.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """One department's machine, as far as a run can see it.

    ``random`` gives the generator for a purpose; on a real machine always a fresh one keyed by
    the operating system. ``simulated`` permits what only a simulation may do. ``max_epsilon`` and
    ``max_delta`` cap what one run may cost a record here.
    """

    data: DepartmentData | Callable[[], DepartmentData]
    journal: Journal
    random: Randomness
    simulated: bool = False
    allow_without_privacy: bool = False
    max_epsilon: float | None = None
    max_delta: float | None = None
    gradients: str | None = None

    def records(self) -> DepartmentData:
        """The department's data, read when first needed; raises :class:`models.inputs.errors.DataError`."""
        return self.data() if callable(self.data) else self.data


@dataclass(frozen=True)
class Bench:
    """What a run's spec gives once, kept warm between rounds."""

    run: str
    settings: RunSettings
    digest: str
    task: Task
    model: nn.Module
    layout: Layout


@lru_cache(maxsize=2)
def bench(spec: str) -> Bench:
    """Model, task and layout of a spec."""
    run, settings = read_spec(spec)
    task, model = task_of(settings), model_of(settings, seed=0)
    return Bench(run, settings, digest(spec), task, model, layout_of(settings, model, task))


def carry_out(instruction: Instruction, site: Site) -> FloatVector:
    """Answer one instruction with the one vector of its layout.

    Raises :class:`RefusalError` (with the status that may leave), :class:`MessageError`, or an error
    of the models and privacy rooms; none of them leaves the machine as text.
    """
    own = bench(instruction.spec)
    if own.run != instruction.run:
        raise RefusalError(Status.BAD_MESSAGE, f"run {instruction.run}: the spec speaks of {own.run}")
    check_policy(own.settings, instruction, site)
    load_vector(own.model, instruction.model)  # refuses a wrong length or non-finite values
    site.journal.begin(own.run, own.digest, instruction.round)

    data = site.records()  # only now: whatever the data make of this request has cost the server a round
    plan = plan_for(own.settings, declared_size=data.declared_size)
    metrics = np.zeros(len(own.layout.metrics))
    if instruction.evaluate and own.layout.metrics:
        metrics = _measure(own, plan, site, data, instruction.round)
    update = np.zeros(own.layout.parameters, np.float32)
    control = np.zeros_like(update) if own.layout.control else None
    following = None
    weight = 1.0 if own.settings.strategy.weights == "uniform" else float(data.declared_size)
    if instruction.train:
        update, control, following = _train(own, plan, site, data, instruction)
    try:
        vector = own.layout.pack(update=update, weight=weight, control=control, metrics=metrics)
    except MessageError as error:
        raise RefusalError(Status.TRAINING_FAILED, f"training diverged: {error}") from None
    if following is not None:  # only now: a variate of an update that is not sent would be a wrong one
        site.journal.keep_control(own.run, following)
    return vector


def check_policy(settings: RunSettings, instruction: Instruction, site: Site) -> None:
    """Refuse what this department does not do: more rounds than planned, or less privacy."""
    last = settings.training.rounds + (0 if instruction.train else 1)
    if instruction.round > last:
        raise RefusalError(Status.REFUSED_BY_POLICY, f"round {instruction.round} of a run planned for {last}")
    if site.simulated:
        return
    if not settings.privacy.on and not site.allow_without_privacy:
        raise RefusalError(
            Status.REFUSED_BY_POLICY,
            'the run asks for privacy = "off"; set allow_without_privacy = true in client.toml to permit it',
        )
    plan = plan_for(settings, declared_size=1)  # the size is no part of the cost
    if plan is not None:
        check_caps(plan, site)
    if settings.privacy.on and metric_mode(settings.privacy) == "plain":
        raise RefusalError(Status.REFUSED_BY_POLICY, 'metrics = "plain" is for simulations alone')


def check_caps(plan: PrivacyPlan, site: Site) -> None:
    """Refuse a run whose whole plan may cost a record more than this data set's caps for one run."""
    if site.max_delta is not None and plan.delta > site.max_delta:
        raise RefusalError(
            Status.REFUSED_BY_POLICY, f"delta = {plan.delta:g} is more than max_delta = {site.max_delta:g}"
        )
    # Renyi accounting bounds the cost in microseconds; only where it is too coarse are the others asked.
    if site.max_epsilon is None:
        return
    cost = quick_epsilon(plan)
    if cost <= site.max_epsilon:
        return
    if cost <= WORTH_A_CLOSER_LOOK * site.max_epsilon:
        cost = epsilon(plan).pld
    if cost > site.max_epsilon:
        raise RefusalError(
            Status.REFUSED_BY_POLICY,
            f"the run may cost epsilon {cost:.3f} (delta {plan.delta:g}), more than max_epsilon = {site.max_epsilon:g}",
        )


def measure(model: nn.Module, task: Task, split: Split) -> np.ndarray:
    """Summed metric lanes of ``model`` on a split, float64 (L,); no noise: for local eyes only."""
    return summed_lanes(model, task, split.inputs, split.targets)


def _measure(own: Bench, plan: PrivacyPlan | None, site: Site, data: DepartmentData, number: int) -> np.ndarray:
    """Metric lanes of the received model, noised where the plan says so."""
    lanes = measure(own.model, own.task, data.validation)
    if metric_mode(own.settings.privacy) == "plain":
        return lanes
    if plan is None or plan.metric_noise is None:
        raise RefusalError(Status.REFUSED_BY_POLICY, "metrics: no noise was agreed for them")
    random = site.random(f"metrics/{number}")
    return metric_release(lanes, own.task.lane_sensitivity, plan.metric_noise, random)


def _train(
    own: Bench, plan: PrivacyPlan | None, site: Site, data: DepartmentData, instruction: Instruction
) -> tuple[FloatVector, FloatVector | None, FloatVector | None]:
    """Local training from the received model: the update, SCAFFOLD's control update and next own variate."""
    settings, received = own.settings, instruction.model
    correction, own_control = None, None
    if settings.strategy.name == "fedprox":
        correction = rules.proximal(received, settings.strategy.proximal)
    if settings.strategy.name == "scaffold":
        if instruction.control is None or instruction.control.shape != received.shape:
            raise RefusalError(Status.BAD_MESSAGE, "scaffold: the server's control variate is missing or misshapen")
        own_control = site.journal.control(own.run, own.layout.parameters)
        correction = rules.control_variates(instruction.control, own_control)
    own.model.train()
    # A private trainer hooks into its model, and a model takes hooks once: a fresh one a round.
    trainer = (
        PlainTrainer(own.model, own.task.losses, settings.training, data.declared_size)
        if plan is None
        else PrivateTrainer(own.model, own.task.losses, plan, method=site.gradients)
    )
    trainer.train(
        data.train.inputs,
        data.train.targets,
        learning_rate=settings.training.learning_rate,
        momentum=settings.training.momentum,
        random=site.random(f"train/{instruction.round}"),
        correction=correction,
    )
    update = to_vector(own.model) - received
    if own_control is None or instruction.control is None:
        return update, None, None
    following = rules.next_control(
        own_control,
        instruction.control,
        update,
        steps=settings.training.local_steps,
        learning_rate=settings.training.learning_rate,
    )
    return update, following - own_control, following
