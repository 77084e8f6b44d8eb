"""Conducting a run on any engine: rounds, books, the finished model.

The coordinator's app and the simulator both end here, so that what a researcher measures is what
a federation does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.serverapp import Grid
from torch import nn

from models.store import describe, save
from models.task import Task
from models.vector import load_vector, to_vector
from privacy.accounting import Epsilon, epsilon, quick_epsilon
from privacy.plan import PrivacyPlan
from secagg.errors import SecaggError
from secagg.roster import open_permit, open_roster
from server.errors import RunError
from server.evaluation import TestSet
from server.labels import epsilon_record, ledger_ranges, privacy_label, sealing_record
from server.planning import check_sealable
from server.plots import draw
from server.runs import RunDirectory, now
from strategies.accounts import Accounts, LedgerAccounts, NoAccounts, Witness
from strategies.agreement import ANY_SIZE, digest, layout_of, model_of, plan_for, read_spec, task_of
from strategies.errors import RunStoppedError
from strategies.lanes import Layout
from strategies.rounds import RoundReport, Rounds
from strategies.runfile import parse
from strategies.sealed import Envelopes, SealedSums
from strategies.settings import RunSettings
from strategies.state import RunState
from strategies.sums import ClearSums, Sums

logger = logging.getLogger("confide.server")

Watcher = Callable[[Mapping[str, Any]], None]


@dataclass(kw_only=True)
class Books:
    """Keeps a run's books: an :class:`strategies.rounds.Observer` that writes its directory.

    ``repeatable`` says that an engine may be asked for a round again (seeded simulations); a real
    run records every attempt before it is made. ``extra`` are arrays an engine adds to checkpoints.
    """

    directory: RunDirectory
    task: Task
    model: nn.Module
    plan: PrivacyPlan | None
    test: TestSet | None
    repeatable: bool
    watch: Watcher
    extra: Callable[[], Mapping[str, np.ndarray]] = dict
    _test_metrics: dict[str, float] = field(default_factory=dict)

    def before_epoch(self, state: RunState) -> None:
        """Record that an epoch's number is used up, where departments remember it."""
        if not self.repeatable:
            self.directory.save_checkpoint(state, self.extra())

    def waiting(self, connected: int, needed: int) -> None:
        """Tell the watcher."""
        self.watch({"event": "waiting", "connected": connected, "needed": needed})

    def before_round(self, state: RunState, cohort: tuple[str, ...]) -> None:
        """Record the attempt where it cannot be repeated."""
        if not self.repeatable:
            self.directory.save_checkpoint(state, self.extra())
        self.watch({"event": "asked", "round": state.round, "departments": list(cohort)})

    def after_round(self, state: RunState, report: RoundReport) -> None:
        """Record the outcome: checkpoint first, then the line of metrics."""
        self.directory.save_checkpoint(state, self.extra())
        if self.test is not None and (report.trained or not self._test_metrics):
            self._test_metrics = self.test.metrics(self.model, self.task, state.model)
        row: dict[str, Any] = {
            "event": "round",
            "round": report.round,
            "time": now(),
            "trained": report.trained,
            "answered": list(report.answered),
            "left_out": dict(report.left_out),
            "abandoned": report.abandoned,
            "validation": dict(report.validation),
            "test": self._test_metrics,
            "saturated": report.saturated,
            "legs": [round(seconds, 4) for seconds in report.legs],
            "seconds": round(report.seconds, 4),
            "epsilon_rdp": self.spent_rdp(state),
        }
        self.directory.add_metrics(row)
        self.watch(row)

    def stopped(self) -> bool:
        """Whether somebody left word in the run's directory."""
        return self.directory.asked_to_stop()

    def spent_rdp(self, state: RunState) -> dict[str, float]:
        """Each department's epsilon so far by Renyi accounting: quick, and seldom below the others."""
        if self.plan is None:
            return {}
        plan = self.plan
        return {
            name: quick_epsilon(plan, rounds=rounds, metric_releases=state.measured.get(name, 0))
            for name, rounds in sorted(state.asked.items())
        }

    def spent(self, state: RunState) -> dict[str, Epsilon]:
        """What each department may have spent: every round it was asked in counts in full."""
        if self.plan is None:
            return {}
        plan = self.plan
        return {
            name: epsilon(plan, rounds=rounds, metric_releases=min(state.measured.get(name, 0), plan.metric_releases))
            for name, rounds in sorted(state.asked.items())
        }


