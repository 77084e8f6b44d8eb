"""How a run goes: the round loop of the coordinator, the same on every engine.

A round is one exchange: departments measure the received model on their validation split and
train it; their vectors are summed, the server optimiser moves the model. The last model is
measured by one more exchange without training. Every attempt is recorded before it begins, so
that a killed server never asks for the same round twice.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from flwr.app import RecordDict
from flwr.serverapp import Grid

from models.task import Task
from strategies import server_optimizers
from strategies.errors import RoundAbandonedError, RunFailedError, RunStoppedError
from strategies.exchange import Gathered, exchange
from strategies.flower import departments
from strategies.settings import RunSettings, StrategySettings
from strategies.wire import FloatVector, Instruction, Layout, Total

WAIT_SECONDS = 0.2


@dataclass(kw_only=True)
class RunState:
    """Everything a resumed run needs: bit-equal continuation follows from it.

    ``round`` is the last attempted round; ``model`` float32 (P,); ``optimizer`` float64 (P,)
    vectors by name; ``control`` SCAFFOLD's server variate; ``asked`` counts, per department,
    the rounds in which it was asked to train, ``measured`` those in which it was asked for metrics:
    what it may have spent. ``aggregated`` counts the rounds that moved the model.
    """

    model: FloatVector
    round: int = 0
    optimizer: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    control: FloatVector | None = None
    asked: dict[str, int] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)
    aggregated: int = 0


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """What a round did. ``validation`` measures the model the round began with."""

    round: int
    trained: bool
    answered: tuple[str, ...]
    left_out: Mapping[str, str]
    abandoned: str | None
    validation: Mapping[str, float]
    leg_seconds: float
    seconds: float


class Observer(Protocol):
    """Who keeps the books of a run."""

    def waiting(self, connected: int, needed: int) -> None:
        """Fewer departments than needed are connected."""

    def before_round(self, state: RunState, cohort: tuple[str, ...]) -> None:
        """A round is about to be asked for: make ``state`` durable."""

    def after_round(self, state: RunState, report: RoundReport) -> None:
        """A round ended, abandoned or not: make ``state`` durable."""

    def stopped(self) -> bool:
        """Whether somebody asked the run to stop."""


@dataclass(kw_only=True)
class Rounds:
    """The round loop over a Flower grid.

    Raises :class:`RunStoppedError`, and :class:`RunFailedError` when *every* round was abandoned.
    """

    grid: Grid
    settings: RunSettings
    run: str
    spec: str
    task: Task
    layout: Layout
    observer: Observer
    choose: Callable[[list[str], int], list[str]] | None = None

    def go(self, state: RunState) -> RunState:
        """Run from ``state`` to the last round."""
        rounds = self.settings.training.rounds
        abandoned = None
        while state.round < rounds:
            abandoned = self._round(state, train=True)
        if state.aggregated == 0:
            raise RunFailedError(f"not one of {rounds} rounds could be aggregated; the last: {abandoned}")
        if self.layout.metrics and state.round == rounds:
            self._round(state, train=False)
        return state

    def _round(self, state: RunState, *, train: bool) -> str | None:
        """One exchange and what follows from it; returns why it was abandoned, if it was."""
        begin = time.monotonic()
        names, present = self._cohort(state.round + 1)
        state.round += 1
        evaluate = bool(self.layout.metrics) and (not train or (state.round - 1) % self.settings.evaluation.every == 0)
        for name in dict.fromkeys(names.values()):
            state.asked[name] = state.asked.get(name, 0) + train
            state.measured[name] = state.measured.get(name, 0) + evaluate
        self.observer.before_round(state, tuple(names.values()))
        gathered = self._ask(state, names, train=train, evaluate=evaluate)
        total = self.layout.total(list(gathered.vectors.values()))
        abandoned = None
        try:
            self._check_quorum(gathered, len(names))
            if train:
                self._advance(state, total, present)
        except RoundAbandonedError as error:
            abandoned = str(error)
        self.observer.after_round(
            state,
            RoundReport(
                round=state.round,
                trained=train,
                answered=tuple(names[node] for node in gathered.vectors),
                left_out={names[node]: reason for node, reason in gathered.failures.items()},
                abandoned=abandoned,
                validation=self.task.metrics(total.metrics) if evaluate and gathered.vectors else {},
                leg_seconds=gathered.seconds,
                seconds=time.monotonic() - begin,
            ),
        )
        return abandoned

    def _cohort(self, number: int) -> tuple[dict[int, str], int]:
        """Wait for enough departments; this round's (node id -> department), and how many are present."""
        strategy = self.settings.strategy
        while True:
            if self.observer.stopped():
                raise RunStoppedError("the run was asked to stop")
            present = departments(self.grid)
            if len(present) >= strategy.min_departments:
                break
            self.observer.waiting(len(present), strategy.min_departments)
            time.sleep(WAIT_SECONDS)
        if strategy.fraction == 1:
            return present, len(present)
        size = max(strategy.min_departments, math.ceil(strategy.fraction * len(present)))
        nodes = sorted(present, key=lambda node: present[node])
        seed = self.settings.seed
        # No privacy amplification is claimed for this choice, so its randomness is no secret.
        generator = np.random.default_rng(secrets.randbits(128) if seed is None else [seed, number])
        chosen = generator.choice(len(nodes), size=min(size, len(nodes)), replace=False)
        return {nodes[i]: present[nodes[i]] for i in sorted(chosen)}, len(present)

    def _ask(self, state: RunState, names: Mapping[int, str], *, train: bool, evaluate: bool) -> Gathered:
        """Send this round's instruction to the cohort and gather the vectors."""
        content: RecordDict = Instruction(
            run=self.run,
            round=state.round,
            spec=self.spec,
            train=train,
            evaluate=evaluate,
            model=state.model,
            control=state.control if train else None,
        ).to_record()
        return exchange(
            self.grid,
            dict.fromkeys(names, content),
            layout=self.layout,
            deadline=self.settings.strategy.deadline,
            quorum=quorum(self.settings.strategy, len(names)),
            stopped=self.observer.stopped,
        )

    def _check_quorum(self, gathered: Gathered, asked: int) -> None:
        """Raise :class:`RoundAbandonedError` if too few answered."""
        needed = quorum(self.settings.strategy, asked)
        if len(gathered.vectors) < needed:
            raise RoundAbandonedError(
                f"{len(gathered.vectors)} of {asked} departments answered, the quorum is {needed}"
            )

    def _advance(self, state: RunState, total: Total, present: int) -> None:
        """Let the server optimiser move the model; the model stays if the result is not finite."""
        model, optimizer = server_optimizers.apply(
            self.settings.strategy, state.model, total.update / total.weight, state.optimizer
        )
        control = state.control
        if total.control is not None and control is not None:
            # SCAFFOLD, algorithm 1 line 17: the mean over all departments, not only the cohort.
            with np.errstate(over="ignore"):  # an overflow becomes infinite, and is refused below
                control = (control + total.control / max(present, len(state.asked))).astype(np.float32)
        if not np.isfinite(model).all() or (control is not None and not np.isfinite(control).all()):
            raise RoundAbandonedError("the new model is not finite; lower the learning rates")
        state.model, state.optimizer, state.control = model, optimizer, control
        state.aggregated += 1


def quorum(strategy: StrategySettings, asked: int) -> int:
    """How many of ``asked`` departments must answer."""
    return max(1, math.ceil(strategy.quorum * asked - 1e-9))
