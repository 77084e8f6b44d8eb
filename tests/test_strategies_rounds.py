"""The round loop and one message leg, over a grid whose departments do as they are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from federation_cases import FakeGrid, reply, settings_of
from flwr.app import ConfigRecord, Error, RecordDict
from flwr.serverapp import Grid

from models.vector import to_vector
from strategies import exchange as leg
from strategies.accounts import NoAccounts
from strategies.agreement import layout_of, model_of, task_of, write_spec
from strategies.errors import RunFailedError, RunStoppedError
from strategies.lanes import FloatVector
from strategies.rounds import RoundReport, Rounds, quorum
from strategies.settings import RunSettings, StrategySettings
from strategies.state import RunState
from strategies.status import Status
from strategies.sums import ClearSums
from strategies.wire import Instruction, answer

SIZE = 6  # logistic regression of two inputs and two classes


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Poll in milliseconds: the tests wait for deadlines."""
    monkeypatch.setattr(leg, "POLL_SECONDS", 0.002)
    monkeypatch.setattr(leg, "PRESENCE_SECONDS", 0.01)
    yield


@dataclass
class Notes:
    """An observer that remembers, and stops a run when asked to."""

    stop_when: Callable[[], bool] = lambda: False
    reports: list[RoundReport] = field(default_factory=list)
    asked: list[tuple[int, tuple[str, ...], dict[str, int]]] = field(default_factory=list)
    waits: list[tuple[int, int]] = field(default_factory=list)
    before: Callable[[RunState], None] = lambda _state: None

    def before_epoch(self, state: RunState) -> None:
        raise AssertionError("clear sums need no set-up")

    def waiting(self, connected: int, needed: int) -> None:
        self.waits.append((connected, needed))

    def before_round(self, state: RunState, cohort: tuple[str, ...]) -> None:
        self.asked.append((state.round, cohort, dict(state.asked)))
        self.before(state)

    def after_round(self, _state: RunState, report: RoundReport) -> None:
        self.reports.append(report)

    def stopped(self) -> bool:
        return self.stop_when()


def conduct_rounds(
    grid: Grid, settings: RunSettings, notes: Notes | None = None, state: RunState | None = None
) -> tuple[RunState, Notes]:
    """Go through all rounds of a run; returns its state and what an observer saw."""
    notes = notes or Notes()
    task, model = task_of(settings), model_of(settings, seed=0)
    layout = layout_of(settings, model, task)
    vector = to_vector(model)
    state = state or RunState(model=vector, control=np.zeros_like(vector) if layout.control else None)
    rounds = Rounds(
        grid=grid,
        settings=settings,
        run="toy-1",
        spec=write_spec(settings, run="toy-1"),
        task=task,
        layout=layout,
        sums=ClearSums(grid=grid, layout=layout, deadline=settings.strategy.deadline, stopped=notes.stopped),
        accounts=NoAccounts(),
        observer=notes,
    )
    return rounds.go(state), notes


def quiet(rounds: int = 1, **strategy: Any) -> RunSettings:
    """A run without metrics, so that a vector is update and weight alone."""
    return settings_of(privacy={"mode": "off", "metrics": "off"}, training={"rounds": rounds}, strategy=strategy)


def moving(by: float, weight: float = 1.0) -> Callable[[Instruction, int], FloatVector]:
    return lambda _instruction, _node: np.append(np.full(SIZE, by * weight), weight).astype(np.float32)


def silent(_instruction: Instruction, _node: int) -> None:
    return None


def start() -> FloatVector:
    return to_vector(model_of(quiet(), seed=0))


def test_the_model_moves_by_the_weighted_mean() -> None:
    state, notes = conduct_rounds(FakeGrid({"a": moving(1.0, 3.0), "b": moving(-1.0, 1.0)}), quiet())
    np.testing.assert_allclose(state.model, start() + 0.5, atol=1e-6)
    assert state.aggregated == 1
    assert notes.reports[0].answered == ("a", "b")