def conduct(
    grid: Grid,
    directory: RunDirectory,
    *,
    test: TestSet | None,
    repeatable: bool,
    watch: Watcher,
    envelopes: Envelopes | None = None,
    witness: Witness | None = None,
    extra: Callable[[], Mapping[str, np.ndarray]] = dict,
    pictures: bool = True,
) -> RunState:
    """Go through all rounds of the run in ``directory``, from its checkpoint if it has one.

    ``envelopes`` are the roster and permit of a sealed run; with a ``witness`` departments must have written down
    what the run costs before they are asked. Leaves the model in ``model/`` and, with
    ``pictures``, the plots in ``plots/``. Raises :class:`RunStoppedError`, and whatever an engine raises;
    ``run.json`` then says ``stopped`` or ``failed``.
    """
    with outcome(directory):
        state = _conduct(grid, directory, test, envelopes, witness, repeatable=repeatable, watch=watch, extra=extra)
        if pictures:
            _draw(directory)
        # Last of all: whoever waits for this word may end the process that wrote it.
        directory.update(status="finished", ended=now())
    watch({"event": "finished"})
    return state


@contextmanager
def outcome(directory: RunDirectory) -> Iterator[None]:
    """Record in ``run.json`` how a run ended if it does not finish, so that nobody waits for it."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, RunStoppedError | KeyboardInterrupt)
        with suppress(RunError):  # a disk that is full, or no run's folder: the first error says so
            said = None if stopped else f"{type(error).__name__}: {error}"
            directory.document()
            directory.update(status="stopped" if stopped else "failed", ended=now(), error=said)
        raise


def _conduct(
    grid: Grid,
    directory: RunDirectory,
    test: TestSet | None,
    envelopes: Envelopes | None,
    witness: Witness | None,
    *,
    repeatable: bool,
    watch: Watcher,
    extra: Callable[[], Mapping[str, np.ndarray]],
) -> RunState:
    """Build what the run needs, go through its rounds and finish it."""
    document = directory.document()
    spec = document["spec"]
    run, settings = read_spec(spec)
    # What departments need not know is no part of the spec.
    own = parse(document["settings"], where=str(directory.path / "run.json"))
    settings = settings.model_copy(update={"seed": own.seed, "publish": own.publish})
    task, model = task_of(settings), model_of(settings, seed=_model_seed(own, directory))
    layout = layout_of(settings, model, task)
    if directory.has_checkpoint():
        state, _ = directory.load_checkpoint()
    else:
        vector = to_vector(model)
        state = RunState(model=vector, control=np.zeros_like(vector) if layout.control else None)
    books = Books(
        directory=directory,
        task=task,
        model=model,
        plan=plan_for(settings, declared_size=ANY_SIZE),
        test=test,
        repeatable=repeatable,
        watch=watch,
        extra=extra,
    )
    rounds = Rounds(
        grid=grid,
        settings=settings,
        run=run,
        spec=spec,
        task=task,
        layout=layout,
        sums=_sums(grid, settings, run, spec, task, layout, books, envelopes),
        accounts=_accounts(grid, settings, run, spec, books, envelopes, witness),
        observer=books,
    )
    directory.update(status="running", started=now(), ended=None, error=None)
    rounds.go(state)
    finish(directory, settings, books, state, witness)
    return state


def _sums(
    grid: Grid,
    settings: RunSettings,
    run: str,
    spec: str,
    task: Task,
    layout: Layout,
    books: Books,
    envelopes: Envelopes | None,
) -> Sums:
    """How this run's vectors are added up."""
    if settings.secagg.clear:
        books.directory.update(secagg=sealing_record(settings, None))
        logger.warning('run %s: secagg.mode = "clear": the coordinator sees every department\'s update', run)
        return ClearSums(grid=grid, layout=layout, deadline=settings.strategy.deadline, stopped=books.stopped)
    if envelopes is None:
        raise RunError(f'run {run}: a sealed run needs a roster and a permit; see "confide federation --help"')
    try:
        roster, _ = open_roster(envelopes.roster, envelopes.governance, int(time.time()))
        permit, _ = open_permit(envelopes.permit, envelopes.governance, int(time.time()))
    except SecaggError as error:
        raise RunError(f"roster or permit of run {run}: {error}") from None
    check_sealable(settings, len(roster.members))  # before anybody is asked
    books.directory.update(secagg=sealing_record(settings, roster))
    return SealedSums(
        grid=grid,
        settings=settings,
        run=run,
        spec=spec,
        task=task,
        layout=layout,
        roster=roster,
        envelopes=envelopes,
        expires=min(roster.expires, permit.expires),
        stopped=books.stopped,
        durable=books.before_epoch,
    )


