"""Carrying out an instruction: measure the received model, train it privately, send one vector, sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from flwr.app import RecordDict
from torch import nn

from client.account import Account, abandoning, model_digest
from client.data import DepartmentData, Split
from client.errors import RefusalError
from client.plain import PlainTrainer
from client.sealing import Sealing
from client.state import Journal
from models.measure import summed_lanes
from models.task import Task
from models.vector import load_vector, to_vector
from privacy.dpsgd import PrivateTrainer
from privacy.metrics import metric_release
from privacy.noise import SecureRandom
from privacy.plan import PrivacyPlan
from privacy.reservation import Reservation
from strategies import rules
from strategies.agreement import digest, layout_of, metric_mode, model_of, plan_for, read_spec, task_of
from strategies.errors import MessageError
from strategies.lanes import FloatVector, Lanes, Layout, control_bound, largest_weight, sealed_encoding, sealed_values
from strategies.settings import RunSettings
from strategies.status import Status
from strategies.wire import Instruction, LedgerStep, SealedStep, answer, to_bytes

Randomness = Callable[[str], SecureRandom]


@dataclass(frozen=True, kw_only=True)
class Site:
    """One department's machine, as far as a run can see it.

    ``random`` gives the generator for a purpose; on a real machine always a fresh one keyed by
    the operating system. ``sealing`` is the machine's part in sealed sums, ``allow_clear`` permits runs
    without them. ``account`` is the data set's in this machine's ledger; there is none only where ``simulated``,
    which permits what only a simulation may do, or where the records are ``public``. ``declared_size`` is the data
    set's public size, known without reading it; ``agree`` checks, and the first time pins, how the run describes the
    data.
    """

    data: DepartmentData | Callable[[], DepartmentData]
    journal: Journal
    random: Randomness
    sealing: Sealing | None = None
    allow_clear: bool = False
    account: Account | None = None
    simulated: bool = False
    public: bool = False
    gradients: str | None = None
    declared_size: int | None = None
    agree: Callable[[], None] = lambda: None

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


def carry_out(instruction: Instruction, site: Site) -> RecordDict:
    """Answer one instruction with the one vector of its layout, sealed unless the run is openly in clear.

    Raises :class:`RefusalError` (with the status that may leave), :class:`MessageError`, or an error
    of the models and privacy rooms; none of them leaves the machine as text.
    """
    own = bench(instruction.spec)
    if own.run != instruction.run:
        raise RefusalError(Status.BAD_MESSAGE, f"run {instruction.run}: the spec speaks of {own.run}")
    if own.settings.secagg.clear:
        with _accounted(own, instruction, site) as reservation:
            lanes, following = _contribution(own, instruction, site, reservation)
            with _diverging():
                vector = own.layout.pack(lanes)
            _keep_control(own, site, following)
            _release(reservation, instruction, to_bytes(vector))
        return answer(Status.OK, vector)
    # What the governance permitted comes first: nothing else of this machine is a question for the server to ask.
    with (
        _sealing(site).opened(instruction, own.settings) as opened,
        _accounted(own, instruction, site) as reservation,
    ):
        encoding = sealed_encoding(own.settings, own.layout, own.task, opened.opened.n)
        if opened.opened.reply is not None:  # asked again, and answered with the same bytes
            opened.check_same(instruction, encoding.describe())
            _release(reservation, instruction, opened.opened.reply)
            return answer(Status.OK, sealed=opened.opened.reply)
        lanes, following = _contribution(own, instruction, site, reservation)
        if following is not None and not lanes.finite:
            following = None  # nothing will be sent of it
        with _diverging():
            values = sealed_values(own.settings, own.layout, lanes)
        encoded, _ = encoding.encode(values, site.random(f"rounding/{instruction.round}").token(32))
        sealed = opened.seal(instruction, encoding.describe(), encoded)
        _keep_control(own, site, following)
        # Last of all: the bytes are durable, and from here on nothing of this round can be given back.
        _release(reservation, instruction, sealed)
    return answer(Status.OK, sealed=sealed)


def take_step(step: SealedStep, site: Site) -> RecordDict:
    """Answer a step of sealed sums besides training; raises :class:`RefusalError`."""
    own = bench(step.spec)
    if own.run != step.run:
        raise RefusalError(Status.BAD_MESSAGE, f"run {step.run}: the spec speaks of {own.run}")
    if own.settings.secagg.clear:
        raise RefusalError(Status.SEALING_REFUSED, "the run is in clear: there is nothing to seal")
    sealed = _sealing(site).step(step)
    # Who would refuse to train says so before the others count on its masks, but only in a permitted run.
    check_policy(own.settings, site)
    if site.account is not None:
        site.account.check(own.settings, own.run)
    site.agree()
    return answer(Status.OK, sealed=sealed)


def take_ledger_step(step: LedgerStep, site: Site) -> RecordDict:
    """Reserve or settle a run in this machine's ledger; raises :class:`RefusalError` or a PrivacyError.

    Under seal only for a run whose permit was checked: otherwise a coordinator could use a budget up, or find out
    what is left of it, with runs that nobody permitted.
    """
    own = bench(step.spec)
    if own.run != step.run:
        raise RefusalError(Status.BAD_MESSAGE, f"run {step.run}: the spec speaks of {own.run}")
    if site.account is None:
        raise RefusalError(Status.BAD_MESSAGE, "no ledger is kept here: the records are public, or simulated")
    if not own.settings.secagg.clear:
        _sealing(site).check_set_up(step.run, step.spec)
    check_policy(own.settings, site)
    site.agree()
    return answer(Status.OK, statement=site.account.state(step, own.settings))


def _sealing(site: Site) -> Sealing:
    """The site's part in sealed sums."""
    if site.sealing is None:
        raise RefusalError(Status.SEALING_REFUSED, "this machine is not enrolled for sealed sums")
    return site.sealing


