"""A coordinator that means ill, and changes under a run that is open: what a ledger must not let happen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ledger_home import (
    KEY,
    SIZE,
    START,
    UPDATE,
    WITNESS,
    WITNESS_PUBLIC,
    cosigned,
    key_of,
    make,
    plan,
    policy,
    register,
    release,
    reserve,
    witness,
)

from privacy import admission, ledger_store, notes
from privacy.entries import Draft
from privacy.errors import (
    BudgetExceeded,
    LedgerBehind,
    LedgerDamaged,
    LedgerError,
    LedgerUnwritable,
    PolicyError,
    PolicyRefusal,
    ReservationError,
)
from privacy.ledger import Ledger
from privacy.ledger_log import Log

SETTLE = "`confide privacy settle run`"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make(tmp_path / "ledger")


def cosign(ledger: Ledger, number: int, name: str, note: str | None = None) -> None:
    """Have somebody cosign the ledger, and hand it the note."""
    key = key_of(number)
    note = notes.cosign(key, name, note or ledger.checkpoint(), START)
    ledger.witnessed(note, name=name, key=key.public_key().public_bytes_raw())


# --- Notes -----------------------------------------------------------------------------------------------------------


def test_of_a_note_only_the_two_signatures_are_kept(ledger: Ledger) -> None:
    checkpoint = ledger.checkpoint()
    own = ledger.key
    cosign(ledger, 20, "auditor", checkpoint + "".join(f"— junk{number} {'A' * 1000}\n" for number in range(15)))
    kept = notes.parse(ledger.newest_witness()["auditor"])
    assert [name for name, _ in kept.signatures] == [ledger.origin, "auditor"]
    kept.signature([own])
    kept.cosignature("auditor", key_of(20).public_key().public_bytes_raw())
    ledger.check_all()


def test_a_note_that_the_ledger_did_not_sign_is_not_kept(ledger: Ledger) -> None:
    stranger = notes.sign(ledger.origin, ledger.size, notes.parse(ledger.checkpoint()).root, key_of(9))
    with pytest.raises(LedgerDamaged, match="not signed by a key of that ledger"):
        cosign(ledger, 20, "auditor", stranger)


def test_a_ninth_witness_is_refused(ledger: Ledger) -> None:
    for number in range(8):
        cosign(ledger, 20 + number, f"witness-{number}")
    size = ledger.size
    with pytest.raises(LedgerError, match=r"witness witness-8: 8 others have cosigned .* at most 8 may"):
        cosign(ledger, 28, "witness-8")
    assert (ledger.size, len(ledger.newest_witness())) == (size, 8)
    register(ledger, "other")
    cosign(ledger, 20, "witness-0")  # those that are known go on
    ledger.check_all()


def test_notes_that_could_not_be_read_again_replace_none(ledger: Ledger) -> None:
    witness(ledger)
    folder = ledger._log.store.folder
    before = ledger_store.read_notes(folder)
    with pytest.raises(LedgerUnwritable, match="bytes of notes"):
        ledger_store.write_notes(folder, {"one": (bytes(32), "x" * ledger_store.MOST_NOTES_BYTES)})
    assert ledger_store.read_notes(folder) == before


def test_a_name_made_from_a_key_is_that_keys(ledger: Ledger) -> None:
    name = f"confide.witness/{key_of(20).public_key().public_bytes_raw().hex()[:32]}"
    for wrong in (name, name[:-1], "confide.witness/", f"{name}0"):
        with pytest.raises(LedgerDamaged, match="not the name of its key"):
            cosign(ledger, 21, wrong)
    cosign(ledger, 20, name)
    assert list(ledger.newest_witness()) == [name]


@pytest.mark.parametrize("name", ["x" * 129, "\x1b[2J"])
def test_a_name_that_cannot_be_written(ledger: Ledger, name: str) -> None:
    with pytest.raises(LedgerDamaged, match="1 to 128 printable"):
        cosign(ledger, 20, name)


def test_witnesses_alone_do_not_make_a_ledger_grow(ledger: Ledger) -> None:
    witness(ledger)
    cosign(ledger, 20, "auditor")
    size, note = ledger.size, ""
    for _ in range(5):
        note = witness(ledger, ledger.newest_witness()["coordinator"])
        cosign(ledger, 20, "auditor")
    assert ledger.size == size
    assert ledger.newest_witness()["coordinator"] == note  # the newest is kept all the same
    register(ledger, "other")
    note = witness(ledger, note)
    assert ledger.size == size + 2
    assert json.loads(ledger.entry(size + 1))["entry"]["ref"]["size"] == str(notes.parse(note).size)
    Ledger.open(ledger._log.store.folder, key=KEY).check_all()


def test_a_ledger_that_was_begun_anew_is_behind(ledger: Ledger, tmp_path: Path) -> None:
    anew = make(tmp_path / "anew")
    match = f"has seen ledger {ledger.origin} of this department, which was replaced by a new one"
    with pytest.raises(LedgerBehind, match=match):
        anew.compare(cosigned(ledger))
    with pytest.raises(LedgerBehind, match=match):
        cosign(anew, 20, "auditor", ledger.checkpoint())


# --- Decisions that take long ----------------------------------------------------------------------------------------

CAP = 'claims\nper_run = { epsilon = "1" }\nlifetime = { epsilon = "50", delta = "1e-6" }'
FULL: dict[str, Any] = {"sampling_rate": 1.0, "metric_noise": None}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every PLD computation: whether it was made while the ledger was held; each says that a run costs 0.9."""
    held, found = [0], []

    @contextmanager
    def holding(way: Any, log: Log) -> Iterator[Any]:
        with way(log) as view:
            held[0] += 1
            try:
                yield view
            finally:
                held[0] -= 1

    for name in ("reading", "writing"):
        way = getattr(Log, name)
        monkeypatch.setattr(Log, name, lambda log, way=way: holding(way, log))
    known: dict[Any, float] = {}

    def pld(*arguments: Any) -> float:
        if arguments not in known:
            found.append(bool(held[0]))
        return known.setdefault(arguments, 0.9)

    monkeypatch.setattr(admission, "_pld", pld)
    return found