def test_what_each_department_is_asked() -> None:
    grid = FakeGrid({"a": moving(1.0), "b": moving(1.0)})
    settings = quiet(2)
    state, _ = conduct_rounds(grid, settings)
    assert [(name, i.round, i.train, i.evaluate) for name, i in grid.sent] == [
        ("a", 1, True, False),
        ("b", 1, True, False),
        ("a", 2, True, False),
        ("b", 2, True, False),
    ]
    assert grid.sent[0][1].model.tobytes() == start().tobytes()
    assert (grid.sent[0][1].run, grid.sent[0][1].spec) == ("toy-1", write_spec(settings, run="toy-1"))
    assert state.asked == {"a": 2, "b": 2}
    assert state.measured == {"a": 0, "b": 0}


def test_metrics_ride_along_and_the_last_model_is_measured() -> None:
    settings = settings_of(training={"rounds": 3}, evaluation={"every": 2})
    layout = layout_of(settings, model_of(settings, seed=0), task_of(settings))
    grid = FakeGrid(
        {"a": lambda *_: np.ones(layout.size, np.float32), "b": lambda *_: np.ones(layout.size, np.float32)}
    )
    state, notes = conduct_rounds(grid, settings)
    assert [(i.round, i.train, i.evaluate) for name, i in grid.sent if name == "a"] == [
        (1, True, True),
        (2, True, False),
        (3, True, True),
        (4, False, True),
    ]
    assert state.measured == {"a": 3, "b": 3}
    assert state.asked == {"a": 3, "b": 3}
    assert [bool(report.validation) for report in notes.reports] == [True, False, True, True]
    assert [report.trained for report in notes.reports] == [True, True, True, False]


@pytest.mark.parametrize(
    ("share", "asked", "needed"),
    [(0.8, 5, 4), (0.8, 2, 2), (0.5, 4, 2), (1.0, 3, 3), (0.01, 9, 1), (0.2, 5, 1), (0.6, 5, 3), (0.7, 10, 7)],
)
def test_quorum_rounds_up(share: float, asked: int, needed: int) -> None:
    assert quorum(StrategySettings(quorum=share), asked) == needed


def test_a_late_department_is_left_out_at_the_deadline() -> None:
    grid = FakeGrid({"a": moving(1.0), "b": moving(1.0), "c": silent})
    begin = time.monotonic()
    state, notes = conduct_rounds(grid, quiet(quorum=0.6, deadline=0.1))
    assert time.monotonic() - begin < 5
    assert notes.reports[0].left_out == {"c": "no answer within 0.1 s"}
    assert notes.reports[0].abandoned is None
    assert state.asked == {"a": 1, "b": 1, "c": 1}  # c may have trained: it counts in full


def test_below_quorum_the_round_is_abandoned_and_still_counted() -> None:
    def sometimes(instruction: Instruction, node: int) -> FloatVector | None:
        return None if instruction.round == 1 else moving(1.0)(instruction, node)

    grid = FakeGrid({"a": moving(1.0), "b": sometimes})
    state, notes = conduct_rounds(grid, quiet(2, quorum=1.0, deadline=0.05))
    assert notes.reports[0].abandoned == "1 of 2 departments answered, the quorum is 2"
    assert grid.sent[2][1].model.tobytes() == start().tobytes()  # round 2 begins where round 1 did
    assert notes.reports[1].abandoned is None
    assert (state.round, state.aggregated, state.asked) == (2, 1, {"a": 2, "b": 2})


def test_an_abandoned_round_leaves_the_optimiser_alone() -> None:
    def sometimes(instruction: Instruction, node: int) -> FloatVector | Status:
        return Status.TRAINING_FAILED if instruction.round == 2 else moving(1.0)(instruction, node)

    def steady(rounds: int) -> RunSettings:
        return quiet(rounds, name="fedadam", quorum=1.0)

    interrupted, _ = conduct_rounds(FakeGrid({"a": moving(1.0), "b": sometimes}), steady(3))
    smooth, _ = conduct_rounds(FakeGrid({"a": moving(1.0), "b": moving(1.0)}), steady(2))
    assert interrupted.model.tobytes() == smooth.model.tobytes()
    assert {k: v.tobytes() for k, v in interrupted.optimizer.items()} == {
        k: v.tobytes() for k, v in smooth.optimizer.items()
    }