def _accounts(
    grid: Grid,
    settings: RunSettings,
    run: str,
    spec: str,
    books: Books,
    envelopes: Envelopes | None,
    witness: Witness | None,
) -> Accounts:
    """How departments prove that they wrote the run's cost down."""
    if witness is None:
        return NoAccounts()
    keys = None
    if not settings.secagg.clear and envelopes is not None:
        roster, _ = open_roster(envelopes.roster, envelopes.governance, int(time.time()))
        keys = {member.name: member.key for member in roster.members}
    return LedgerAccounts(
        grid=grid,
        run=run,
        spec=spec,
        dataset=settings.data.name or "",
        plan=books.plan,
        witness=witness,
        keys=keys,
        stopped=books.stopped,
    )


def finish(
    directory: RunDirectory, settings: RunSettings, books: Books, state: RunState, witness: Witness | None = None
) -> None:
    """Write the model with its manifest and privacy label, and the final ``run.json``."""
    document = directory.document()
    load_vector(books.model, state.model)
    spent = {name: epsilon_record(name, figure) for name, figure in books.spent(state).items()}
    label = privacy_label(settings, list(spent.values()), document["privacy"])
    rows = directory.metrics()
    trained = [row for row in rows if row["trained"]]  # the last one may only measure
    manifest = describe(settings.model.name, books.task, settings.model.hyperparameters) | {
        "name": settings.publish.name or settings.name,
        "description": settings.publish.description,
        "run": directory.name,
        "rounds": len(trained),
        "created": now(),
        "data": settings.data.public_part(),
        "privacy": label,
        "spec_digest": digest(document["spec"]),
        "versions": document["versions"],
    }
    manifest["metrics"] = rows[-1]["test"] or rows[-1]["validation"] if rows else {}
    if witness is not None:
        manifest["ledgers"] = ledger_ranges(rows, state, witness)
    save(directory.model_directory, books.model, manifest=manifest)
    abandoned = sum(row["abandoned"] is not None for row in trained)
    directory.update(
        departments=sorted(state.asked),
        epsilon=list(spent.values()),
        result=manifest["metrics"],
        rounds_abandoned=abandoned,
    )


def _draw(directory: RunDirectory) -> None:
    """Draw the plots if that is possible here."""
    try:
        draw(directory)
    except (ImportError, OSError) as error:  # a finished run is not failed by a missing picture
        logger.warning("run %s: no plots: %s", directory.name, error)


def _model_seed(settings: RunSettings, directory: RunDirectory) -> int:
    """The seed of the initial model: the run's own, else its name's digest, so that a resumed run agrees."""
    return settings.seed if settings.seed is not None else int(digest(directory.name)[:12], 16)