def test_what_a_quick_bound_admits_is_not_computed(tmp_path: Path, asked: list[bool]) -> None:
    ledger = make(tmp_path, policy(CAP))
    reserve(ledger, noise_multiplier=60.0, **FULL)
    assert asked == []


@pytest.mark.parametrize("check", [True, False])
def test_nobody_waits_for_a_computation(tmp_path: Path, asked: list[bool], check: bool) -> None:
    ledger, dear = make(tmp_path, policy(CAP)), {"noise_multiplier": 10.0, **FULL}
    if check:
        ledger.check(plan(**dear), "claims", run="run", model="cnn")
    reserve(ledger, **dear)
    reserve(ledger, **dear)
    assert asked == [False]


def test_a_very_long_run_is_judged_by_the_bound(tmp_path: Path, asked: list[bool]) -> None:
    ledger = make(tmp_path, policy(CAP))
    long = {"steps_per_round": 1000, "rounds": 1001, **FULL}
    reserve(ledger, "louder", noise_multiplier=1e5, **long)
    with pytest.raises(BudgetExceeded) as refused:
        reserve(ledger, noise_multiplier=2e3, **long)
    assert refused.value.cap == "per_run"
    assert asked == []


# --- Changes under an open run ---------------------------------------------------------------------------------------


def resplit(ledger: Ledger, dataset: str = "claims") -> None:
    ledger.register(dataset, declared_size=SIZE, commitment=bytes(32), split=b"t" * 32)


def test_records_are_not_held_out_in_another_way_while_a_run_is_open(ledger: Ledger) -> None:
    run = reserve(ledger)
    size = ledger.size
    with pytest.raises(LedgerError, match=SETTLE):
        resplit(ledger)
    assert ledger.size == size
    ledger.register("claims", declared_size=SIZE, commitment=b"c" * 32, split=b"s" * 32)  # other content is no matter
    resplit(ledger, "other")
    release(run, 1)
    run.settle()
    resplit(ledger)