def test_a_run_without_one_aggregated_round_fails() -> None:
    grid = FakeGrid({"a": lambda *_: Status.DATA_UNUSABLE, "b": lambda *_: Status.DATA_UNUSABLE})
    with pytest.raises(RunFailedError, match="not one of 2 rounds"):
        conduct_rounds(grid, quiet(2))


def test_departments_that_went_away_are_not_waited_for_once_there_is_a_quorum() -> None:
    grid = FakeGrid({"a": moving(1.0), "b": moving(1.0), "c": silent})
    grid.gone = {"c"}
    begin = time.monotonic()
    _, notes = conduct_rounds(grid, quiet(quorum=0.6, deadline=60))
    assert time.monotonic() - begin < 10
    assert notes.reports[0].left_out == {"c": "went away"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda *_: Error(7, "private words"), "flower-error-7"),
        (lambda *_: Status.REFUSED_BY_POLICY, "refused-by-policy"),
        (lambda *_: RecordDict(), "malformed reply"),
        (lambda *_: RecordDict({"answer": ConfigRecord({"version": 1, "code": ["ok"]})}), "malformed reply"),
        (lambda *_: np.ones(SIZE, np.float32), "agreed was float32"),
        (lambda *_: np.full(SIZE + 1, np.nan, np.float32), "NaN"),
    ],
)
def test_a_bad_reply_costs_its_sender_alone(given: Any, reason: str) -> None:
    grid = FakeGrid({"a": moving(1.0), "b": moving(1.0), "c": given})
    state, notes = conduct_rounds(grid, quiet(quorum=0.6))
    assert reason in notes.reports[0].left_out["c"]
    assert "private" not in notes.reports[0].left_out["c"]
    np.testing.assert_allclose(state.model, start() + 1.0, atol=1e-6)


def test_a_department_that_cannot_be_sent_to_is_named() -> None:
    grid = FakeGrid({"a": moving(1.0), "b": moving(1.0), "c": moving(9.0)})
    grid.unreachable = {"b"}
    state, notes = conduct_rounds(grid, quiet(quorum=0.6))
    assert notes.reports[0].left_out == {"b": "could not be sent"}
    assert notes.reports[0].answered == ("a", "c")
    assert state.asked["b"] == 1


def test_replies_to_nothing_that_was_asked_are_ignored() -> None:
    grid = FakeGrid({"a": moving(1.0), "b": moving(1.0)})
    forged = reply(answer(Status.OK, np.full(SIZE + 1, 1e6, np.float32)), node=11)
    grid.extra = [forged, forged]
    state, notes = conduct_rounds(grid, quiet())
    np.testing.assert_allclose(state.model, start() + 1.0, atol=1e-6)
    assert notes.reports[0].answered == ("a", "b")


