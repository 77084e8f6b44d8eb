"""One run after another: reserve, release, abandon, settle, override."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from ledger_home import (
    KEY,
    MODEL,
    OTHER,
    SPEC,
    key_of,
    make,
    plan,
    policy,
    release,
    reserve,
)

from privacy.costs import Cost, Mechanism
from privacy.errors import (
    LedgerError,
    LedgerUnwritable,
    PolicyRefusal,
    ReservationError,
)
from privacy.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make(tmp_path / "ledger")


def test_a_ledger_is_one_file_of_its_owner(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "ledger"
    assert not Ledger.exists(folder)
    ledger = make(folder)
    assert Ledger.exists(folder)
    assert [file.name for file in folder.iterdir()] == ["ledger.sqlite"]
    assert stat.S_IMODE((folder / "ledger.sqlite").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert ledger.origin.startswith("confide.ledger/Cardiology/")
    assert (ledger.size, ledger.key) == (3, KEY.public_key().public_bytes_raw())
    with pytest.raises(LedgerError, match="there is a ledger already"):
        Ledger.create(folder, key=KEY, name="Cardiology")
    assert Ledger.open(folder).size == 3


def test_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger.open(tmp_path, key=KEY)
    with pytest.raises(LedgerError, match="1 to 128 characters"):
        Ledger.create(tmp_path, key=KEY, name="")


def test_an_empty_file_is_no_ledger_and_one_can_be_made_of_it(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch()
    assert not Ledger.exists(tmp_path)
    with pytest.raises(LedgerError, match="no ledger in it yet"):
        Ledger.open(tmp_path, key=KEY)
    assert make(tmp_path).size == 3


@pytest.mark.parametrize("settings", [{}, {"readonly": True}, {"key": KEY, "readonly": True}])
def test_reading_only(tmp_path: Path, settings: dict) -> None:
    make(tmp_path)
    ledger = Ledger.open(tmp_path, **settings)
    assert len(list(ledger.lines())) == 3
    ledger.check(plan(), "claims", run="run", model="cnn")
    ledger.check_all()
    with pytest.raises(LedgerUnwritable, match="reading only"):
        reserve(ledger)
    assert ledger.size == 3


def test_a_checkpoint_needs_the_key(tmp_path: Path) -> None:
    make(tmp_path)
    assert Ledger.open(tmp_path, key=KEY, readonly=True).checkpoint()
    with pytest.raises(LedgerError, match="without its key"):
        Ledger.open(tmp_path).checkpoint()
    with pytest.raises(LedgerError, match="not the one that signs it now"):
        Ledger.open(tmp_path, key=key_of(7))


# --- Runs ------------------------------------------------------------------------------------------------------------


def test_a_run(ledger: Ledger) -> None:
    ledger.check(plan(), "claims", run="run", model="cnn")
    reservation = reserve(ledger)
    assert (reservation.run, reservation.dataset, reservation.seq, reservation.plan) == ("run", "claims", 3, plan())
    assert reservation.open
    assert ledger.reserve_seq("run") == 3
    for number in (1, 2, 3):
        release(reservation, number)
    assert reservation.released(3) is not None
    assert reservation.released(3).model == MODEL
    assert reservation.released(4) is None
    before = ledger.statuses()[0]
    reservation.settle()
    after = ledger.statuses()[0]
    assert not reservation.open
    assert ledger.reservation("run") is None
    assert (before.open_runs, after.open_runs) == (("run",), ())
    assert before.settled == 0
    assert after.settled == after.enforced < before.enforced
    ledger.check_all()


def test_reserving_twice_is_reserving_once(ledger: Ledger) -> None:
    first, again = reserve(ledger), reserve(ledger)
    assert (first.seq, ledger.size) == (again.seq, 4)
    ledger.check(plan(), "claims", run="run", model="cnn")
    assert ledger.reservation("run").seq == first.seq


@pytest.mark.parametrize(
    "changes", [{"rounds": 4}, {"noise_multiplier": 3.0}, {"metric_noise": None}, {"dataset": "other"}]
)
def test_a_run_is_reserved_with_one_mechanism(tmp_path: Path, changes: dict) -> None:
    ledger = make(tmp_path, policy("claims", "other"), names=("claims", "other"))
    reserve(ledger)
    with pytest.raises(ReservationError, match="reserved with other settings"):
        reserve(ledger, **changes)
    dataset = changes.pop("dataset", "claims")
    with pytest.raises(ReservationError, match="reserved with other settings"):
        ledger.check(plan(**changes), dataset, run="run", model="cnn")


def test_a_run_is_reserved_with_one_agreement(ledger: Ledger) -> None:
    reserve(ledger)
    with pytest.raises(ReservationError, match="reserved with other settings"):
        ledger.reserve(plan(), "claims", "run", model="cnn", spec=OTHER)
    with pytest.raises(ReservationError, match="no SHA-256"):
        ledger.reserve(plan(), "claims", "run", model="cnn", spec="5")
    with pytest.raises(ReservationError, match="1 to 128 characters"):
        ledger.reserve(plan(), "claims", "", model="cnn", spec=SPEC)


def test_a_round_is_released_once(ledger: Ledger) -> None:
    reservation = reserve(ledger)
    release(reservation, 1)
    size = ledger.size
    release(reservation, 1)
    assert ledger.size == size
    with pytest.raises(ReservationError, match="with another model"):
        release(reservation, 1, model=OTHER)
    with pytest.raises(ReservationError, match="with another update"):
        release(reservation, 1, update=OTHER)
    with pytest.raises(ReservationError, match="round 1 was released"):
        release(reservation, 1, evaluate=False)
    with pytest.raises(ReservationError, match="no SHA-256"):
        release(reservation, 2, model="a")
    assert ledger.size == size


def test_no_release_beyond_the_reservation(ledger: Ledger) -> None:
    reservation = reserve(ledger, rounds=2)
    release(reservation, 1)
    release(reservation, 2)
    with pytest.raises(ReservationError, match="all 2 reserved rounds were released"):
        release(reservation, 3)
    release(reservation, 3, train=False)
    with pytest.raises(ReservationError, match="3 releases of metrics were reserved"):
        release(reservation, 4, train=False)


def test_no_metrics_that_were_not_reserved(ledger: Ledger) -> None:
    reservation = reserve(ledger, metric_noise=None)
    with pytest.raises(ReservationError, match="0 releases of metrics"):
        release(reservation, 1)
    release(reservation, 1, evaluate=False)


def test_no_release_without_a_reservation(tmp_path: Path) -> None:
    ledger, other = make(tmp_path / "one"), make(tmp_path / "two")
    foreign = replace(reserve(other), log=ledger._log)
    for attempt in (lambda: release(foreign, 1), lambda: foreign.abandon(1, "x"), foreign.settle):
        with pytest.raises(ReservationError, match="no such reservation"):
            attempt()
    assert ledger.size == 3


def test_an_abandoned_round_gives_nothing_back(ledger: Ledger) -> None:
    reservation = reserve(ledger)
    release(reservation, 1)
    with pytest.raises(ReservationError, match="was released and cannot be abandoned"):
        reservation.abandon(1, "disk_full")
    before = ledger.statuses()[0].enforced
    reservation.abandon(2, "disk_full")
    reservation.abandon(2, "disk_full")
    assert ledger.size == 6
    assert ledger.statuses()[0].enforced == before
    with pytest.raises(ReservationError, match="round 2 was abandoned"):
        release(reservation, 2)
    with pytest.raises(ReservationError, match="no status code"):
        reservation.abandon(3, "")


def test_settling_costs_what_was_released(ledger: Ledger) -> None:
    reservation = reserve(ledger)
    release(reservation, 1)
    release(reservation, 2, evaluate=False)
    reservation.settle()
    size = ledger.size
    reservation.settle()
    assert ledger.size == size
    executed = replace(Mechanism.from_plan(plan()), rounds=2, evaluations=1)
    with ledger._log.reading() as view:
        run = view.book.runs["run"]
    assert run.mechanism == executed
    assert run.cost == Cost.of(executed, (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64))


def test_nothing_follows_a_settlement(ledger: Ledger) -> None:
    reservation = reserve(ledger)
    release(reservation, 1)
    reservation.settle()
    size = ledger.size
    release(reservation, 1)  # the cached answer may leave again
    for attempt in (
        lambda: release(reservation, 2),
        lambda: reservation.abandon(2, "x"),
        lambda: reserve(ledger),
        lambda: ledger.check(plan(), "claims", run="run", model="cnn"),
    ):
        with pytest.raises(ReservationError, match="was settled"):
            attempt()
    assert ledger.size == size


def test_a_run_with_no_release_costs_nothing(ledger: Ledger) -> None:
    reserve(ledger).settle()
    status = ledger.statuses()[0]
    assert (status.enforced, status.remaining, status.runs) == (0, 8, 1)


# --- Overrides -------------------------------------------------------------------------------------------------------


def test_no_override_unless_allowed(ledger: Ledger) -> None:
    with pytest.raises(PolicyRefusal, match="not allowed by the policy"):
        ledger.override("claims", "run", spec=SPEC)
    with pytest.raises(PolicyRefusal, match="not allowed by the policy"):
        ledger.override("unknown", "run", spec=SPEC)


def test_an_override_makes_epsilon_unbounded(tmp_path: Path) -> None:
    allowed = policy("claims\nallow_without_privacy = true\ngroup = 'g'", "other\ngroup = 'g'", "third")
    ledger = make(tmp_path, allowed, names=("claims", "other", "third"))
    override = ledger.override("claims", "run", spec=SPEC)
    assert override.plan is None
    assert ledger.override("claims", "run", spec=SPEC).seq == override.seq
    assert ledger.reservation("run").seq == override.seq
    assert ledger.reserve_seq("run") is None
    for number in range(1, 9):
        release(override, number)
    override.settle()
    found = {status.dataset: status for status in ledger.statuses()}
    assert found["claims"].enforced == found["other"].enforced == float("inf")
    assert (found["claims"].overrides, found["claims"].runs, found["third"].enforced) == (("run",), 0, 0)
    with pytest.raises(ReservationError, match="other settings"):
        reserve(ledger)
    with pytest.raises(ReservationError, match="other settings"):
        ledger.override("claims", "run", spec=OTHER)
    reserve(ledger, "next")
    with pytest.raises(ReservationError, match="other settings"):
        ledger.override("claims", "next", spec=SPEC)
    ledger.check_all()


def test_an_override_needs_a_registration(tmp_path: Path) -> None:
    ledger = make(tmp_path, policy("claims\nallow_without_privacy = true"), names=())
    with pytest.raises(PolicyRefusal, match="not registered"):
        ledger.override("claims", "run", spec=SPEC)