@contextmanager
def _accounted(own: Bench, instruction: Instruction, site: Site) -> Iterator[Reservation | None]:
    """Check the policy and have the run's whole cost written down, before anything of the data is looked at.

    A round that fails afterwards is written down, too, with the word that leaves.
    """
    check_policy(own.settings, site)
    check_round(own.settings, instruction)
    load_vector(own.model, instruction.model)  # refuses a wrong length or non-finite values
    site.agree()
    reservation = None
    if site.account is not None:
        reservation = site.account.reserve(own.settings, own.run, instruction.spec)
    elif not (site.simulated or site.public):
        raise RefusalError(Status.REFUSED_BY_POLICY, "no ledger: private records are not read without one")
    with abandoning(reservation, instruction.round):
        yield reservation


def _release(reservation: Reservation | None, instruction: Instruction, update: bytes) -> None:
    """Write down that these bytes are about to leave."""
    if reservation is not None:
        reservation.release(
            instruction.round,
            train=instruction.train,
            evaluate=instruction.evaluate,
            model=model_digest(instruction),
            update=hashlib.sha256(update).hexdigest(),
        )


def _contribution(
    own: Bench, instruction: Instruction, site: Site, reservation: Reservation | None
) -> tuple[Lanes, FloatVector | None]:
    """Measure and train as instructed and as reserved: the lanes, and SCAFFOLD's next own variate."""
    site.journal.begin(own.run, own.digest, instruction.round)
    data = site.records()  # only now: whatever the data make of this request has cost the server a round
    plan = plan_for(own.settings, declared_size=data.declared_size) if reservation is None else reservation.plan
    metrics = np.zeros(len(own.layout.metrics))
    if instruction.evaluate and own.layout.metrics:
        metrics = _measure(own, plan, site, data, instruction.round)
    update = np.zeros(own.layout.parameters, np.float32)
    control = np.zeros_like(update) if own.layout.control else None
    following = None
    weight = 1.0 if own.settings.strategy.weights == "uniform" else float(data.declared_size)
    if instruction.train:
        update, control, following = _train(own, plan, site, data, instruction)
    return Lanes(update=update, weight=weight, control=control, metrics=metrics), following


def _keep_control(own: Bench, site: Site, following: FloatVector | None) -> None:
    """Remember SCAFFOLD's variate: only now, for a variate of an update that is not sent would be a wrong one."""
    if following is not None:
        site.journal.keep_control(own.run, following)


@contextmanager
def _diverging() -> Iterator[None]:
    """A vector that cannot be sent means that training went wrong."""
    try:
        yield
    except MessageError as error:
        raise RefusalError(Status.TRAINING_FAILED, f"training diverged, or the vector does not fit: {error}") from None


def check_round(settings: RunSettings, instruction: Instruction) -> None:
    """Refuse more rounds than planned."""
    last = settings.training.rounds + (0 if instruction.train else 1)
    if instruction.round > last:
        raise RefusalError(Status.REFUSED_BY_POLICY, f"round {instruction.round} of a run planned for {last}")


def check_policy(settings: RunSettings, site: Site) -> None:
    """Refuse a run that this department is too large for, or with less privacy than it allows."""
    size, most = site.declared_size, largest_weight(settings)
    if not settings.secagg.clear and settings.strategy.weights == "declared" and size is not None and size > most:
        raise RefusalError(
            Status.REFUSED_BY_POLICY,
            f"secagg.max_size = {most}: this data set is declared with {size} records; ask for a larger max_size",
        )
    if site.simulated:
        return
    if settings.secagg.clear and not site.allow_clear:
        raise RefusalError(
            Status.REFUSED_BY_POLICY,
            'the run asks for secagg.mode = "clear": the coordinator would see this department\'s own update; '
            "set allow_clear = true under [sealing] in client.toml to permit it",
        )
    if not settings.privacy.on and site.account is None:
        raise RefusalError(Status.REFUSED_BY_POLICY, 'the run asks for privacy = "off", and no policy permits it here')
    plan_for(settings, declared_size=1)  # refuses noised metrics for which no noise was agreed
    if settings.privacy.on and metric_mode(settings.privacy) == "plain":
        raise RefusalError(Status.REFUSED_BY_POLICY, 'metrics = "plain" is for simulations alone')


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
    bound = np.float32(np.inf if settings.secagg.clear else control_bound(settings))
    change = np.clip(following - own_control, -bound, bound)
    # What is kept is what was sent: otherwise the server's mean of the variates would drift from them.
    return update, change, own_control + change