def test_a_second_reply_to_the_same_message_is_ignored() -> None:
    class Stuttering(FakeGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            ready = list(super().pull_messages(message_ids))
            return [*ready, *ready]

    state, _ = conduct_rounds(Stuttering({"a": moving(1.0), "b": moving(3.0)}), quiet())
    np.testing.assert_allclose(state.model, start() + 2.0, atol=1e-6)


def test_the_sum_does_not_depend_on_who_was_faster() -> None:
    def many(seed: int) -> bytes:
        # In float64 (1e30 + 1) - 1e30 is 0, and (1e30 - 1e30) + 1 is 1.
        answers = {f"d{i}": moving(by) for i, by in enumerate((1e30, 1.0, -1e30, 8.0, 3e29, -3e29))}
        return conduct_rounds(FakeGrid(answers, shuffle=seed), quiet(1))[0].model.tobytes()

    assert len({many(seed) for seed in range(8)}) == 1


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_run_that_is_asked_to_stop_stops(when: str) -> None:
    grid = FakeGrid({"a": silent, "b": silent})
    notes = Notes(stop_when=lambda: when == "before" or bool(grid.sent))
    begin = time.monotonic()
    with pytest.raises(RunStoppedError):
        conduct_rounds(grid, quiet(deadline=60), notes)
    assert time.monotonic() - begin < 5
    assert bool(grid.sent) == (when == "during")  # nobody is asked, and charged, after the wish to stop


def test_a_run_stops_while_it_waits_for_departments() -> None:
    waits = iter(range(100))
    notes = Notes(stop_when=lambda: next(waits) > 1)
    with pytest.raises(RunStoppedError):
        conduct_rounds(FakeGrid({"a": silent}), quiet(), notes)
    assert notes.waits[0] == (1, 2)
    assert notes.asked == []


def test_cost_is_counted_before_anything_is_sent() -> None:
    grid = FakeGrid({"a": moving(1.0), "b": moving(1.0)})
    sent_before = []
    notes = Notes(before=lambda _state: sent_before.append(len(grid.sent)))
    conduct_rounds(grid, quiet(2), notes)
    assert sent_before == [0, 2]
    assert [(number, counted) for number, _, counted in notes.asked] == [
        (1, {"a": 1, "b": 1}),
        (2, {"a": 2, "b": 2}),
    ]


def test_two_machines_of_one_name_are_charged_once_a_round() -> None:
    grid = FakeGrid({"a": moving(1.0), "b": moving(1.0)})
    grid.names = dict.fromkeys(grid.names, "a")
    state, _ = conduct_rounds(grid, quiet(2))
    assert state.asked == {"a": 2}


def seeded(seed: int | None, **strategy: Any) -> RunSettings:
    return quiet(6, min_departments=1, **strategy).model_copy(update={"seed": seed})


def cohorts(settings: RunSettings, size: int = 8) -> list[tuple[str, ...]]:
    grid = FakeGrid({f"d{i}": moving(1.0) for i in range(size)})
    return [cohort for _, cohort, _ in conduct_rounds(grid, settings)[1].asked]


def test_partial_participation_is_drawn_anew_each_round_and_reproducible() -> None:
    drawn = cohorts(seeded(3, fraction=0.3))
    assert all(len(cohort) == 3 for cohort in drawn)  # 0.3 * 8, rounded up
    assert len(set(drawn)) > 1
    assert drawn == cohorts(seeded(3, fraction=0.3))
    assert drawn != cohorts(seeded(4, fraction=0.3))
    assert cohorts(seeded(None, fraction=0.3)) != cohorts(seeded(None, fraction=0.3))


def test_a_resumed_run_draws_the_same_cohorts() -> None:
    settings, whole = seeded(3, fraction=0.3), cohorts(seeded(3, fraction=0.3))
    grid = FakeGrid({f"d{i}": moving(1.0) for i in range(8)})
    state = RunState(model=start(), round=4, aggregated=4)
    _, notes = conduct_rounds(grid, settings, state=state)
    assert [cohort for _, cohort, _ in notes.asked] == whole[4:]


def test_a_cohort_is_never_smaller_than_the_minimum() -> None:
    settings = quiet(1, fraction=0.01, min_departments=3)
    assert [len(cohort) for cohort in cohorts(settings)] == [3]


def test_a_model_that_would_not_be_finite_is_refused() -> None:
    grid = FakeGrid({"a": moving(3e38), "b": moving(3e38)})
    state = RunState(model=np.full(SIZE, 3e38, np.float32))
    with pytest.raises(RunFailedError, match="not finite"):
        conduct_rounds(grid, quiet(), state=state)
    assert np.isfinite(state.model).all()


@pytest.mark.parametrize("weight", [0.0, -5.0, 1e13])
def test_a_weight_nobody_may_declare_is_left_out(weight: float) -> None:
    grid = FakeGrid({"a": moving(1.0, weight), "b": moving(1.0, weight)})
    with pytest.raises(RunFailedError, match="0 of 2 departments answered"):
        conduct_rounds(grid, quiet())


def test_scaffold_s_variate_is_a_mean_over_all_departments_not_the_cohort() -> None:
    settings = quiet(1, name="scaffold", fraction=0.25, min_departments=1)
    ones = np.concatenate([np.zeros(SIZE), np.ones(SIZE), [1.0]]).astype(np.float32)
    grid = FakeGrid({f"d{i}": lambda *_: ones for i in range(8)})
    state, _ = conduct_rounds(grid, settings)
    assert state.control is not None
    np.testing.assert_allclose(state.control, 2 / 8)  # two of eight were asked (algorithm 1, line 17)