def test_nor_are_those_of_a_data_set_that_shares_its_budget(tmp_path: Path) -> None:
    ledger = make(tmp_path, policy("claims\ngroup = 'g'", "visits\ngroup = 'g'"))
    reserve(ledger)
    with pytest.raises(LedgerError, match=SETTLE):
        resplit(ledger, "visits")
    register(ledger, "visits")
    with pytest.raises(LedgerError, match=SETTLE):
        resplit(ledger, "visits")


def test_a_ledger_in_which_that_has_happened_releases_nothing_more(ledger: Ledger) -> None:
    run = reserve(ledger)
    release(run, 1)
    ref = json.loads(ledger.entry(1))["entry"]["ref"] | {"version": "2", "split": "7" * 64}
    with ledger._log.writing() as transaction:  # as an earlier version would have
        transaction.append(Draft(kind="dataset", dataset="claims", ref=ref))
    ledger.check_all()
    release(run, 1)  # the cached bytes may leave again
    with pytest.raises(ReservationError, match="held out in another way"):
        release(run, 2, update=UPDATE)
    with pytest.raises(ReservationError, match="held out in another way"):
        reserve(ledger)
    run.settle()


GROUPED = ("claims\ngroup = 'g'", "visits\ngroup = 'g'")


@pytest.mark.parametrize(
    ("before", "between", "after"),
    [
        (("claims", "visits"), None, GROUPED),
        (GROUPED, None, ("claims", "visits")),
        (GROUPED, None, ("claims\ngroup = 'g'", "visits")),
        (("claims", "visits"), ("visits",), GROUPED),  # denied, and then allowed in another group
    ],
)
def test_no_other_group_while_a_run_is_open(
    tmp_path: Path, before: tuple[str, ...], between: tuple[str, ...] | None, after: tuple[str, ...]
) -> None:
    ledger = make(tmp_path, policy(*before), names=("claims", "visits"))
    run = reserve(ledger)
    if between:
        ledger.sign_policy(policy(*between))
    with pytest.raises(PolicyError, match=SETTLE):
        ledger.sign_policy(policy(*after))
    ledger.sign_policy(policy(*(f"{table}\nmax_runs = 9" for table in before)))  # whatever else may change
    run.settle()
    ledger.sign_policy(policy(*after))


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        ('models = ["mlp"]', "models = mlp"),
        ('metrics = "off"', "validation metrics"),
        ('sigma_min = "2.5"', "below sigma_min"),
        ('sampling_rate_max = "0.01"', "above sampling_rate_max"),
        (None, "no table"),
    ],
)
def test_a_policy_stops_an_open_run(ledger: Ledger, lines: str | None, refused: str) -> None:
    run = reserve(ledger)
    ledger.sign_policy(policy("other") if lines is None else policy(f"claims\n{lines}"))
    for again in (lambda: reserve(ledger), lambda: ledger.check(plan(), "claims", run="run", model="cnn")):
        with pytest.raises(PolicyRefusal, match=refused):
            again()
    run.settle()


def test_a_policy_stops_an_open_run_without_privacy(tmp_path: Path) -> None:
    ledger = make(tmp_path, policy("claims\nallow_without_privacy = true"))
    spec = "5" * 64
    ledger.override("claims", "run", spec=spec)
    ledger.override("claims", "run", spec=spec)
    ledger.sign_policy(policy())
    with pytest.raises(PolicyRefusal, match="without privacy is not allowed"):
        ledger.override("claims", "run", spec=spec)


def test_caps_and_counts_do_not_stop_an_open_run(ledger: Ledger) -> None:
    run = reserve(ledger)
    ledger.sign_policy(policy('claims\nmax_runs = 1\nlifetime = { epsilon = "0.5", delta = "1e-6" }'))
    assert reserve(ledger).seq == run.seq


def test_a_run_is_reserved_with_one_kind_of_model(ledger: Ledger) -> None:
    reserve(ledger)
    with pytest.raises(ReservationError, match="other settings"):
        reserve(ledger, model="mlp")


def test_a_cosignature_that_would_make_the_ledger_look_dated_ahead(ledger: Ledger) -> None:
    note = notes.cosign(WITNESS, "auditor", ledger.checkpoint(), 1)
    with pytest.raises(LedgerDamaged, match="dated before"):
        ledger.witnessed(note, name="auditor", key=WITNESS_PUBLIC)
