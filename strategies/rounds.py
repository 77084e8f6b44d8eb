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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from flwr.serverapp import Grid

from models.task import Task
from strategies import server_optimizers
from strategies.accounts import Accounts
from strategies.errors import RoundAbandonedError, RunFailedError, RunStoppedError
from strategies.flower import departments
from strategies.lanes import Layout, Total
from strategies.settings import RunSettings, StrategySettings
from strategies.state import RunState
from strategies.sums import Summed, Sums
from strategies.wire import Instruction

WAIT_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """What a round did. ``validation`` measures the model the round began with; ``saturated`` counts clipped
    elements of updates where that is known; ``legs`` are the seconds of each exchange.
    """

    round: int
    trained: bool
    answered: tuple[str, ...]
    left_out: Mapping[str, str]
    abandoned: str | None
    validation: Mapping[str, float]
    saturated: int | None
    legs: tuple[float, ...]
    seconds: float


class Observer(Protocol):
    """Who keeps the books of a run."""

    def before_epoch(self, state: RunState) -> None:
        """A set-up of sealed sums is about to begin: make ``state`` durable."""

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
    sums: Sums
    accounts: Accounts
    observer: Observer

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
        self.accounts.close(departments(self.grid))
        return state

    def _round(self, state: RunState, *, train: bool) -> str | None:
        """One exchange and what follows from it; returns why it was abandoned, if it was."""
        begin = time.monotonic()
        names, present = self._cohort(state)
        state.round += 1
        evaluate = bool(self.layout.metrics) and (not train or (state.round - 1) % self.settings.evaluation.every == 0)
        for name in dict.fromkeys(names.values()):
            state.asked[name] = state.asked.get(name, 0) + train
            state.measured[name] = state.measured.get(name, 0) + evaluate
        self.observer.before_round(state, tuple(names.values()))
        summed = self._ask(state, names, train=train, evaluate=evaluate)
        abandoned = summed.abandoned
        try:
            if train and abandoned is None and summed.total is not None:
                self._advance(state, summed.total, present)
        except RoundAbandonedError as error:
            abandoned = str(error)
        measured = summed.total.metrics if evaluate and summed.total is not None else None
        self.observer.after_round(
            state,
            RoundReport(
                round=state.round,
                trained=train,
                answered=tuple(names[node] for node in summed.answered),
                left_out={names[node]: reason for node, reason in summed.failures.items()},
                abandoned=abandoned,
                validation={} if measured is None else self.task.metrics(measured),
                saturated=None if summed.total is None else summed.total.saturated,
                legs=summed.legs,
                seconds=time.monotonic() - begin,
            ),
        )
        return abandoned

    def _cohort(self, state: RunState) -> tuple[dict[int, str], int]:
        """Wait for enough departments; the next round's (node id -> department), and how many are present."""
        strategy = self.settings.strategy
        least = max(strategy.min_departments, self.sums.smallest)
        while True:
            if self.observer.stopped():
                raise RunStoppedError("the run was asked to stop")
            ready: Mapping[int, str] = departments(self.grid)
            present = len(ready)
            if present >= least:
                ready = self.accounts.secure(self.sums.ready(state, ready, least), least)
            if len(ready) >= least:
                break
            self.observer.waiting(len(ready), least)
            time.sleep(WAIT_SECONDS)
        if strategy.fraction == 1:
            return dict(ready), present
        size = max(least, math.ceil(strategy.fraction * len(ready)))
        nodes = sorted(ready, key=lambda node: ready[node])
        seed = self.settings.seed
        # No privacy amplification is claimed for this choice, so its randomness is no secret.
        generator = np.random.default_rng(secrets.randbits(128) if seed is None else [seed, state.round + 1])
        chosen = generator.choice(len(nodes), size=min(size, len(nodes)), replace=False)
        return {nodes[i]: ready[nodes[i]] for i in sorted(chosen)}, present

    def _ask(self, state: RunState, names: Mapping[int, str], *, train: bool, evaluate: bool) -> Summed:
        """Send this round's instruction to the cohort and add up the vectors."""
        instruction = Instruction(
            run=self.run,
            round=state.round,
            spec=self.spec,
            train=train,
            evaluate=evaluate,
            model=state.model,
            control=state.control if train else None,
        )
        return self.sums.gather(state, names, instruction, quorum(self.settings.strategy, len(names)))

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
